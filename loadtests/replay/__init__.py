"""Arrivals offered to a running service, open loop, and judged.

In: arrivals, a wardrobe, clients' manners, objectives and a service's address. Out: an outcome for every try-on and the
service's own readings (`open_loop.RunRecord`), from them a summary, a verdict, a JSON file and a report.
"""
