"""A seed → a stream of events, with all that is unusual, and the labels of them."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from agents.replay import partitions_of
from tests.faults.payloads import BROKEN, ODD, changed

START_MS = 1_767_571_200_000
PANE_MS = 60_000
EVENTS_PER_PANE = 2_000
PARTITIONS = 4
MODEL = "shop"
WELCOME_MS = 180_000
"""How far behind a welcome event is: beyond the grace, within the lateness."""
AHEAD_MS = 59 * PANE_MS
LATENESS_MS = 30 * PANE_MS
"""Of the configuration that `write_config` writes."""
WEEK_MS = 7 * 86_400_000
GENERATION = 10**12
"""Between the offsets of one log and of that which took its place."""
FUTURE_MS = 4_102_444_800_000
"""The year 2100."""
HOSTILE_MARK = b"\xff"
"""How keys of records end that a fault has put on our topics; no text ends so."""
Pair = tuple[bytes | None, bytes]


@dataclass
class Stream:
    """Records of a topic, and what a plain count says of them."""

    pairs: list[Pair] = field(default_factory=list)
    panes: Counter[tuple[int, str]] = field(default_factory=Counter)
    """Events by pane start and version: on time and welcome ones."""
    late: int = 0
    duplicate: int = 0
    strangers: int = 0
    """Events of models that nobody declared."""
    broken: Counter[tuple[str, bytes]] = field(default_factory=Counter)
    """What has to be rejected: the reason, and the bytes."""

    @property
    def counted(self) -> int:
        return sum(self.panes.values())

    @property
    def rejected(self) -> int:
        return self.broken.total()


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What a stream has beside disorder within the grace, two versions, nulls, errors, welcome and late events."""

    garbage: bool = True
    """Records that are no events, and events from the future."""
    repeats: bool = False
    """Events that are sent again, some records later."""
    deduplicated: bool = False
    """A repeat is a duplicate: so it is where there are labels; else it counts again."""
    growing: bool = False
    """In the middle the topic gets more partitions: until they have seen what time it is, nothing comes late."""
    evolving: bool = False
    """From the half on a feature has another name, one another type, and one is new."""
    silent: int | None = None
    """A partition without events from a third of the stream to two thirds."""
    ahead: float = 0.0
    """This share of the events is dated 59 minutes ahead, after a while."""
    behind: float = 0.0
    """This share of the events, from where events may be late, is dated `behind_ms` behind."""
    behind_ms: int = 0
    strangers: int = 0
    """So many events of models that nobody declared, each of another one."""
    second_version_at: float = 0.5
    """The share of the stream after which one event in ten is of another version of the model."""


