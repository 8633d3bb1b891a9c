"""Tallies → rows: how far each proxy can be trusted, and what is done about each rule, as `ledger.json` has it."""

from __future__ import annotations

import msgspec
import numpy as np

from streams.ack import Status
from streams.ledger_tally import RuleTally, Tally, Verdict
from streams.signals.outcome import wilson

ENOUGH = 10
"""Verdicts below which a precision is only reported."""
DECORATION = 5
"""A rule is decoration when nobody acted on so many incidents of it, each of them old."""


class ProxyRow(msgspec.Struct, frozen=True, kw_only=True):
    """How one proxy did: `alarms` = confirmed + refuted + open + unknown + censored."""

    model: str
    proxy: str
    alarms: int
    shadow: int
    confirmed: int
    refuted: int
    open: int
    unknown: int
    censored: int
    caught: int
    """Bad episodes that it announced before the labels showed them."""
    late: int
    """Those that it announced no earlier than the labels."""
    missed: int
    precision: tuple[float, float, float] | None
    """Share of the judged alarms that was confirmed, and its interval at 95 %."""
    recall: tuple[float, float, float] | None
    """Share of the bad episodes that it caught, of all three kinds."""
    lead_s: tuple[float, float, float] | None
    """From an alarm to when the labels showed it: median, lower and upper quartile. Below 0: the alarm came later."""
    enough: bool
    """Whether there are enough verdicts to build on."""


class RuleRow(msgspec.Struct, frozen=True, kw_only=True):
    """What was done about the incidents of one rule; `acted` holds those of which only `done` was said too."""

    model: str
    rule: str
    shadow: bool
    published: int
    seen: int
    acted: int
    dismissed: int
    done: int
    share: float | None
    """Of the incidents, those that were acted on."""
    ack_s: float | None
    """Median time from firing to the first ack."""
    decoration: bool
    """It fires, and nobody acts on it."""


class Realised(msgspec.Struct, frozen=True, kw_only=True):
    """False alarms of a model beside its budget: published incidents that were refuted or dismissed, each once."""

    model: str
    false_alarms: int
    weeks: float
    per_week: float
    budget: float


class LedgerRows(msgspec.Struct, frozen=True, kw_only=True):
    """What ledgers say, as `ledger.json` has it."""

    proxies: tuple[ProxyRow, ...]
    rules: tuple[RuleRow, ...]
    realised: tuple[Realised, ...]


def proxy_row(model: str, proxy: str, tally: Tally) -> ProxyRow:
    """The row of one proxy, or of all of them."""
    counts = {str(verdict): tally.verdicts.get(verdict, 0) for verdict in Verdict}
    judged = counts["confirmed"] + counts["refuted"]
    return ProxyRow(
        model=model,
        proxy=proxy,
        alarms=sum(counts.values()),
        shadow=tally.shadow,
        **counts,
        caught=tally.caught,
        late=tally.late,
        missed=tally.missed,
        precision=_share(counts["confirmed"], judged),
        recall=_share(tally.caught, tally.caught + tally.late + tally.missed),
        lead_s=_quartiles(tally.leads_ms),
        enough=judged >= ENOUGH,
    )


def rule_row(model: str, rule: str, shadow: bool, tally: RuleTally) -> RuleRow:
    """The row of one rule."""
    return RuleRow(
        model=model,
        rule=rule,
        shadow=shadow,
        published=tally.published,
        seen=tally.statuses.get(Status.SEEN, 0),
        acted=tally.acted,
        dismissed=tally.statuses.get(Status.DISMISSED, 0),
        done=tally.statuses.get(Status.DONE, 0),
        share=tally.acted / tally.published if tally.published else None,
        ack_s=float(np.median(tally.delays_ms)) / 1000 if tally.delays_ms else None,
        decoration=not shadow and tally.old >= DECORATION and not tally.acted,
    )


def _share(hits: int, n: int) -> tuple[float, float, float] | None:
    """A share, and its score interval."""
    return (hits / n, *wilson(hits, n)) if n else None


def _quartiles(values_ms: tuple[int, ...]) -> tuple[float, float, float] | None:
    """Median, lower and upper quartile, in seconds."""
    if not values_ms:
        return None
    median, low, high = np.quantile(np.array(values_ms, float) / 1000, (0.5, 0.25, 0.75)).tolist()
    return median, low, high
