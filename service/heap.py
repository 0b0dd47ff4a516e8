"""Freed memory kept for the next request instead of being given back to the system and asked for again.

A request takes and frees a few blocks the size of a photo. glibc by default gives the end of its heap back as soon as
twice the largest block seen is free there, so every photo's pages are mapped and zeroed anew, some hundred at a time: a
sixth of a gateway's processor time under uploads. See mallopt(3).
"""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_freed(kept_bytes: int, largest_block: int) -> bool:
    """Keep up to `kept_bytes` of this process's heap that are freed; blocks beyond `largest_block` go back at once.

    Returns whether the C library could be told: glibc can, others allocate in their own way.
    """
    if sys.platform != "linux":
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    told = [library.mallopt(_M_MMAP_THRESHOLD, largest_block), library.mallopt(_M_TRIM_THRESHOLD, kept_bytes)]
    return all(told)
