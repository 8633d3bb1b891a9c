"""A model is added, or taken away and added again, while its events come in: no window of it holds half of them."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from functools import cache

from hypothesis import example, given, settings
from hypothesis import strategies as st

from streams.backtest import TOPIC
from streams.chunk import ChunkFold
from streams.judge import BucketJudge
from streams.plan import Plan
from streams.source import SourceFold
from streams.window import Clock
from tests import config_edits
from tests.laws.test_changed_config import NOW_MS, base, compiled
from tests.roll_out import Group, lasts_a_minute, minute_of
from tests.synthetic import MINUTE_MS, MODEL, START_MS, events, lines

NEW, PARTITIONS, MINUTES, EVERY_MS = "bank", 3, 36, 600
BATCH = 97
"""Records of a partition between two publications."""
PER_PARTITION = 2 * MINUTES * MINUTE_MS // EVERY_MS // PARTITIONS


@cache
def plans() -> tuple[Plan, Plan]:
    """Without the new model, and with it."""
    document = config_edits.parsed(base())
    document["kafka"]["chunk_size"] = 256
    without = compiled(config_edits.written(document))
    document["models"][NEW] = copy.deepcopy(document["models"][MODEL])
    return without, compiled(config_edits.written(document))


@cache
def logs() -> list[list[bytes]]:
    """By partition the events of both models, in turns."""
    rows = []
    for row in events(MINUTES, 7, (), every_ms=EVERY_MS):
        rows += [row, {**row, "model": NEW, "event_id": f"{NEW}-{row['event_id']}"}]
    return [lines(rows[at::PARTITIONS]) for at in range(PARTITIONS)]


@cache
def whole() -> Counter[int]:
    """Events of the new model by minute."""
    return Counter((START_MS + n * EVERY_MS) // MINUTE_MS for n in range(MINUTES * MINUTE_MS // EVERY_MS))


class Models(Group):
    """Workers over the events of both models."""

    def __init__(self) -> None:
        super().__init__(logs(), BATCH)

    def judge(self, plan: Plan) -> BucketJudge:
        return BucketJudge(plan, 0, TOPIC, PARTITIONS)

    def folds(self, plan: Plan) -> Sequence[ChunkFold]:
        return [SourceFold(plan, TOPIC, at, self.progress.get(at), NOW_MS) for at in range(PARTITIONS)]

    def books(self, judge: BucketJudge) -> tuple[bytes, object]:
        return b"", judge.merge.books_state()

    def panes(self, model: str, since: int = 0) -> dict[int, int]:
        """Events of the panes that were published, by their minute: of each the last revision."""
        return {
            minute_of(w): w.counts["events"]
            for w in sorted(self.windows[since:], key=lambda w: w.revision)
            if (w.model, w.clock, w.version, w.segment) == (model, Clock.EVENT, None, None) and lasts_a_minute(w)
        }


def check(group: Models, since: int) -> None:
    """Panes of the new model that were judged after the first `since` windows are whole, and follow each other."""
    found = group.panes(NEW, since)
    starts = sorted(found)
    assert starts == list(range(starts[0], starts[-1] + 1)) and starts[-1] == max(whole())
    wrong = {at: n for at, n in found.items() if n != whole()[at] and at != max(whole())}
    assert not wrong, (starts[0], wrong)
    assert {at: n for at, n in group.panes(MODEL).items() if at != max(whole())} == {
        at: n for at, n in whole().items() if at != max(whole())
    }, "the model that was always there loses nothing"


places = st.lists(st.integers(200, PER_PARTITION // 2), min_size=PARTITIONS, max_size=PARTITIONS)
later = st.integers(1, 300)


@settings(max_examples=4)
@given(places, later, st.booleans())
@example([300, 900, 600], 40, True)
def test_a_model_that_is_added_is_judged_from_where_all_partitions_count_it(
    at: list[int], then: int, cleans: bool
) -> None:
    """Its first worker may be gone before anything of it was judged."""
    without, with_new = plans()
    group = Models()
    group.run(without, at, cleans=cleans)
    group.run(with_new, [place + then for place in at], cleans=cleans)
    group.run(with_new, list(map(len, logs())), cleans=cleans)
    check(group, 0)


@settings(max_examples=4)
@given(places, later, later, st.booleans())
@example([300, 700, 600], 300, 40, True)
def test_a_model_that_was_away_is_judged_again_from_where_all_partitions_count_it(
    at: list[int], away: int, then: int, cleans: bool
) -> None:
    without, with_new = plans()
    group = Models()
    group.run(with_new, at, cleans=cleans)
    group.run(without, [place + away for place in at], cleans=cleans)
    since = len(group.windows)
    group.run(with_new, [place + away + then for place in at], cleans=cleans)
    group.run(with_new, list(map(len, logs())), cleans=cleans)
    check(group, since)


def test_a_model_that_is_there_from_the_beginning_is_judged_from_its_first_event() -> None:
    group = Models()
    group.run(plans()[1], list(map(len, logs())), cleans=True)
    assert min(group.panes(NEW)) == min(whole())
