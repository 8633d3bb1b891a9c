"""Config and baselines → Plan: what stage 1 and stage 2 need of every model, computed once."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

import msgspec

from streams.baseline import Baseline
from streams.cells import Segmentation
from streams.config import Config, Feature, Feedback, Model
from streams.errors import ConfigError
from streams.facts.layout import FeedbackLayout
from streams.panes import levels_ms, pane_start
from streams.sketch.layout import LATENCY, LATENCY_EDGES_MS, Column, Kind, Layout, Role
from streams.sketch.outcomes import OutcomeLayout, Task

MOST_COHORTS = 1_000
"""Panes in a horizon; with more, cohorts are hours or days."""
ENOUGH_FOR_TRUTH = 500
"""Predictions of a span of truth, by the reference's rate."""
K = TypeVar("K", bound=Hashable)
EVEN_EDGES = tuple(i / 20 for i in range(1, 20))
"""Score bins of a model whose reference had no labels."""

DEFAULT_COLUMNS = (
    Column(name="score", role=Role.SCORE, kind=Kind.NUMERIC),
    Column(name="prediction", role=Role.PREDICTION, kind=Kind.CATEGORICAL),
    Column(name=LATENCY, role=Role.LATENCY, kind=Kind.NUMERIC, edges=LATENCY_EDGES_MS),
)
"""Columns of a model without a baseline, beside its declared features."""


class Facts(StrEnum):
    """Side inputs of a model: topics beside its events and labels."""

    FEEDBACK = "feedback"
    RUNS = "runs"
    OUTCOMES = "outcomes"


_KPI = "\x1f"
"""Stands in no name of a model: it is not printable."""


def kpi_name(model: str, kpi: str) -> str:
    """The name of a KPI's books."""
    return f"{model}{_KPI}{kpi}"


