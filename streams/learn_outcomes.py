"""Reference events and their labels → the layout of outcomes, and the labelled performance of the reference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from streams.arrays import Ints
from streams.baseline import WHOLE, Block, OutcomeReference, SegmentKey
from streams.errors import DataError
from streams.events import Event
from streams.fields import segment_text
from streams.labels import Label, read_labels
from streams.sketch.counts import Counts
from streams.sketch.outcomes import (
    MAX_CLASSES,
    PREDICTIONS,
    OutcomeLayout,
    Prediction,
    Task,
    class_text,
)

MAX_LABELS = 2_000_000
BATCH = 10_000
QUANTILE_BINS = 20
MIN_LABELLED = 100
_NO_LIMIT = 2**60

Labels = Mapping[str, Label]
Pairs = Sequence[tuple[Event, object]]
"""Events and their labels."""


def read_reference_labels(values: Iterable[bytes]) -> dict[str, Label]:
    """By event id the last label of each.

    Raises:
        DataError: if there are none.
    """
    lines, labels = islice(values, MAX_LABELS), dict[str, Label]()
    reasons: Counter[str] = Counter()
    while batch := list(islice(lines, BATCH)):
        found, rejects = read_labels(batch, [_NO_LIMIT] * len(batch), (), max_record_bytes=_NO_LIMIT, future_ms=0)
        labels.update((label.event_id, label) for _, label in found if label.label is not None)
        reasons.update(f"{reject.reason} ({reject.detail})" for reject in rejects)
    if not labels:
        why = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common(3)) or "no lines"
        raise DataError(
            seen=f"no usable label ({why})",
            expected='lines like {"event_id": "a1", "label": 1, "label_ts": "2026-01-05T00:00:00Z"}',
            mend="see 'Labels' in the README",
        )
    return labels


@dataclass(frozen=True, slots=True)
class Worth:
    """A layout without its bins, and the cuts that the score's bins must have."""

    layout: OutcomeLayout
    cuts: tuple[float, ...] = ()


def understand(events: Iterable[Event], labels: Labels) -> Worth:
    """What the model predicts, from labelled events.

    Raises:
        DataError: if too few labels belong to the events, or they fit no task.
    """
    pairs = [(event, labels[event.event_id].label) for event in events if event.event_id in labels]
    if len(pairs) < MIN_LABELLED:
        raise DataError(
            seen=f"{len(pairs)} labels that belong to an event of the reference, of {len(labels)}",
            expected=f"at least {MIN_LABELLED}",
            mend="check that both files have the same event_id",
        )
    truths = Counter(class_text(label) for _, label in pairs)
    has_class_scores = any(isinstance(event.score, dict) for event, _ in pairs)
    numeric = all(isinstance(label, float) and not isinstance(label, bool) for _, label in pairs)
    if not has_class_scores and len(truths) <= 2 and (_scores_are_probabilities(pairs) or not numeric):
        return _binary(pairs, truths)
    classes = _classes(pairs) | truths.keys()
    if not has_class_scores and numeric and (len(classes) > MAX_CLASSES or not _are_codes(pairs)):
        return Worth(OutcomeLayout(task=Task.REGRESSION, spread=_spread(pairs)))
    return _multiclass(pairs, classes, truths)


def _scores_are_probabilities(pairs: Pairs) -> bool:
    scores = [event.score for event, _ in pairs if isinstance(event.score, float)]
    return bool(scores) and 0 <= min(scores) <= max(scores) <= 1


def _classes(pairs: Pairs) -> set[str]:
    """The classes that are predicted, or that have a score of their own."""
    predicted = {class_text(event.prediction) for event, _ in pairs if event.prediction is not None}
    return predicted.union(*(event.score for event, _ in pairs[:BATCH] if isinstance(event.score, dict)))


def _multiclass(pairs: Pairs, classes: set[str], truths: Counter[str]) -> Worth:
    if len(classes) > MAX_CLASSES:
        raise DataError(
            seen=f"{len(classes)} classes among labels and predictions",
            expected=f"at most {MAX_CLASSES}, or numbers",
            mend="fold the rare ones into one class before the model is monitored",
        )
    ordered = tuple(sorted(classes, key=lambda name: (-truths[name], name)))
    confidences = [max(event.score.values()) for event, _ in pairs if isinstance(event.score, dict) and event.score]
    edges = _edges(confidences) if confidences else ()
    return Worth(OutcomeLayout(task=Task.MULTICLASS, classes=ordered, edges=edges))


