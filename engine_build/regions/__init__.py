"""In: a photo. Out: its region map, by the parser that was chosen by name; what needs torch or a network lives here.

    world                   ours, trained on the procedural world, bundled; knows nothing of real photographs
    transformers:FOLDER     a segmentation model of the user's, by folder or hub id
    sam2:FOLDER             SAM 2 (Apache-2.0) on boxes that a vision model at an OpenAI-compatible address names

The licence of a user's parser is the user's: see docs/regions.md. A mask that the caller drew needs none of these.
"""
