"""Plan → requirements of a worker on its topics, beyond their existence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from streams.duration import DAY_MS, HOUR_MS
from streams.plan import Facts, Plan

OPEN_CHUNK_MS = HOUR_MS
"""An open chunk may have to be read again from its start: so the log must reach back at least this long."""
REPORTS_MS = 31 * DAY_MS
"""The longest span of a report."""


@dataclass(frozen=True, slots=True)
class Needs:
    """Requirements on topics. Names are without the prefix.

    `paired`: topics that must have as many partitions as `events`. `retention_ms`: by topic, how long its records must
    be kept, and for what.
    """

    events: str
    paired: tuple[str, ...]
    retention_ms: Mapping[str, tuple[int, str]]


def needs_of(plan: Plan) -> Needs:
    """The requirements of a plan."""
    kafka = plan.config.kafka
    labelled = [model for model in plan.models.values() if model.outcomes is not None]
    paired = [kafka.labels] if labelled else []
    if Facts.FEEDBACK in plan.kinds:
        paired.append(kafka.feedback)
    lateness_ms = max((model.config.lateness_ms for model in plan.models.values()), default=0)
    chunk = "a chunk that was not full is counted again from its start after a restart"
    needs = {name: (OPEN_CHUNK_MS, chunk) for name in (kafka.inference, *map(plan.topic_of, plan.kinds))}
    if labelled:
        horizon_ms = max(model.horizon_ms for model in labelled) + lateness_ms
        join = "a label join whose store is lost is rebuilt from it, and what it has forgotten is gone from the truth"
        needs |= {kafka.inference: (horizon_ms, join), kafka.labels: (horizon_ms, join)}
    needs |= {
        "windows": (REPORTS_MS, "the monthly report is made of it"),
        "actions": (REPORTS_MS, "the monthly report and consumers that come later read it"),
    }
    return Needs(kafka.inference, tuple(paired), needs)
