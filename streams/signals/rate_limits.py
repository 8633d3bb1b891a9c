"""Reference counts, sample size, alpha → the rate, or the level of a quantile, that chance alone does not pass.

The number K of window events in a bin, of which the reference has k0 of m, is bounded by a
beta-binomial law: K counts the window's uniforms below the (k0 + 1)-th smallest of the reference's, so that P(K >= x)
is the one-sided p-value of Fisher's exact test, and the bound holds whatever p is (Thatcher 1964, "Relationships
between Bayesian and confidence limits for predictions", JRSS B 26; the Jeffreys prior would lie half an event lower).
"""

import numpy as np
import numpy.typing as npt
from scipy import special

from streams.arrays import Floats


def rate_threshold(k0: npt.ArrayLike, m: npt.ArrayLike, n: npt.ArrayLike, alpha: npt.ArrayLike) -> Floats:
    """The smallest rate t for which P(K / n > t) <= alpha, K events of n, when the reference had k0 of m.

    The guarantee holds over reference and window together, whatever the true rate is. The tail is bounded by
    its first term times a geometric series, which holds for every log-concave law; at alpha = 0.05 this costs a
    twentieth of the margin, at 1e-6 nothing that matters.

    Args:
        k0: events of the kind in the reference, 0 <= k0 <= m; all arguments broadcast.
        m: events in the reference.
        n: events in the window. Effective sizes need not be whole: k0, m and n over one factor.
        alpha: false-alarm probability, 0 < alpha < 1.

    Returns:
        A multiple of 1/n in [0, 1], of the broadcast shape; 1 where no number of events would be enough; nan
        where n or m is 0.

    >>> float(rate_threshold(0, 17_000, 1_000, 1e-6))  # five events of a kind never seen are too many
    0.004
    """
    k0, m, n, alpha = broadcast(k0, m, n, alpha)
    limit = _smallest_passing(k0 + 1.0, m - k0, n, alpha)
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = np.where(limit >= np.floor(n), 1.0, limit / n)
    return np.where((n > 0) & (m > 0), rate, np.nan)


def rate_floor(k0: npt.ArrayLike, m: npt.ArrayLike, n: npt.ArrayLike, alpha: npt.ArrayLike) -> Floats:
    """The largest rate t for which P(K / n < t) <= alpha: the lower side of `rate_threshold`.

    Args:
        k0, m, n, alpha: as for `rate_threshold`.

    Returns:
        A multiple of 1/n in [0, 1]; 0 where even no event at all would not be too few; nan where n or m is 0.
    """
    k0, m, n, alpha = broadcast(k0, m, n, alpha)
    limit = _smallest_passing(m - k0 + 1.0, k0, n, alpha)  # of the other events
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = np.where(limit >= np.floor(n), 0.0, (n - limit) / n)
    return np.where((n > 0) & (m > 0), rate, np.nan)


def quantile_band(p: npt.ArrayLike, m: npt.ArrayLike, n: npt.ArrayLike, alpha: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Levels of the reference between which the window's p-quantile lies with probability >= 1 - alpha.

    The window's p-quantile is its order statistic ceil(p·n). The number of reference values below it is
    beta-binomial whatever the distribution, so that the band is free of it (exceedance statistics: Gumbel and von
    Schelling 1950, "The distribution of the number of exceedances", Ann. Math. Statist. 21). alpha is halved.

    Args:
        p: level of the quantile, 0 < p < 1; all arguments broadcast.
        m, n: events in the reference and in the window.
        alpha: probability that the window's quantile lies outside the band.

    Returns:
        (lo, hi) levels; **hi >= 1 (or lo <= 0) means too few events to judge that side**; nan where n or m is 0.
    """
    p, m, n, alpha = broadcast(p, m, n, alpha)
    rank = np.clip(np.ceil(p * n), 1.0, np.maximum(n, 1.0))
    above = _smallest_passing(rank, n - rank + 1.0, m, alpha / 2.0) + 1.0
    below = m - _smallest_passing(n - rank + 1.0, rank, m, alpha / 2.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        lo, hi = np.maximum(below, 0.0) / m, above / m
    known = (n > 0) & (m > 0)
    return np.where(known, lo, np.nan), np.where(known, hi, np.nan)


def broadcast(*values: npt.ArrayLike) -> tuple[Floats, ...]:
    return tuple(np.broadcast_arrays(*(np.asarray(value, dtype=np.float64) for value in values)))


def _smallest_passing(a: Floats, b: Floats, n: Floats, alpha: Floats) -> Floats:
    """Smallest whole x for which P(K > x) <= alpha, K beta-binomial(n, a, b); by bisection on all at once."""
    failing, passing = np.full(n.shape, -1.0), np.floor(np.nan_to_num(n))
    tail = BetaBinomialTail(n, a, b)
    while np.any(passing - failing > 1.0):
        middle = np.floor((failing + passing) / 2.0)
        passes = (tail(middle + 1.0) <= alpha) | (middle >= passing)
        passing = np.where(passes, np.minimum(middle, passing), passing)
        failing = np.where(passes, failing, np.maximum(middle, failing))
    return passing


class BetaBinomialTail:
    """x → an upper bound of P(K >= x) for K ~ beta-binomial(n, a, b), a and b >= 1 (b = 0: all n are events)."""

    def __init__(self, n: Floats, a: Floats, b: Floats) -> None:
        self._n, self._a, self._b = n, a, b
        positive = np.maximum(b, 1.0)
        self._constant = special.gammaln(n + 1.0) - special.gammaln(n + a + positive) - special.betaln(a, positive)

    def __call__(self, x: Floats) -> Floats:
        n, a, b = self._n, self._a, np.maximum(self._b, 1.0)
        left = np.maximum(n - x, 0.0)
        log_mass = self._constant + (
            special.gammaln(x + a) + special.gammaln(left + b) - special.gammaln(x + 1.0) - special.gammaln(left + 1.0)
        )
        ratio = left * (x + a) / ((x + 1.0) * np.maximum(left - 1.0 + b, 1e-9))
        terms = np.minimum(1.0 / np.maximum(1.0 - ratio, 1e-9), left + 1.0)  # geometric, and no more than there are
        bound = np.exp(np.minimum(log_mass, 0.0)) * terms
        bound = np.where((ratio <= 1.0) & (x > 0.0), np.minimum(bound, 1.0), 1.0)
        return np.where(x > n, 0.0, np.where(self._b > 0.0, bound, 1.0))
