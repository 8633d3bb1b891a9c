"""What the workers of a group have → who gets which partitions: balanced, co-partitioned, and few moves.

Workers are given *numbers*: whoever has number 3 has partition 3 of every topic, so what has the same key is in one
place. A move costs a rebuild, so whoever has a number keeps it, as far as the balance allows; a number that nobody has
goes to a worker that still has what it kept of it on its disk.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from streams.errors import UNREADABLE

MAX_BYTES = 1 << 20


class Claims(msgspec.Struct, array_like=True, frozen=True):
    """Of one worker: the numbers that it had until now, and those of which something is on its disk.

    `digest` and `parts` of its configuration (`streams.active`). `asked`: how often it asked for a new assignment, for
    Kafka makes none for a member that says what it said before.
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
        """No claims, for what are none: a worker of an earlier release makes none."""
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
    """Numbers by worker. `counts`: of the partitions of each topic.

    Every number below the highest count is given once. Of every topic the workers' shares differ by one partition at
    the most. Where all topics have the same count and no number is held twice, no more numbers move than have to.
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
