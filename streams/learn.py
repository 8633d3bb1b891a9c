"""Reference events → Baseline, in two passes: what the columns hold, then the counts by block and segment."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from streams.arrays import Floats, Ints
from streams.baseline import Baseline, Block, OutcomeReference, SegmentKey, Statistics
from streams.batch import Columnizer, Gathered
from streams.cells import Segmentation, profiles
from streams.config import MAX_SEGMENTS, MAX_VERSION, OTHER, is_nameable
from streams.decode import ModelCodec, Rows
from streams.duration import DAY_MS, UNITS_MS
from streams.errors import ConfigError, DataError
from streams.events import Event
from streams.fields import text_of
from streams.learn_outcomes import Labels, Worth, count_outcomes, read_reference_labels, understand
from streams.signals.measure import RARE
from streams.sketch.counts import Counts
from streams.sketch.layout import (
    LATENCY,
    LATENCY_EDGES_MS,
    PREDICTION,
    SCORE,
    Column,
    Kind,
    Layout,
    Role,
    numeric_edges,
)
from streams.sketch.outcomes import Task
from streams.survey import BLOCK_EVENTS, ColumnValues, Survey, events_of, skip_features, survey_of

QUANTILE_BINS = 20
MAX_CATEGORIES = 256
MAX_PREDICTIONS = 50
MAX_SEGMENT_VALUES = 12
MAX_VERSIONS = 8
MIN_SEGMENT_SHARE = 0.01
MIN_SEGMENT_EVENTS = 100
MAX_BLOCKS = 400
SHOWN_OTHERS = 5
"""Names of other models in a reference that are shown."""

PANES_MS = tuple(
    count * UNITS_MS[unit]
    for count, unit in (
        *((n, "m") for n in (1, 2, 5, 10, 15, 30)),
        *((n, "h") for n in (1, 2, 3, 6, 12)),
        (1, "d"),
        (7, "d"),
    )
)
ENOUGH_EVENTS, FEWER_EVENTS = 600, 400
"""Events that a pane should hold to be judged, and those that do if the reference is short."""
ENOUGH_BLOCKS = 8

Read = Callable[[], Iterable[bytes]]


@dataclass(frozen=True, slots=True)
class Learned:
    """A baseline, and what `init` says about it."""

    baseline: Baseline
    pane_ms: int
    grace_ms: int
    versions: tuple[str, ...]
    segments: dict[str, tuple[str, ...]]
    dropped_segments: dict[str, int]
    """Per dimension, how many values are too rare to be watched on their own."""
    rejected: dict[str, int]
    skipped_features: tuple[str, ...]


def learn(
    model: str,
    read: Read,
    on_events: Callable[[int], None] = lambda events: None,
    labels: Iterable[bytes] | None = None,
) -> Learned:
    """Learns from `read()`, which is called twice, or four times with labels, and gives inference events as JSON.

    Raises:
        DataError: if there is nothing to learn from.
        ConfigError: if the events are of other models alone.
    """
    survey = survey_of(model, read(), on_events)
    _refuse_unusable(model, survey)
    skipped = skip_features(survey)
    known = read_reference_labels(labels) if labels is not None else {}
    worth = understand(events_of(model, read(), Counter()), known) if labels is not None else None
    columns, statistics = _columns(survey, worth.cuts if worth else ())
    segments, dropped = _segments(survey)
    times_ms = np.sort(np.frombuffer(survey.times, np.int64)) if survey.times else np.zeros(0, np.int64)
    timed = len(times_ms) > 1 and int(times_ms[-1] - times_ms[0]) >= 1000
    pane_ms = choose_pane_ms(times_ms) if timed else 0
    totals, blocks = _count(model, read(), columns, segments, pane_ms or UNITS_MS["m"], on_events)
    baseline = Baseline(
        model=model,
        columns=columns,
        statistics=statistics,
        events=survey.events,
        start_ms=int(times_ms[0]) if timed else 0,
        end_ms=int(times_ms[-1]) if timed else 0,
        pane_ms=pane_ms,
        longest_gap_ms=int(np.diff(times_ms).max()) if timed else 0,
        fields=tuple(sorted({*survey.fields, *(f"features.{name}" for name in skipped)})),
        total={key: counts.to_bytes() for key, counts in totals.items()},
        blocks=tuple(_packed(blocks)) if timed else (),
        thinning=_thinning(blocks),
        outcomes=_outcomes(worth, columns, events_of(model, read(), Counter()), known, segments, pane_ms)
        if worth
        else None,
    )
    return Learned(
        baseline=baseline,
        pane_ms=pane_ms or UNITS_MS["m"],
        grace_ms=_grace_ms(np.frombuffer(survey.times, np.int64), pane_ms) if timed else UNITS_MS["m"],
        versions=tuple(v for v, _ in survey.versions.most_common(MAX_VERSIONS) if 0 < len(v) <= MAX_VERSION),
        segments=segments,
        dropped_segments=dropped,
        rejected=_rejected(survey),
        skipped_features=skipped,
    )


def _refuse_unusable(model: str, survey: Survey) -> None:
    if not survey.events and survey.others:
        names = ", ".join(f"{name!r} ({count:,} events)" for name, count in survey.others.most_common(SHOWN_OTHERS))
        raise ConfigError(
            seen=f"events of {names}" + (" and others" if len(survey.others) > SHOWN_OTHERS else ""),
            expected=f"events of {model!r}",
            mend="name the model as its events do, with --model",
        )
    if survey.events < 2:
        reasons = ", ".join(f"{reason} {count}" for reason, count in survey.rejected.items()) or "no lines"
        raise DataError(
            seen=f"{survey.events} usable events ({reasons})",
            expected="reference data in the form of inference events",
            mend="see 'Reference data' in the README",
        )


def _rejected(survey: Survey) -> dict[str, int]:
    """How many events were left out, by reason."""
    if not survey.others:
        return dict(survey.rejected)
    names = ", ".join(sorted(survey.others)[:SHOWN_OTHERS])
    return {**survey.rejected, f"of other models: {names}": survey.others.total()}


def _outcomes(
    worth: Worth,
    columns: Sequence[Column],
    events: Iterable[Event],
    labels: Labels,
    segments: dict[str, tuple[str, ...]],
    pane_ms: int,
) -> OutcomeReference:
    layout = worth.layout
    if layout.task is Task.BINARY:
        (score,) = (column for column in columns if column.name == SCORE)
        layout = msgspec.structs.replace(layout, edges=score.edges)
    return count_outcomes(layout, events, labels, segments, pane_ms or UNITS_MS["m"])


def _columns(survey: Survey, cuts: tuple[float, ...]) -> tuple[tuple[Column, ...], tuple[Statistics, ...]]:
    found: list[tuple[Column, Statistics]] = []
    for name, seen in survey.features.items():
        if seen.kind is not None:
            found.append(_column(name, Role.FEATURE, seen, seen.kind))
    classes = sorted(name for name, seen in survey.scores.items() if name and seen.numbers)
    for name in classes[:MAX_PREDICTIONS] or [""]:
        column = f"{SCORE}.{name}" if name else SCORE
        found.append(
            _numeric(column, Role.SCORE, survey.scores.get(name, ColumnValues()).values(), () if name else cuts)
        )
    found.append(_column(PREDICTION, Role.PREDICTION, survey.prediction, _prediction_kind(survey.prediction)))
    latency = Column(name=LATENCY, role=Role.LATENCY, kind=Kind.NUMERIC, edges=LATENCY_EDGES_MS)
    found.append((latency, Statistics()))
    return tuple(column for column, _ in found), tuple(statistics for _, statistics in found)


def _prediction_kind(seen: ColumnValues) -> Kind:
    kind = seen.kind or Kind.CATEGORICAL
    if kind is Kind.NUMERIC and seen.whole and len(set(seen.numbers)) <= MAX_PREDICTIONS:
        return Kind.CODE
    return kind


def _column(name: str, role: Role, seen: ColumnValues, kind: Kind) -> tuple[Column, Statistics]:
    if kind is Kind.NUMERIC:
        return _numeric(name, role, seen.values())
    if kind is Kind.CODE:
        tally = Counter({str(int(value)): count for value, count in Counter(seen.numbers).items()})
    elif kind is Kind.BOOLEAN:
        tally = Counter({text_of(value): count for value, count in seen.flags.items()})
    else:
        tally = seen.texts
    ordered = sorted(tally.items(), key=lambda item: (-item[1], item[0]))
    listed = ordered[:MAX_CATEGORIES]
    total = tally.total() + seen.overflow
    statistics = Statistics(
        distinct=len(tally),
        singletons=sum(count == 1 for count in tally.values()) + seen.overflow,
        listed_singletons=sum(count == 1 for _, count in listed),
        common=sum(count >= RARE * total for _, count in listed),
    )
    return Column(name=name, role=role, kind=kind, categories=tuple(value for value, _ in listed)), statistics


def _numeric(name: str, role: Role, values: Floats, cuts: tuple[float, ...] = ()) -> tuple[Column, Statistics]:
    """Bins on the quantiles; `cuts` are edges too."""
    if not len(values):
        return Column(name=name, role=role, kind=Kind.NUMERIC), Statistics()
    values = values + 0.0  # −0 becomes 0
    distinct = np.unique(values)
    inner = (
        distinct if len(distinct) <= QUANTILE_BINS else np.quantile(values, np.arange(1, QUANTILE_BINS) / QUANTILE_BINS)
    )
    edges = numeric_edges([*inner, *cuts], float(distinct[0]), float(distinct[-1]))
    place = np.searchsorted(np.array(edges), values, "right")
    size = np.bincount(place, minlength=len(edges) + 1)
    sums = np.bincount(place, weights=values, minlength=len(edges) + 1)
    fallback = np.array([edges[0], *edges])
    centres = np.where(size > 0, sums / np.maximum(size, 1), fallback)
    return (
        Column(name=name, role=role, kind=Kind.NUMERIC, edges=edges),
        Statistics(distinct=len(distinct), centres=tuple(centres.tolist())),
    )


def _segments(survey: Survey) -> tuple[dict[str, tuple[str, ...]], dict[str, int]]:
    kept, dropped = {}, {}
    nameable = [name for name in survey.segments if is_nameable(name)]
    for name in nameable[:MAX_SEGMENTS]:
        tally = survey.segments[name]
        enough = max(MIN_SEGMENT_EVENTS, MIN_SEGMENT_SHARE * survey.events)
        frequent = (value for value, count in tally.most_common(MAX_SEGMENT_VALUES + 1) if count >= enough)
        values = [value for value in frequent if value != OTHER][:MAX_SEGMENT_VALUES]
        if values:
            kept[name] = tuple(values)
        dropped[name] = len(tally) - len(values)
    return kept, dropped


def choose_pane_ms(times_ms: Ints) -> int:
    """The shortest pane that holds enough events to be judged; a day where a pane would be a good part of one.

    A shorter one that holds fewer is taken if the reference would have too few blocks otherwise.
    """
    span_ms = int(times_ms[-1] - times_ms[0])
    best = _shortest(times_ms, ENOUGH_EVENTS)
    if span_ms < ENOUGH_BLOCKS * best:
        best = min(best, _shortest(times_ms, FEWER_EVENTS))
    return DAY_MS if DAY_MS // 4 <= best < DAY_MS and span_ms >= 3 * DAY_MS else best


def _shortest(times_ms: Ints, enough: int) -> int:
    for pane_ms in PANES_MS:
        if _typical_size(times_ms, pane_ms) >= enough:
            return pane_ms
    span_ms = int(times_ms[-1] - times_ms[0])
    return max((pane_ms for pane_ms in PANES_MS if pane_ms * ENOUGH_BLOCKS <= span_ms), default=PANES_MS[0])


def _typical_size(times_ms: Ints, pane_ms: int) -> int:
    """The size of the pane that the median event is in: gaps in the reference do not make panes look small."""
    _, sizes = np.unique(times_ms // pane_ms, return_counts=True)
    ordered = np.sort(sizes)
    return int(ordered[np.searchsorted(ordered.cumsum(), len(times_ms) / 2)])


def _grace_ms(times_ms: Ints, pane_ms: int) -> int:
    """How far the reference is out of order, if it is nearly in order: what a stream of it will be."""
    behind = np.maximum.accumulate(times_ms) - times_ms
    late = float(np.quantile(behind, 0.999))
    if late > min(pane_ms, (int(times_ms.max()) - int(times_ms.min())) / 10):
        return UNITS_MS["m"]
    return max(UNITS_MS["m"], math.ceil(late / UNITS_MS["m"]) * UNITS_MS["m"])


Totals = dict[SegmentKey, Counts]


def _count(
    model: str,
    values: Iterable[bytes],
    columns: Sequence[Column],
    segments: dict[str, tuple[str, ...]],
    pane_ms: int,
    on_events: Callable[[int], None],
) -> tuple[Totals, dict[int, Totals]]:
    """The second pass: counts of the whole, and of each block, by segment."""
    layout = Layout(tuple(columns))
    codec = ModelCodec(model, columns, tuple(segments))
    columnizer, segmentation = Columnizer(layout, segments), Segmentation.of(segments)
    totals: Totals = {}
    blocks: dict[int, Totals] = {}
    for rows in _batches(codec, values, on_events):
        columnizer.gather(columnizer.parts(rows), gathered := Gathered())
        batch = columnizer.columns(gathered)
        classes = np.zeros(batch.n, np.int64)
        for group, (_, name, value), profile in profiles(batch, layout, segmentation, pane_ms, classes):
            if not name or value in segments[name]:
                _add(totals, (name, value), profile.counts)
                _add(blocks.setdefault(group.pane_ms, {}), (name, value), profile.counts)
    return totals, blocks


def _batches(codec: ModelCodec, values: Iterable[bytes], on_events: Callable[[int], None]) -> Iterator[Rows]:
    events, done = events_of(codec.model, values, Counter()), 0
    while block := list(itertools.islice(events, BLOCK_EVENTS)):
        rows = [codec.row(event)[0] for event in block]
        yield Rows(np.arange(len(rows)), rows, np.array([event.ts_ms for event in block], np.int64))
        done += len(rows)
        on_events(done)


def _add(into: Totals, key: SegmentKey, counts: Counts) -> None:
    into[key] = into[key].merged(counts) if key in into else counts


def _thinning(blocks: dict[int, Totals]) -> int:
    return max(1, math.ceil(len(blocks) / MAX_BLOCKS))


def _packed(blocks: dict[int, Totals]) -> Iterator[Block]:
    """Blocks in time order; of very many, evenly spread ones are kept."""
    starts = sorted(blocks)
    for start in starts[:: _thinning(blocks)]:
        yield Block(start, {key: counts.to_bytes() for key, counts in blocks[start].items()})
