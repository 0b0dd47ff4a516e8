"""The commands of `changeroom`, a file for each group; `service.cli` lists them.

In come words of a terminal, out go a picture, a report or a running process, and one line for every failure. A command
imports what it needs only once it runs.
"""
