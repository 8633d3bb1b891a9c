"""A small credit model and its stream, drawn from a seed: reference events, live events, and incidents in them."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from streams.configure import load
from streams.learn import Learned, learn
from streams.plan import Plan, compile_plan
from streams.scaffold import foreshock_yaml

MODEL = "credit"
MINUTE_MS = 60_000
START_MS = 1_767_225_600_000
EVERY_MS = 100
"""600 events a minute."""

Event = dict[str, Any]
Change = Callable[[Event, random.Random], None]

COUNTRIES = ("GB", "FR", "DE", "ES", "IT", "NL", "PL", "SE")
WEIGHTS = (40, 20, 15, 8, 7, 5, 3, 2)


def event(number: int, drawn: random.Random, every_ms: int = EVERY_MS, start_ms: int = START_MS) -> Event:
    """One usual event."""
    age, amount = drawn.gauss(45, 12), drawn.lognormvariate(6, 0.8)
    score = 1 / (1 + math.exp(-(amount - 500) / 300 + (age - 45) / 20))
    return {
        "event_id": f"e{number}",
        "ts": start_ms + number * every_ms,
        "model": MODEL,
        "model_version": "1",
        "features": {
            "age": round(age, 1),
            "amount": round(amount, 2) if drawn.random() > 0.02 else None,
            "country": drawn.choices(COUNTRIES, WEIGHTS)[0],
            "member": drawn.random() < 0.3,
            "channel": drawn.choice((1, 2, 3)),
        },
        "segments": {"region": drawn.choices(("north", "south"), (7, 3))[0]},
        "score": round(score, 4),
        "prediction": int(score > 0.5),
        "latency_ms": round(drawn.lognormvariate(2.5, 0.4), 2),
        "error": "timeout" if drawn.random() < 0.002 else None,
    }


@dataclass(frozen=True)
class Incident:
    """What goes wrong from one minute to another, with the events that it takes hold of."""

    name: str
    minutes: range
    change: Change


def nulls(item: Event, drawn: random.Random) -> None:
    if drawn.random() < 0.6:
        item["features"]["amount"] = None


def explosion(item: Event, drawn: random.Random) -> None:
    if drawn.random() < 0.5:
        item["features"]["country"] = f"C-{drawn.randrange(10**6)}"


def errors(item: Event, drawn: random.Random) -> None:
    if drawn.random() < 0.4:
        item["error"] = "upstream"


def drift(item: Event, drawn: random.Random) -> None:
    item["features"]["age"] = round(item["features"]["age"] + 18, 1)


INCIDENTS = (
    Incident("nulls", range(5, 9), nulls),
    Incident("explosion", range(15, 18), explosion),
    Incident("errors", range(24, 26), errors),
    Incident("drift", range(33, 39), drift),
)


def events(
    minutes: int, seed: int, incidents: Iterable[Incident] = (), *, every_ms: int = EVERY_MS, start_ms: int = START_MS
) -> Iterator[Event]:
    """A stream in order. The usual part of it is the same with and without incidents."""
    drawn, harm = random.Random(seed), random.Random(seed + 1)
    for number in range(minutes * MINUTE_MS // every_ms):
        item = event(number, drawn, every_ms, start_ms)
        minute = number * every_ms // MINUTE_MS
        for incident in incidents:
            if minute in incident.minutes:
                incident.change(item, harm)
        yield item


def lines(items: Iterable[Event]) -> list[bytes]:
    return [json.dumps(item).encode() for item in items]


@cache
def learned(minutes: int = 20, seed: int = 1, every_ms: int = EVERY_MS) -> Learned:
    """What `init` makes of the reference."""
    written = lines(events(minutes, seed, every_ms=every_ms))
    return learn(MODEL, lambda: written)


def plan(found: Learned, edit: Callable[[str], str] = lambda text: text) -> Plan:
    """The plan of the file that `init` writes, after an edit of its text."""
    config = load(edit(foreshock_yaml(found, "reference.ndjson", "credit.baseline")))
    return compile_plan(config, {MODEL: found.baseline})
