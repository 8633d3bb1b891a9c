"""Reference events → what their columns hold: the first pass over a reference."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from streams.arrays import Floats
from streams.config import MAX_FEATURES, is_nameable
from streams.events import Event, Invalid, read_event
from streams.fields import nearest, segment_text
from streams.sketch.layout import Kind

MAX_DISTINCT = 200_000
MAX_EVENTS = 2_000_000
MAX_OTHERS = 1_000
"""Names of other models in a reference that are counted."""
BLOCK_EVENTS = 10_000


@dataclass(slots=True)
class ColumnValues:
    """What a column held: values by JSON type."""

    numbers: array[float] = field(default_factory=lambda: array("d"))
    texts: Counter[str] = field(default_factory=Counter)
    flags: Counter[bool] = field(default_factory=Counter)
    overflow: int = 0
    whole: bool = True

    def add(self, value: Any) -> None:
        if value.__class__ is float or value.__class__ is int:
            number = nearest(value)
            if math.isfinite(number):
                self.numbers.append(number)
                self.whole = self.whole and number == math.floor(number)
        elif value.__class__ is str:
            if value in self.texts or len(self.texts) < MAX_DISTINCT:
                self.texts[value] += 1
            else:
                self.overflow += 1
        elif value.__class__ is bool:
            self.flags[value] += 1

    def values(self) -> Floats:
        """The numbers, in the order in which they came."""
        return np.frombuffer(self.numbers, float) if self.numbers else np.zeros(0)

    @property
    def kind(self) -> Kind | None:
        """The kind that most values have; None without any."""
        counts = {
            Kind.NUMERIC: len(self.numbers),
            Kind.CATEGORICAL: self.texts.total() + self.overflow,
            Kind.BOOLEAN: self.flags.total(),
        }
        kind = max(counts, key=lambda name: counts[name])
        return kind if counts[kind] else None


@dataclass(slots=True)
class Survey:
    """What a reference holds."""

    features: dict[str, ColumnValues] = field(default_factory=dict)
    scores: dict[str, ColumnValues] = field(default_factory=dict)
    prediction: ColumnValues = field(default_factory=ColumnValues)
    segments: dict[str, Counter[str]] = field(default_factory=dict)
    versions: Counter[str] = field(default_factory=Counter)
    fields: set[str] = field(default_factory=set)
    times: array[int] = field(default_factory=lambda: array("q"))
    rejected: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)
    """Events of other models, by name."""
    events: int = 0


def skip_features(survey: Survey) -> tuple[str, ...]:
    """Removes from the survey the features that hold no value or that no configuration can declare; returns them."""
    usable = [name for name, seen in survey.features.items() if seen.kind is not None and is_nameable(name)]
    kept = set(usable[:MAX_FEATURES])
    skipped = tuple(name for name in survey.features if name not in kept)
    survey.features = {name: survey.features[name] for name in usable[:MAX_FEATURES]}
    return skipped


def survey_of(model: str, values: Iterable[bytes], on_events: Callable[[int], None]) -> Survey:
    """Surveys the events of a model among records. `on_events` is called now and then with how many were read."""
    survey = Survey()
    for event in events_of(model, values, survey.rejected, survey.others):
        survey.events += 1
        survey.times.append(event.ts_ms)
        survey.versions[event.model_version] += 1
        survey.fields.update(event.extras)
        for name, value in event.features.items():
            survey.features.setdefault(name, ColumnValues()).add(value)
        for name, value in event.segments.items():
            if (text := segment_text(value)) is not None:
                survey.segments.setdefault(name, Counter())[text] += 1
        survey.prediction.add(event.prediction)
        scores = event.score if isinstance(event.score, dict) else {"": event.score}
        for name, value in scores.items():
            survey.scores.setdefault(name, ColumnValues()).add(value)
        if not survey.events % BLOCK_EVENTS:
            on_events(survey.events)
    return survey


def events_of(
    model: str, values: Iterable[bytes], rejected: Counter[str], others: Counter[str] | None = None
) -> Iterator[Event]:
    """The events of a model. Counts the rejected records by reason, and in `others` those of other models by name."""
    for number, value in enumerate(values):
        if number >= MAX_EVENTS:
            return
        try:
            event = read_event(value)
        except Invalid as invalid:
            rejected[f"{invalid.reason} ({invalid.detail})" if len(rejected) < 20 else str(invalid.reason)] += 1
            continue
        if event.model == model:
            yield event
        elif others is not None and (event.model in others or len(others) < MAX_OTHERS):
            others[event.model] += 1
