"""In: a set and two folders of results. Out: one blinded page on which people vote, and what the votes say.

`page` writes it from `assets`, `votes` counts what comes back, `wilson` says how sure a share is.
"""
