"""What a caller can have done: try-ons, garments of the catalogue; and what that needs to know.

In comes a `RequestedTryOn` and who asks, out goes a job in the queue, its record, or an error that says what is wrong.
Keys, webhook addresses, announced workers and the instruction's wording are looked at here.
"""
