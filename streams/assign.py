"""Claims of a group's workers → partitions by worker: balanced, co-partitioned, and with few moves.

Workers get *numbers*: the worker with number 3 has partition 3 of every topic, so records of one key are on one worker.
A move costs a rebuild, so a worker keeps its numbers as far as the balance allows; a number without a worker goes to
one that still has that number's files on its disk.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from streams.errors import UNREADABLE

MAX_BYTES = 1 << 20


class Claims(msgspec.Struct, array_like=True, frozen=True):
    """The numbers that one worker had until now, and those with files on its disk.

    `digest` and `parts` of its configuration (`streams.active`). `asked`: how often it asked for a new assignment; it
    is part of the claims because Kafka makes no assignment for a member whose metadata did not change.
    """

    held: tuple[int, ...] = ()
    stored: tuple[int, ...] = ()
    digest: int = 0
    parts: bytes = b""
    asked: int = 0

    def to_bytes(self) -> bytes:
        return msgspec.msgpack.encode(self)

    @classmethod
    def from_bytes(cls, data: bytes) -> Claims:
        """The claims of a member's metadata; empty claims for other bytes, as a worker of an earlier release sends."""
        try:
            return msgspec.msgpack.decode(data, type=cls) if len(data) <= MAX_BYTES else cls()
        except UNREADABLE:
            return cls()


@dataclass(slots=True)
class _Member:
    name: str
    held: set[int]
    stored: set[int]
    owned: list[int]


def assign(counts: Iterable[int], claims: Mapping[str, Claims]) -> dict[str, list[int]]:
    """Numbers by worker.

    Every number below the highest count is assigned once. The workers' shares of each topic differ by one partition at
    most. If all topics have the same count and no number is held twice, no more numbers move than necessary.

    Parameters:
        counts: number of partitions of each topic.
        claims: by worker.
    """
    had: set[int] = set()
    members = []
    for name in sorted(claims):
        held = set(claims[name].held) - had
        had |= held
        members.append(_Member(name, held, set(claims[name].stored), []))
    begin = 0
    for end in sorted(set(counts)):
        _share_out(range(begin, end), end, members)
        begin = end
    return {member.name: sorted(member.owned) for member in members}


def _share_out(numbers: range, total: int, members: Sequence[_Member]) -> None:
    """Gives out the numbers of the topics that have so many partitions; `total` with those that were given before."""
    least, more = divmod(total, len(members))
    free = set(numbers)
    order = sorted(members, key=lambda m: (len(m.owned) <= least, -len(m.owned) - len(m.held & free), m.name))
    room = {member.name: least + (at < more) - len(member.owned) for at, member in enumerate(order)}
    stored = {number: sum(number in member.stored for member in members) for number in free}

    def take(member: _Member, wanted: Iterable[int]) -> None:
        # What others have on their disks is given up first.
        kept = sorted(wanted, key=lambda number: (stored[number] - (number in member.stored), number))
        kept = kept[: room[member.name]]
        member.owned += kept
        room[member.name] -= len(kept)
        free.difference_update(kept)

    for member in order:
        take(member, member.held & free)
    for member in order:
        take(member, member.stored & free)
    for member in order:
        take(member, set(free))
