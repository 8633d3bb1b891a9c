"""What the property tests draw: values of columns, and streams of records with all that can be wrong with them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from hypothesis import strategies as st

from streams.cells import Cells
from streams.configure import load
from streams.merge import BucketMerge
from streams.partial import CellKey, Partial, pack, unpack
from streams.plan import Plan, compile_plan
from streams.records import Records
from streams.sketch.profile import Profile

# --- Values

SLOTS = 61
"""Length of the vectors in the sketch suite."""

_unicode = st.text(st.characters(codec="utf-8"), max_size=12)
_common = st.sampled_from(["", "a", "ab", "GB", "München", "\0", "東京", "😀", "x" * 70, "x" * 70 + "y"])
_many = st.integers(0, 400).map("value {}".format)
texts = st.one_of(_common, _many, _unicode)
"""Category values: a few that repeat, many that do not, and any unicode."""

splits = st.lists(st.floats(0, 1), max_size=4)
"""Places at which a sequence is cut, as shares of its length."""


def values_of(one: st.SearchStrategy[str]) -> st.SearchStrategy[list[str]]:
    """Up to some hundred values: enough to leave the sparse forms of every sketch behind."""
    few = st.lists(one, max_size=30)
    run = st.builds(_run, st.integers(0, 300), st.integers(0, 350))
    return st.one_of(few, st.builds(lambda left, right: left + right, few, run))


def _run(start: int, size: int) -> list[str]:
    return [f"value {i}" for i in range(start, start + size)]


def parts_of(items: Sequence[Any], cuts: Iterable[float]) -> list[Sequence[Any]]:
    """The items cut at shares of their number; parts may be empty."""
    places = sorted(int(cut * len(items)) for cut in cuts)
    return [items[start:stop] for start, stop in zip([0, *places], [*places, len(items)], strict=True)]


# --- A configuration with two declared models

TOPIC = "inference"
MINUTE_MS = 60_000
START_MS = 1_767_225_600_000
CLOCK_MS = START_MS + 3_600_000

CONFIG = """
kafka: {buckets: 2}
limits: {future: 2h}
models:
  alpha:  # bucket 1
    pane: 1m
    grace: 1m
    lateness: 10m
    versions: [v0]
    max_versions: 2
    segments: {region: [north, south]}
    features: {amount: {type: numeric}, country: {type: categorical}}
  beta:  # bucket 1
    pane: 2m
    grace: 30s
    lateness: 5m
    features: {amount: {type: numeric}}
  gamma:  # bucket 0
    pane: 2m
    grace: 1m
    lateness: 2m
    features: {flag: {type: boolean}}
"""


def plan_of(text: str = CONFIG, *, chunk_size: int = 8) -> Plan:
    """A plan whose chunks are small enough for a test to fill many of them."""
    config = load(text)
    config = msgspec.structs.replace(config, kafka=msgspec.structs.replace(config.kafka, chunk_size=chunk_size))
    return compile_plan(config, {})


# --- Streams of records


@dataclass(frozen=True)
class Draft:
    """A record before it has bytes: its offset, and what it says."""

    offset: int
    model: str | None
    ts_ms: int
    version: str
    region: str | None
    country: str | None
    bad: str | None

    @property
    def value(self) -> bytes | None:
        if self.bad == "null_value":
            return None
        if self.bad == "bad_json":
            return b"{"
        ts_ms = self.ts_ms + 100 * 3_600_000 if self.bad == "future" else self.ts_ms
        fields: dict[str, Any] = {"event_id": str(self.offset), "ts": ts_ms, "model": self.model}
        fields |= {"model_version": self.version, "features": {"amount": self.offset % 5, "country": self.country}}
        if self.region is not None:
            fields["segments"] = {"region": self.region}
        if self.bad == "wrong_type":
            fields["latency_ms"] = "slow"
        if self.offset % 7 == 0:
            fields["trace"] = self.offset
        return json.dumps(fields).encode()

    @property
    def stamp_ms(self) -> int:
        return START_MS + 3_600_000


def records_of(drafts: Sequence[Draft]) -> Records:
    return Records(
        [draft.offset for draft in drafts], [draft.stamp_ms for draft in drafts], [draft.value for draft in drafts]
    )


@st.composite
def streams(draw: st.DrawFn, most: int = 70) -> list[Draft]:
    """Records of one source partition: time goes on in steps, some records are behind it, and offsets have gaps."""
    drafts, offset, time_ms = [], draw(st.sampled_from((0, 0, 3, 21))), START_MS
    for _ in range(draw(st.integers(0, most))):
        time_ms += draw(st.sampled_from((0, 1_000, 7_000, 20_000, 61_000)))
        behind_ms = draw(st.sampled_from((0, 0, 0, 10_000, 59_000, 61_000, 200_000, 400_000, 3_600_000)))
        drafts.append(
            Draft(
                offset=offset,
                model=draw(st.sampled_from(("alpha", "alpha", "alpha", "beta", "beta", "gamma", "ghost"))),
                ts_ms=time_ms - behind_ms,
                version=draw(st.sampled_from(("v0", "v1", "v2", "v3", "v" * 200))),
                region=draw(st.sampled_from(("north", "south", "east", None))),
                country=draw(st.sampled_from(("GB", "FR", "é", None))),
                bad=draw(st.sampled_from((None,) * 12 + ("null_value", "bad_json", "future", "wrong_type"))),
            )
        )
        offset += draw(st.sampled_from((1, 1, 1, 1, 2, 5, 30)))
    return drafts


# --- What a stream comes to


def readable(profile: Profile) -> dict[str, Any]:
    """Everything exact that a profile says; what depends on random bits is left out."""
    return {
        "counts": {slot: count for slot, count in enumerate(profile.counts.dense().tolist()) if count},
        "distinct": {column: sketch.estimate() for column, sketch in profile.distinct.items()},
        "heavy": {column: (sketch.total, sketch.top(48)) for column, sketch in profile.heavy.items()},
        "quantiles": {column: (sketch.n, sketch.ends) for column, sketch in profile.quantiles.items()},
        "extras": (profile.extras.counts, profile.extras.folded),
    }


def readable_cells(cells: Cells) -> dict[CellKey, dict[str, Any]]:
    return {key: readable(profile) for key, profile in sorted(cells.items())}


class Stage2:
    """The merges of all buckets, fed with partials through their bytes."""

    def __init__(self, plan: Plan, partitions: int = 1) -> None:
        self.merges = [BucketMerge(plan, b, TOPIC, partitions) for b in range(plan.config.kafka.buckets)]

    def apply(self, partials: Iterable[Partial]) -> Stage2:
        for partial in partials:
            self.merges[partial.bucket].apply(unpack(pack(partial)))
        return self

    def panes(self) -> Mapping[str, Any]:
        """Per model and pane the cells of what came on time, and of what was welcome."""
        return {
            name: {
                start: tuple(map(readable_cells, pane.cells()))
                for start, pane in sorted(model.panes.items())
                if any(pane.cells())
            }
            for merge in self.merges
            for name, model in merge.models.items()
        }

    def books(self) -> Mapping[str, Any]:
        found = {}
        for merge in self.merges:
            for name, model in {**merge.models, **merge.others}.items():
                if model.books.read:
                    found[name] = model.books
        return found

    def marks(self) -> Mapping[str, Any]:
        return {
            (name, partition): part.mark_ms
            for merge in self.merges
            for name, model in merge.models.items()
            for partition, part in model.marks.items()
            if part.mark_ms is not None
        }

    def everything(self) -> Mapping[str, Any]:
        return {"panes": self.panes(), "books": self.books(), "marks": self.marks()}
