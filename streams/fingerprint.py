"""Plan → fingerprints of what each kept record depends on; only records with equal fingerprints are added or continued.

A part of a pane carries the digest of what its counts mean and the length of its pane. A model's state carries `Made`:
the same for every clock, and the rules under which its incidents were opened.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from streams.config import OTHER, Rule, Severity
from streams.facts.layout import KPI_DIGEST, KPI_LENGTH, RUNS_DIGEST, RUNS_LENGTH
from streams.partial import Cell, PanePart
from streams.plan import Facts, ModelPlan
from streams.signals.names import SIGNALS
from streams.sketch.profile import Profile

CARRIES = "\x00made"
"""The dimension of the cell that carries a part's fingerprint: no segment's name has such a character."""
MAX_SPAN_MS = 1 << 40
"""No pane or cohort is longer."""


def digest(*parts: Any) -> str:
    """16 hexadecimal digits, the same for equal parts in every release and process."""
    return hashlib.blake2b(msgspec.msgpack.encode(parts), digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)
class PartPrint:
    """The fingerprint of a model's parts of panes, on one clock.

    `folded` is the fingerprint of a part in which versions beyond the cap were folded: which ones depends on the
    declared versions and on the cap, and nothing else does. `layout` is all that a part of release 0.1 has. A part
    carries its fingerprint as the value of a cell of an undeclared dimension, which that release ignores.
    """

    plain: str
    folded: str
    layout: str
    length: int
    """Slots of every cell."""
    span_ms: int
    """Length of a pane, or of a cohort."""

    def part(self, model: str, on_time: list[Cell], welcome: list[Cell]) -> PanePart:
        """A part with these cells, as it is published."""
        is_folded = any(cell.version == OTHER for cell in (*on_time, *welcome))
        carried = self.folded if is_folded else self.plain
        mark = Cell("", CARRIES, carried, Profile.empty(self.length).to_bytes())
        return PanePart(model, self.layout, on_time, [*welcome, mark])

    def fits(self, part: PanePart, start_ms: int) -> bool:
        """Whether every slot and time of a part means the same under this fingerprint, in a pane that starts at
        `start_ms`."""
        carried = carried_by(part)
        known = carried is None or carried in (self.plain, self.folded)
        return known and part.layout == self.layout and start_ms % self.span_ms == 0


def carried_by(part: PanePart) -> str | None:
    """The fingerprint of a part; None for a part of release 0.1."""
    return next((cell.value for cell in reversed(part.welcome) if cell.dimension == CARRIES), None)


def counted(part: PanePart) -> PanePart:
    """The part without the cell that carries its fingerprint."""
    return PanePart(part.model, part.layout, part.on_time, [c for c in part.welcome if c.dimension != CARRIES])


def span_of(part: PanePart) -> int | None:
    """Length in ms of the pane of a part; None if the part does not say."""
    carried = carried_by(part) or ""
    text = carried.rpartition("@")[2] if "@" in carried else ""
    return int(text) if text.isascii() and text.isdigit() and 0 < len(text) <= 13 and int(text) <= MAX_SPAN_MS else None


def _part_print(span_ms: int, layout: str, length: int, plan: ModelPlan, *parts: Any) -> PartPrint:
    plain = digest(layout, plan.segmentation.dimensions, *parts)
    return PartPrint(f"{plain}@{span_ms}", f"{_folded(plain, plan)}@{span_ms}", layout, length, span_ms)


def _folded(plain: str, plan: ModelPlan) -> str:
    return digest(plain, plan.segmentation.versions, plan.segmentation.max_versions)


def events_print(plan: ModelPlan) -> PartPrint:
    return _part_print(plan.config.pane_ms, plan.layout.digest, plan.layout.length, plan)


def fact_print(kind: Facts, plan: ModelPlan) -> PartPrint:
    """The fingerprint of feedback, runs, or observations of a KPI."""
    if kind is Facts.FEEDBACK:
        layout = plan.feedback
        return _part_print(plan.config.pane_ms, layout.digest if layout else "", layout.length if layout else 0, plan)
    if kind is Facts.RUNS:
        runs = f"{RUNS_DIGEST}@{plan.config.pane_ms}"
        return PartPrint(runs, runs, RUNS_DIGEST, RUNS_LENGTH, plan.config.pane_ms)
    return _part_print(plan.config.pane_ms, KPI_DIGEST, KPI_LENGTH, plan)


def outcomes_print(plan: ModelPlan, *, cohort: bool) -> PartPrint:
    """The fingerprint of labelled outcomes, by cohort or by arrival pane; the join's store depends on it too."""
    segmentation, horizon_ms = plan.segmentation, plan.horizon_ms
    terms = (horizon_ms, plan.cohort_ms, plan.config.pane_ms, segmentation.versions, segmentation.max_versions)
    span_ms = plan.cohort_ms if cohort else plan.config.pane_ms
    layout = plan.outcomes
    return _part_print(span_ms, layout.digest if layout else "", layout.length if layout else 0, plan, *terms)


