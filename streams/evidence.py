"""Results of a cell → what a rule's condition says of it, and the evidence: the breached signals, the worst first."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from streams.action import Evidence
from streams.config import Match, Rule
from streams.signals.names import SIGNALS
from streams.signals.result import CellResult, Result
from streams.told import distance

UNSAMPLED = frozenset(
    {"request_rate", "freshness", "job_failure", "capture_ratio", "label_rate", "label_maturity", "kpi"}
)
"""Signals that need no sample of events: that something is missing, or a number that says itself how sure it is."""


FEATURE_FAMILIES = frozenset({"quality", "drift"})
"""Families whose columns are features."""


@dataclass(frozen=True, slots=True)
class Condition:
    judged: bool
    breached: bool
    evidence: tuple[Evidence, ...]

    @property
    def distances(self) -> dict[str, float]:
        """How far each piece of evidence lies from its baseline, by name."""
        return {evidence_key(item): distance(item.value, item.baseline) for item in self.evidence}

    def and_in(self, longer: Condition | None) -> Condition:
        """With what a longer window says: both must be breached."""
        if longer is None:
            return Condition(False, False, ())
        return Condition(self.judged and longer.judged, self.breached and longer.breached, self.evidence)


def condition_of(rule: Rule, cell: CellResult | None) -> Condition | None:
    """What the rule's signals say in a cell; None: there is no cell, or it has none of them."""
    if cell is None:
        return None
    results = [result for result in cell.results if result.signal.name in rule.signals]
    if not results:
        return None
    unsampled = any(result.signal.name in UNSAMPLED for result in results)
    if cell.events < rule.min_n and not unsampled:
        return Condition(False, False, ())
    evidence: list[tuple[float, Evidence]] = []
    judged = False
    for result in results:
        chosen = [i for i, column in enumerate(result.columns) if rule.chooses(result.signal.name, column)]
        judged |= bool(np.isfinite(result.threshold[chosen]).any())
        breached = result.breached
        evidence += [
            (_weight(result.value[i], result.threshold[i]), _evidence(result, i)) for i in chosen if breached[i]
        ]
    ordered = tuple(
        item for _, item in sorted(evidence, key=lambda pair: (-pair[0], pair[1].name, pair[1].feature or ""))
    )
    names = {item.name for item in ordered}
    enough = bool(names) if rule.match is Match.ANY else names >= set(rule.signals)
    return Condition(judged, enough, ordered)


def _weight(value: float, threshold: float) -> float:
    return abs(float(value) / float(threshold)) if threshold else float("inf")


def _evidence(result: Result, i: int) -> Evidence:
    return Evidence(
        result.signal.family,
        result.signal.name,
        result.columns[i],
        number(result.value[i]),
        number(result.baseline[i]),
        number(result.threshold[i]),
        None if np.isnan(result.n[i]) else int(result.n[i]),
    )


def evidence_key(item: Evidence) -> str:
    """What a piece of evidence is about: signal, column, and the side that it lies on if it has two."""
    low = item.value is not None and item.value < (item.baseline or 0.0)
    side = (":-" if low else ":+") if SIGNALS[item.name].two_sided else ""
    return f"{item.name}:{item.feature}{side}"


def features_of(evidence: Iterable[Evidence]) -> tuple[str, ...]:
    """The features that evidence is about; none where a part of it is about none."""
    items = tuple(evidence)
    of_features = [item.feature for item in items if item.feature and item.family in FEATURE_FAMILIES]
    return tuple(sorted(set(of_features))) if len(of_features) == len(items) else ()


def number(value: float) -> float | None:
    """A number as JSON can hold it, to nine significant digits."""
    return float(f"{value:.9g}") if np.isfinite(value) else None
