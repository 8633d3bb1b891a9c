"""reference counts, sample size, alpha → the value that chance alone exceeds with probability at most alpha.

The question is always the same. A reference of m events and a window of n events come from one and the same
distribution p, known only through the reference. How large does a rate, a quantile or a drift distance get?

**Rates** are exact: `rate_limits`.

**PSI, Jensen–Shannon, chi-square** are sums over bins of one term. Near the null they follow (1/n + 1/m)·chi² with bins
- 1 degrees of freedom, which is wrong where a bin expects fewer than some five events. So the first three cumulants of
the term are computed for independent Poisson counts (tabulated once over both expected counts), corrected for the fixed
totals, and matched by a Pearson type III (shifted gamma) law: for any term the plan that Haldane 1937 ("The exact value
of the moments of the distribution of chi²", Biometrika 29) made possible for Pearson's. A bin with few events may have
been underestimated, so its own exact limit bounds the threshold below. Half of alpha is kept back.

**L-infinity and Kolmogorov–Smirnov** are maxima of rates (of bins, of cuts): a union bound over the exact tails.

**Wasserstein** is the L1 norm of a Brownian bridge on the cuts. Its deviation above its mean is dominated by that of
the difference of means (Borell 1975, "The Brunn–Minkowski inequality in Gauss space"; every 1-Lipschitz function has at
most the variance of the identity), with the third cumulant of the centres for the skewness.

The simulation behind these choices is `bench/null_study.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import log, pi, sqrt

import numpy as np
import numpy.typing as npt
from scipy import special

from streams.arrays import Floats, Mask
from streams.signals.rate_limits import BetaBinomialTail, broadcast, rate_threshold

Term = Callable[[Floats, Floats, Floats], Floats]
"""(share in the window, share in the reference, half a count) → summand."""

_KEPT_BACK = 2.0  # alpha is divided by this where a law is fitted rather than bounded
_RARE = 25.0  # below this many (expected) events a bin gets its own exact limit
_GRID = 33  # nodes of the table of cumulants, along each axis
_BISECTIONS = 14  # resolves a threshold to a part in 16,384 of its first bound
_MEAN_ABS_NORMAL = sqrt(2.0 / pi)


# ---------------------------------------------------------------------------------------------- the setting


@dataclass(frozen=True, slots=True)
class _Setting:
    counts: Floats  # (F, B) reference, zero outside the mask
    mask: Mask  # (F, B)
    m: Floats  # (F,) reference events
    n: Floats  # (F,) window events, nan where there are none
    alpha: Floats  # (F,)

    @property
    def spread(self) -> Floats:
        """(F,) 1/n + 1/m."""
        return np.asarray(1.0 / self.n + 1.0 / self.m, dtype=np.float64)


def _setting(reference: npt.ArrayLike, n: npt.ArrayLike, alpha: npt.ArrayLike, mask: Mask) -> _Setting:
    counts = np.where(mask, np.asarray(reference, dtype=np.float64), 0.0)
    m = counts.sum(axis=1)
    _, events, level = broadcast(m, n, alpha)
    return _Setting(counts, mask, np.where(m > 0, m, np.nan), np.where(events > 0, events, np.nan), level)


# ----------------------------------------------------------------- PSI, Jensen–Shannon, chi-square: sums of terms


def psi_term(window: Floats, reference: Floats, half: Floats) -> Floats:
    """One bin's part of the population stability index; `half` is the share of half a count."""
    return np.asarray((window - reference) * np.log((window + half) / (reference + half)), dtype=np.float64)


def jensen_shannon_term(window: Floats, reference: Floats, half: Floats) -> Floats:
    """One bin's part of the Jensen–Shannon divergence, in bits (`half` is not used: zeros are well defined)."""
    middle = (window + reference) / 2.0
    both = special.rel_entr(window, middle) + special.rel_entr(reference, middle)
    return np.asarray(both / (2.0 * log(2.0)), dtype=np.float64)


def chi_square_term(window: Floats, reference: Floats, half: Floats) -> Floats:
    """One bin's part of Pearson's divergence, 0 where the reference is empty (`half` is not used)."""
    return np.asarray((window - reference) ** 2 / np.where(reference > 0.0, reference, np.inf), dtype=np.float64)


