"""In: folders of results, the set they answer, judges' verdicts. Out: scores, tables, a page for people to vote on.

`page` makes the page and `votes` counts what came back; `similarity` measures results beside photographs.
"""
