"""Traffic against the service from outside, and what a fleet needs for it.

In: options, recorded traces, a running service's HTTP and `/metrics`; of its code only `service.jobs.schemas` and the
names of `service.metrics`. Out: reports and figures in `results/`, verdicts as exit codes. Nothing is served from here.
"""
