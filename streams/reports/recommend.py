"""What a month came to → retrain, keep, or investigate, by rules that are taken in order: the first that holds decides.

docs/reports.md has them in words.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

import msgspec

ENOUGH_LABELS = 200
ENOUGH_MATURITY = 0.5
"""Fewer labels, or of a smaller share of the predictions, decide nothing."""
TOO_BROKEN = 0.2
"""Of the days: data that was broken for longer says little of the model."""


class Advice(StrEnum):
    RETRAIN = "retrain"
    KEEP = "keep"
    INVESTIGATE = "investigate"


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What the rules look at."""

    days: int
    labels: int
    maturity: float | None
    """Share of the predictions that have a label."""
    broken_now: tuple[str, ...]
    """Rules whose data incidents are open at the end."""
    broken_days: int
    """Days on which one was open."""
    fell: tuple[str, ...]
    """Labelled numbers that are worse than the reference, beyond chance and by the smallest effect."""
    lasts: bool
    """One of them is still so large in the last seven days."""
    retrain: tuple[str, ...]
    """Rules that asked for retraining."""
    retrain_open: bool
    """One of these incidents is open at the end."""
    drifted: tuple[str, ...]
    """Inputs and scores that crossed their limits."""


class Recommendation(msgspec.Struct, frozen=True, kw_only=True):
    """`rule`: which one decided; `because`: why, in a sentence; `evidence`: what it was decided on."""

    advice: Advice
    rule: str
    because: str
    evidence: tuple[str, ...]

    @property
    def standing(self) -> str:
        return {Advice.RETRAIN: "act", Advice.INVESTIGATE: "watch", Advice.KEEP: "all well"}[self.advice]


def _unlabelled(facts: Facts) -> bool:
    return facts.labels < ENOUGH_LABELS or (facts.maturity or 0.0) < ENOUGH_MATURITY


Rule = tuple[str, Callable[[Facts], bool], Advice, str]

RULES: tuple[Rule, ...] = (
    (
        "data first",
        lambda facts: bool(facts.broken_now) or facts.broken_days > TOO_BROKEN * facts.days,
        Advice.INVESTIGATE,
        "The data was broken: repair it first, because a model that is trained on it learns the fault.",
    ),
    (
        "unknown, and something moved",
        lambda facts: _unlabelled(facts) and bool(facts.drifted or facts.retrain),
        Advice.INVESTIGATE,
        "Inputs or scores moved, and there are too few labels to say what it did: get labels before you decide.",
    ),
    (
        "unknown, and nothing moved",
        _unlabelled,
        Advice.KEEP,
        "Nothing speaks against the model, but too few labels have come to vouch for it.",
    ),
    (
        "worse, and it lasts",
        lambda facts: bool(facts.fell) and facts.lasts,
        Advice.RETRAIN,
        "The model is worse than at training, beyond chance and by enough to matter, and was so to the month's end.",
    ),
    (
        "worse, and it passed",
        lambda facts: bool(facts.fell),
        Advice.INVESTIGATE,
        "Over the month the model was worse than at training, but in the last week no longer by enough to matter: find "
        "out whether what caused it will come back before you train on it.",
    ),
    (
        "alarmed, and open",
        lambda facts: facts.retrain_open,
        Advice.INVESTIGATE,
        "An incident that asks for retraining is open, though the month as a whole is not worse by enough to matter: "
        "look at the days since it began.",
    ),
    (
        "moved, and no worse",
        lambda facts: bool(facts.drifted or facts.retrain),
        Advice.KEEP,
        "Inputs, scores or single days moved, but the labels show no loss that matters: drift alone is no "
        "reason to retrain.",
    ),
    (
        "nothing moved",
        lambda facts: True,
        Advice.KEEP,
        "Inputs and scores stayed within their limits, and the labels agree with the reference.",
    ),
)


def recommend(facts: Facts) -> Recommendation:
    """By the first rule that holds."""
    name, _, advice, because = next(rule for rule in RULES if rule[1](facts))
    return Recommendation(advice=advice, rule=name, because=because, evidence=_evidence(facts))


def _evidence(facts: Facts) -> tuple[str, ...]:
    share = "" if facts.maturity is None else f", {facts.maturity:.0%} of the predictions"
    broken = ", ".join(facts.broken_now) or "none"
    return (
        f"Labels: {facts.labels:,}{share}.",
        f"Data incidents: open on {facts.broken_days} of {facts.days} days; open at the end: {broken}.",
        "Worse than the reference by enough to matter: " + ("; ".join(facts.fell) or "nothing") + ".",
        *(("Still so in the last seven days: " + ("yes." if facts.lasts else "no."),) if facts.fell else ()),
        "Rules that asked for retraining: "
        + (", ".join(facts.retrain) or "none")
        + (" (open at the end)." if facts.retrain_open else "."),
        "Inputs and scores beyond their limits on some day: " + (", ".join(facts.drifted) or "none") + ".",
    )
