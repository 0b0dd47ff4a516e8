"""In: numbers of scenes, folders of real pairs, shards. Out: samples in one format, then packed batches of tokens.

world_edits, world_tryons   samples drawn by the procedural world
layouts, origins, pictures  samples from folders of real pairs
twins, review, masking      what is left out: broken, small, seen before, refused by a model; where an edit may be
build, candidate_entry,     one candidate as an entry, or why not;
report, inspection          the loop that writes shards, and what it says was dropped and why
entry, shards               one sample as files of a tar shard, in the WebDataset layout
reading, source             shards back, in an order that is a pure function of seed and number
sample, sizes, encoder      one sample, sizes in whole tokens, tokens after the frozen autoencoder
stream, packed_batch        batches for every step; samples of any size in one packed batch
"""
