"""Memory of a process that reads batch after batch: rare collections, and freed pages are kept."""

from __future__ import annotations

import ctypes
import gc
import os

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's `mallopt`."""


def tune_memory() -> None:
    """Few and late collections: the objects of a batch die by their counts, so looking for cycles is mostly waste.

    And glibc keeps the megabytes that each fetch frees: to give them back and to get them anew, page by page, was a
    third of what fetching cost.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        mallopt(_M_TRIM_THRESHOLD, 64 << 20)
