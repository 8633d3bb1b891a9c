"""Labels of windows, added up → the result of a window, or that of the labels that a CUSUM has added up (Page 1954).

A CUSUM finds a small step that lasts: it adds up, label by label, what lies beyond half of the step it is tuned to.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import msgspec

from streams.baseline import SegmentKey
from streams.plan import ModelPlan
from streams.signals.label_flow import MIN_LABELS
from streams.signals.result import Result, effect_of, single

CUSUM_SHARE = 0.7
"""The step that the CUSUM is tuned to, and the least that it speaks of, as a share of the effect of a single window."""
CUSUM_CAP = 1.25
"""The sum is held at so many limits: it must come down again in reasonable time when all is well."""
CUSUM_HOLD = 0.5
"""An alarm holds until the sum has fallen to this share of its limit."""
CUSUM_RECOVERY = 0.5
"""What a window leaves of it that is better than the reference by its standard error."""
Sums = dict[str, tuple[float, float, bool]]
"""Per metric, version, segment and sign: labels since the CUSUM was last 0, their excess, and whether it alarms."""


@dataclass(frozen=True, slots=True)
class Step:
    """Of the labels of a window: by how much they exceed the reference in sum, the variance of that, how many."""

    excess: float
    variance: float
    n: float


class Cusums:
    """The CUSUMs of one model. What they have added up is the caller's, and persisted."""

    def __init__(self, plan: ModelPlan, labels_between_alarms: float) -> None:
        self._plan, self._labels_between_alarms = plan, labels_between_alarms

    def result(
        self,
        name: str,
        found: Result,
        version: str,
        segment: SegmentKey,
        step: Step,
        sums: Sums | None,
        design_effect: float,
    ) -> Result:
        """The window's result, or that of the labels that a CUSUM has added up, if it alone has passed its limit."""
        if sums is None or not math.isfinite(found.baseline[0]) or not step.n > 0 or not math.isfinite(step.excess):
            return found
        effect = (
            (effect_of(self._plan, name) - 1) * float(found.baseline[0])  # plain: it enters the state
            if found.signal.relative
            else effect_of(self._plan, name)
        )
        one = step.variance / step.n
        # A small shift of the logit moves the mean by as many times the variance.
        scale = one if found.signal.two_sided else 1.0
        effect *= scale
        one *= design_effect
        drift = CUSUM_SHARE * effect / 2
        if not (one > 0 and drift > 0):
            return found
        limit = cusum_limit(drift, one, self._labels_between_alarms)
        for sign in (1.0, -1.0) if found.signal.two_sided else (1.0,):
            key = msgspec.json.encode([name, version, *segment, sign]).decode()
            n, excess, alarmed = sums.get(key, (0.0, 0.0, False))
            # A few labels, however wrong, are no trend: each counts for at most its share of a limit.
            most = step.n * (drift + limit / MIN_LABELS)
            n, excess = n + step.n, excess + sign * min(sign * step.excess, most)
            total = sign * excess - drift * n
            if total <= 0:
                sums.pop(key, None)
                continue
            # Beyond the cap the oldest labels are forgotten, in proportion.
            kept = min(1.0, CUSUM_CAP * limit / total)
            if alarmed and sign * step.excess < -math.sqrt(step.variance):
                kept *= CUSUM_RECOVERY  # a window that is better than the reference: what was added up is the past
            n, excess, total = n * kept, excess * kept, total * kept
            mean = excess / n / scale
            large = sign * mean * scale >= 2 * drift
            alarmed = total > CUSUM_HOLD * limit if alarmed else total > limit and large
            sums[key] = (n, excess, alarmed)
            if alarmed and not bool(found.breached[0]):
                base_value = float(found.baseline[0])
                threshold = base_value + mean * min(1.0, limit / total) * (1 - 1e-9)
                found = single(found.signal.name, base_value + mean, base_value, threshold, n)
        return found


def cusum_limit(drift: float, variance: float, labels_between_alarms: float) -> float:
    """The limit of a CUSUM of so much drift and variance a label whose false alarms are so far apart.

    For Brownian motion the mean run length is (exp(2ah) − 1 − 2ah) · s² / (2d²), a = d/s².
    """
    wanted = labels_between_alarms * 2 * drift**2 / variance
    low, high = 0.0, 1.0
    while math.expm1(high) - high < wanted and high < 600:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if math.expm1(middle) - middle < wanted else (low, middle)
    return high * variance / (2 * drift)
