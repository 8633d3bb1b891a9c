"""Merges without an evaluator: panes count as evaluated as soon as they are taken."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from streams.facts.merge import Clocked, FactsMerge, KpiPane
from streams.merge import BucketMerge, ClosedPane, ModelMerge
from streams.model_panes import ModelPanes
from streams.state import ModelState


def evaluated(model: ModelPanes, **times: Any) -> None:
    """Moves the model's progress to these fields of a state; what was before the first pane begins there."""
    before = model.progress.state
    if isinstance(before, ModelState):
        model.progress.state = msgspec.structs.replace(before, **times)
    else:
        first_ms = times.get("judged_until_ms", 0)
        begun = {"judged_until_ms": first_ms, "first_pane_ms": first_ms, "last_event_pane_ms": first_ms}
        model.progress.state = ModelState(model=model.plan.name, **(begun | times))


def closed_events(merge: BucketMerge, model: ModelMerge) -> Iterator[ClosedPane]:
    for pane in merge.close(model):
        end_ms = pane.start_ms + model.plan.config.pane_ms
        first = {} if model.progress.state else {"first_pane_ms": pane.start_ms}
        events = {"last_event_pane_ms": pane.start_ms} if pane.on_time or first else {}
        evaluated(model, judged_until_ms=end_ms, **first, **events)
        yield pane


def closed_labels(merge: BucketMerge, model: ModelMerge, reach_ms: int) -> Iterator[ClosedPane]:
    for pane in merge.close_outcomes(model, reach_ms):
        evaluated(model, labels_until_ms=pane.start_ms + model.plan.config.pane_ms)
        yield pane


def closed_kpi(
    facts: FactsMerge, model: ModelPanes, clock: Clocked, watermark_ms: int, first_ms: int
) -> Iterator[KpiPane]:
    for pane in facts.close(model.plan.name, clock, watermark_ms, first_ms):
        evaluated(model, kpis_until_ms={clock.name: pane.start_ms + model.plan.config.pane_ms})
        yield pane