_CURVATURE: dict[Term, float] = {  # the term is about this times (window - reference)² / share
    psi_term: 1.0,
    jensen_shannon_term: 1.0 / (8.0 * log(2.0)),
    chi_square_term: 1.0,
}


def half_count(n: Floats, m: Floats) -> Floats:
    """Share of half a count of the smaller sample: what PSI adds to every real bin of both (see `distance.psi`)."""
    return np.asarray(0.5 / np.minimum(n, m), dtype=np.float64)


def psi_null(reference: npt.ArrayLike, n: npt.ArrayLike, alpha: npt.ArrayLike, mask: Mask) -> Floats:
    """Null quantile of `distance.psi`.

    Args:
        reference: (F, B) counts.
        n: scalar or (F,) window events, in the bins of the mask.
        alpha: scalar or (F,) false-alarm probability, down to 1e-8 and below.
        mask: (F, B) True for real bins; counts elsewhere are ignored.

    Returns:
        (F,) the value that PSI exceeds with probability at most alpha; nan where the reference or window is empty.
    """
    setting = _setting(reference, n, alpha, mask)
    smoothed = 1.0 + setting.mask.sum(axis=1) * half_count(setting.n, setting.m)
    return np.asarray(_sum_quantile(psi_term, setting) / smoothed, dtype=np.float64)


def jensen_shannon_null(reference: npt.ArrayLike, n: npt.ArrayLike, alpha: npt.ArrayLike, mask: Mask) -> Floats:
    """Null quantile of `distance.jensen_shannon` (a distance, base 2); arguments and result as for `psi_null`."""
    divergence = _sum_quantile(jensen_shannon_term, _setting(reference, n, alpha, mask))
    return np.asarray(np.minimum(np.sqrt(np.maximum(divergence, 0.0)), 1.0), dtype=np.float64)


def chi_square_null(reference: npt.ArrayLike, n: npt.ArrayLike, alpha: npt.ArrayLike, mask: Mask) -> Floats:
    """Null quantile of `distance.chi_square`; arguments and result as for `psi_null`.

    Infinite where an event in a bin that is empty in the reference, which makes the distance infinite, is itself more
    likely than alpha / 2.
    """
    setting = _setting(reference, n, alpha, mask)
    empty = (setting.mask & (setting.counts == 0.0)).sum(axis=1)
    unseen = empty * setting.n / (setting.n + setting.m)  # each: 1 - P(K = 0), K beta-binomial(n, 1, m)
    return np.where(unseen > setting.alpha / _KEPT_BACK, np.inf, _sum_quantile(chi_square_term, setting))


def jensen_shannon_moments(reference: npt.ArrayLike, n: npt.ArrayLike, mask: Mask) -> tuple[Floats, Floats]:
    """Mean and standard deviation under the null of `distance.jensen_shannon`, both (F,); arguments as `psi_null`."""
    setting = _setting(reference, n, 0.5, mask)
    mean, variance, _ = _sum_cumulants(jensen_shannon_term, setting)
    scale = _CURVATURE[jensen_shannon_term] * setting.spread
    with np.errstate(divide="ignore", invalid="ignore"):
        shape = mean**2 / variance  # of the gamma law of the divergence; its square root has the moments below
        root = np.exp(special.gammaln(shape + 0.5) - special.gammaln(shape)) * np.sqrt(variance / mean)
    deviation = np.sqrt(np.maximum(mean - root**2, 0.0))
    return root * np.sqrt(scale), deviation * np.sqrt(scale)


def _sum_quantile(term: Term, setting: _Setting) -> Floats:
    """The larger of the fitted law of the sum and of the exact limit of a single rare bin."""
    mean, variance, third = _sum_cumulants(term, setting)
    bulk = _pearson3_quantile(mean, variance, third, setting.alpha / _KEPT_BACK)
    scale = _CURVATURE[term] * setting.spread
    return np.maximum(scale * bulk, _rare_bin_limit(term, setting) + scale * np.maximum(mean - 1.0, 0.0))


