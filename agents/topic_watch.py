"""Topics as they were checked at the start → the same checks while the worker runs: a check that fails is reported.

The watch corrects what it can: it adds the partitions that `labels` and `feedback` lack beside the events, without
which half of the labels would look for their predictions in the wrong partition.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from aiokafka.admin import AIOKafkaAdminClient, NewPartitions
from aiokafka.errors import KafkaError, for_code
from mode import Service

from agents import topics
from agents.clients import Connection
from agents.identity import topic_ids
from streams.duration import format_ms
from streams.errors import BrokerError
from streams.needs import Needs, needs_of
from streams.plan import Plan

log = logging.getLogger(__name__)

EVERY_S = 30.0
REMIND_EVERY_S = 600.0


class Fault(StrEnum):
    """A failed check of a topic after the start."""

    PARTITIONS = "partitions"
    """It has another number of partitions than the events."""
    CLEANUP_POLICY = "cleanup_policy"
    """It holds state, and deletes it by time."""
    RETENTION = "retention"
    """It deletes what might have to be read again."""
    MADE_ANEW = "made_anew"
    """It is one of ours, and was deleted while the worker runs: its records are lost."""
    MISSING = "missing"
    LIMIT = "limit"
    """It accepts no record as large as those that a worker sends to it."""


Found = dict[tuple[str, Fault], str]
"""By topic and fault, what to say of it."""


@dataclass(slots=True)
class Seen:
    """Result of one check: partitions, ids and settings by topic."""

    counts: Mapping[str, int]
    ids: Mapping[str, str]
    settings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


class TopicWatch(Service):
    """Checks the topics every `every_s`, while Kafka answers. `faults`: the checks that fail at the moment."""

    def __init__(
        self,
        connection: Connection,
        needs: Needs,
        *,
        every_s: float | None = None,
        sizes: Callable[[], Mapping[str, int]] = dict,
        on_limits: Callable[[Mapping[str, int]], None] = lambda limits: None,
    ) -> None:
        """A watch that has not checked anything yet.

        Parameters:
            sizes: by topic the bytes of the largest record that is sent to it.
            on_limits: called with the limit of each topic.
        """
        super().__init__()
        self._sizes, self._on_limits = sizes, on_limits
        self.connection, self.needs = connection, needs
        self.every_s = EVERY_S if every_s is None else every_s
        self.source = connection.topic(needs.events)
        self.paired = tuple(map(connection.topic, needs.paired))
        self.kept = {connection.topic(row.name): row for row in topics.TOPICS}
        self.faults: Found = {}
        self._ids: dict[str, str] = {}
        """Of our own topics, as they were at the first look."""
        self._said: dict[tuple[str, Fault], float] = {}

    @property
    def topics(self) -> list[str]:
        """All watched topics."""
        needed = (self.connection.topic(name) for name in self.needs.retention_ms)
        return sorted({*self.kept, *self.paired, self.source, *needed})

    @Service.task
    async def _run(self) -> None:
        while not self.should_stop:
            try:
                await self.look()
            except BrokerError as error:
                log.info("topics are not looked at: %s", error)
            await self.sleep(self.every_s)

    async def look(self) -> None:
        """Checks once. BrokerError if Kafka does not answer, or refuses."""
        async with topics.admin(self.connection) as client:
            seen = await self._see(client)
            if await self._grow(client, seen):
                seen = await self._see(client)
        self._ids = {**seen.ids, **self._ids}
        self._on_limits(_limits(seen, self.kept))
        self._report({**self._partitions(seen), **self._ours(seen), **self._retention(seen), **self._too_small(seen)})

    async def reports(self) -> list[str]:
        """The checks that fail now, as sentences; changes nothing. BrokerError if Kafka does not answer."""
        async with topics.admin(self.connection) as client:
            seen = await self._see(client)
        found = {**self._partitions(seen), **self._retention(seen)}
        return [f"topic {topic} {said}" for (topic, _), said in sorted(found.items())]

    async def _see(self, client: AIOKafkaAdminClient) -> Seen:
        counts = await topics.partition_counts(client)
        names = [name for name in self.kept if name in counts]
        ids = await topic_ids(client._client, None, names) or {}
        wanted = [*names, *(self.connection.topic(name) for name in self.needs.retention_ms)]
        settings = await topics.settings(client, [name for name in dict.fromkeys(wanted) if name in counts])
        return Seen(counts, ids, settings)

    async def _grow(self, client: AIOKafkaAdminClient, seen: Seen) -> bool:
        """Gives paired topics the partitions that the events have; whether any was given some."""
        grown = False
        wanted = seen.counts.get(self.source, 0)
        for name in self.paired:
            if 0 < seen.counts.get(name, 0) < wanted:
                answer = await client.create_partitions({name: NewPartitions(wanted)})
                refused = for_code(answer.topic_errors[0][1])
                if issubclass(refused, KafkaError) and answer.topic_errors[0][1]:
                    log.error("topic %s: no partitions could be added to it: %s", name, refused.__name__)
                    continue
                log.warning(
                    "topic %s now has %d partitions, as %s has; records whose key is in another partition now do not "
                    "find predictions that were written before",
                    name,
                    wanted,
                    self.source,
                    extra={"topic": name},
                )
                grown = True
        return grown

    def _partitions(self, seen: Seen) -> Found:
        found: Found = {}
        wanted = seen.counts.get(self.source)
        if wanted is None:
            return {(self.source, Fault.MISSING): "is not there: no event is read"}
        for name in self.paired:
            count = seen.counts.get(name)
            if count is None:
                found[name, Fault.MISSING] = "is not there: nothing of it is read"
            elif count != wanted:
                found[name, Fault.PARTITIONS] = (
                    f"has {count} partitions, and {self.source} has {wanted}: records look for their predictions in "
                    f"the wrong partition; make the numbers equal"
                )
        return found

    def _ours(self, seen: Seen) -> Found:
        found: Found = {}
        for name, row in self.kept.items():
            if name not in seen.counts:
                found[name, Fault.MISSING] = "is not there any more: what it held is gone; start the workers again"
                continue
            if self._ids.get(name, seen.ids.get(name)) != seen.ids.get(name):
                found[name, Fault.MADE_ANEW] = (
                    "was deleted and made anew: what it held is gone; start the workers again"
                )
            policy = seen.settings.get(name, {}).get("cleanup.policy", "compact")
            if row.compacted and "compact" not in policy.split(","):
                found[name, Fault.CLEANUP_POLICY] = (
                    f"has cleanup.policy={policy}, which forgets state with time; set compact"
                )
        return found

    def _too_small(self, seen: Seen) -> Found:
        sizes, limits = self._sizes(), _limits(seen, self.kept)
        return {
            (name, Fault.LIMIT): f"takes records of up to {limits[name]} bytes (max.message.bytes), and one of {size} "
            f"bytes has to be sent to it: set it to {size} or more"
            for name, size in sizes.items()
            if name in limits and size > limits[name]
        }

    def _retention(self, seen: Seen) -> Found:
        found: Found = {}
        for name, (needed_ms, why) in self.needs.retention_ms.items():
            topic = self.connection.topic(name)
            kept = seen.settings.get(topic, {})
            if "delete" not in kept.get("cleanup.policy", "delete"):
                continue
            kept_ms = int(kept.get("retention.ms") or -1)
            if 0 <= kept_ms < needed_ms:
                found[topic, Fault.RETENTION] = (
                    f"keeps records for {format_ms(kept_ms)} (retention.ms), not {format_ms(needed_ms)}: {why}"
                )
            elif int(kept.get("retention.bytes") or -1) >= 0:
                found[topic, Fault.RETENTION] = (
                    f"forgets by size (retention.bytes={kept['retention.bytes']}), whatever its age: {why}"
                )
        return found

    def _report(self, found: Found) -> None:
        """A line when something begins not to hold, one in ten minutes while it does not, one at its end."""
        now = time.monotonic()
        for place, said in found.items():
            if now - self._said.get(place, float("-inf")) >= (REMIND_EVERY_S if place in self.faults else 0.0):
                level = logging.WARNING if place[1] is Fault.RETENTION else logging.ERROR
                if place[1] is not Fault.RETENTION or place not in self.faults:
                    log.log(level, "topic %s %s", place[0], said, extra={"topic": place[0]})
                self._said[place] = now
        for topic, fault in self.faults.keys() - found.keys():
            log.warning("topic %s: %s is as it must be again", topic, fault.replace("_", " "), extra={"topic": topic})
        self.faults = found


def _limits(seen: Seen, names: Iterable[str]) -> dict[str, int]:
    """The bytes that each topic takes in one batch, of those of which Kafka says it."""
    found = {name: seen.settings.get(name, {}).get("max.message.bytes", "") for name in names}
    return {name: int(limit) for name, limit in found.items() if limit.isdecimal()}


async def lines_of(connection: Connection, plan: Plan) -> list[str]:
    """The failed checks of the topics that a plan needs, as sentences: partitions that differ, retention too short."""
    return await TopicWatch(connection, needs_of(plan)).reports()
