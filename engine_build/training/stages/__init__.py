"""In: a network, its copies, and samples. Out: the next network of the recipe. One file a method; `registry` names the
stages in their order.
"""
