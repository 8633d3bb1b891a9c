"""What a configuration can name: the signals as a table, the drift methods, and the presets of other tools."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum


class Method(StrEnum):
    """The drift distances."""

    PSI = "psi"
    JENSEN_SHANNON = "jensen_shannon"
    CHI_SQUARE = "chi_square"
    KOLMOGOROV_SMIRNOV = "kolmogorov_smirnov"
    L_INFINITY = "l_infinity"
    WASSERSTEIN = "wasserstein"

    @property
    def ordered(self) -> bool:
        """Whether the bins must stand in ascending order."""
        return self in (Method.KOLMOGOROV_SMIRNOV, Method.WASSERSTEIN)


class Preset(StrEnum):
    """The tools whose default thresholds a model can have."""

    EVIDENTLY = "evidently"
    NANNYML = "nannyml"
    SAGEMAKER = "sagemaker"
    VERTEX = "vertex"


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
    two_sided: bool = False
    """Alarms when the value is further from its baseline than its threshold is."""
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
    Signal("job_failure", "health", 1, 0.5, per_column=True),
    Signal("capture_ratio", "health", 1, 0.05, lower=True),
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
    Signal("calibration_error", "calibration", 3, 0.05),
    Signal("calibration_intercept", "calibration", 3, 0.5, two_sided=True),
    Signal("calibration_slope", "calibration", 3, 0.5, two_sided=True),
    Signal("accuracy", "performance", 3, 0.05, lower=True),
    Signal("log_loss", "performance", 3, 1.25, relative=True),
    Signal("auc", "performance", 3, 0.05, lower=True),
    Signal("class_recall", "performance", 3, 0.15, lower=True, per_column=True),
    Signal("class_precision", "performance", 3, 0.15, lower=True, per_column=True),
    Signal("segment_error_rate", "performance", 3, 0.1),
    Signal("mae", "performance", 3, 1.25, relative=True),
    Signal("rmse", "performance", 3, 1.5, relative=True),
    Signal("estimated_accuracy", "performance", 3, 0.05, lower=True),
    Signal("label_rate", "labels", 3, 0.5, relative=True, lower=True),
    Signal("label_maturity", "labels", 3, 0.7, relative=True, lower=True),
    Signal("label_unmatched_rate", "labels", 3, 0.2),
    Signal("override_rate", "proxy", 3, 1.5, relative=True),
    Signal("complaint_rate", "proxy", 3, 1.5, relative=True),
    Signal("workflow_step_rate", "proxy", 3, 1.5, relative=True, two_sided=True, per_column=True),
    Signal("kpi", "business", 4, 0.0, per_column=True),
)


RANKS = {"feature_drift": 25, "unseen_rate": 25, "out_of_range_rate": 25}
"""Signals that stand between two layers: a broken feature has other values too."""

PARTS = {"segment_error_rate": "accuracy"}
"""Signals that only segments have, and what says the same of the whole model."""


def rank_of(names: Iterable[str]) -> int:
    """The lowest of these signals: what stands lower, when it is broken, explains what stands higher."""
    return min(RANKS.get(name, 10 * SIGNALS[name].layer) for name in names)


def judges_labels(names: Iterable[str]) -> bool:
    """Whether these are signals of labels: they are judged as the labels arrive, all others as the events do."""
    return any(SIGNALS[name].family in ("calibration", "performance", "labels") for name in names if name != ESTIMATED)


AS_TOLD = frozenset({"kpi", "capture_ratio"})
"""Signals that are judged when the business tells its numbers, however late that is."""

ESTIMATED = "estimated_accuracy"
"""What the scores say of the labels to come: judged as the events arrive."""
