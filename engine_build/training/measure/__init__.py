"""In: a network or an engine, and scenes nobody trained on. Out: scores against the nearest truth, distances of
features, diversity, sheets to look at.
"""
