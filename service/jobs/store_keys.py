"""Every key name of the store, once: Python uses the constants, the Lua scripts get the same table as `K`.

All names share one hash tag, so that they live in one slot of a clustered server. The types and meanings are
documented at the top of `queue.lua`, beside the code that keeps them consistent.
"""

from __future__ import annotations

PREFIX = "{changeroom}:"

JOB = PREFIX + "job:"
EVENTS = PREFIX + "events:"
STREAM = PREFIX + "stream:"
WAITING = PREFIX + "waiting:"
LEASES = PREFIX + "leases"
DEADLINES = PREFIX + "deadlines"
IN_FLIGHT = PREFIX + "in_flight"
RESERVATIONS = PREFIX + "reservations"
TENANT = PREFIX + "tenant:"
TURNS = PREFIX + "turns:"
LAST_TURN = PREFIX + "last_turn:"
IDEMPOTENCY = PREFIX + "idempotency:"
RATE = PREFIX + "rate:"
QUOTA = PREFIX + "quota:"
KEPT = PREFIX + "kept:"
FENCE = PREFIX + "fence"
WAKE = PREFIX + "wake"
NOTICES = PREFIX + "notices"
PREVIEW = PREFIX + "preview:"
CANCELS = PREFIX + "cancels"
ERASED = PREFIX + "erased"
REWRITTEN = PREFIX + "rewritten"
SERVICE = PREFIX + "service"
TOTALS = PREFIX + "totals"
DEAD = PREFIX + "dead"
GONE = PREFIX + "gone:"
WORKERS = PREFIX + "workers"
WORKER_INFO = PREFIX + "worker_info"
GARMENT = PREFIX + "garment:"
HOLDINGS = PREFIX + "holdings:"
GARMENT_ENDS = PREFIX + "garment_ends"
WEBHOOKS = PREFIX + "webhooks"

GROUP = "workers"

_TABLE = {name: value for name, value in globals().items() if name.isupper() and not name.startswith("_")}


def lua_table() -> str:
    """The Lua line that gives a script every name above: `local K = {JOB = '…', …}`."""
    fields = ", ".join(f"{name} = '{value}'" for name, value in _TABLE.items())
    return f"local K = {{{fields}}}\n"