# What the state of a model was made under


class RulePrint(msgspec.Struct, frozen=True, kw_only=True):
    """A rule as it was when its incidents were opened: what an action that closes one of them has to say."""

    signals: tuple[str, ...]
    response: str
    severity: Severity
    layer: Annotated[int, Meta(ge=1, le=4)]
    owner: str = ""
    runbook: str = ""
    shadow: bool = False
    counts: str = ""
    """Digest of what the rule's counts of breached and of quiet panes depend on."""
    kpi: str | None = None
    """The KPI, or the `served` count, whose clock the rule had."""


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """The configuration under which a model's state was made, as far as the state depends on it."""

    pane_ms: Annotated[int, Meta(ge=1, le=MAX_SPAN_MS)]
    events: str
    """Fingerprint of panes and roll-ups of events."""
    outcomes: str = ""
    """Fingerprint of labelled outcomes: layout, horizon, cohorts."""
    expected: str = ""
    """Fingerprint of what outcomes are compared with: the reference's own."""
    feedback: str = ""
    kpis: dict[str, str] = {}
    """By KPI, the fingerprint of its observations."""
    truth_ms: int = 0
    rules: dict[str, RulePrint] = {}


def made_of(plan: ModelPlan) -> Made:
    """The fingerprint that a state under this plan carries."""
    config, baseline = plan.config, plan.baseline
    reference = baseline.outcomes if baseline else None
    return Made(
        pane_ms=config.pane_ms,
        events=_unit_print(plan, ""),
        outcomes=outcomes_print(plan, cohort=False).plain if plan.outcomes else "",
        expected=digest(plan.outcomes.digest, reference) if plan.outcomes else "",
        feedback=_unit_print(plan, "feedback"),
        kpis={name: kpi_print(plan, name) for name in config.kpi_clocks},
        truth_ms=plan.truth_ms,
        rules={rule.name: rule_print(plan, rule) for rule in config.rules},
    )


def kpi_print(plan: ModelPlan, name: str) -> str:
    """The fingerprint of a KPI's observations."""
    return digest(_unit_print(plan, "kpi"), plan.config.made_of(name))


def rule_print(plan: ModelPlan, rule: Rule) -> RulePrint:
    judged_by = (sorted(rule.signals), rule.match, plan.config.overs_ms(rule), rule.for_panes, rule.clear_panes)
    return RulePrint(
        signals=rule.signals,
        response=rule.response,
        severity=rule.severity,
        layer=min(SIGNALS[signal].layer for signal in rule.signals),
        owner=rule.owner or plan.config.owner,
        runbook=rule.runbook or plan.config.runbook,
        shadow=rule.shadow,
        counts=digest(plan.config.pane_ms, *judged_by, rule.min_n, rule.features),
        kpi=rule.kpi,
    )


# Units of a state


def unit_print(plan: ModelPlan, stream: str, *, folded: bool) -> str:
    """The fingerprint of a roll-up of a stream, beside its own length; the pane matters only to streams that count by
    it.

    Parameters:
        folded: whether versions beyond the cap were folded in it.
    """
    return _folded(_unit_print(plan, stream), plan) if folded else _unit_print(plan, stream)


def unit_length(plan: ModelPlan, stream: str) -> int | None:
    """Slots of every cell of a roll-up of a stream; None if the plan keeps no such stream."""
    kind, _, rest = stream.partition("/")
    if not stream:
        return plan.layout.length
    if kind == "feedback" and not rest:
        return plan.feedback.length if plan.feedback else None
    if kind == "kpi":
        return KPI_LENGTH if any(stream in kpi_streams(plan, name) for name in plan.config.kpi_clocks) else None
    if stream == "predictions":
        return 1 if plan.outcomes else None
    return 1 if stream == "seen" and plan.config.served else None


def _unit_print(plan: ModelPlan, stream: str) -> str:
    dimensions = plan.segmentation.dimensions
    kind = stream.partition("/")[0]
    if kind == "feedback":
        return digest(kind, plan.feedback.digest if plan.feedback else "", dimensions)
    if kind == "kpi":
        return digest(kind, KPI_DIGEST, dimensions)
    if kind == "predictions":
        return digest(kind, dimensions, plan.cohort_ms)
    if kind == "seen":
        return digest(kind, plan.config.pane_ms)
    return digest("events", plan.layout.digest, dimensions)


def kpi_streams(plan: ModelPlan, name: str) -> tuple[str, ...]:
    """The streams of the roll-ups that a KPI's evaluation needs."""
    return tuple(f"kpi/{name}/{part}" for part in plan.config.made_of(name))


def layer_of_evidence(names: Iterable[str]) -> int:
    """The lowest layer of signals, by the names of published evidence; 2 if no name is known."""
    signals = (SIGNALS.get(name.partition(":")[0]) for name in names)
    return min((signal.layer for signal in signals if signal is not None), default=2)
