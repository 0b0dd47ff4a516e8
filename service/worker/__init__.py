"""In: claims from the queue. Out: batches for the engine, its pictures as results, webhooks to those who asked. One
process a device: `main` wires the parts, `runner` moves claims through them, `leases` says which may go on.
"""
