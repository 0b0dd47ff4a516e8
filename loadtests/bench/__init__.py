"""Measurements of the program on this machine, one module a command of the Makefile.

In: the commands `changeroom up`, `keys` and `engine`, started as processes of their own. Out: one JSON file each in
`results/`, with the machine it was measured on, and an exit code that tells whether the goals were reached.
"""
