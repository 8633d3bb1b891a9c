"""State of Kafka and of the stages → whether a restart would help (liveness), and why the worker is not ready.

A restart helps if a stage is stuck while Kafka answers, or if the event loop does not answer `/health`. It does not
bring Kafka back: while Kafka does not answer, or does not accept what is published, a worker is alive and not ready.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

from aiokafka.errors import KafkaError
from mode import Service

STALLED_S = 60.0
"""A stage is stuck if it has records to read, and has not advanced for so long, although Kafka answers."""
ASK_EVERY_S, ANSWER_WITHIN_S = 3.0, 5.0
SILENT_S = 10.0
"""Kafka counts as down if its last answer is older."""


class KafkaWatch(Service):
    """When Kafka last answered, by a request of its own every few seconds. `client` returns aiokafka's client."""

    def __init__(self, client: Callable[[], Any]) -> None:
        super().__init__()
        self._client = client
        self.answered_at = self.silent_at = time.monotonic()
        """By the monotonic clock: the last answer, and the last time that there was none."""

    def silent_s(self, now: float) -> float:
        """How long Kafka has not answered; 0 while it does."""
        silent_s = now - self.answered_at
        return silent_s if silent_s > SILENT_S else 0.0

    @Service.task
    async def _ask(self) -> None:
        while not self.should_stop:
            answered = await _answers(self._client())
            if answered:
                self.answered_at = time.monotonic()
            else:
                self.silent_at = time.monotonic()
            await self.sleep(ASK_EVERY_S)


async def _answers(client: Any) -> bool:
    if client is None:
        return False  # a producer that is made anew
    try:
        async with asyncio.timeout(ANSWER_WITHIN_S):
            return bool(await client.force_metadata_update())
    except (KafkaError, OSError, TimeoutError):
        return False


class Liveness:
    """Which stages are stuck. Each call passes their positions; a stage that stands while Kafka is down is not
    stuck."""

    def __init__(self, now: float) -> None:
        self._positions: dict[str, int] = {}
        self._moved_at: dict[str, float] = {}
        self._began = now

    def stuck(self, stages: Mapping[str, tuple[int, int]], excused_at: float, now: float) -> list[str]:
        """Names of the stages that have not moved for `STALLED_S`.

        Parameters
        ----------
        stages
            By name the position, which rises with every record, and the lag, in records.
        excused_at
            The last time that Kafka did not answer, or did not take what was published (monotonic seconds).
        now
            Monotonic seconds.
        """
        found = []
        for name, (position, lag) in stages.items():
            if position != self._positions.get(name) or not lag:
                self._positions[name], self._moved_at[name] = position, now
            since = max(self._moved_at.get(name, self._began), excused_at)
            if now - since >= STALLED_S:
                found.append(name)
        return found
