"""Batches of one partition each, and the bounded channel that carries them to a Faust agent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from faust.channels import Channel
from mode.utils.queues import FlowControlEvent, ThrowableQueue

from streams.records import Records

NO_RECORDS = Records((), (), ())


@dataclass(frozen=True, slots=True)
class Batch:
    """Records of one partition in the order of their offsets, which may have gaps; none when the partition is idle.

    `position`: the offset after them. `highwater`: where the log ended for us when they were fetched: its last stable
    offset. `caught_up`: there was nothing more to fetch. `asked_ms`: when that was asked, by the worker's clock.
    """

    topic: str
    partition: int
    records: Records
    position: int
    highwater: int
    caught_up: bool
    asked_ms: int
    epoch: int


class Sink(Protocol):
    """Where batches go: a bounded channel, whose `put` waits while it is full."""

    async def put(self, value: Batch, /) -> None: ...


class BatchChannel(Channel[Batch]):
    """A bounded Faust channel from which nothing vanishes.

    Faust's channels take nothing before its own consumer has partitions, and ours has none; and what is put into one
    before an agent listens is gone. So this one has one queue of its own, for all that iterate over it.
    """

    @property
    def queue(self) -> ThrowableQueue[Any]:
        if self._queue is None:
            flow = FlowControlEvent(initially_suspended=False)
            self._queue = ThrowableQueue(maxsize=self.maxsize or 1, flow_control=flow)
        return self._queue

    def _clone_args(self) -> Mapping[str, Any]:
        return {**super()._clone_args(), "queue": self.queue}

    async def put(self, value: Any) -> None:
        """Wait until there is room, and put it there."""
        await self.queue.put(value)
