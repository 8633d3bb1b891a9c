"""What is known of a side input's past, against the plain list of its panes."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from streams.cells import Segmentation
from streams.duration import DAY_MS, HOUR_MS, WEEK_MS
from streams.facts.history import History
from streams.facts.merge import FactsMerge
from streams.judge_model import ModelJudge
from streams.model_panes import PaneState, Source
from streams.partial import Books, BooksPart
from streams.plan import Facts
from tests.closing import closed_kpi
from tests.laws.test_silence import judged, panes, reaches, untils
from tests.strategies import MINUTE_MS, plan_of
from tests.unit.test_facts import cells, number

START_MS = 2_000 * DAY_MS
LONGEST_MS = 2 * DAY_MS
PANES = st.sampled_from([(2 * MINUTE_MS, 15 * HOUR_MS), (HOUR_MS, 35 * DAY_MS), (DAY_MS, 60 * DAY_MS)])
"""Length of a pane, and of the stream."""


@settings(max_examples=25)
@given(PANES, st.floats(0.3, 1), st.lists(st.tuples(st.floats(0, 1), st.integers(1, 30)), max_size=3), st.floats(0, 1))
def test_what_is_not_wholly_known_or_not_over_is_no_past(
    lengths: tuple[int, int], share: float, holes: list[tuple[float, int]], until: float
) -> None:
    """The hours and days that lie whole between two gaps, at most four weeks back; the panes of the last hour, or the
    last sixty hours."""
    pane_ms, stream_ms = lengths
    history = History(pane_ms, LONGEST_MS, DAY_MS, Segmentation((), (), 8))
    hour_ms, end_ms = history.hour_ms, START_MS + int(share * stream_ms) // pane_ms * pane_ms
    full = {at: 1 + (at // pane_ms) % 7 for at in range(START_MS, end_ms, pane_ms)}
    for at, told in full.items():
        history.close(at, cells(told))
    gaps = [(START_MS + int(at * stream_ms), START_MS + int(at * stream_ms) + n * HOUR_MS) for at, n in holes]
    history.gaps = gaps

    def is_known(from_ms: int, until_ms: int) -> bool:
        return not any(low < until_ms and from_ms < high for low, high in gaps)

    def total(from_ms: int, until_ms: int) -> int:
        return sum(told for at, told in full.items() if from_ms <= at < until_ms)

    hours = range(START_MS, end_ms - hour_ms + 1, hour_ms)
    gone_ms = end_ms - 4 * WEEK_MS - LONGEST_MS - 2 * hour_ms
    assert [at for _, _, at in history.forget(end_ms)] == [at for at in hours if at < gone_ms]
    hours = range(max(START_MS, -(-gone_ms // hour_ms) * hour_ms), hours.stop, hour_ms)
    assert sorted(history.hours) == list(hours)
    at_ms = START_MS + int(until * (end_ms - START_MS)) // pane_ms * pane_ms
    recent = [at for at in sorted(history.panes) if at_ms - HOUR_MS <= at < at_ms and is_known(at, at + pane_ms)]
    earlier = [at for at in hours if at + hour_ms <= at_ms and is_known(at, at + hour_ms)][-60:]
    expected = [(full[at], pane_ms) for at in recent]
    if len(recent) < 20:
        expected = [(total(at, at + hour_ms), hour_ms) for at in earlier]
    assert [(number(past.cells), past.span_ms) for past in history.before(at_ms)] == expected
    first_ms, last_ms = end_ms - pane_ms, end_ms
    for step_ms, most, least in ((WEEK_MS, 4, 2), (DAY_MS, 7, 3)):
        spans = [
            ((first_ms - k * step_ms) // hour_ms * hour_ms, -(-(last_ms - k * step_ms) // hour_ms) * hour_ms)
            for k in range(1, most + 1)
        ]
        spans = [span for span in spans if span[0] >= START_MS and is_known(*span)]
        if len(spans) >= least:
            break
        spans = []
    found = [(number(past.cells), past.span_ms) for past in history.earlier(first_ms, last_ms)]
    assert found == [(total(*span), span[1] - span[0]) for span in spans]


RULES = "    rules:\n      - {name: r, signals: [kpi], features: [loss], over: [1m, 5m], response: human_review}\n"


@given(st.sampled_from(["sum", "mean"]), st.lists(st.tuples(st.integers(-9, 9), st.integers(1, 3)), max_size=2))
def test_a_sum_is_told_of_windows_of_which_all_is_known_and_any_figure_of_those_without_a_gap(
    aggregate: str, holes: list[tuple[int, int]]
) -> None:
    kpis = f"    kpis: {{loss: {{aggregate: {aggregate}, better: lower, target: 100}}}}\n"
    text = f"models:\n  m:\n    pane: 1m\n    features: {{}}\n{kpis}{RULES}"
    clock = ModelJudge(plan_of(text).models["m"], kinds={Facts.OUTCOMES}).kpis["loss"]
    clock.first_ms = START_MS
    clock.follow_gaps([(START_MS + at * MINUTE_MS, START_MS + (at + n) * MINUTE_MS) for at, n in holes])
    for end in range(1, 12):
        for over in (1, 5):
            covered = set(range(end - over, end))
            known = covered.isdisjoint(at for low, n in holes for at in range(low, low + n))
            whole = known and (aggregate == "mean" or end >= over)
            assert clock.is_whole(START_MS + end * MINUTE_MS, over * MINUTE_MS) == whole


@given(panes, untils, reaches)
def test_a_silence_of_a_kpi_is_judged_as_far_as_the_longest_window_reaches_and_when_it_is_over(
    full: list[int], untils: Sequence[int], reach: int
) -> None:
    kpis = "    kpis: {loss: {aggregate: sum, better: lower, target: 100}}\n"
    rules = RULES.replace("5m", f"{reach}m").replace("1m, 1m", "1m")
    compiled = plan_of(f"models:\n  m:\n    pane: 1m\n    grace: 1m\n    features: {{}}\n{kpis}{rules}")
    facts = FactsMerge(compiled, compiled.config.bucket("m"), {Facts.OUTCOMES: 1})
    clock = ModelJudge(compiled.models["m"], kinds={Facts.OUTCOMES}).kpis["loss"]
    topic = facts.topics[Facts.OUTCOMES]
    (model,) = topic.models.values()
    model.panes = {START_MS + at * MINUTE_MS: PaneState(model.plan.segmentation, on_time=cells(1)) for at in full}
    topic.sources[0] = Source(caught_up=False)
    found = []
    for until in untils:
        topic._version += 1
        model.marks[0] = BooksPart("m", Books(), START_MS + until * MINUTE_MS, 0)
        closed = closed_kpi(facts, model, clock, START_MS + 1_000 * MINUTE_MS, START_MS)
        found += [(pane.start_ms - START_MS) // MINUTE_MS for pane in closed]
    assert found == [number for number in judged(full, untils[-1] - 1, reach) if number <= full[-1]]
