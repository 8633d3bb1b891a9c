"""A fault of aiokafka 0.14 that no caller can get around, mended for every consumer of this process.

A consumer that stops cancels its fetches, and awaits them. One that has failed, for the broker is away, and waits
until it may try again lets the cancellation through: it comes out of `stop` as if the caller had been cancelled, with
connections left open, and ends a worker without a word. Anywhere else in a fetch aiokafka takes it for the fetch's end.
"""

from __future__ import annotations

import asyncio
from typing import Any

from aiokafka.consumer.fetcher import Fetcher

_fetch = Fetcher._proc_fetch_request


async def _fetch_or_end(self: Fetcher, *request: Any) -> bool:
    try:
        woken: bool = await _fetch(self, *request)
        return woken
    except asyncio.CancelledError:
        return False


def apply() -> None:
    """May be called more than once."""
    Fetcher._proc_fetch_request = _fetch_or_end
