"""How far a model has been evaluated: one record, moved by the model's evaluator and read by the merges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from streams.panes import NO_MARK

EVENTS_CLOCK = ""
"""The clock of events, among those of KPIs."""


class ProgressState(Protocol):
    """The part of a model's state that says how far it has been evaluated."""

    @property
    def judged_until_ms(self) -> int: ...
    @property
    def first_pane_ms(self) -> int: ...
    @property
    def last_event_pane_ms(self) -> int: ...
    @property
    def labels_until_ms(self) -> int | None: ...
    @property
    def kpis_until_ms(self) -> Mapping[str, int]: ...
    @property
    def gaps(self) -> Mapping[str, Sequence[tuple[int, int]]]: ...


@dataclass(slots=True)
class EvaluationProgress:
    """How far a model has been evaluated by each of its clocks: events, labels, and every KPI.

    The model's evaluator owns it: each new state of the model moves it. Before the first state every time is None.
    """

    state: ProgressState | None = None

    @property
    def events_until_ms(self) -> int | None:
        return None if self.state is None else self.state.judged_until_ms

    @property
    def first_pane_ms(self) -> int | None:
        return None if self.state is None else self.state.first_pane_ms

    @property
    def last_event_pane_ms(self) -> int | None:
        return None if self.state is None else self.state.last_event_pane_ms

    @property
    def labels_until_ms(self) -> int | None:
        return None if self.state is None else self.state.labels_until_ms

    def until_ms(self, clock: str) -> int | None:
        """Panes up to here have been evaluated by the clock of events, or of a KPI; None: none has."""
        return self.events_until_ms if clock == EVENTS_CLOCK else self.kpi_until_ms(clock)

    def kpi_until_ms(self, kpi: str) -> int | None:
        return None if self.state is None else self.state.kpis_until_ms.get(kpi)

    def kpi_whole_from_ms(self, kpi: str) -> int:
        """Panes of a KPI before this one are not whole; NO_MARK: all are."""
        gaps = () if self.state is None else self.state.gaps.get(kpi, ())
        return max((end_ms for _, end_ms in gaps), default=NO_MARK)
