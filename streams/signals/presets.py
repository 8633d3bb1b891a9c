"""preset, kind of feature, sample sizes → the distance and the threshold that another tool would use by default.

Defaults as documented and as coded, looked up in November 2026. What all of them share: the tools bin (or do not bin)
the raw values in their own way, Foreshock compares counts in the bins of its baseline, so distances agree in kind and
size, not to the digit; and it says "breached" strictly above a threshold, where Evidently says it at the threshold too.

**evidently**, by the size of the *reference*. Up to 1,000 events: p < 0.05, by a two-sample Kolmogorov–Smirnov test
(numeric) or a one-sample chi-square test that takes the reference for the truth (categorical). Above: Wasserstein
distance over the reference's standard deviation (numeric) and Jensen–Shannon distance (categorical), both 0.1; its
Jensen–Shannon is in nats, 0.1 of which is 0.12 here. Not reproduced: the z-test for two categories, a numeric feature
of five values or fewer taken as categorical (declare it so), exact p-values (here the limit law, on binned values).
https://docs.evidentlyai.com/reference/data-drift-algorithm and, in its source, `calculations/stattests/registry.py`,
`jensenshannon.py`, `chisquare_stattest.py`, `wasserstein_distance_norm.py`.

**nannyml** (0.13): Jensen–Shannon distance, base 2, above the mean plus 3 standard deviations of the distances of the
reference's own chunks (ten by default) from the reference. Exact, up to the bins, if the caller passes the distances of
chunks. Without, mean and deviation are those that chance alone gives to a window of this size, which leaves out what
the reference's chunks differ by beyond chance: such a threshold is too low for data with a daily rhythm.
https://nannyml.readthedocs.io/en/stable/how_it_works/thresholds.html and `nannyml/drift/univariate/calculator.py`.

**sagemaker**: `comparison_method` "Robust" with `comparison_threshold` 0.1: the largest difference of the cumulative
shares (numeric) or of the shares (categorical), less 1.8·sqrt(1/n + 1/m), above 0.1.
https://docs.aws.amazon.com/sagemaker/latest/dg/model-monitor-byoc-constraints.html; the constant is that of the library
underneath, Deequ, `analyzers/Distance.scala`. Model Monitor takes 10 buckets of a KLL sketch for numbers.

**vertex**: L-infinity distance (categorical) and Jensen–Shannon *divergence* in bits (numeric), both 0.3, which is a
Jensen–Shannon distance of 0.55. https://cloud.google.com/vertex-ai/docs/reference/rest/v1beta1/ThresholdConfig;
0.3 is the default of `--feature-thresholds` in `gcloud ai model-monitoring-jobs create`; the base is that of TensorFlow
Data Validation, `anomalies/metrics.cc`. Its numeric bins are of equal width over the range, Foreshock's of equal share.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf, log, sqrt
from types import MappingProxyType
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import special

from streams.arrays import Floats, Mask
from streams.signals.names import Method, Preset
from streams.signals.null import jensen_shannon_moments

Kind = Literal["distance", "p_value", "reference_sd"]
Unit = Literal["own", "nats", "divergence"]


@dataclass(frozen=True, slots=True)
class Fixed:
    """One default of one tool: the method, and what its threshold means.

    kind "distance": breached above `value` + `margin`·sqrt(1/n + 1/m). "p_value": breached below the p-value `value`.
    "reference_sd": breached above the mean plus `value` standard deviations of the reference's own chunks.
    """

    method: Method
    kind: Kind
    value: float  # as the tool states it
    unit: Unit = "own"  # that of `value`: as Foreshock's, a distance in nats, or a divergence (a squared distance)
    margin: float = 0.0
    up_to: float = inf  # the largest reference, in events, that it is for


@dataclass(frozen=True, slots=True)
class ToolDefaults:
    """The defaults of one tool by kind of feature, for references of ascending size."""

    name: Preset
    numeric: tuple[Fixed, ...]
    categorical: tuple[Fixed, ...]

    def fixed(self, m: float, *, categorical: bool) -> Fixed:
        """The default for a feature whose reference has m events."""
        choices = self.categorical if categorical else self.numeric
        return next(fixed for fixed in choices if m <= fixed.up_to)


PRESETS: Mapping[str, ToolDefaults] = MappingProxyType(
    {
        preset.name: preset
        for preset in (
            ToolDefaults(
                Preset.EVIDENTLY,
                numeric=(
                    Fixed(Method.KOLMOGOROV_SMIRNOV, "p_value", 0.05, up_to=1_000),
                    Fixed(Method.WASSERSTEIN, "distance", 0.1),
                ),
                categorical=(
                    Fixed(Method.CHI_SQUARE, "p_value", 0.05, up_to=1_000),
                    Fixed(Method.JENSEN_SHANNON, "distance", 0.1, unit="nats"),
                ),
            ),
            ToolDefaults(
                Preset.NANNYML,
                numeric=(Fixed(Method.JENSEN_SHANNON, "reference_sd", 3.0),),
                categorical=(Fixed(Method.JENSEN_SHANNON, "reference_sd", 3.0),),
            ),
            ToolDefaults(
                Preset.SAGEMAKER,
                numeric=(Fixed(Method.KOLMOGOROV_SMIRNOV, "distance", 0.1, margin=1.8),),
                categorical=(Fixed(Method.L_INFINITY, "distance", 0.1, margin=1.8),),
            ),
            ToolDefaults(
                Preset.VERTEX,
                numeric=(Fixed(Method.JENSEN_SHANNON, "distance", 0.3, unit="divergence"),),
                categorical=(Fixed(Method.L_INFINITY, "distance", 0.3),),
            ),
        )
    }
)


def preset_threshold(
    fixed: Fixed, reference: npt.ArrayLike, n: npt.ArrayLike, mask: Mask, chunks: Floats | None = None
) -> Floats:
    """The threshold in the unit of `METHODS[fixed.method].distance`.

    Args:
        fixed: a default, as `ToolDefaults.fixed` gives it.
        reference: (F, B) counts.
        n: scalar or (F,) window events.
        mask: (F, B) True for real bins.
        chunks: (F, C) distances, by the same method, of the reference's chunks from the whole of it; nan where a
            chunk is empty, and a row of nan has no threshold. For "reference_sd" alone.

    Returns:
        (F,) the distance above which the tool would speak of drift; nan where the reference or window is empty.

    Raises:
        ValueError: if the kind of threshold is not defined for the method.
    """
    counts = np.where(mask, np.asarray(reference, dtype=np.float64), 0.0)
    m = counts.sum(axis=1)
    events = np.broadcast_to(np.asarray(n, dtype=np.float64), m.shape)
    known = (m > 0) & (events > 0)
    found = _KINDS[fixed.kind](fixed, counts, np.where(known, events, 1.0), mask, chunks)
    return np.where(known, found, np.nan)


def _distance(fixed: Fixed, counts: Floats, n: Floats, mask: Mask, chunks: Floats | None) -> Floats:
    own = {"own": fixed.value, "nats": fixed.value / sqrt(log(2.0)), "divergence": sqrt(fixed.value)}[fixed.unit]
    return own + fixed.margin * _spread(counts, n)


def _p_value(fixed: Fixed, counts: Floats, n: Floats, mask: Mask, chunks: Floats | None) -> Floats:
    if fixed.method is Method.KOLMOGOROV_SMIRNOV:
        return np.asarray(special.kolmogi(fixed.value) * _spread(counts, n), dtype=np.float64)
    if fixed.method is Method.CHI_SQUARE:
        degrees = np.maximum((counts > 0.0).sum(axis=1) - 1.0, 1.0)
        return np.asarray(special.chdtri(degrees, fixed.value) / n, dtype=np.float64)
    raise ValueError(f"a p-value is known for kolmogorov_smirnov and chi_square, not for {fixed.method}")


def _reference_sd(fixed: Fixed, counts: Floats, n: Floats, mask: Mask, chunks: Floats | None) -> Floats:
    if chunks is not None:
        return _mean_plus(fixed.value, chunks)
    if fixed.method is not Method.JENSEN_SHANNON:
        raise ValueError(f"without chunks, moments are known for jensen_shannon, not for {fixed.method}: pass chunks")
    mean, deviation = jensen_shannon_moments(counts, n, mask)
    return mean + fixed.value * deviation


def _mean_plus(deviations: float, chunks: Floats) -> Floats:
    """(F,) mean plus a number of standard deviations (of the population, as NumPy's default) of what is not nan."""
    known = ~np.isnan(chunks)
    weights = np.where(known, 1.0, 0.0) / np.where(known.any(axis=1), known.sum(axis=1), np.nan)[:, None]
    values = np.where(known, chunks, 0.0)
    mean = (weights * values).sum(axis=1)
    variance = (weights * (values - mean[:, None]) ** 2).sum(axis=1)
    return np.asarray(mean + deviations * np.sqrt(variance), dtype=np.float64)


def _spread(counts: Floats, n: Floats) -> Floats:
    """(F,) sqrt(1/n + 1/m)."""
    return np.asarray(np.sqrt(1.0 / n + 1.0 / np.maximum(counts.sum(axis=1), 1.0)), dtype=np.float64)


_KINDS: Mapping[Kind, Callable[[Fixed, Floats, Floats, Mask, Floats | None], Floats]] = MappingProxyType(
    {"distance": _distance, "p_value": _p_value, "reference_sd": _reference_sd}
)
