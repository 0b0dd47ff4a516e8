"""Pictures in and out: uploads to upright, metadata-free sRGB photos, results to files that say a model made them.

In come bytes of strangers, out goes a `Photo` or an error with a stable code. The pool decodes in processes that a
hostile picture may end.
"""
