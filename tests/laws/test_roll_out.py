"""A model is added, or taken away and added again, while its events come in: no window of it holds half of them."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import chain

from hypothesis import example, given, settings
from hypothesis import strategies as st

from streams.backtest import TOPIC
from streams.judge import BucketJudge
from streams.kept import restore_record
from streams.partial import key_of, pack, unpack
from streams.plan import Plan
from streams.progress import Progress
from streams.publication import BOOKS_KEY, publications
from streams.records import Records
from streams.source import SourceFold
from streams.state import pack_state
from streams.times import instant_ms
from streams.window import Clock, WindowRecord
from tests import config_edits
from tests.laws.test_changed_config import NOW_MS, base, compiled
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


@dataclass
class Group:
    """Topics, and workers over all partitions of them, one after the other."""

    partials: dict[bytes, bytes] = field(default_factory=dict)
    state: dict[bytes, bytes] = field(default_factory=dict)
    progress: dict[int, Progress] = field(default_factory=dict)
    windows: list[WindowRecord] = field(default_factory=list)
    workers: int = 0

    def run(self, plan: Plan, ends: Sequence[int], *, cleans: bool) -> None:
        """A worker reads the partitions up to these offsets, and is gone. `cleans`: it deletes what nothing needs."""
        self.workers += 1
        judge = self._rebuilt(plan)
        self._publish(judge)
        folds = [SourceFold(plan, TOPIC, at, self.progress.get(at), NOW_MS) for at in range(PARTITIONS)]
        reached = [fold.next_offset for fold in folds]
        while any(at < end for at, end in zip(reached, ends, strict=True)):
            for fold, end in zip(folds, ends, strict=True):
                first, last = reached[fold.partition], min(reached[fold.partition] + BATCH, end)
                if first < last:
                    self._count(judge, fold, first, last)
                    reached[fold.partition] = last
            self._publish(judge)
            if cleans:
                self._clean(judge)

    def _count(self, judge: BucketJudge, fold: SourceFold, first: int, last: int) -> None:
        values = logs()[fold.partition]
        steps = fold.take(Records(range(first, last), [NOW_MS] * (last - first), values[first:last]), NOW_MS)
        for step in [*steps, fold.publish(NOW_MS, caught_up=False, final=last == len(values))]:
            for partial in step.partials:
                key, data = key_of(partial, str(self.workers)), pack(partial)
                self.partials.pop(key, None)
                self.partials[key] = data
                judge.apply(unpack(data), key)
            if step.progress is not None:
                self.progress[fold.partition] = step.progress

    def _rebuilt(self, plan: Plan) -> BucketJudge:
        judge = BucketJudge(plan, 0, TOPIC, PARTITIONS)
        for key, value in sorted(self.state.items(), key=lambda item: item[0].startswith(b"\0")):
            restore_record(judge, key, value)
        for key, value in self.partials.items():
            judge.apply(unpack(value), key, fresh=False)
        for _ in judge.resume():
            pass
        return judge

    def _publish(self, judge: BucketJudge) -> None:
        for outcome in judge.advance():
            assert outcome.parked is None, outcome.parked
            self.windows += outcome.windows
            for record in chain.from_iterable(publications(outcome)):
                if record.topic == "state" and record.value is not None:
                    self.state[record.key] = record.value
                elif record.topic == "state":
                    self.state.pop(record.key, None)

    def _clean(self, judge: BucketJudge) -> None:
        books = pack_state(judge.merge.books_state())
        if keys := judge.expire():
            self.state[BOOKS_KEY] = books
            for key in keys:
                self.partials.pop(key, None)

    def panes(self, model: str, since: int = 0) -> dict[int, int]:
        """Events of the panes that were published, by their minute: of each the last revision."""
        return {
            instant_ms(w.start) // MINUTE_MS: w.counts["events"]
            for w in sorted(self.windows[since:], key=lambda w: w.revision)
            if (w.model, w.clock, w.version, w.segment) == (model, Clock.EVENT, None, None)
            and instant_ms(w.end) - instant_ms(w.start) == MINUTE_MS
        }


def check(group: Group, since: int) -> None:
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
    group = Group()
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
    group = Group()
    group.run(with_new, at, cleans=cleans)
    group.run(without, [place + away for place in at], cleans=cleans)
    since = len(group.windows)
    group.run(with_new, [place + away + then for place in at], cleans=cleans)
    group.run(with_new, list(map(len, logs())), cleans=cleans)
    check(group, since)


def test_a_model_that_is_there_from_the_beginning_is_judged_from_its_first_event() -> None:
    group = Group()
    group.run(plans()[1], list(map(len, logs())), cleans=True)
    assert min(group.panes(NEW)) == min(whole())
