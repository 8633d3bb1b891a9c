"""`streams.assign` for aiokafka's consumer groups: the claims of a member travel with its request to join.

The assignor has the name of aiokafka's own, `range`, which earlier releases use: so workers of both can be in one
group, and whoever leads it decides by what it knows. (To offer two names, aiokafka would join twice.)
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping

import msgspec
from aiokafka.cluster import ClusterMetadata
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata

from streams.active import Configuration, active
from streams.assign import Claims, assign
from streams.errors import UNREADABLE

log = logging.getLogger(__name__)

CHOSEN, YOURS, HAVE, OF = "\0chosen", "\0yours", "\0have", "\0of"
"""Entries of an assignment beside the partitions of topics, whose names cannot be these: the digest of the active
configuration, the digest that the leader knows of the member, how many members have the active one, and of how many."""
NO_CONFIGURATION = Configuration()
NOTHING: Callable[[], Iterable[int]] = tuple


class StickyAssignor:
    """A partition assignor as aiokafka calls it: one for each member, which knows what that member has."""

    name = "range"
    version = 0

    def __init__(
        self, stored: Callable[[], Iterable[int]] = NOTHING, configuration: Configuration = NO_CONFIGURATION
    ) -> None:
        """An assignor without partitions.

        Parameters:
            stored: the numbers of which something is on the member's disk.
        """
        self.configuration = configuration
        self.waits = ""
        """Why it is given nothing: another configuration is active. Empty while its own is."""
        self.is_stale = False
        """Whether the leader took it for a member with another configuration: it came back under its name."""
        self._asked = 0
        self.held: frozenset[int] = frozenset()
        self.made_of: Mapping[str, int] = {}
        """Of the topics that were given out how many partitions they had then; nothing if the leader did not say."""
        self._stored = stored

    def metadata(self, topics: Iterable[str]) -> ConsumerProtocolMemberMetadata:
        ours = self.configuration
        held, stored = tuple(sorted(self.held)), tuple(sorted(self._stored()))
        claims = Claims(held, stored, ours.digest, ours.parts, self._asked)
        return ConsumerProtocolMemberMetadata(self.version, sorted(topics), claims.to_bytes())

    def on_assignment(self, assignment: ConsumerProtocolMemberAssignment) -> None:
        said = dict(counts_of(assignment.user_data or b""))
        chosen, known = said.pop(CHOSEN, None), said.pop(YOURS, None)
        have, of = said.pop(HAVE, 0), said.pop(OF, 0)
        ours = self.configuration.digest
        self.made_of = said
        self.is_stale = known is not None and known != ours
        self.waits = ""
        if chosen is not None and chosen != ours:
            self.waits = f"another configuration is active in its group, that of {have} of {of} members"
        self.held = frozenset() if self.waits else frozenset(tp.partition for tp in assignment.partitions())

    def ask(self) -> None:
        """Changes the next request to join, so that Kafka has the group assigned again."""
        self._asked += 1

    def assign(
        self, cluster: ClusterMetadata, members: Mapping[str, ConsumerProtocolMemberMetadata]
    ) -> dict[str, ConsumerProtocolMemberAssignment]:
        """Assigns topics with the same members together, to the members of one configuration."""
        found: dict[str, list[tuple[str, list[int]]]] = {member: [] for member in members}
        made_of: dict[str, int] = {}
        everyone = {member: Claims.from_bytes(told.user_data or b"") for member, told in members.items()}
        chosen = active(everyone.values())
        ours = {member: told for member, told in members.items() if everyone[member].digest == chosen}
        for topics, readers in _readers(ours).items():
            counts = {topic: len(cluster.partitions_for_topic(topic) or ()) for topic in topics}
            made_of |= counts
            for topic in (topic for topic, count in counts.items() if not count):
                log.warning("topic %s is not there: nobody reads it", topic, extra={"topic": topic})
            claims = {member: everyone[member] for member in readers}
            for member, numbers in assign(counts.values(), claims).items():
                found[member] += [(topic, [n for n in numbers if n < count]) for topic, count in counts.items()]
        common = {**made_of, CHOSEN: chosen, HAVE: len(ours), OF: len(members)}
        said = {member: msgspec.msgpack.encode({**common, YOURS: everyone[member].digest}) for member in members}
        return {
            member: ConsumerProtocolMemberAssignment(self.version, sorted(topics), said[member])
            for member, topics in found.items()
        }


def counts_of(data: bytes) -> Mapping[str, int]:
    """Partitions by topic, as the leader wrote them; empty if an earlier release leads."""
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
