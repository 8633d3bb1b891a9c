"""Memory of a process that reads batch after batch: rare collections, and freed pages are kept."""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Callable

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's `mallopt`."""


def tune_memory() -> None:
    """Few and late collections: the objects of a batch die by their counts, so looking for cycles is mostly waste.

    And glibc keeps the megabytes that each fetch frees: to give them back and to get them anew, page by page, was a
    third of what fetching cost. `agents.free_pages` gives them back.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    mallopt = of_glibc("mallopt")
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        mallopt(_M_TRIM_THRESHOLD, 64 << 20)


def of_glibc(name: str) -> Callable[..., int] | None:
    """A function of glibc; None where the C library has none of this name."""
    function: Callable[..., int] | None = getattr(ctypes.CDLL(None), name, None) if os.name == "posix" else None
    return function
