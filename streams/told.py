"""Published evidence of an incident, and its evidence now → what of it is new.

Evidence is a name here, with its distance from its baseline.
"""

from __future__ import annotations

from collections.abc import Mapping

Distances = Mapping[str, float]

FURTHEST = 1e300
MUCH_FURTHER = 2.0
"""Evidence is new again at so many times the published distance from its baseline."""


def distance(value: float | None, baseline: float | None) -> float:
    """How far a value lies from its baseline, as JSON can hold it; None is what is no finite number.

    >>> distance(0.5, 0.125), distance(3.0, None), distance(None, 1.0)
    (0.375, 3.0, 1e+300)
    """
    return FURTHEST if value is None else min(abs(value - (baseline or 0.0)), FURTHEST)


def unheard_of(told: Distances, found: Distances) -> frozenset[str]:
    """Evidence that was not published, or whose distance has grown much since.

    >>> sorted(unheard_of({"a": 0.25, "b": 0.25}, {"a": 0.5, "b": 0.75, "c": 0.125}))
    ['b', 'c']
    """
    return frozenset(name for name, far in found.items() if name not in told or far > MUCH_FURTHER * told[name])


def furthest(told: Distances, found: Distances) -> dict[str, float]:
    """Both, each at its largest distance.

    >>> furthest({"a": 0.25, "b": 0.5}, {"b": 0.25, "c": 1.0})
    {'a': 0.25, 'b': 0.5, 'c': 1.0}
    """
    return {name: max(told.get(name, 0.0), found.get(name, 0.0)) for name in sorted({*told, *found})}
