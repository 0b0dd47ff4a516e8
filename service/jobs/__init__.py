"""In: requests to admit or refuse, and what workers say of their claims. Out: claims under leases, events, exactly one
visible result a job, and the blobs that belong to it. Gateway and worker meet here and nowhere else: in the records
of `schemas`, through the parts of `queue`, whose atomic steps are the Lua scripts in `scripts/`.
"""
