"""A seed → the schedule that it stands for: its stream, and the faults that strike."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tests.faults.injections import FAULTS
from tests.faults.stream import PARTITIONS, Stream, make_stream
from tests.faults.writers import fill_in_odd_batches, fill_in_transactions

EVENTS = 24_000
STRANGERS = 100_000
AHEAD_SHARES = (0.0005, 0.05)
"""A record now and then, or one producer of twenty."""
BEHIND_SHARES = (0.05, 0.3)
"""One producer of twenty, or three of ten. With so many stream time depends on how the records of a partition are
mixed, and what is on time in the one order of a backtest need not be so in each partition: the plain fold judges."""
BEHIND_MS = (4 * 60_000, 11 * 60_000, 45 * 60_000)
"""Beyond the grace, for long, and beyond the lateness."""
BETWEEN_S = (0.5, 3.5)
START_S = 3.0
"""What a worker needs until it reads, about."""
STREAMS = {
    "repeats": "6",
    "disorder": "7",
    "late, future, epoch 0": "8",
    "silent partition": "9",
    "lagging partition": "9",
    "garbage": "10",
    "odd values": "11",
    "labels": "12",
    "schema change": "13",
    "late topic": "14",
    "added partitions": "14",
    "made anew": "20",
    "many names": "16",
    "transactions": "21",
    "fast clock": "23",
    "slow clock": "23",
    "odd batches": "22",
}
"""What a stream may have, and the row of the table of faults that it is about."""
ALWAYS = ("disorder", "late, future, epoch 0", "garbage", "odd values")
WRITTEN_ODDLY = {"transactions": fill_in_transactions, "odd batches": fill_in_odd_batches}
"""They write everything in one go, to brokers that stay."""
KINDS = (
    *FAULTS,
    *("silent partition", "lagging partition", "late topic", "added partitions", "made anew"),
    "many names",
    *(*WRITTEN_ODDLY, "fast clock", "slow clock"),
)
"""Each is the first of every so many seeds."""
BROKER_FAULTS = ("broker", "outage", "node", "refuse", "hang")
FIRST_ONLY = ("outage",)
"""Too slow to be drawn beside others."""
LONG_S = 10.0
"""Of those that last so long there is one in a schedule."""
LEAST_S = 8.0


@dataclass(frozen=True)
class Schedule:
    """Everything that a seed decides."""

    seed: int
    faults: tuple[str, ...]
    """In the order in which they strike."""
    streams: frozenset[str]
    """Of STREAMS."""
    events: int = EVENTS

    @property
    def labelled(self) -> bool:
        return "labels" in self.streams

    @property
    def kinds(self) -> list[str]:
        return [*dict.fromkeys(self.faults), *sorted(self.streams)]

    @property
    def lasts_s(self) -> float:
        """About as long as its faults need."""
        gaps_s = (len(self.faults) + 1) * sum(BETWEEN_S) / 2
        return max(LEAST_S, START_S + gaps_s + sum(FAULTS[name].lasts_s for name in self.faults))

    @property
    def behind(self) -> float:
        """The share of the records whose clock is slow."""
        return BEHIND_SHARES[self.seed % len(BEHIND_SHARES)] if "slow clock" in self.streams else 0.0

    def stream(self) -> Stream:
        return make_stream(
            self.events,
            self.seed,
            repeats="repeats" in self.streams,
            deduplicated=self.labelled,
            growing="added partitions" in self.streams,
            evolving="schema change" in self.streams,
            silent=self.seed % PARTITIONS if "silent partition" in self.streams else None,
            ahead=AHEAD_SHARES[self.seed % len(AHEAD_SHARES)] if "fast clock" in self.streams else 0.0,
            behind=self.behind,
            behind_ms=BEHIND_MS[self.seed % len(BEHIND_MS)],
            strangers=STRANGERS if "many names" in self.streams else 0,
        )


def drawn(seed: int, wanted: Sequence[str] = (), events: int = EVENTS) -> Schedule:
    """The schedule of a seed; `wanted`: of these kinds, and no others but what every stream has.

    What is wanted of STREAMS beside KINDS, such as labels, every schedule has.
    """
    rng = random.Random(seed)
    always, wanted = {*wanted} - {*KINDS}, [name for name in wanted if name in KINDS]
    first = [wanted[seed % len(wanted)]] if wanted else [KINDS[seed % len(KINDS)]]
    allowed = wanted or KINDS
    more = [name for name in allowed if name not in FIRST_ONLY]
    kinds = first + [name for name in rng.sample(more, min(2, len(more))) if rng.random() < 0.5]
    kinds = _together(dict.fromkeys(kinds))
    faults = [name for name in kinds if name in FAULTS for _ in range(rng.randint(1, FAULTS[name].often))]
    faults += ["kill"] if not (faults or wanted) else []
    rng.shuffle(faults)
    streams = {*ALWAYS, *(name for name in kinds if name in STREAMS)}
    streams |= {name for name in ("repeats", "schema change") if rng.random() < 0.5}
    streams |= always
    labelled = rng.random() < 0.5 or "labels" in always or any(FAULTS[name].labelled for name in faults)
    if labelled:
        streams.add("labels")
    if {"labels", "added partitions"} <= streams:
        streams.discard("repeats")  # one that goes to another partition than the first is no duplicate
    return Schedule(seed, tuple(faults), frozenset(streams), events)


def _together(kinds: Iterable[str]) -> list[str]:
    """Those that can be in one schedule, the first ones first."""
    found: list[str] = []
    for name in kinds:
        if all(_agree(name, other) and _agree(other, name) for other in found):
            found.append(name)
    return found


def _agree(name: str, other: str) -> bool:
    one, two = FAULTS.get(name), FAULTS.get(other)
    if one is None:
        if name in WRITTEN_ODDLY:
            return other not in (*WRITTEN_ODDLY, "lagging partition", *BROKER_FAULTS)
        return name != "made anew" or other in ("fast clock", "slow clock", "many names")
    if two is None:
        return not one.alone and other != "made anew"
    single = {"broker", "outage", "hang"}
    return (
        not (one.alone or two.alone)
        and not (one.deleting and two.labelled)
        and not (one.through and two.through)
        and not (one.relaid and (two.deleting or two is FAULTS["edit"]))
        and min(one.lasts_s, two.lasts_s) < LONG_S
        and not (one.replicated and other in single)
    )
