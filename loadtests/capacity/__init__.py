"""How many GPUs a traffic and an objective need, by simulating the service.

In: arrivals, measured times of batches (a table or workers' `/metrics`), a fleet's settings, a goal. Out: the smallest
fleet that keeps the goal, every size that was tried, and what a larger day would take. No service runs for it.
"""
