"""counts of a reference and of a window, in the same bins → how far apart the two distributions are.

Every function takes all features of a model at once: `reference` and `window` are (F, B) counts, padded to B columns;
`mask` (F, B) is True for the real bins, and counts elsewhere are ignored. Every function returns (F,), nan where the
reference or the window has no events. Missing values are a bin like any other: the first one where bins have an order.

`METHODS` is the table by which a driver finds a distance, its null law (`signals.null`), and whether order matters.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from streams.arrays import Floats, Mask
from streams.signals import null
from streams.signals.names import Method

Counts = npt.ArrayLike


def psi(reference: Counts, window: Counts, mask: Mask) -> Floats:
    """Population stability index: the sum of (w - r)·ln(w / r) over the bins' shares w and r.

    Half a count, of the smaller of the two samples, is added to every real bin of both sides: an empty bin stays
    finite, one stray event weighs little, equal proportions give 0 whatever the sizes. Symmetric; 0 to infinity; nats.

    Source: Lewis 1994, "An Introduction to Credit Scoring"; it is Jeffreys' divergence (1946). Without the half count
    it is the published formula, which is what remains where every bin is well filled.
    """
    w, r, n, m = _shares(reference, window, mask)
    half = null.half_count(n, m)
    smoothed = 1.0 + mask.sum(axis=1) * half  # shares are (share + half) / smoothed, and sum to 1
    return np.asarray(_total(null.psi_term(w, r, half[:, None]), mask) / smoothed, dtype=np.float64)


def jensen_shannon(reference: Counts, window: Counts, mask: Mask) -> Floats:
    """Jensen–Shannon **distance**, base 2: the square root of the divergence in bits. Symmetric; 0 to 1.

    Source: Lin 1991, "Divergence measures based on the Shannon entropy"; a metric by Endres and Schindelin 2003.
    As `scipy.spatial.distance.jensenshannon(r, w, base=2)`.
    """
    w, r, n, _ = _shares(reference, window, mask)
    return np.asarray(np.sqrt(np.maximum(_total(null.jensen_shannon_term(w, r, n), mask), 0.0)), dtype=np.float64)


def chi_square(reference: Counts, window: Counts, mask: Mask) -> Floats:
    """Pearson's divergence, the sum of (w - r)² / r over the shares: the one-sample chi-square statistic over n.

    Infinite where the window has events in a bin that is empty in the reference, as the test would have it. Not
    symmetric; 0 to infinity. As `scipy.stats.chisquare(window, reference·n/m).statistic / n`.

    Source: Pearson 1900, "On the criterion that a given system of deviations …", Phil. Mag. 50.
    """
    w, r, n, _ = _shares(reference, window, mask)
    unseen = (mask & (r == 0.0) & (w > 0.0)).any(axis=1)
    return np.where(unseen, np.inf, _total(null.chi_square_term(w, r, n), mask))


def wasserstein(reference: Counts, window: Counts, mask: Mask, centres: npt.ArrayLike) -> Floats:
    """First Wasserstein distance with all events at their bins' centres, in standard deviations of the reference.

    Args:
        centres: (F, B) centres of the bins, ascending; a bin without one (nan), as that of missing values, is left out.

    0 to infinity; nan also where the reference has no spread. As `scipy.stats.wasserstein_distance(c, c, r, w)` over
    the standard deviation of the reference.

    Source: Vallender 1973, "Calculation of the Wasserstein distance between probability distributions on the line".
    """
    placed = mask & np.isfinite(centres)
    w, r, _, _ = _shares(reference, window, placed)
    place, gap = null.centres_and_gaps(centres, placed)
    _, deviation = null.mean_and_deviation(r, place)
    area = (np.abs(np.cumsum(w - r, axis=1)[:, :-1]) * gap).sum(axis=1)
    return np.asarray(area / np.where(deviation > 0.0, deviation, np.nan), dtype=np.float64)


def kolmogorov_smirnov(reference: Counts, window: Counts, mask: Mask) -> Floats:
    """Largest difference of the cumulative shares over ordered bins. Symmetric; 0 to 1.

    It is `scipy.stats.ks_2samp` on the values rounded to their bins, so at most that on the raw values.

    Source: Smirnov 1939, "On the estimation of the discrepancy between empirical curves of distribution".
    """
    w, r, _, _ = _shares(reference, window, mask)
    return np.asarray(np.abs(np.cumsum(w - r, axis=1)).max(axis=1), dtype=np.float64)


def l_infinity(reference: Counts, window: Counts, mask: Mask) -> Floats:
    """Largest difference of the shares of one bin (Chebyshev distance). Symmetric; 0 to 1.

    Source: as in TensorFlow Data Validation's `infinity_norm` comparator.
    """
    w, r, _, _ = _shares(reference, window, mask)
    return np.asarray(np.abs(w - r).max(axis=1), dtype=np.float64)


def _shares(reference: Counts, window: Counts, mask: Mask) -> tuple[Floats, Floats, Floats, Floats]:
    """Shares (F, B) of window and reference, their sizes n and m (F,); nan throughout a row that has no events."""
    events, baseline = np.asarray(window, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if events.ndim != 2 or not events.shape == baseline.shape == mask.shape:
        raise ValueError(
            f"reference, window and mask have shapes {baseline.shape}, {events.shape} and {mask.shape}; expected one "
            "shape (features, bins): pad the rows of features with fewer bins, and mask the padding"
        )
    w, n = _share(events, mask)
    r, m = _share(baseline, mask)
    return w, r, n, m


def _share(counts: Floats, mask: Mask) -> tuple[Floats, Floats]:
    kept = np.where(mask, counts, 0.0)
    total = kept.sum(axis=1)
    total = np.where(total > 0.0, total, np.nan)
    return kept / total[:, None], total


def _total(terms: Floats, mask: Mask) -> Floats:
    return np.asarray(np.where(mask, terms, 0.0).sum(axis=1) + 0.0 * terms[:, 0], dtype=np.float64)


Distance = Callable[[Counts, Counts, Mask, npt.ArrayLike], Floats]
NullQuantile = Callable[[Counts, npt.ArrayLike, npt.ArrayLike, Mask, npt.ArrayLike], Floats]


@dataclass(frozen=True, slots=True)
class DriftMethod:
    """A drift distance and its null law, both of one signature for all methods.

    distance(reference, window, mask, centres) → (F,)
    null_quantile(reference, n, alpha, mask, centres) → (F,) the value that the distance exceeds with probability at
    most alpha without drift; n and alpha are scalars or (F,). Only Wasserstein looks at the `centres` (F, B).
    """

    name: Method
    distance: Distance
    null_quantile: NullQuantile


def _plain(
    name: Method,
    distance: Callable[[Counts, Counts, Mask], Floats],
    quantile: Callable[[Counts, npt.ArrayLike, npt.ArrayLike, Mask], Floats],
) -> DriftMethod:
    """A method that has no use for the centres."""
    return DriftMethod(
        name,
        lambda reference, window, mask, centres: distance(reference, window, mask),
        lambda reference, n, alpha, mask, centres: quantile(reference, n, alpha, mask),
    )


METHODS: Mapping[str, DriftMethod] = MappingProxyType(
    {
        method.name: method
        for method in (
            _plain(Method.PSI, psi, null.psi_null),
            _plain(Method.JENSEN_SHANNON, jensen_shannon, null.jensen_shannon_null),
            _plain(Method.CHI_SQUARE, chi_square, null.chi_square_null),
            _plain(Method.KOLMOGOROV_SMIRNOV, kolmogorov_smirnov, null.kolmogorov_smirnov_null),
            _plain(Method.L_INFINITY, l_infinity, null.l_infinity_null),
            DriftMethod(Method.WASSERSTEIN, wasserstein, null.wasserstein_null),
        )
    }
)