def _sum_cumulants(term: Term, setting: _Setting) -> tuple[Floats, Floats, Floats]:
    """(F,) three cumulants of the sum over bins, in units of curvature·(1/n + 1/m): about k, 2k, 8k with k = bins - 1.

    Bins are independent Poisson but for the fixed totals, whose quadratic form I - √p√pᵀ has traces k of every power.
    """
    share = np.where(setting.mask, (setting.counts + 1.0) / (setting.m[:, None] + 1.0), 0.0)  # rather too large
    cells = _cell_cumulants(term, share * setting.n[:, None], share * setting.m[:, None])
    rest = np.where(setting.mask, 1.0 - share, 0.0)
    degrees = setting.mask.sum(axis=1) - 1.0
    mean = (rest * cells[0]).sum(axis=1)
    variance = (rest**2 * cells[1]).sum(axis=1) + 2.0 * np.maximum(degrees - (rest**2).sum(axis=1), 0.0)
    third = (rest**3 * cells[2]).sum(axis=1) + 8.0 * np.maximum(degrees - (rest**3).sum(axis=1), 0.0)
    return mean, variance, np.maximum(third, 2.0 * variance)  # a tail no lighter than exp(-x), as of Poisson counts


def _cell_cumulants(term: Term, window: Floats, reference: Floats) -> Floats:
    """(3, F, B) cumulants of one bin's term by the expected counts of window and reference: bilinear in the table."""
    table = _cumulant_table(term)
    i, x = _grid_place(window)
    j, y = _grid_place(reference)
    low = table[:, i, j] * (1.0 - x) + table[:, i + 1, j] * x
    high = table[:, i, j + 1] * (1.0 - x) + table[:, i + 1, j + 1] * x
    return np.asarray(low * (1.0 - y) + high * y, dtype=np.float64)


def _grid_place(expected: Floats) -> tuple[npt.NDArray[np.intp], Floats]:
    """Node below and fraction to the next, on the scale 1/sqrt(1 + expected), on which the cumulants are smooth."""
    place = (_GRID - 1) / np.sqrt(1.0 + np.nan_to_num(expected))
    node = np.minimum(place, _GRID - 2).astype(np.intp)
    return node, place - node


@cache
def _cumulant_table(term: Term) -> Floats:
    """(3, grid, grid) cumulants of a bin's term in units of curvature·(1/n + 1/m); node 0 is the limit of many events.

    With counts as multiples of their expectation the bin's share cancels out of every term, so that two expected
    counts are all there is.
    """
    with np.errstate(divide="ignore"):
        expected = 1.0 / np.linspace(0.0, 1.0, _GRID) ** 2 - 1.0
    laws = [_poisson_law(mean) for mean in expected]
    table = np.zeros((3, _GRID, _GRID))
    table[:, 0, 0] = 1.0, 2.0, 8.0
    for i in range(_GRID - 1):  # no events are expected at the last node, and the sums are 0 there
        for j in range(_GRID - 1):
            if i or j:
                unit = _CURVATURE[term] * (1.0 / expected[i] + 1.0 / expected[j])
                half = half_count(expected[i], expected[j])
                table[:, i, j] = _cumulants(term, laws[i], laws[j], half) / unit ** np.arange(1, 4)
    return table


def _cumulants(term: Term, window: tuple[Floats, Floats], reference: tuple[Floats, Floats], half: Floats) -> Floats:
    values = term(window[0][:, None], reference[0][None, :], half)
    weights = window[1][:, None] * reference[1][None, :]
    mean = (weights * values).sum()
    return np.array([mean, (weights * (values - mean) ** 2).sum(), (weights * (values - mean) ** 3).sum()])


def _poisson_law(mean: float) -> tuple[Floats, Floats]:
    """(values, weights) of a Poisson count over its mean: exact, or by Gauss–Hermite nodes where it is near normal."""
    if not 0.0 < mean < np.inf:
        return np.ones(1), np.ones(1)
    if mean > 90.0:
        nodes, weights = np.polynomial.hermite_e.hermegauss(21)
        return _pearson3_nodes(nodes, mean), weights / weights.sum()
    counts = np.arange(max(0.0, np.floor(mean - 8.0 * sqrt(mean))), np.ceil(mean + 9.0 * sqrt(mean) + 16.0))
    weights = np.exp(special.xlogy(counts, mean) - mean - special.gammaln(counts + 1.0))
    return counts / mean, weights / weights.sum()


def _pearson3_nodes(normal: Floats, mean: float) -> Floats:
    """Wilson and Hilferty's cube: normal deviates → values over the mean, with the three moments of a Poisson law."""
    skew = 1.0 / sqrt(mean)
    cube = np.maximum(1.0 + skew * normal / 6.0 - skew**2 / 36.0, 0.0) ** 3
    return np.asarray(1.0 + 2.0 * (cube - 1.0), dtype=np.float64)


