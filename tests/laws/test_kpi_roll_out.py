"""A KPI is added, or taken away and added again, while its observations come in: no window of it holds half of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streams.backtest import TOPIC
from streams.chunk import ChunkFold
from streams.facts.fold import fact_fold
from streams.judge import BucketJudge
from streams.panes import NO_MARK, next_start
from streams.partial import key_of, pack
from streams.plan import Facts, Plan
from streams.records import Records
from streams.source import SourceFold
from streams.times import rfc3339
from streams.window import Clock
from tests import config_edits
from tests.laws.test_changed_config import NOW_MS, base, compiled
from tests.roll_out import Group, lasts_a_minute, minute_of
from tests.synthetic import MINUTE_MS, MODEL, START_MS, events, lines

OLD, NEW, RATIO = "orders", "refunds", "refund_rate"
PARTITIONS, MINUTES, EVERY_MS = 3, 36, 600
BATCH = 61
"""Records of a partition between two publications."""
PER_PARTITION = MINUTES * MINUTE_MS // EVERY_MS // PARTITIONS


def plan_of(*names: str) -> Plan:
    document = config_edits.parsed(base())
    document["kafka"]["chunk_size"] = 256
    known = {
        OLD: {"aggregate": "sum", "better": "higher"},
        NEW: {"aggregate": "sum", "better": "lower"},
        RATIO: {"aggregate": "ratio", "of": [NEW, OLD], "better": "lower"},
    }
    document["models"][MODEL]["kpis"] = {name: known[name] for name in names}
    return compiled(config_edits.written(document))


@cache
def plans() -> tuple[Plan, Plan]:
    """Without the new KPIs, and with them."""
    return plan_of(OLD), plan_of(OLD, NEW, RATIO)


@cache
def logs() -> list[list[bytes]]:
    """By partition the observations of both KPIs, in turns."""
    found: list[list[bytes]] = [[] for _ in range(PARTITIONS)]
    for number in range(MINUTES * MINUTE_MS // EVERY_MS):
        kpi = (OLD, NEW)[number // PARTITIONS % 2]
        item = {"model": MODEL, "kpi": kpi, "value": 1.0, "ts": rfc3339(START_MS + number * EVERY_MS)}
        found[number % PARTITIONS].append(msgspec.json.encode(item))
    return found


@cache
def whole() -> Counter[int]:
    """Observations of either KPI by minute."""
    return Counter((START_MS + n * 2 * EVERY_MS) // MINUTE_MS for n in range(MINUTES * MINUTE_MS // EVERY_MS // 2))


@cache
def event_partials() -> list[tuple[bytes, bytes]]:
    """The events of the whole time: they hold no KPI up."""
    values = lines(list(events(MINUTES + 4, 7, (), every_ms=4_000)))
    fold = SourceFold(plans()[0], TOPIC, 0, None, NOW_MS)
    steps = fold.take(Records(range(len(values)), [NOW_MS] * len(values), values), NOW_MS)
    steps.append(fold.publish(NOW_MS, caught_up=True, final=True))
    return [(key_of(partial, "events"), pack(partial)) for step in steps for partial in step.partials]


class Kpis(Group):
    """Workers over the observations of both KPIs."""

    def __init__(self) -> None:
        super().__init__(logs(), BATCH, event_partials(), eager=True)

    def judge(self, plan: Plan) -> BucketJudge:
        return BucketJudge(plan, 0, TOPIC, 1, {Facts.OUTCOMES: PARTITIONS})

    def folds(self, plan: Plan) -> Sequence[ChunkFold]:
        return [fact_fold(Facts.OUTCOMES, plan, at, self.progress.get(at), NOW_MS, None) for at in range(PARTITIONS)]

    def books(self, judge: BucketJudge) -> tuple[bytes, object]:
        merge = judge.facts.topics[Facts.OUTCOMES]
        return merge.topic.encode(), merge.books_state()

    def panes(self, kpi: str, since: int = 0) -> dict[int, int]:
        """Observations of the panes that were judged, by their minute."""
        return {
            minute_of(w): w.counts["observations"]
            for w in self.windows[since:]
            if (w.clock, w.kpi, w.version, w.segment, w.revision) == (Clock.KPI, kpi, None, None, 0)
            and lasts_a_minute(w)
        }


def check(group: Kpis, since: int, *names: str) -> None:
    """Panes of the new KPIs that were judged after the first `since` windows are whole, and follow each other."""
    last = max(whole())
    for name in names:
        found = group.panes(name, since)
        starts = sorted(found)
        assert starts and starts == list(range(starts[0], last + 1)), name
        wrong = {at: n for at, n in found.items() if abs(n - whole()[at]) > 1}  # the last one of one of them is odd
        assert not wrong, (name, starts[0], wrong)
    old = group.panes(OLD)
    assert old.keys() == whole().keys(), "the KPI that was always there loses nothing"
    assert all(abs(n - whole()[at]) <= 1 for at, n in old.items())


places = st.lists(st.integers(100, PER_PARTITION // 2), min_size=PARTITIONS, max_size=PARTITIONS)
later = st.integers(1, 150)


@settings(max_examples=3)
@given(places, later, st.booleans())
@example([300, 600, 150], 20, True)
@example([500, 550, 130], 1, False)
def test_a_kpi_that_is_added_is_judged_from_where_all_partitions_count_it(
    at: list[int], then: int, cleans: bool
) -> None:
    """Its first worker may be gone before anything of it was judged."""
    without, with_new = plans()
    group = Kpis()
    group.run(without, at, cleans=cleans)
    group.run(with_new, [place + then for place in at], cleans=cleans)
    group.run(with_new, list(map(len, logs())), cleans=cleans)
    check(group, 0, NEW, RATIO)


@settings(max_examples=3)
@given(places, later, later, st.booleans())
@example([150, 400, 300], 150, 20, True)
def test_a_kpi_that_was_away_is_judged_again_from_where_all_partitions_count_it(
    at: list[int], away: int, then: int, cleans: bool
) -> None:
    without, with_new = plans()
    group = Kpis()
    group.run(with_new, at, cleans=cleans)
    group.run(without, [place + away for place in at], cleans=cleans)
    since = len(group.windows)
    group.run(with_new, [place + away + then for place in at], cleans=cleans)
    group.run(with_new, list(map(len, logs())), cleans=cleans)
    check(group, since, NEW, RATIO)


@pytest.mark.parametrize("cleans", [False, True])
def test_a_kpi_that_is_there_from_the_beginning_is_judged_from_its_first_observation(cleans: bool) -> None:
    group = Kpis()
    group.run(plans()[1], list(map(len, logs())), cleans=cleans)
    check(group, 0, NEW, RATIO)
    assert min(group.panes(NEW)) == min(whole())


def test_a_partition_that_has_no_observation_any_more_is_waited_for_until_the_clock_of_its_last_full_chunk() -> None:
    """Its full chunks may hold some up to then, which were not counted."""
    without, with_new = plans()
    group, at = Kpis(), [512, 600, 300]
    group.run(without, at, cleans=True)
    group.run(with_new, [512, *map(len, logs()[1:])], cleans=True)
    assert not group.panes(NEW)
    judge, future_ms = group.rebuilt(with_new), with_new.config.limits.future_ms
    clocks = judge.judges[MODEL].kpis
    assert judge.facts.whole_from_ms(MODEL, clocks[NEW]) == next_start(NOW_MS + future_ms, MINUTE_MS)
    assert judge.facts.whole_from_ms(MODEL, clocks[OLD]) == NO_MARK
