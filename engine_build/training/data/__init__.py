"""The data engine: procedural and real try-ons in one sample format, filtered, captioned and read back exactly.

layouts, drawn      where samples come from: folders of real pairs, the procedural world
filters, twins,     what is left out: broken, small, narrow, seen before, refused by a vision model;
review              the same model may name the garments
build, report       the loop that writes shards, and what it says was dropped and why
entry, shards       one sample as files of a tar shard, in the WebDataset layout
reading, source     shards back, in an order that is a pure function of seed and number; into training
"""
