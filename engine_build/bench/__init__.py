"""`changeroom engine bench`: one run that measures the engine against diffusers and against arithmetic.

In comes a `BenchPlan`, or a checkpoint: modes, sizes, numbers of garments. `subjects` makes models with random
weights, `run` measures them, `floors` reckons what the hardware allows. Out come `Results`: `report` writes their
tables and JSON, with `goals` beside them and the `machine` they are from.

`adapters` stands by itself: what distinct LoRA adapters cost in a stream of try-ons
(`changeroom engine bench-adapters`).
"""
