"""TEMPORARY."""

import numpy as np
from scipy import special


def rate_threshold(k0, m, n, a):
    p = (k0 + 0.5) / (m + 1)
    ne = 1 / (1 / n + 1 / m)
    return special.betaincinv(ne * p + 1, np.maximum(ne * (1 - p), 0.01), 1 - a)


def quantile_band(p, m, n, a):
    z = special.ndtri(1 - a)
    d = z * np.sqrt(p * (1 - p) * (1 / n + 1 / m))
    return p - d, p + d
