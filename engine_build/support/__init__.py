"""In: a photo's regions, a domain, options. Out: the edit support E, where alone an expert may change the photo, and
the photo with that and nothing else changed. numpy and Pillow only: shared by training, workers and others' nodes.

regions, classes, extremities   what a region map says, whoever made it
domains                         what each expert dresses: regions it takes, regions it never touches
shapes, figure, edit_support    E on a grid of fixed height, then at the photo's own size; its digest
caller_mask                     E as the caller drew it, or why that cannot be meant (Pillow only)
original, png16, window         the upload's own pixels, and the crop around E that a model paints
composite, colour_match         the painted crop put back; outside E every pixel stays
"""
