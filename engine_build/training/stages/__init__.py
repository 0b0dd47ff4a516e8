"""In: a network, its copies, and samples. Out: the next network of the recipe. One file a method; `registry` names the
stages in their order, `stage_run` holds one call of a stage and what all stages that train do alike.
"""
