"""`changeroom up`: the whole service on one machine, as child processes of one.

In come settings, out goes a page that answers, after one try-on through the public API has proved it
(unless keys are required: then nobody can be asked).
"""