def _pearson3_quantile(mean: Floats, variance: Floats, third: Floats, alpha: Floats) -> Floats:
    """Upper quantile of the shifted gamma law with these cumulants (the third >= 0); the mean if nothing varies."""
    with np.errstate(divide="ignore", invalid="ignore"):
        shape = np.minimum(4.0 * variance**3 / third**2, 1e8)  # a larger shape is normal to eight figures
        scale = np.sqrt(variance / shape)
        quantile = mean + scale * (special.gammainccinv(shape, alpha) - shape)
    return np.where(variance > 0.0, quantile, mean)


def _rare_bin_limit(term: Term, setting: _Setting) -> Floats:
    """(F,) largest value of the table of two bins (a rare one, all others) with the rare one at its exact limit."""
    rare = _rare(setting)
    row, column = np.nonzero(rare)
    m, n = setting.m[row], setting.n[row]
    level = setting.alpha / (_KEPT_BACK * np.maximum(rare.sum(axis=1), 1))
    window = rate_threshold(setting.counts[row, column], m, n, level[row])
    reference, half = setting.counts[row, column] / m, half_count(n, m)
    limit = np.zeros(setting.m.shape)
    np.fmax.at(limit, row, term(window, reference, half) + term(1.0 - window, 1.0 - reference, half))
    return limit


def _rare(setting: _Setting) -> Mask:
    """(F, B) bins of which reference or window has, or expects, few events."""
    smaller = np.minimum(setting.counts, setting.counts * (setting.n / setting.m)[:, None])
    return np.asarray(setting.mask & (smaller < _RARE), dtype=np.bool_)


# ------------------------------------------------------------- L-infinity, Kolmogorov–Smirnov: maxima of rates


def l_infinity_null(reference: npt.ArrayLike, n: npt.ArrayLike, alpha: npt.ArrayLike, mask: Mask) -> Floats:
    """Null quantile of `distance.l_infinity`; arguments and result as for `psi_null`."""
    setting = _setting(reference, n, alpha, mask)
    return _union_quantile(setting, setting.counts, setting.mask)


def kolmogorov_smirnov_null(reference: npt.ArrayLike, n: npt.ArrayLike, alpha: npt.ArrayLike, mask: Mask) -> Floats:
    """Null quantile of `distance.kolmogorov_smirnov`, over ordered bins; arguments and result as for `psi_null`.

    The smaller of two valid limits: Kolmogorov's for continuous values (conservative on few bins), and the union
    over the cuts between the bins (conservative on many).
    """
    setting = _setting(reference, n, alpha, mask)
    later = np.logical_or.accumulate(setting.mask[:, ::-1], axis=1)[:, ::-1]
    cuts = setting.mask[:, :-1] & later[:, 1:]
    union = _union_quantile(setting, np.cumsum(setting.counts, axis=1)[:, :-1], cuts)
    return np.asarray(np.minimum(union, special.kolmogi(setting.alpha) * np.sqrt(setting.spread)), dtype=np.float64)


def _union_quantile(setting: _Setting, counts: Floats, kept: Mask) -> Floats:
    """Smallest t for which the tails P(|share in window - share in reference| > t) of the kept cells sum to alpha."""
    tails = _UnionTail(setting, counts, kept)
    high = tails.bernstein()
    while np.any(failing := (tails(high) > setting.alpha) & (high < 1.0)):
        high = np.where(failing, np.minimum(2.0 * high, 1.0), high)
    low = np.zeros(high.shape)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2.0
        passes = tails(middle) <= setting.alpha
        low, high = np.where(passes, low, middle), np.where(passes, middle, high)
    return np.where(np.isfinite(setting.spread), high, np.nan)


