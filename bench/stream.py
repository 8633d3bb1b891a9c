"""Seeded synthetic inference events of one model, and what goes with them: a reference, a configuration, a topic.

12 numeric and 3 categorical features, one segment of 3 values, about 450 bytes of JSON an event. Event time advances
by `EVENTS_PER_S` and is out of order by up to `JITTER_MS`, so a chunk holds a few panes and a batch one or two.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from agents import replay, topics
from agents.clients import Connection
from streams.baseline import Baseline
from streams.configure import load
from streams.learn import Learned, learn
from streams.plan import Plan, compile_plan
from streams.scaffold import foreshock_yaml

MODEL = "payments"
DISTINCT = 100_000
EVENTS_PER_S = 2_000
JITTER_MS = 5_000
BLOCK = 4_096
REFERENCE_EVENTS = 20_000
REFERENCE_EVENTS_PER_S = 33
LABELLED_ONE_IN = 10
LABEL_DELAY_S = 60
UNSEEN_SHARE = 0.002
UNSEEN_VALUES = 500
START_MS = 1_767_571_200_000
"""2026-01-05, midnight UTC: long before the run, so that no event is dated ahead of its record."""

CHANNELS = ("web", "app", "store")
COUNTRIES = (
    *("US", "GB", "DE", "FR", "ES", "IT", "NL", "PL", "SE", "NO"),
    *("DK", "FI", "BR", "MX", "CA", "AU", "JP", "KR", "IN", "ZA"),
)
MERCHANTS = tuple(f"mcc-{5_000 + 13 * i}" for i in range(40))
DEVICES = ("ios", "android", "desktop", "tablet", "terminal")

Pair = tuple[bytes | None, bytes]


def pairs(n: int, *, seed: int = 1, times: str = "rfc3339", events_per_s: int = EVENTS_PER_S) -> Iterator[Pair]:
    """(event id, event) of `n` events. `times`: "rfc3339", or "epoch" for milliseconds."""
    templates = _templates(seed)
    rng = np.random.default_rng([seed, 2])
    for first in range(0, n, BLOCK):
        number = np.arange(first, min(first + BLOCK, n))
        moments = _times(START_MS + number * 1_000 // events_per_s - rng.integers(0, JITTER_MS, len(number)), times)
        for at, moment in zip(number.tolist(), moments, strict=True):
            event_id = b"pay-%012d" % at
            yield event_id, templates[at % len(templates)] % (event_id, moment)


def _times(times_ms: NDArray[np.int64], form: str) -> list[bytes]:
    if form == "epoch":
        return [b"%d" % time_ms for time_ms in times_ms.tolist()]
    return [f'"{text}Z"'.encode() for text in np.datetime_as_string(times_ms.astype("M8[ms]"))]


@functools.cache
def _templates(seed: int, distinct: int = DISTINCT) -> list[bytes]:
    """Events with holes for the id and the time."""
    rng = np.random.default_rng([seed, 1])
    features = _features(rng, distinct)
    names = list(features)
    score = np.round(rng.beta(1.2, 9.0, distinct), 4)
    latency = np.round(rng.lognormal(2.5, 0.5, distinct), 1)
    failed = rng.random(distinct) < 0.001
    channel = rng.choice(CHANNELS, distinct, p=(0.5, 0.35, 0.15))
    per_row = zip(
        zip(*features.values(), strict=True), channel.tolist(), score.tolist(), latency.tolist(), failed.tolist(),
        strict=True,
    )  # fmt: skip
    templates = []
    for values, segment, probability, latency_ms, error in per_row:
        rest = {
            "model": MODEL,
            "model_version": "7",
            "features": dict(zip(names, values, strict=True)),
            "segments": {"channel": segment},
            "score": probability,
            "prediction": int(probability > 0.3),
            "latency_ms": latency_ms,
        }
        body = msgspec.json.encode(rest | ({"error": "timeout"} if error else {}))
        templates.append(b'{"event_id":"%b","ts":%b,' + body[1:])
    return templates


def _features(rng: np.random.Generator, n: int) -> dict[str, list[Any]]:
    countries = 1 / np.arange(1, len(COUNTRIES) + 1)
    merchants = rng.choice(MERCHANTS, n).astype(object)
    unseen = np.flatnonzero(rng.random(n) < UNSEEN_SHARE)
    merchants[unseen] = [f"new-{value:06d}" for value in rng.integers(0, UNSEEN_VALUES, len(unseen))]
    return {
        "amount": np.round(rng.lognormal(3.5, 1.0, n), 2).tolist(),
        "amount_mean": np.round(rng.lognormal(3.3, 0.6, n), 2).tolist(),
        "amount_max": np.round(rng.lognormal(4.5, 0.8, n), 2).tolist(),
        "count_24h": rng.poisson(2, n).tolist(),
        "count_7d": rng.poisson(9, n).tolist(),
        "account_age": rng.integers(0, 4_000, n).tolist(),
        "merchant_risk": np.round(rng.beta(2, 8, n), 4).tolist(),
        "distance_km": _with_nulls(rng, np.round(rng.exponential(40, n), 1), 0.03),
        "hour": rng.integers(0, 24, n).tolist(),
        "balance": np.round(rng.normal(2_500, 900, n), 2).tolist(),
        "device_age": _with_nulls(rng, rng.exponential(200, n).astype(int), 0.02),
        "velocity": np.round(rng.gamma(2, 1.5, n), 3).tolist(),
        "country": rng.choice(COUNTRIES, n, p=countries / countries.sum()).tolist(),
        "category": merchants.tolist(),
        "device": rng.choice(DEVICES, n).tolist(),
    }


def _with_nulls(rng: np.random.Generator, values: NDArray[Any], share: float) -> list[Any]:
    mixed = values.astype(object)
    mixed[rng.random(len(values)) < share] = None
    return list(mixed.tolist())


def label_pairs(n: int, *, seed: int = 1, delay_s: int = LABEL_DELAY_S) -> Iterator[Pair]:
    """(event id, label) of every `LABELLED_ONE_IN`-th of the first `n` events, in the order in which they come."""
    rng = np.random.default_rng([seed, 3])
    for number in range(0, n, LABELLED_ONE_IN):
        event_id = b"pay-%012d" % number
        told_ms = START_MS + number * 1_000 // EVENTS_PER_S + delay_s * 1_000
        yield event_id, b'{"event_id":"%b","label":%d,"label_ts":%d}' % (event_id, rng.random() < 0.1, told_ms)


# --- What the model was trained on, and its configuration


@functools.cache
def learned() -> Learned:
    """What `foreshock init` would learn from a reference of the same kind, drawn with another seed."""
    values = [value for _, value in pairs(REFERENCE_EVENTS, seed=0, events_per_s=REFERENCE_EVENTS_PER_S)]
    return learn(MODEL, lambda: [value for value in values if b'"new-' not in value])


@dataclass(frozen=True, slots=True)
class Project:
    """A configuration with its baseline, compiled, and the text of its file."""

    text: str
    baseline: Baseline
    plan: Plan

    def write(self, folder: Path) -> Path:
        """The path of the configuration, the baseline beside it."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / BASELINE_FILE).write_bytes(self.baseline.to_bytes())
        (folder / "foreshock.yaml").write_text(self.text, encoding="utf-8")
        return folder / "foreshock.yaml"


