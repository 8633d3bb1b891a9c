"""A silence is judged as far as windows reach into it: events and labels against a plain list of the panes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hypothesis import example, given
from hypothesis import strategies as st

from streams.merge import BucketMerge
from streams.model_panes import PaneState
from streams.outcome_panes import OutcomePane
from streams.partial import LabelBooksPartial
from tests.closing import closed_events, closed_labels, evaluated
from tests.merge_cases import START, M, apply, books, merge_of
from tests.strategies import plan_of
from tests.unit.test_facts import cells

MOST_EMPTY = 3
"""Empty panes beyond the longest window."""


def merge_with(over: int, pane_minutes: int = 1) -> BucketMerge:
    return merge_of(
        plan=plan_of(f"""
kafka: {{buckets: 1}}
models:
  a:
    pane: {pane_minutes}m
    grace: 1m
    lateness: 10m
    labels: {{task: binary, classes: ["0", "1"], horizon: 1h}}
    features: {{x: {{type: numeric}}}}
    rules: [{{name: slow, signals: [request_rate], response: rollback, over: {over * pane_minutes}m}}]
""")
    )


def judged(full: Iterable[int], until: float, reach: int) -> list[int]:
    """Numbers of the panes that are judged, from the first full one on, up to a time in panes."""
    found: list[int] = []
    full = sorted(full)
    for last, following in zip(full, [*full[1:], 10**9], strict=True):
        found += range(last, min(following, last + reach + MOST_EMPTY + 1))
    return [number for number in found if number + 1 <= until]


panes = st.lists(st.sampled_from([1, 1, 2, 8, 30]), min_size=1, max_size=5).map(
    lambda steps: [sum(steps[:at]) for at in range(len(steps))]
)
untils = st.lists(st.integers(0, 120), min_size=1, max_size=3).map(sorted)
reaches, lengths = st.integers(1, 6), st.sampled_from([1, 2])


@given(panes, untils, reaches, lengths)
@example([0], [100], 5, 1)
def test_panes_of_events_are_judged_in_a_silence_as_far_as_the_longest_window_reaches(
    full: list[int], untils: Sequence[int], reach: int, length: int
) -> None:
    merge = merge_with(reach, length)
    model = merge.models["a"]
    for number in full:
        model.panes[START + number * length * M] = PaneState(model.plan.segmentation, on_time=cells(1))
    found = []
    for end, minute in enumerate(untils):
        apply(merge, books(minute, end=end))
        found += [(pane.start_ms - START) // (length * M) for pane in closed_events(merge, model)]
    assert found == judged(full, (untils[-1] - 1) / length, reach)


@given(panes, untils, reaches, lengths)
@example([0], [100], 5, 1)
def test_panes_of_labels_are_judged_in_a_silence_as_far_as_it_is_looked_back(
    full: list[int], untils: Sequence[int], reach: int, length: int
) -> None:
    merge = merge_with(1, length)
    model = merge.models["a"]
    evaluated(model, judged_until_ms=START)
    model.outcomes.marks_ms[0] = START + 1_000 * M
    arrivals = model.outcomes.arrivals
    arrivals |= {START + number * length * M: OutcomePane(model.plan.segmentation) for number in full}
    found = []
    for end, minute in enumerate(untils):
        apply(merge, books(1_000, end=end))
        mark_ms = START + minute * M
        merge.label_sources[0] = LabelBooksPartial(
            "labels", 0, (end, end), 0, mark_ms, mark_ms, mark_ms, False, False, []
        )
        panes = closed_labels(merge, model, reach * length * M)
        found += [(pane.start_ms - START) // (length * M) for pane in panes]
    assert found == judged(full, (untils[-1] - 1) / length, reach)
