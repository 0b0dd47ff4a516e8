"""What `changeroom top` shows of a running service.

In come readings of the store and of gateways' metrics, out goes one frame for the terminal: what is now, and what
changed between readings.
"""
