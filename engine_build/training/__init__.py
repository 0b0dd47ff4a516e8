"""In: a configuration file and a stage's name. Out: checkpoints, LoRA files, figures of what each stage is worth.
Floors, from the ground: data, loop, measure, stages, nano, `config` that reads the file, evidence beside `handing_on`
that keeps and bundles what a run reached, `train` that runs what the file asks for. `nano` trains what is bundled until
the stages do; no other room imports it.
"""
