"""The signals as a table: name → family, layer, which way it alarms, and the smallest effect worth a decision."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Signal:
    """What a signal is. `effect` is in the signal's own unit unless `relative`, then a factor of the baseline."""

    name: str
    family: str
    layer: int
    effect: float
    relative: bool = False
    lower: bool = False
    """Alarms when the value falls below its threshold."""
    per_column: bool = False
    """Has one value a column (named in `feature`)."""


def _table(*signals: Signal) -> Mapping[str, Signal]:
    return {signal.name: signal for signal in signals}


SIGNALS = _table(
    Signal("request_rate", "health", 1, 0.5, relative=True, lower=True),
    Signal("freshness", "health", 1, 3.0, relative=True),
    Signal("latency_p50", "health", 1, 2.0, relative=True),
    Signal("latency_p99", "health", 1, 2.0, relative=True),
    Signal("request_error_rate", "health", 1, 0.02),
    Signal("null_rate", "quality", 2, 0.1, per_column=True),
    Signal("missing_rate", "quality", 2, 0.05, per_column=True),
    Signal("type_mismatch_rate", "quality", 2, 0.02, per_column=True),
    Signal("unseen_rate", "quality", 2, 0.10, per_column=True),
    Signal("out_of_range_rate", "quality", 2, 0.1, per_column=True),
    Signal("cardinality", "quality", 2, 1.5, relative=True, per_column=True),
    Signal("schema_drift", "quality", 2, 0.5, per_column=True),
    Signal("feature_drift", "drift", 2, 0.25, per_column=True),
    Signal("score_drift", "score", 3, 0.15, per_column=True),
    Signal("prediction_drift", "score", 3, 0.15, per_column=True),
)
