"""In: a configuration file and a stage's name. Out: checkpoints, LoRA files, figures of what each stage is worth.
Floors, from the ground: data, loop, measure, stages, evidence; `config` reads the file, `train` runs what it asks
for. `nano` trains the bundled checkpoint until the stages do; no other room builds on it.
"""
