"""Plan of a model → what of its configuration can never be evaluated, and the fix: one line each.

The reference itself is evaluated as a window: a signal that has no threshold there has none in any window.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from streams.arrays import CountVector
from streams.backtest import ModelSummary
from streams.baseline import WHOLE, SegmentKey
from streams.config import Feedback, Rule
from streams.configure_facts import NEEDS
from streams.duration import format_ms
from streams.plan import Facts, ModelPlan
from streams.signals.evaluate import Judge
from streams.signals.label_flow import MIN_LABELS
from streams.signals.measure import Shape
from streams.signals.names import ESTIMATED, judges_labels
from streams.signals.outcome import OutcomeJudge
from streams.signals.reference import MIN_BLOCKS, MIN_EVENTS, Reference
from streams.signals.result import CellResult, Window
from streams.sketch.counts import Counts
from streams.sketch.layout import Role, requests
from streams.sketch.outcomes import LABELLED, Task
from streams.sketch.profile import Profile

FEATURE_DISTANCES = "feature_drift, out_of_range_rate, unseen_rate and cardinality"
CLASSIFIERS_ONLY = frozenset(
    {
        *("calibration_error", "calibration_intercept", "calibration_slope", "accuracy", "log_loss"),
        *("auc", "class_recall", "class_precision", "segment_error_rate", ESTIMATED),
    }
)
BINARY_ONLY = frozenset({"auc", ESTIMATED})
REGRESSION_ONLY = frozenset({"mae", "rmse"})
OF_CLASSES = frozenset({"class_recall", "class_precision"})
FLOW = frozenset({"label_rate", "label_maturity"})
ALWAYS = frozenset({*NEEDS, "label_unmatched_rate"})
"""Signals that need no reference."""

PER_FEATURE: Mapping[str, Callable[[Shape], Sequence[int]]] = {
    "unseen_rate": lambda shape: shape.categorical,
    "cardinality": lambda shape: shape.categorical,
    "out_of_range_rate": lambda shape: shape.numeric,
    "feature_drift": lambda shape: shape.binned,
}
NEED_NO_SAMPLE = ALWAYS | FLOW | {"request_rate", "freshness"}

Judged = frozenset[tuple[int, str, SegmentKey, str | None]]
"""Window's length, signal, segment and column of each number that has a threshold."""


@dataclass(frozen=True, slots=True)
class Unjudged:
    """A part of the configuration that is never evaluated, and the fix."""

    place: str
    seen: str
    fix: str

    @property
    def line(self) -> str:
        return f"{self.place}: {self.seen}; {self.fix}"


def unjudged(plan: ModelPlan) -> list[Unjudged]:
    """The parts of a model that are never evaluated, in the order of its configuration."""
    return [*_of_baseline(plan), *_of_features(plan), *_of_segments(plan), *_of_rules(plan), *_without_rule(plan)]


def _place(plan: ModelPlan, *keys: str) -> str:
    return ".".join(("models", plan.name, *keys))


def _of_baseline(plan: ModelPlan) -> Iterator[Unjudged]:
    baseline = plan.baseline
    if baseline is None:
        seen = "no baseline: no signal of events or predictions is judged"
        yield Unjudged(_place(plan), seen, "run 'foreshock init' on reference data, and name the file it writes")
        return
    if baseline.model != plan.name:
        seen = f"a baseline of the model {baseline.model!r}"
        yield Unjudged(_place(plan, "baseline"), seen, "name that of this model, if it is another one")
    block_ms = baseline.pane_ms
    if block_ms and plan.config.pane_ms % block_ms:
        seen = (
            f"{plan.config.pane}, and the baseline has blocks of {format_ms(block_ms)}: request_rate is not judged, "
            "and other signals without what the reference's blocks show"
        )
        fix = f"use a multiple of {format_ms(block_ms)}, or run 'foreshock init' again"
        yield Unjudged(_place(plan, "pane"), seen, fix)
    labels, known = plan.config.labels, baseline.outcomes
    if labels is not None and known is None:
        seen = "labels, and the baseline has none: performance and calibration are not judged"
        yield Unjudged(_place(plan, "labels"), seen, "run 'foreshock init --labels' on reference data")
    elif labels is not None and known and (known.layout.task, known.layout.classes) != (labels.task, labels.classes):
        seen = (
            f"{labels.task} {list(labels.classes)}, and the baseline's labels are {known.layout.task} "
            f"{list(known.layout.classes)}: performance and calibration are not judged"
        )
        yield Unjudged(_place(plan, "labels"), seen, "correct it, or run 'foreshock init --labels' again")


