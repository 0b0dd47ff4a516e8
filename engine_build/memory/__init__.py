"""In: a checkpoint's shapes, a number format and the options. Out: what it will hold on a device, part by part, or that
it does not fit; nothing is loaded for it.
"""
