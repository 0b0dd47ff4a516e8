"""What arrives, and when.

In: a shape or a recorded trace (trace_files), what try-ons ask for, folders of pictures, a seed. Out: arrivals in the
order of their time (arrivals) and the bodies their clients upload (photos). Nothing is sent here.
"""