def _of_features(plan: ModelPlan) -> Iterator[Unjudged]:
    if plan.baseline is None:
        return
    known = {column.name: column for column in plan.baseline.columns if column.role is Role.FEATURE}
    for name in plan.config.features:
        if name not in known or not known[name].bins:
            why = "not in the baseline" if name not in known else "without a value in the baseline"
            seen = f"{why}: {FEATURE_DISTANCES} of it are not judged"
            yield Unjudged(
                _place(plan, "features", name), seen, "run 'foreshock init' on reference data that has it, or remove it"
            )


def _of_segments(plan: ModelPlan) -> Iterator[Unjudged]:
    if plan.baseline is None:
        return
    for name, values in plan.config.segments.items():
        few = [value for value in values if _reference_events(plan, (name, value)) < MIN_EVENTS]
        if few:
            which = "it" if len(few) == len(values) else ", ".join(few)
            seen = f"the baseline holds fewer than {MIN_EVENTS} events of {which}: not judged against the reference"
            fix = (
                f"run 'foreshock init' on reference data that has it (of a table, with --segment {name}), or remove it"
            )
            yield Unjudged(_place(plan, "segments", name), seen, fix)


def _reference_events(plan: ModelPlan, key: SegmentKey) -> int:
    assert plan.baseline is not None
    counts = plan.baseline.totals.get(key)
    return int(requests(counts.dense())) if counts is not None else 0


def _of_rules(plan: ModelPlan) -> Iterator[Unjudged]:
    if plan.baseline is None:
        return
    judged, shape = judged_at_all(plan), Reference(plan).shape
    nothing = {name for name, columns in PER_FEATURE.items() if not columns(shape)}
    for rule in plan.config.rules:
        # Where no feature is of the kind that a signal is about, nothing is left out.
        missing = [name for name in rule.signals if name not in nothing and not _is_judged(plan, rule, name, judged)]
        by_cause: dict[tuple[str, str], list[str]] = {}
        for name in missing:
            by_cause.setdefault(_cause(plan, rule, name), []).append(name)
        for (cause, fix), names in by_cause.items():
            never = len(missing) == len(rule.signals) or rule.match == "all"
            rest = "so that the rule never fires" if never else f"the rest of the rule {rule.name} is"
            seen = f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} not judged ({cause}), {rest}"
            yield Unjudged(_place(plan, "rules", rule.name), seen, fix)
        if len(missing) < len(rule.signals):
            yield from _too_small(plan, rule)


def _is_judged(plan: ModelPlan, rule: Rule, name: str, judged: Judged) -> bool:
    if name in ALWAYS:
        return True
    lengths = set(plan.config.overs_ms(rule))
    found = {
        length
        for length, signal, _, column in judged
        if signal == name and length in lengths and rule.chooses(name, column)
    }
    return found == lengths


def _cause(plan: ModelPlan, rule: Rule, name: str) -> tuple[str, str]:
    """Why a signal of a rule has no threshold, and the fix."""
    task = plan.config.labels.task if plan.config.labels else None
    leave, again = "leave it out", "run 'foreshock init' on reference data that shows it, or leave it out"
    wrong_task = (
        (name in CLASSIFIERS_ONLY and task is Task.REGRESSION)
        or (name in BINARY_ONLY and task is Task.MULTICLASS)
        or (name in REGRESSION_ONLY and task is not Task.REGRESSION)
    )
    if wrong_task:
        return f"a {task} model has none" if task else "a model without labels has none", leave
    if name == ESTIMATED and task is None:
        return "it takes the labels of a reference", "run 'foreshock init --labels', or leave it out"
    assert plan.baseline is not None
    if name in OF_CLASSES and plan.config.labels and not plan.config.labels.critical:
        return "no class is critical", "name one in 'labels.critical', or leave it out"
    if name == "request_rate" or len(plan.config.overs_ms(rule)) > 1:
        block_ms, longest_ms = plan.baseline.pane_ms, max(plan.config.overs_ms(rule))
        if not block_ms:
            return "the reference has no times", again
        if plan.config.pane_ms % block_ms:
            return "the pane is no multiple of the baseline's blocks", f"use a multiple of {format_ms(block_ms)}"
        return (
            f"the reference holds fewer than {MIN_BLOCKS} whole stretches of {format_ms(longest_ms)}",
            "use a shorter window, or a longer reference",
        )
    if judges_labels([name]) or name == ESTIMATED:
        return f"the reference has fewer than {MIN_LABELS} labels or scores for it", again
    return "the reference does not show it", again


