"""`streams.assign` for aiokafka's consumer groups: what a member has travels with its wish to join.

Its name is that of aiokafka's own assignor, `range`, which earlier releases use: so workers of both can be in one
group, and whoever leads it decides by what it knows. (To offer two by name, aiokafka would join twice.)
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping

import msgspec
from aiokafka.cluster import ClusterMetadata
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata

from streams.assign import Claims, assign
from streams.errors import UNREADABLE

log = logging.getLogger(__name__)

NOTHING: Callable[[], Iterable[int]] = tuple


class StickyAssignor:
    """What aiokafka calls a partition assignor: one for each member, which remembers what it has."""

    name = "range"
    version = 0

    def __init__(self, stored: Callable[[], Iterable[int]] = NOTHING) -> None:
        """`stored` says of which numbers something is on its disk."""
        self.held: frozenset[int] = frozenset()
        self.made_of: Mapping[str, int] = {}
        """Of the topics that were given out how many partitions they had then; nothing if the leader did not say."""
        self._stored = stored

    def metadata(self, topics: Iterable[str]) -> ConsumerProtocolMemberMetadata:
        claims = Claims(tuple(sorted(self.held)), tuple(sorted(self._stored())))
        return ConsumerProtocolMemberMetadata(self.version, sorted(topics), claims.to_bytes())

    def on_assignment(self, assignment: ConsumerProtocolMemberAssignment) -> None:
        self.held = frozenset(tp.partition for tp in assignment.partitions())
        self.made_of = counts_of(assignment.user_data or b"")

    def assign(
        self, cluster: ClusterMetadata, members: Mapping[str, ConsumerProtocolMemberMetadata]
    ) -> dict[str, ConsumerProtocolMemberAssignment]:
        """Topics that the same members read are assigned together."""
        found: dict[str, list[tuple[str, list[int]]]] = {member: [] for member in members}
        made_of: dict[str, int] = {}
        for topics, readers in _readers(members).items():
            counts = {topic: len(cluster.partitions_for_topic(topic) or ()) for topic in topics}
            made_of |= counts
            for topic in (topic for topic, count in counts.items() if not count):
                log.warning("topic %s is not there: nobody reads it", topic, extra={"topic": topic})
            claims = {member: Claims.from_bytes(members[member].user_data or b"") for member in readers}
            for member, numbers in assign(counts.values(), claims).items():
                found[member] += [(topic, [n for n in numbers if n < count]) for topic, count in counts.items()]
        return {
            member: ConsumerProtocolMemberAssignment(self.version, sorted(topics), msgspec.msgpack.encode(made_of))
            for member, topics in found.items()
        }


def counts_of(data: bytes) -> Mapping[str, int]:
    """Partitions by topic, as the leader wrote them; none of a leader of an earlier release."""
    try:
        return msgspec.msgpack.decode(data, type=dict[str, int])
    except UNREADABLE:
        return {}


def _readers(members: Mapping[str, ConsumerProtocolMemberMetadata]) -> dict[tuple[str, ...], tuple[str, ...]]:
    """Members by the topics that they all, and nobody else, read."""
    by_topic: dict[str, list[str]] = {}
    for member in sorted(members):
        for topic in members[member].subscription:
            by_topic.setdefault(topic, []).append(member)
    together: dict[tuple[str, ...], list[str]] = {}
    for topic, readers in sorted(by_topic.items()):
        together.setdefault(tuple(readers), []).append(topic)
    return {tuple(topics): readers for readers, topics in together.items()}