BASELINE_FILE = f"{MODEL}.baseline"


LABELS = '    labels: {task: binary, classes: ["0", "1"]}\n'


def project(
    broker: str = "127.0.0.1:9092", prefix: str = "", listen: str = "127.0.0.1:6066", *, labelled: bool = False
) -> Project:
    """The project that `foreshock init` would write, for this broker, prefix and address of the pages."""
    text = foreshock_yaml(learned(), "synthetic events", BASELINE_FILE)
    for before, after in (
        ("broker: 127.0.0.1:9092", f"broker: {broker}"),
        ("prefix: ''", f"prefix: '{prefix}'"),
        ("listen: 127.0.0.1:6066", f"listen: {listen}"),
    ):
        if before not in text:
            raise ValueError(f"the scaffold has no {before!r} any more: mend bench/stream.py")
        text = text.replace(before, after, 1)
    if labelled:
        head, name, tail = text.partition(f"  {MODEL}:\n")
        text = head + name + LABELS + tail
    baseline = learned().baseline
    return Project(text, baseline, compile_plan(load(text), {MODEL: baseline}))


# --- A filled topic


def fill(broker: str, topic: str, records: Iterable[Pair], partitions: int) -> replay.Sent:
    """Create a topic and send records to it; returns when Kafka has them all."""

    async def run() -> replay.Sent:
        connection = Connection(broker=broker)
        await topics.create(connection, topic, partitions)
        return await replay.generate(connection, topic, records)

    return asyncio.run(run())
