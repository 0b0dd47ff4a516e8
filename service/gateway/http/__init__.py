"""HTTP as every address needs it: connections, headers, bodies, event streams, errors as problems.

In come bytes of strangers, out go parsed headers, forms and pictures within their bounds, or a refusal; on the way
back, a request id, timings, and errors in the dialect of whoever called.
"""
