"""Stage 1 over a log that is truncated, made anew or cut as workers come and go: each record counts once or is lost."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from streams.chunk import Step
from streams.partial import BooksPartial, PanePartial, Partial, key_of
from streams.position import generation_of, offset_of, position
from streams.progress import Progress
from streams.records import Records
from streams.resume import Change, Log, Published, needs_published, resume
from streams.source import SourceFold
from tests.strategies import CLOCK_MS, START_MS, TOPIC, Stage2, plan_of

PLAN = plan_of()
MODELS = ("alpha", "beta", "gamma", "undeclared")


def published_of(partials: Sequence[Partial], progress: Progress) -> Published | None:
    """What the shell finds when it reads the log of partials."""
    end, marks = 0, dict[str, int]()
    for partial in partials:
        if isinstance(partial, PanePartial | BooksPartial):
            end = max(end, partial.end_offset)
        if isinstance(partial, BooksPartial):
            for part in partial.models:
                if part.mark_ms is not None:
                    marks[part.model] = max(part.mark_ms, marks.get(part.model, part.mark_ms))
    return Published(end, marks) if partials else None


@dataclass
class World:
    """One partition, its worker, and the two logs that outlive both."""

    generation: int = 0
    name: str = "id0"
    start: int = 0
    end: int = 0
    clock_ms: int = CLOCK_MS
    progress: Progress | None = None
    partials: list[Partial] = field(default_factory=list)
    fold: SourceFold | None = None
    counted: set[int] = field(default_factory=set)
    """Positions that a publication has covered."""
    read: set[int] = field(default_factory=set)
    """Positions that the present fold has read and not published."""
    lost: int = 0
    changes: list[Change] = field(default_factory=list)

    def record(self, at: int) -> bytes:
        fields: dict[str, Any] = {"event_id": str(at), "ts": START_MS + (at % 997) * 1_000, "model": MODELS[at % 4]}
        return json.dumps(fields | {"features": {"amount": at % 5}}).encode()

    def assign(self) -> SourceFold:
        log = Log(self.name, self.start, self.end)
        known = None
        if needs_published(self.progress, log):
            known = published_of(self.partials, self.progress or Progress(0, {}))
        found = resume(self.progress, log, known)
        self.changes.append(found.change)
        self.lost += found.lost
        self.progress = found.progress
        self.generation = generation_of(found.progress.next_offset)
        self.read = set()
        self.fold = SourceFold(PLAN, TOPIC, 0, self.progress, self.clock_ms)
        return self.fold

    def go_on(self, most: int, *, publish: bool) -> None:
        """Reads, as a worker does that finds out at the fetch what has become of the log."""
        fold = self.fold
        at = None if fold is None else offset_of(fold.resume_offset)
        if (
            fold is None
            or at is None
            or self.progress is None
            or self.progress.logs[-1] != self.name
            or at < self.start
            or at > self.end
        ):
            fold = self.assign()
        at = offset_of(fold.next_offset)
        offsets = [position(self.generation, offset) for offset in range(at, min(at + most, self.end))]
        if offsets:
            records = Records(offsets, [CLOCK_MS] * len(offsets), [self.record(offset) for offset in offsets])
            self.read |= set(offsets)
            self._send(fold.take(records, self.clock_ms))
        if publish:
            self._send([fold.publish(self.clock_ms, caught_up=False)])
            self.counted |= self.read
            self.read = set()
        self.clock_ms += 700

    def _send(self, steps: Sequence[Step]) -> None:
        for step in steps:
            self.partials += step.partials
            if step.progress is not None:
                self.progress = step.progress
                full = {at for at in self.read if at < step.progress.next_offset}
                self.counted |= full
                self.read -= full


Move = tuple[str, int]
moves = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(("append", "append", "read", "publish", "publish", "truncate")), st.integers(1, 25)),
        st.tuples(st.sampled_from(("crash", "anew")), st.just(0)),
    ),
    max_size=40,
)


def play(plays: Sequence[Move]) -> World:
    world = World()
    made = 0
    for name, number in plays:
        if name == "append":
            world.end += number
        elif name == "read":
            world.go_on(number, publish=False)
        elif name == "publish":
            world.go_on(number, publish=True)
        elif name == "truncate":
            world.start = min(world.end, world.start + number)
        elif name == "crash":
            world.fold = None
        elif name == "anew":
            made += 1
            world.name, world.start, world.end = f"id{made}", 0, 0
    while True:
        world.go_on(1_000, publish=True)
        assert world.fold is not None
        if offset_of(world.fold.next_offset) >= world.end:
            return world


@settings(max_examples=60)
@given(moves, st.randoms(use_true_random=False))
def test_every_record_is_counted_once_or_lost_once(plays: list[Move], random: Any) -> None:
    world = play(plays)
    stage2 = Stage2(PLAN).apply(world.partials)
    books = stage2.books()
    assert sum(item.read for item in books.values()) == len(world.counted)
    assert all(item.balanced() for item in books.values())
    assert sum(sum(merge.lost.values()) for merge in stage2.merges) == world.lost
    last = {at for at in world.counted if generation_of(at) == world.generation}
    if world.generation == 0:
        assert len(last) + world.lost == world.end - (world.progress.began if world.progress else 0)
    assert set(range(world.start, world.end)) <= {offset_of(at) for at in last}
    order = [(float(at), partial) for at, partial in enumerate(world.partials)]
    order += [(random.uniform(at, len(order)), partial) for at, partial in random.sample(order, len(order) // 2)]
    repeats = [partial for _, partial in sorted(order, key=lambda item: item[0])]
    again = Stage2(PLAN).apply(repeats)
    assert (again.books(), again.panes()) == (books, stage2.panes())
    assert sum(sum(merge.lost.values()) for merge in again.merges) == world.lost


@settings(max_examples=30)
@given(moves)
def test_publications_of_parts_that_add_up_have_keys_of_their_own(plays: list[Move]) -> None:
    """Otherwise compaction would keep the last of them alone. After a crash they would have another incarnation."""
    world = play([item for item in plays if item[0] != "crash"])
    latest: dict[bytes, Partial] = {}
    for partial in world.partials:
        key = key_of(partial, "one incarnation")
        latest.pop(key, None)  # what is kept is kept where it was written last
        latest[key] = partial
    whole, kept = Stage2(PLAN).apply(world.partials), Stage2(PLAN).apply(latest.values())
    assert kept.books() == whole.books() and kept.panes() == whole.panes()


def test_progress_beyond_the_logs_end_is_believed_only_if_something_was_published_so_far() -> None:
    progress = Progress(96, {"alpha": 5}, ["a"], 0)
    cut = resume(progress, Log("a", 0, 90), Published(100, {}))
    assert (cut.change, cut.progress.next_offset) == (Change.CUT, position(1, 90))
    hostile = resume(Progress(10**12, {"alpha": 2**61}, ["a"], 0), Log("a", 0, 90), Published(40, {"alpha": 7}))
    assert (hostile.change, hostile.progress.next_offset, hostile.progress.marks_ms) == (
        Change.BEYOND,
        40,
        {"alpha": 7},
    )
    nothing = resume(Progress(10**12, {}, ["a"], 0), Log("a", 3, 90), None)
    assert (nothing.change, nothing.progress.next_offset) == (Change.BEYOND, 3)


def test_what_an_earlier_release_wrote_is_taken_to_be_of_the_log_that_is_there() -> None:
    found = resume(Progress(64, {"alpha": 5}), Log("a", 0, 90))
    assert (found.change, found.progress) == (Change.IDENTIFIED, Progress(64, {"alpha": 5}, ["a"]))
    assert resume(found.progress, Log("b", 0, 90)).progress.logs == ["a", "b"]


def test_a_log_that_never_was_read_is_begun_at_its_start_and_nothing_of_it_is_lost() -> None:
    found = resume(None, Log("a", 1_000, 2_000), None)
    assert (found.change, found.lost, found.progress) == (Change.BEGUN, 0, Progress(1_000, {}, ["a"], 1_000))


def test_where_the_broker_gives_no_ids_a_log_stays_the_same() -> None:
    known = Progress(64, {}, ["a"])
    assert resume(known, Log("", 0, None)).progress.logs == ["a"]
    assert resume(Progress(64, {}, [""]), Log("b", 0, None)).progress.logs == ["b"]
