"""The service around the engine: HTTP requests and commands in, dressed photos out.

Gateways turn requests into jobs, the store keeps them, workers carry them out; gateway and worker meet only in `jobs`.
Of the engine, `worker` and `commands` alone know more than its instruction grammar.
"""