def _too_small(plan: ModelPlan, rule: Rule) -> Iterator[Unjudged]:
    """A rule whose shortest window holds too few events or labels at the reference's rate."""
    baseline = plan.baseline
    if baseline is None or baseline.end_ms <= baseline.start_ms or NEED_NO_SAMPLE.issuperset(rule.signals):
        return
    length_ms, of_labels = min(plan.config.overs_ms(rule)), judges_labels(rule.signals)
    total = baseline.events
    if of_labels:
        total = int(baseline.outcomes.opened()[0][WHOLE][LABELLED]) if baseline.outcomes else 0
    expected = total * length_ms / (baseline.end_ms - baseline.start_ms)
    least = max(rule.min_n, MIN_LABELS if of_labels else MIN_EVENTS)
    if total and expected < least:
        what = "labels" if of_labels else "events"
        seen = (
            f"a window of {format_ms(length_ms)} holds about {expected:.1f} {what} of the reference; {least} are needed"
        )
        yield Unjudged(
            _place(plan, "rules", rule.name), seen, "give the rule a longer 'over', or the model a longer pane"
        )


def _without_rule(plan: ModelPlan) -> Iterator[Unjudged]:
    """What is counted, and looked at by no rule."""
    config, rules = plan.config, plan.config.rules
    used = {name for rule in rules for name in rule.signals}
    add = "add a rule, or remove it"
    if not rules:
        yield Unjudged(_place(plan), "no rules: nothing is decided", "add some; 'foreshock init' writes them")
        return
    if config.labels and not judges_labels(used - {ESTIMATED}):
        yield Unjudged(_place(plan, "labels"), "no rule has a signal of labels", add)
    for kpi in config.kpis:
        if not any(rule.kpi == kpi for rule in rules):
            yield Unjudged(_place(plan, "kpis", kpi), "no rule looks at this KPI", add)
    for kind in config.feedback:
        if not any(NEEDS.get(name) == ("feedback", str(Feedback(kind))) for name in used):
            yield Unjudged(_place(plan, "feedback", str(kind)), "no rule looks at it", add)
    if config.jobs and not used & {"job_failure"}:
        yield Unjudged(_place(plan, "jobs"), "no rule has the signal job_failure", add)
    if config.served and "capture_ratio" not in used:
        yield Unjudged(_place(plan, "served"), "no rule has the signal capture_ratio", add)


def judged_at_all(plan: ModelPlan) -> Judged:
    """The parts of the reference that have a threshold, evaluated as a window of each length that a rule has."""
    found: set[tuple[int, str, SegmentKey, str | None]] = set()
    events, outcomes = Judge(plan), OutcomeJudge(plan) if plan.outcomes is not None else None
    for length_ms in plan.window_lengths_ms:
        found.update(_thresholds(length_ms, events.evaluate(_window(events.reference.counts, length_ms))))
        if outcomes is not None:
            found.update(_thresholds(length_ms, outcomes.evaluate(_window(outcomes.reference, length_ms))))
            if outcomes.reference[WHOLE][LABELLED] >= MIN_LABELS:
                found |= {(length_ms, name, WHOLE, None) for name in FLOW}
    return frozenset(found)


def _window(counts: Mapping[SegmentKey, CountVector], length_ms: int) -> Window:
    cells = {("", *key): Profile(Counts.of(vector)) for key, vector in counts.items()}
    return Window(0, length_ms, length_ms, cells)


def _thresholds(length_ms: int, cells: Iterable[CellResult]) -> Iterator[tuple[int, str, SegmentKey, str | None]]:
    for cell in cells:
        for result in cell.results:
            for at in np.flatnonzero(np.isfinite(result.threshold)).tolist():
                yield length_ms, result.signal.name, cell.segment, result.columns[at]


def unread(
    plan: ModelPlan, counts: ModelSummary | None, *, labelled: bool, kinds: Collection[Facts], file: str
) -> Iterator[Unjudged]:
    """The parts of a model for which a backtest had no records.

    Parameters:
        counts: its books.
        kinds: side inputs that came.
    """
    read = counts.read if counts else 0
    if counts is None or not counts.counted:
        how_many = f"{read:,} events of it, none counted," if read else "no event of it"
        seen = f"{how_many} in {file}: nothing was judged"
        yield Unjudged(_place(plan), seen, "name the model as its events do, and look at the rejects and the times")
        return
    if not counts.windows:
        yield Unjudged(_place(plan), "no pane was complete: nothing was judged", "give more events, or a shorter pane")
    labels = counts.labels.get("matched", 0) if labelled else 0
    if plan.outcomes is not None and not labels:
        seen = "none of its labels met an event" if labelled else "no --labels"
        yield Unjudged(_place(plan, "labels"), f"{seen}: its rules of labels were not judged", "give its labels")
    declared = {
        Facts.FEEDBACK: plan.config.feedback,
        Facts.RUNS: plan.config.jobs,
        Facts.OUTCOMES: plan.config.observed_kpis,
    }
    for kind, found in declared.items():
        if found and not (kind in kinds and counts.told.get(kind, {}).get("counted")):
            seen = f"no record of it in --{kind}" if kind in kinds else f"no --{kind}"
            yield Unjudged(_place(plan), f"{seen}: what is declared for it was not judged", f"give --{kind}")
