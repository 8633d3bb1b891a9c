"""Corrects faults of aiokafka 0.14 that no caller can get around, for every consumer of this process.

Each correction goes when a release of aiokafka makes it needless; numbers are issues and pull requests of
aio-libs/aiokafka.

1. A consumer that stops cancels its fetches and awaits them (`Fetcher.close`). A fetch that has failed sleeps before it
   tries again, in an exception handler where nothing catches the cancellation. So the cancellation comes out of `stop`
   as if the caller had been cancelled, connections stay open, and a worker ends without a word. `_fetch_or_end` ends
   the fetch, as aiokafka does everywhere else in it. Issue 647 is open about `stop` raising CancelledError from the
   coordinator; #1007 fixed the fetch routine alone. To report: `Fetcher.close` awaits `_pending_tasks` without
   suppressing their cancellation.
2. Error 82, FENCED_INSTANCE_ID, has no class. Issue 1186 is open about it, and pull request 1188 adds
   `FencedInstanceIdError`: with it, ours goes, and `is_fenced` tests for the class alone.
3. A static member that Kafka does not recognise joins again without its member id (`reset_generation`), which takes the
   instance id from whoever has it now: two processes with one name fence each other for ever. With the member id that
   it had, Kafka says whether the name is another's (fenced), or nobody's (then it joins anew). No issue is known. To
   report: on UNKNOWN_MEMBER_ID from a heartbeat, a commit or a sync, however many of them are refused together,
   `reset_generation` must keep the member id of a member that has a `group.instance.id`.
4. The parser of fetched records: see `agents.fetching`.
"""

from __future__ import annotations

import asyncio
from typing import Any

from aiokafka import errors
from aiokafka.consumer.fetcher import Fetcher
from aiokafka.consumer.group_coordinator import CoordinatorGroupRebalance, GroupCoordinator

from agents import fetching
from streams.errors import BrokerError

_fetch = Fetcher._proc_fetch_request


async def _fetch_or_end(self: Fetcher, *request: Any) -> bool:
    try:
        woken: bool = await _fetch(self, *request)
        return woken
    except asyncio.CancelledError:
        return False


_NO_GENERATION = -1
_reset_generation = GroupCoordinator.reset_generation
_perform_group_join = CoordinatorGroupRebalance.perform_group_join


class FencedInstanceIdError(errors.BrokerResponseError):  # type: ignore[misc]
    """Another process joined the group under our `group.instance.id`."""

    errno = 82
    message = "FENCED_INSTANCE_ID"
    description = "Another process joined the group under this instance id."


async def _join_group(self: CoordinatorGroupRebalance) -> Any:
    """Joins the group; while it does, the coordinator knows which task joins."""
    self._coordinator.joined_by = asyncio.current_task()
    try:
        return await _perform_group_join(self)
    finally:
        self._coordinator.joined_by = None


def _reset_unless_static(self: GroupCoordinator) -> None:
    """Forgets generation and member id; of a static member the member id only if Kafka refuses it as it joins.

    A heartbeat and a commit that were under way together are both refused: the second refusal tells nothing new.
    """
    member_id, had_generation = self.member_id, self.generation != _NO_GENERATION
    is_joining = asyncio.current_task() is getattr(self, "joined_by", None)
    _reset_generation(self)
    if self._group_instance_id is not None and (had_generation or not is_joining):
        self.member_id = member_id


def is_fenced(error: BaseException) -> bool:
    """Whether another process has our instance id: aiokafka wraps that in errors that only quote it."""
    return isinstance(error, FencedInstanceIdError) or FencedInstanceIdError.__name__ in str(error)


def fenced(group: str, instance: str | None) -> BrokerError:
    """What to do when another process has our instance id."""
    return BrokerError(
        place=f"consumer group {group}",
        seen=f"another process joined as instance {instance!r}, so Kafka fenced this one",
        expected="one process for each instance name",
        mend="stop one of them, or start each worker with a name of its own (--instance)",
    )


def apply() -> None:
    """May be called more than once."""
    Fetcher._proc_fetch_request = _fetch_or_end
    GroupCoordinator.reset_generation = _reset_unless_static
    CoordinatorGroupRebalance.perform_group_join = _join_group
    fetching.apply()
    errors.kafka_errors[FencedInstanceIdError.errno] = FencedInstanceIdError