class _UnionTail:
    """t (F,) → the sum over the kept cells of the probabilities that the shares differ by more than t, either way."""

    def __init__(self, setting: _Setting, counts: Floats, kept: Mask) -> None:
        self._setting, self._kept = setting, kept
        self._n, m = np.nan_to_num(setting.n)[:, None], np.nan_to_num(setting.m, nan=1.0)[:, None]
        self._share = counts / m
        n = np.broadcast_to(self._n, counts.shape)
        self._above = BetaBinomialTail(n, counts + 1.0, m - counts)
        self._below = BetaBinomialTail(n, m - counts + 1.0, counts)

    def __call__(self, t: Floats) -> Floats:
        above = self._above(np.floor(self._n * (self._share + t[:, None])) + 1.0)
        below = self._below(np.floor(self._n * (1.0 - self._share + t[:, None])) + 1.0)
        return np.asarray(np.where(self._kept, above + below, 0.0).sum(axis=1), dtype=np.float64)

    def bernstein(self) -> Floats:
        """A first guess, rather too large: the form of Bernstein's inequality for the cell that varies most."""
        level = np.log(2.0 * np.maximum(self._kept.sum(axis=1), 1.0) / self._setting.alpha)
        spread = np.nan_to_num(self._setting.spread, nan=1.0)  # an empty row: any bound will do
        variance = np.where(self._kept, self._share * (1.0 - self._share), 0.0).max(axis=1, initial=0.0)
        return np.asarray(np.minimum(np.sqrt(2.0 * level * variance * spread) + level * spread, 1.0), dtype=np.float64)


# -------------------------------------------------------------------------------------------------- Wasserstein


def wasserstein_null(
    reference: npt.ArrayLike, n: npt.ArrayLike, alpha: npt.ArrayLike, mask: Mask, centres: npt.ArrayLike
) -> Floats:
    """Null quantile of `distance.wasserstein`.

    The mean is that of the Brownian bridge's absolute values on the cuts; the deviation above it is that of |N|, N the
    difference of means, as a Pearson III law with the third absolute moment of the centres. Both take p with half a
    count in every real bin.

    Args:
        reference, n, alpha, mask: as for `psi_null`.
        centres: (F, B) centres of the bins, ascending; a bin without one (nan) is left out, with its share of n.

    Returns:
        (F,) in standard deviations of the reference; nan where it has none, or where reference or window is empty.
    """
    every, placed = _setting(reference, n, alpha, mask), mask & np.isfinite(centres)
    setting = _setting(reference, every.n * np.where(placed, every.counts, 0.0).sum(axis=1) / every.m, alpha, placed)
    place, gap = centres_and_gaps(centres, placed)
    bins = setting.mask.sum(axis=1)
    share = np.where(setting.mask, (setting.counts + 0.5) / (setting.m + 0.5 * bins)[:, None], 0.0)
    _, unit = mean_and_deviation(setting.counts / setting.m[:, None], place)
    middle, _ = mean_and_deviation(share, place)
    with np.errstate(divide="ignore", invalid="ignore"):
        below = np.clip(np.cumsum(share, axis=1)[:, :-1], 0.0, 1.0)
        mean = (np.sqrt(below * (1.0 - below)) * gap).sum(axis=1) / unit * np.sqrt(setting.spread)
        away = np.abs(place - middle[:, None]) / unit[:, None]
    variance = (share * away**2).sum(axis=1) * setting.spread
    third = (share * away**3).sum(axis=1) * setting.spread * (1.0 / setting.n + 2.0 / setting.m)
    excess = _pearson3_quantile(np.zeros(mean.shape), variance, third, setting.alpha / 2.0)
    return np.where(unit > 0.0, _MEAN_ABS_NORMAL * (mean - np.sqrt(variance)) + excess, np.nan)


def centres_and_gaps(centres: npt.ArrayLike, mask: Mask) -> tuple[Floats, Floats]:
    """(F, B) centres with those outside the mask put on the real one before, and the (F, B - 1) gaps between them."""
    real = np.where(mask, np.asarray(centres, dtype=np.float64), -np.inf)
    place = np.maximum.accumulate(real, axis=1)
    first = np.where(mask, real, np.inf).min(axis=1, initial=np.inf)
    place = np.where(np.isfinite(place), place, np.where(np.isfinite(first), first, 0.0)[:, None])
    return place, np.diff(place, axis=1)


def mean_and_deviation(share: Floats, place: Floats) -> tuple[Floats, Floats]:
    """(F,) mean and standard deviation of the bin centres, weighted by the shares (F, B)."""
    mean = (share * place).sum(axis=1)
    return mean, np.sqrt((share * (place - mean[:, None]) ** 2).sum(axis=1))
