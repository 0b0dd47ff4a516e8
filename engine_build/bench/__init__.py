"""`changeroom engine bench`: one run that measures the engine against diffusers and against arithmetic.

`floors` reckons what the hardware allows, `subjects` makes models with random weights, `run` measures, `report`
writes the table and the JSON.
"""
