"""In: a checkpoint folder, then batches of requests. Out: one outcome a request. `torch_engine` is the loop over a
batch, `pipeline` one packed step, `running_request` where each stands, `caches` what the next request need not
compute again.
"""