def model_of(name: str) -> str:
    """The model that the books of this name belong to."""
    return name.partition(_KPI)[0]


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class ModelPlan:
    """One model, compiled."""

    name: str
    config: Model
    baseline: Baseline | None
    layout: Layout
    segmentation: Segmentation
    outcomes: OutcomeLayout | None
    """Layout of outcomes; None if the model's labels are not joined."""
    feedback: FeedbackLayout | None
    """Layout of feedback; None if the model declares none."""
    horizon_ms: int
    """How long a prediction waits for its label."""
    cohort_ms: int
    """Length of a cohort."""
    truth_ms: int
    """Length of a span of truth: it has enough predictions to evaluate when their labels have come."""

    @property
    def window_lengths_ms(self) -> tuple[int, ...]:
        """The lengths of the evaluated windows, the shortest first: a pane, and those that rules name."""
        config = self.config
        return tuple(sorted({config.pane_ms, *(ms for rule in config.rules for ms in config.overs_ms(rule))}))

    def cohort_start(self, time_ms: int) -> int:
        return time_ms // self.cohort_ms * self.cohort_ms

    def truth_start(self, time_ms: int) -> int:
        return time_ms // self.truth_ms * self.truth_ms

    def pane_start(self, time_ms: int) -> int:
        return pane_start(time_ms, self.config.pane_ms)


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Plan:
    """All models, compiled."""

    config: Config
    models: dict[str, ModelPlan]
    facts: Mapping[Facts, Mapping[str, ModelPlan]]
    """The models that declare each kind of side input, by the names of their books."""
    _groups: dict[tuple[str, Facts | None], Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def topic_of(self, kind: Facts) -> str:
        """The topic of a side input, without the prefix."""
        kafka = self.config.kafka
        return {Facts.FEEDBACK: kafka.feedback, Facts.RUNS: kafka.runs, Facts.OUTCOMES: kafka.outcomes}[kind]

    @property
    def kinds(self) -> tuple[Facts, ...]:
        """The kinds of side inputs that some model declares."""
        return tuple(kind for kind in Facts if self.facts[kind])

    def by_bucket(self, kind: Facts | None = None) -> Mapping[int, Sequence[str]]:
        """The names of the books of a side input by bucket; None: of the events."""
        return self._grouped("bucket", kind, lambda name: [self.config.bucket(model_of(name))])

    def first_name(self, kind: Facts, model: str) -> str:
        """The first name of a model's books on the topic of a kind; its own name if it has none there."""
        return self._grouped("model", kind, lambda name: [model_of(name)]).get(model, (model,))[0]

    def names_with_job(self, job: str) -> Sequence[str]:
        """The models that declare a job of this name, of any namespace."""
        return self._grouped("job", Facts.RUNS, lambda name: self.models[name].config.jobs).get(job, ())

    def _grouped(self, by: str, kind: Facts | None, keys: Callable[[str], Iterable[K]]) -> Mapping[K, Sequence[str]]:
        """The names of the books of a topic by their keys: sorted out once in a process."""
        if (by, kind) not in self._groups:
            groups: dict[K, list[str]] = {}
            for name in self.models if kind is None else self.facts[kind]:
                for key in keys(name):
                    groups.setdefault(key, []).append(name)
            self._groups[by, kind] = groups
        found: Mapping[K, Sequence[str]] = self._groups[by, kind]
        return found

    def in_bucket(self, bucket: int) -> list[ModelPlan]:
        return [self.models[name] for name in self.by_bucket().get(bucket, ())]


def compile_plan(config: Config, baselines: Mapping[str, Baseline]) -> Plan:
    """The plan of a configuration.

    Parameters:
        baselines: by model name, for the models whose configuration names one.
    """
    models = {name: compile_model(name, model, baselines.get(name)) for name, model in config.models.items()}
    facts = {
        Facts.FEEDBACK: {name: plan for name, plan in models.items() if plan.feedback is not None},
        Facts.RUNS: {name: plan for name, plan in models.items() if plan.config.jobs},
        Facts.OUTCOMES: {
            kpi_name(name, kpi): plan for name, plan in models.items() for kpi in plan.config.observed_kpis
        },
    }
    return Plan(config, models, facts)


def compile_model(name: str, model: Model, baseline: Baseline | None) -> ModelPlan:
    layout = Layout(tuple(_columns(name, model, baseline)))
    horizon_ms, levels = model.labels.horizon_ms if model.labels else 0, levels_ms(model.pane_ms)
    cohort_ms = next((ms for ms in levels if horizon_ms <= ms * MOST_COHORTS), levels[-1])
    return ModelPlan(
        name=name,
        config=model,
        baseline=baseline,
        layout=layout,
        segmentation=Segmentation.of(model.segments, model.versions, model.max_versions),
        outcomes=_outcomes(model, baseline),
        feedback=_feedback(model),
        horizon_ms=horizon_ms,
        cohort_ms=cohort_ms,
        truth_ms=next(
            (ms for ms in levels if ms >= cohort_ms and _made_in(ms, baseline) >= ENOUGH_FOR_TRUTH), levels[-1]
        ),
    )


def _made_in(span_ms: int, baseline: Baseline | None) -> float:
    """Predictions of a span at the reference's rate; 0 where nobody knows it."""
    length_ms = baseline.end_ms - baseline.start_ms if baseline else 0
    return baseline.events * span_ms / length_ms if baseline and length_ms > 0 else 0.0


def _outcomes(model: Model, baseline: Baseline | None) -> OutcomeLayout | None:
    """As the baseline's outcomes were counted, if they are those that the configuration names."""
    labels = model.labels
    if labels is None:
        return None
    known = baseline.outcomes.layout if baseline and baseline.outcomes else None
    if known and known.task is labels.task and known.classes == labels.classes:
        return msgspec.structs.replace(known, threshold=labels.threshold)
    edges = () if labels.task is Task.REGRESSION else EVEN_EDGES
    return OutcomeLayout(task=labels.task, classes=labels.classes, edges=edges, threshold=labels.threshold)


def _feedback(model: Model) -> FeedbackLayout | None:
    kinds = tuple((kind, model.feedback[kind].values) for kind in Feedback if kind in model.feedback)
    return FeedbackLayout(kinds) if kinds else None


def _columns(name: str, model: Model, baseline: Baseline | None) -> list[Column]:
    """Declared features in the order of the file, as the baseline describes them; then score, prediction, latency."""
    known = {column.name: column for column in baseline.columns if column.role is Role.FEATURE} if baseline else {}
    features = [
        _feature(name, feature, model.features[feature], known.get(feature)) for feature in map(str, model.features)
    ]
    rest = [column for column in baseline.columns if column.role is not Role.FEATURE] if baseline else DEFAULT_COLUMNS
    return [*features, *rest]


def _feature(model: str, name: str, declared: Feature, known: Column | None) -> Column:
    place = f"models.{model}.features.{name}"
    if known is None or not known.bins:
        return Column(name=name, role=Role.FEATURE, kind=declared.type)
    if known.kind is not declared.type:
        raise ConfigError(
            place=place,
            seen=f"type {declared.type}",
            expected=f"{known.kind}, as in the baseline",
            mend="correct it, or run 'foreshock init' on reference data that has the new type",
        )
    if declared.range is None or not known.edges:
        return known
    return msgspec.structs.replace(known, edges=_widened(place, declared.range, known.edges))


def _widened(place: str, wanted: tuple[float, float], edges: tuple[float, ...]) -> tuple[float, ...]:
    """Edges with the outermost ones moved out to the declared range."""
    low, top = wanted[0], float(max(edges[-1], _next(wanted[1])))
    if low > edges[0] or _next(wanted[1]) < edges[-1]:
        raise ConfigError(
            place=f"{place}.range",
            seen=str(list(wanted)),
            expected=f"a range that holds the reference's, {edges[0]:g} to {edges[-1]:g}",
            mend="widen it, or learn the baseline from data without those values",
        )
    return (low, *edges[1:-1], top) if len(edges) > 1 else edges


def _next(value: float) -> float:
    return math.nextafter(value, math.inf)


MOST_MATURITY_PANES = 200
"""Label flow is looked at over no more panes than this."""


def longest_over_ms(plan: ModelPlan) -> int:
    """The longest window of a model's rules."""
    return max((ms for rule in plan.config.rules for ms in plan.config.overs_ms(rule)), default=plan.config.pane_ms)
