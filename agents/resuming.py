"""Assigned partitions → where counting continues in each: from `progress`, the logs as they are, and what was
published."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import TypeVar

from agents.clients import Connection
from agents.loader import Records as Loaded
from agents.loader import read_to_end
from agents.publish import Outgoing, Producer, publish
from streams.errors import NewerError, SketchError
from streams.partial import BooksPartial, LabelBooksPartial, OutcomePartial, PanePartial, Partial, unpack
from streams.position import generation_of, offset_of
from streams.progress import Progress, in_chunks_of
from streams.resume import Change, Log, Published, Resumption, needs_published, resume, same_log

log = logging.getLogger(__name__)

T = TypeVar("T")
Joined = OutcomePartial | LabelBooksPartial
Place = tuple[str, int]
"""Topic, by its full name, and partition."""

LOAD_WITHIN_S = 120.0
SCAN_WITHIN_S = 600.0
REPORTED = (Change.MADE_ANEW, Change.TRUNCATED, Change.CUT, Change.BEYOND)


class Resuming:
    """Reads and writes `progress`, whose keys are the partitions that are read.

    `names`: of each topic that is read, by its full name, the prefix of its keys; empty for the events. `chunk_size`:
    of the chunks that are counted.
    """

    def __init__(self, connection: Connection, producer: Producer, names: Mapping[str, str], chunk_size: int) -> None:
        self.chunk_size = chunk_size
        self.connection, self.producer, self.names = connection, producer, names
        self.changes: Counter[tuple[str, Change]] = Counter()
        """By topic, what was found to have happened to logs since they were last read."""
        self.newer: dict[Place, NewerError] = {}
        """Of the last read: what a later release wrote of a partition. Nothing is counted of these."""
        self.damaged = 0
        """Records of `progress` that no worker has written."""

    def key(self, place: Place) -> bytes:
        """The key of a partition's progress."""
        topic, partition = place
        name = self.names[topic]
        return (f"{name}/{partition}" if name else str(partition)).encode()

    async def read(
        self, places: AbstractSet[Place], logs: Mapping[Place, Log], labels: str = ""
    ) -> dict[Place, Resumption]:
        """Where each partition continues; what is new about a log is written before anything is read of it.

        If the log of a partition is unknown, its progress is used as it is. Of `labels`, whose offsets are kept with
        the join, only the identity is used. Partitions in `newer` are left out.
        """
        self.newer = {}
        found = await self._progress(places)
        asked = {place for place, log in logs.items() if place[0] != labels and needs_published(found.get(place), log)}
        published = await self._published(asked) if asked else {}
        resumed: dict[Place, Resumption] = {}
        for place in places - self.newer.keys():
            progress = found.get(place)
            if place not in logs:
                resumed[place] = Resumption(progress or Progress(0, {}), Change.NONE)
            elif place[0] == labels:
                resumed[place] = same_log(progress, logs[place])
            else:
                resumed[place] = resume(progress, logs[place], published.get(place))
        changed: dict[Place, Progress] = {}
        for place, item in resumed.items():
            if place[0] != labels:
                resumed[place] = replace(item, progress=in_chunks_of(item.progress, self.chunk_size))
            if item.change is not Change.NONE or (place in found and resumed[place].progress != item.progress):
                changed[place] = resumed[place].progress
        if changed:
            await publish(self.producer, [await self.outgoing(place, progress) for place, progress in changed.items()])
        self._report(resumed)
        return resumed

    async def write(self, place: Place, progress: Progress) -> None:
        """Publishes a partition's progress, however long that takes."""
        await publish(self.producer, [await self.outgoing(place, progress)])

    async def outgoing(self, place: Place, progress: Progress) -> Outgoing:
        """A partition's progress as a record."""
        topic = self.connection.topic("progress")
        key, partition = self.key(place), place[1] % await self.partitions_of(topic)
        return Outgoing(topic, key, progress.to_bytes(key), partition)

    async def partitions_of(self, topic: str) -> int:
        """How many partitions a topic of ours has."""
        return len(await self.producer.partitions_for(topic))

    async def _progress(self, wanted: AbstractSet[Place]) -> dict[Place, Progress]:
        """Of each partition the progress with the highest offset: an older one may have been written by a zombie."""
        found: dict[Place, Progress] = {}
        by_key = {self.key(place): place for place in wanted}

        def take(records: Loaded) -> None:
            for record in records:
                place = by_key.get(record.key or b"")
                if place is None or record.value is None:
                    continue
                try:
                    progress = Progress.from_bytes(record.value, record.key)
                except NewerError as error:
                    self.newer[place] = error.at(f"progress, partition {record.partition}, offset {record.offset}")
                    continue
                except SketchError as error:
                    self.damaged += 1
                    where = {"topic": "progress", "partition": record.partition, "offset": record.offset}
                    log.error("progress, offset %d: %s; left out", record.offset, error, extra=where)
                    continue
                known = found.get(place)
                if known is None or known.next_offset <= progress.next_offset:
                    found[place] = progress

        topic = self.connection.topic("progress")
        count = await self.partitions_of(topic)
        partitions = {partition % count for _, partition in wanted}
        await read_to_end(self.connection, topic, partitions, take, deadline_s=LOAD_WITHIN_S)
        return found

    async def _published(self, wanted: AbstractSet[Place]) -> dict[Place, Published]:
        """Up to where anything was published of each: all of `partials` is read for it, which is rarely needed."""
        prefix = self.connection.prefix
        begins = {f"{place[0].removeprefix(prefix)}/{place[1]}/".encode(): place for place in wanted}
        found: dict[Place, Published] = {}

        def keep(partial: Partial, place: Place) -> None:
            if isinstance(partial, PanePartial | BooksPartial):
                found[place] = _later(found.get(place, Published(0)), partial)

        log.warning("reading partials to find what was published of %d partitions that were truncated", len(wanted))
        self.newer.update(await self._scan(begins, keep))
        return found

    async def _scan(self, begins: Mapping[bytes, T], keep: Callable[[Partial, T], None]) -> dict[T, NewerError]:
        """Hands over every partial whose key begins with one of these: topic and partition. Gives those of which a
        later release has written one."""
        newer: dict[T, NewerError] = {}

        def take(records: Loaded) -> None:
            for record in records:
                parts = (record.key or b"").split(b"/", 2)
                place = begins.get(b"/".join(parts[:2]) + b"/")
                if place is None or record.value is None:
                    continue
                try:
                    keep(unpack(record.value, record.key or b""), place)
                except NewerError as error:
                    newer[place] = error.at(f"partials, partition {record.partition}, offset {record.offset}")
                except SketchError:
                    continue  # stage 2 leaves it out too, and says so

        topic = self.connection.topic("partials")
        partitions = range(await self.partitions_of(topic))
        await read_to_end(self.connection, topic, partitions, take, deadline_s=SCAN_WITHIN_S)
        return newer

    async def outcomes(self, labels: str, partitions: AbstractSet[int]) -> dict[int, list[Joined]]:
        """Everything that was published of the label joins of partitions whose logs begin after what their stores
        cover."""
        name = labels.removeprefix(self.connection.prefix)
        begins = {f"{name}/{partition}/".encode(): partition for partition in partitions}
        found: dict[int, list[Joined]] = {partition: [] for partition in partitions}

        def keep(partial: Partial, partition: int) -> None:
            if isinstance(partial, OutcomePartial | LabelBooksPartial):
                found[partition].append(partial)

        log.warning(
            "%s: the label joins of partitions %s have no store, or one that ends before the topics begin: "
            "what was published of them stands, and they go on from there unless the store covers it",
            labels,
            ", ".join(map(str, sorted(partitions))),
            extra={"topic": labels},
        )
        for partition, error in (await self._scan(begins, keep)).items():
            self.newer[labels, partition] = error
        return found

    def _report(self, resumed: Mapping[Place, Resumption]) -> None:
        """One line for each topic and kind of change, however many partitions it has."""
        kinds = sorted({(place[0], item.change) for place, item in resumed.items() if item.change in REPORTED})
        for topic, change in kinds:
            items = {at: item for (name, at), item in resumed.items() if name == topic and item.change is change}
            self.changes[topic, change] += 1
            lost = sum(item.lost for item in items.values())
            starts = ", ".join(f"{at}: {_place(item.progress)}" for at, item in sorted(items.items())[:10])
            log.error(
                "topic %s: %s; going on at (partition: offset) %s%s",
                topic,
                _WORDS[change].format(lost=lost),
                starts,
                f" and {len(items) - 10} more" if len(items) > 10 else "",
                extra={"topic": topic},
            )


_WORDS = {
    Change.MADE_ANEW: "it was deleted and made anew (its id is another): the new log is counted from its start, and "
    "what was counted of the one before stands",
    Change.TRUNCATED: "the start of its log went beyond what had been counted in full (retention, or DeleteRecords): "
    "{lost} records were gone before they were counted; what was published stands",
    Change.CUT: "its log ends before what was counted (a broker lost records): what was counted stands",
    Change.BEYOND: "its progress names an offset beyond the log's end, and nothing was published so far: not believed",
}


def _place(progress: Progress) -> str:
    generation = generation_of(progress.next_offset)
    return f"{offset_of(progress.next_offset)}" + (f" of log {generation + 1}" if generation else "")


def _later(known: Published, partial: PanePartial | BooksPartial) -> Published:
    marks_ms = dict(known.marks_ms)
    if isinstance(partial, BooksPartial):
        for part in partial.models:
            if part.mark_ms is not None:
                marks_ms[part.model] = max(part.mark_ms, marks_ms.get(part.model, part.mark_ms))
    return Published(max(known.end, partial.end_offset), marks_ms)
