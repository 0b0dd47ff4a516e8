"""In: a try-on request, in photos and words. Out: what the checkpoint can run: fitted reference pictures, contact
sheets, passes, sizes that somebody declared in advance.
"""