def _binary(pairs: Pairs, truths: Counter[str]) -> Worth:
    classes = ("0", "1")
    if not truths.keys() <= {"0", "1"}:
        if len(truths) < 2:
            raise DataError(
                seen=f"one class only: {next(iter(truths))!r}", expected="labels of both classes", mend="add the others"
            )
        means = {name: _mean_score(pairs, name) for name in truths}
        low, high = sorted(means, key=lambda name: (means[name], name))
        classes = (low, high)
    scored = [(event.score, class_text(event.prediction)) for event, _ in pairs if isinstance(event.score, float)]
    below = [score for score, answer in scored if answer == classes[0]]
    above = [score for score, answer in scored if answer == classes[1]]
    threshold = 0.5
    if below and above and max(below) < min(above) and not max(below) < threshold <= min(above):
        threshold = (max(below) + min(above)) / 2
    return Worth(OutcomeLayout(task=Task.BINARY, classes=classes, threshold=threshold), (threshold,))


def _mean_score(pairs: Pairs, name: str) -> float:
    scores = [event.score for event, label in pairs if isinstance(event.score, float) and class_text(label) == name]
    return float(np.mean(scores)) if scores else 0.0


def _are_codes(pairs: Pairs) -> bool:
    """Whether predictions and labels are whole numbers of a few kinds: classes, not quantities."""
    values = {event.prediction for event, _ in pairs} | {label for _, label in pairs}
    return all(isinstance(value, str | bool) or value is None or value == value // 1 for value in values)  # type: ignore[operator]


def _spread(pairs: Pairs) -> float:
    answers = [event.prediction if event.prediction is not None else event.score for event, _ in pairs]
    errors = [
        float(answer) - float(label)  # type: ignore[arg-type]
        for answer, (_, label) in zip(answers, pairs, strict=True)
        if isinstance(answer, int | float)
    ]
    spread = float(np.std(errors)) if errors else 0.0
    return spread if spread > 0 else 1.0


def _edges(values: Sequence[float]) -> tuple[float, ...]:
    levels = np.arange(1, QUANTILE_BINS) / QUANTILE_BINS
    return tuple(np.unique(np.quantile(np.array(values, float), levels)).tolist())


def count_outcomes(
    layout: OutcomeLayout, events: Iterable[Event], labels: Labels, segments: Mapping[str, Sequence[str]], pane_ms: int
) -> OutcomeReference:
    """The reference's outcomes, by cohort; every prediction is counted, labelled or not."""
    totals: dict[SegmentKey, Ints] = {}
    blocks: dict[int, dict[SegmentKey, Ints]] = {}
    arrivals: Counter[int] = Counter()
    stream = iter(events)
    late = labelled = 0
    while batch := list(islice(stream, BATCH)):
        members: dict[tuple[int, SegmentKey], list[int]] = {}
        for at, event in enumerate(batch):
            start_ms = event.ts_ms // pane_ms * pane_ms
            for key in _keys(event, segments):
                members.setdefault((start_ms, key), []).append(at)
        known = [labels.get(event.event_id) for event in batch]
        delays_ms = np.array([max(0, k.ts_ms - e.ts_ms) if k else 0 for k, e in zip(known, batch, strict=True)])
        slots, amounts = layout.contributions(list(map(_prediction, batch)), [k and k.label for k in known], delays_ms)
        has_label = np.array([k is not None for k in known])
        amounts = amounts * has_label
        late += int((delays_ms > 0).sum())
        labelled += int(has_label.sum())
        arrivals.update(label.ts_ms // pane_ms * pane_ms for label in known if label)
        for (start_ms, key), places in members.items():
            vector = np.zeros(layout.length, np.int64)
            np.add.at(vector, slots[:, places], amounts[:, places])
            vector[PREDICTIONS] = len(places)
            for into in (totals, blocks.setdefault(start_ms, {})):
                into[key] = into[key] + vector if key in into else vector
    return OutcomeReference(
        layout=layout,
        total={key: Counts.of(vector).to_bytes() for key, vector in totals.items()},
        blocks=tuple(
            Block(start, {key: Counts.of(vector).to_bytes() for key, vector in blocks[start].items()})
            for start in sorted(blocks)
        ),
        timed=2 * late > labelled,
        arrivals=dict(arrivals),
    )


def _keys(event: Event, segments: Mapping[str, Sequence[str]]) -> list[SegmentKey]:
    found = [(name, segment_text(event.segments.get(name))) for name in segments]
    return [WHOLE, *((name, value) for name, value in found if value is not None and value in segments[name])]


def _prediction(event: Event) -> Prediction:
    return Prediction("", 0, event.ts_ms, True, "", (), event.score, event.prediction)