def make_stream(n: int, seed: int, **having: Any) -> Stream:
    """`n` records of our model, or hardly more or less; `having` what `Traits` has."""
    rng, stream, traits = random.Random(seed), Stream(), Traits(**having)
    panes = max(8, n // EVENTS_PER_PANE)
    late_from = n * 5 // 8 if traits.growing else n // 2
    again: dict[int, list[tuple[Pair, int, str]]] = {}
    for i in range(n):
        event_id = f"{seed}-{i:09}"
        key, pane = event_id.encode(), i * panes // n
        ts = START_MS + i * panes * PANE_MS // n
        for _ in range(i * traits.strangers // n, (i + 1) * traits.strangers // n):
            stranger = f"stranger-{stream.strangers}"
            stream.pairs.append((stranger.encode(), event(stranger, ts, rng, model=stranger)))
            stream.strangers += 1
        for pair, start, version in again.pop(i, ()):
            stream.pairs.append(pair)
            if traits.deduplicated:
                stream.duplicate += 1
            else:
                stream.panes[(start, version)] += 1
        if traits.silent is not None and n // 3 <= i < n * 2 // 3 and partition_of(key) == traits.silent:
            continue
        if traits.behind and i > late_from and rng.random() < traits.behind:
            if traits.behind_ms > LATENESS_MS:
                stream.late += 1
                stream.pairs.append((key, event(event_id, ts - traits.behind_ms, rng, pane, panes)))
                continue
            ts -= traits.behind_ms
        if traits.garbage and rng.random() < 0.001:
            reason, value = _broken(event(event_id, ts, rng, pane, panes), rng)
            stream.broken[(reason, value)] += 1
            stream.pairs.append((key, value))
            continue
        if i > late_from and rng.random() < 0.001:
            stream.late += 1
            stream.pairs.append((key, event(event_id, rng.choice((ts - 3_600_000, 0, -1)), rng, pane, panes)))
            continue
        if i > n // 2 and rng.random() < 0.002:
            ts -= WELCOME_MS
        ts -= rng.randrange(20_000) if i > EVENTS_PER_PANE else 0
        ts += AHEAD_MS if traits.ahead and i > 2 * EVENTS_PER_PANE and rng.random() < traits.ahead else 0
        version = "2" if pane > int(panes * traits.second_version_at) and i % 10 == 0 else "1"
        odd = rng.choice(ODD) if traits.garbage and rng.random() < 0.005 else {}
        value = event(event_id, ts, rng, pane, panes, version, evolved=traits.evolving and i > n // 2, odd=odd)
        start = ts // PANE_MS * PANE_MS
        stream.panes[(start, version)] += 1
        stream.pairs.append((key, value))
        if traits.repeats and rng.random() < 0.01:
            # Soon enough to be on time once more, where a repeat counts.
            again.setdefault(i + rng.randrange(1, 500), []).append(((key, value), start, version))
    return stream


def _broken(good: bytes, rng: random.Random) -> tuple[str, bytes]:
    """A record that is rejected, and why."""
    kind = rng.choice((*BROKEN, "future"))
    if kind == "future":
        return "future", changed(good, ts=FUTURE_MS)
    reason, make = BROKEN[kind]
    return reason, make(good)


def partition_of(key: bytes) -> int:
    return int(partitions_of([key], PARTITIONS)[0])


def event(
    event_id: str,
    ts: int,
    rng: random.Random,
    pane: int = 0,
    panes: int = 10**9,
    version: str = "1",
    model: str = MODEL,
    *,
    evolved: bool = False,
    odd: Mapping[str, Any] = MappingProxyType({}),
) -> bytes:
    """One record. Its feed is broken for three panes from a quarter of them on, its requests fail from the half on."""
    broken_feed = panes // 4 <= pane < panes // 4 + 3
    failing = panes // 2 <= pane < panes // 2 + 3
    record: dict[str, Any] = {
        "event_id": event_id,
        "ts": ts,
        "model": model,
        "model_version": version,
        "features": {
            "amount": None if broken_feed and rng.random() < 0.6 else round(rng.lognormvariate(3, 1), 2),
            "age": rng.randrange(18, 90),
            "country": rng.choice(("DE", "FR", "US", "BR")),
            **odd,
        },
        "segments": {"channel": rng.choice(("web", "app"))},
        "score": round(rng.betavariate(2, 5), 4),
        "prediction": int(rng.random() < 0.2),
        "latency_ms": round(rng.lognormvariate(2, 0.4), 1),
    }
    if failing and rng.random() < 0.5:
        record |= {"error": "timeout", "score": None, "prediction": None}
    if evolved:
        features = record["features"]
        features |= {"age_years": features.pop("age"), "amount": str(features["amount"]), "device": "phone"}
    return json.dumps(record).encode()


def labels_of(pairs: Iterable[Pair], seed: int, *, failing: bool = True) -> list[Pair]:
    """What was true of events, minutes later: one in ten predictions is wrong, or three in the last third if `failing`.

    In order of the labels' times, with repeats, corrections, withdrawals, labels that come first, or a week late, or
    never, or belong to no event, and garbage.
    """
    rng = random.Random(seed)
    found: list[tuple[int, Pair]] = []
    rows = [(key, row) for key, value in pairs if (row := _readable(value)) is not None and row["model"] == MODEL]
    for number, (key, row) in enumerate(rows):
        said = int(rng.random() < (0.3 if failing and number > len(rows) * 2 // 3 else 0.1)) ^ (row["prediction"] or 0)
        told, delay = [said], rng.randrange(30_000, 150_000)
        chance = rng.random()
        if chance > 0.995:
            delay += WEEK_MS
        if chance < 0.02:
            told = []
        elif chance < 0.04:
            told = [said, said]
        elif chance < 0.07:
            told = [1 - said, said]
        elif chance < 0.08:
            told = [said, None]
        elif chance < 0.09:
            delay = -rng.randrange(20_000)
        for place, label in enumerate(told):
            at = row["ts"] + delay + place * 90_000
            found.append(
                (at, (key, json.dumps({"event_id": row["event_id"], "label": label, "label_ts": at}).encode()))
            )
        if rng.random() < 0.01:
            at = row["ts"] + 60_000
            stray = {"event_id": f"stray-{number}", "label": 1, "label_ts": at}
            found.append((at, (b"stray", json.dumps(stray).encode())))
        if rng.random() < 0.002:
            found.append((row["ts"] + 60_000, (b"bad", b'{"label": 1}')))
    return [pair for _, pair in sorted(found, key=lambda item: item[0])]


def _readable(value: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(value)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or type(row.get("ts")) is not int or not isinstance(row.get("event_id"), str):
        return None
    return row if 0 < row["ts"] < FUTURE_MS and "model" in row else None
