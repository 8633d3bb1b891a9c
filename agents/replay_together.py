"""Files of several topics → Kafka, merged by the times of their records: a past is replayed as it happened.

Sent one topic after the other, the past would be read that way too: labels an hour behind their events are late or
missing to a worker that evaluates as time passes, and a job or a partition without records is silent.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path

from agents.clients import Connection
from agents.replay import (
    BLOCK_RECORDS,
    TELL_EVERY_S,
    Pair,
    Progress,
    Sent,
    event_key,
    event_time_s,
    lanes_of,
    pace,
    paced,
    read_lines,
)

Timed = tuple[float, str, bytes]
"""When a record is due among those of other topics, in seconds since 1970; its topic; its value."""


async def replay_together(
    connection: Connection,
    files: Mapping[str, Path],
    *,
    speed: float | None = None,
    rate: float | None = None,
    on_progress: Progress | None = None,
) -> Sent:
    """Sends the lines of files by topic, as `replay` sends those of one, and waits until Kafka has them.

    Parameters
    ----------
    files : the file of each topic, by the topic's full name; its lines in the order in which they came.

    Raises
    ------
    DataError
        if a file cannot be read.
    BrokerError
        if there is no such topic, or Kafka is away.
    """
    sent, said_at = Sent(), time.monotonic()
    due = pace(speed, rate)
    async with AsyncExitStack() as stack:
        lanes = {topic: await stack.enter_async_context(lanes_of(connection, topic, sent)) for topic in files}
        async for block in paced(_blocks(merged(files)), due):
            for topic, lane in lanes.items():
                pairs: list[Pair] = [(event_key(value), value) for name, value in block if name == topic]
                if pairs:
                    await lane.send(pairs)
            if on_progress is not None and time.monotonic() - said_at > TELL_EVERY_S:
                said_at = time.monotonic()
                on_progress(sent)
        for lane in lanes.values():
            await lane.drain()
    if on_progress is not None:
        on_progress(sent)
    return sent


def merged(files: Mapping[str, Path]) -> Iterator[tuple[str, bytes]]:
    """Topics and lines of all files by their times; of one time in the order of the files, of one file in its own."""
    for _, topic, value in heapq.merge(
        *(_timed(topic, file) for topic, file in files.items()), key=lambda item: item[0]
    ):
        yield topic, value


def _timed(topic: str, file: Path) -> Iterator[Timed]:
    """Lines with their times. One without a time is due with its predecessor; one that is ahead of its successor, with
    that: a single fast clock holds nothing back."""
    lines = itertools.chain.from_iterable(read_lines(file))
    waiting: tuple[float, bytes] | None = None
    at_s = float("-inf")
    for value in lines:
        found = event_time_s(value)
        at_s = at_s if found is None else found
        if waiting is not None:
            yield min(waiting[0], at_s), topic, waiting[1]
        waiting = at_s, value
    if waiting is not None:
        yield waiting[0], topic, waiting[1]


def _blocks(values: Iterable[tuple[str, bytes]]) -> Iterator[list[tuple[str, bytes]]]:
    rest = iter(values)
    while block := list(itertools.islice(rest, BLOCK_RECORDS)):
        yield block
