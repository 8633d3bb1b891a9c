"""TEMPORARY."""

from dataclasses import dataclass

import numpy as np
from scipy import special


def _psi(r, w, mask, c):
    k = mask.sum(-1, keepdims=True)
    p = r + 0.5 * mask
    p = p / p.sum(-1, keepdims=True)
    q = w + 0.5 * mask
    q = q / np.maximum(q.sum(-1, keepdims=True), 1e-9)
    with np.errstate(divide="ignore", invalid="ignore"):
        v = np.where(mask, (q - p) * np.log(q / p), 0).sum(-1)
    return np.where(w.sum(-1) > 0, v, np.nan)


def _q(r, n, a, mask, c):
    k = ((r > 0) & mask).sum(-1)
    m = r.sum(-1)
    return (1 / n + 1 / m) * special.chdtri(np.maximum(k - 1, 1), a) * 1.3


@dataclass
class M:
    distance: object
    null_quantile: object


METHODS = {k: M(_psi, _q) for k in ("psi", "jensen_shannon", "wasserstein", "kolmogorov_smirnov", "l_infinity")}
