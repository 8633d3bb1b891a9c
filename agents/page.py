"""A registry of metrics → the page that Prometheus reads, made once for all who ask at the same time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric

from agents.clock import Turn
from agents.exporter import PAUSE
from streams.text import exposition

FRESH_S = 1.0
"""A request so soon after a page was begun gets the same page."""


class MetricsPage:
    """Collects in the event loop, one family of metrics after another, and formats in a thread of its own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._thread = ThreadPoolExecutor(1, "metrics")
        self._making: asyncio.Task[bytes] | None = None
        self._begun_at = float("-inf")
        self.made = 0
        """Pages made so far."""

    async def get(self) -> bytes:
        """The page, at most `FRESH_S` old; those who ask while one is made get that one."""
        making = self._making
        if making is None or (making.done() and not self._is_fresh(making)):
            self._begun_at = time.monotonic()
            self._making = making = asyncio.create_task(self._make())
        return await asyncio.shield(making)

    def _is_fresh(self, made: asyncio.Task[bytes]) -> bool:
        failed = made.cancelled() or made.exception() is not None
        return not failed and time.monotonic() - self._begun_at < FRESH_S

    async def _make(self) -> bytes:
        families: list[Metric] = []
        is_over = Turn()
        for family in self._registry.collect():
            if family is not PAUSE:
                families.append(family)
            if is_over() or family is not PAUSE:
                await asyncio.sleep(0)  # what a collector reads between two of these stays whole
        self.made += 1
        return await asyncio.get_running_loop().run_in_executor(self._thread, _formatted, families)

    def close(self) -> None:
        """Makes no more pages."""
        if self._making is not None:
            self._making.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)


class _Collected:
    """Families that were collected, as the formatter takes a registry."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        return iter(self._families)


def _formatted(families: list[Metric]) -> bytes:
    page: bytes = generate_latest(cast(Any, _Collected(families)))
    return page if page.isascii() and not _has_control(page) else exposition(page.decode()).encode()


def _has_control(page: bytes) -> bool:
    return len(page.translate(None, _CONTROLS)) != len(page)


_CONTROLS = bytes([*range(10), *range(11, 32), 127])
