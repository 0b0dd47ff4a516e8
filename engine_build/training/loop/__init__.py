"""In: a stage's table, batches, a step to call. Out: weights that resume exactly, their averages, checkpoint folders
and LoRA files, on one process or many.
"""
