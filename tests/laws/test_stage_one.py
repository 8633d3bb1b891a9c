"""Stage 1 under every split, crash, zombie and disorder: the same counts, and books that balance."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.chunk import BEAT_MS, Step
from streams.partial import BooksPartial, PanePartial, Partial, key_of, pack
from streams.plan import Plan
from streams.progress import Progress
from streams.sketch.names import rank
from streams.sketch.profile import Profile
from streams.source import SourceFold
from tests.plain_time import PlainTime, without_votes
from tests.strategies import (
    CLOCK_MS,
    MINUTE_MS,
    START_MS,
    TOPIC,
    Draft,
    Stage2,
    parts_of,
    plan_of,
    readable_cells,
    records_of,
    splits,
    streams,
)

T = TypeVar("T")
PLAN = plan_of()
GRACE_MS = {name: model.config.grace_ms for name, model in PLAN.models.items()}
LATENESS_MS = {name: model.config.lateness_ms for name, model in PLAN.models.items()}
PANE_MS = {name: model.config.pane_ms for name, model in PLAN.models.items()}


@pytest.fixture(autouse=True, scope="module")
def _few_records() -> Iterator[None]:
    """The drawn streams are short, and hold late records all the same."""
    with without_votes():
        yield


@dataclass
class Worker:
    """One incarnation: what it sent to the two logs, in order."""

    progress: Progress | None = None
    clock_ms: int = CLOCK_MS
    partition: int = 0
    plan: Plan = PLAN
    partials: list[Partial] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.fold = SourceFold(self.plan, TOPIC, self.partition, self.progress, self.clock_ms)

    def read(self, drafts: Sequence[Draft], *, publish: bool = True) -> None:
        if drafts:
            self._send(self.fold.take(records_of(drafts), self.clock_ms))
        if publish:
            self.publish()

    def publish(self) -> None:
        self._send([self.fold.publish(self.clock_ms, caught_up=False)])

    def _send(self, steps: Sequence[Step]) -> None:
        for step in steps:
            self.steps.append(step)
            self.partials += step.partials
            self.progress = step.progress or self.progress
        self.clock_ms += 700


def run(drafts: Sequence[Draft], cuts: Sequence[float] = ()) -> Worker:
    """An undisturbed worker that publishes after each part."""
    worker = Worker()
    for part in parts_of(drafts, cuts):
        worker.read(part)
    return worker


def rest(drafts: Sequence[Draft], progress: Progress | None) -> list[Draft]:
    """What a worker reads that resumes there."""
    return [draft for draft in drafts if progress is None or draft.offset >= progress.next_offset]


@settings(max_examples=30)
@given(streams(), splits, st.booleans())
def test_any_split_into_batches_gives_the_same_final_publications(
    drafts: list[Draft], cuts: list[float], often: bool
) -> None:
    whole, split = run(drafts), Worker()
    for part in parts_of(drafts, cuts):
        split.read(part, publish=often)
    split.publish()
    assert last_publications(split.partials) == last_publications(whole.partials)
    assert rejected(split) == rejected(whole)
    # A batch that ends with its chunk cannot see that the log skips the next one: there may be a progress more.
    assert all(progress in resumes(split) for progress in resumes(whole))


def resumes(worker: Worker) -> list[Progress]:
    return [step.progress for step in worker.steps if step.progress]


def last_publications(partials: Sequence[Partial]) -> dict[bytes, Any]:
    """Per identity what its last publication says of the sketches and the books."""
    found: dict[bytes, Any] = {}
    for partial in partials:
        if isinstance(partial, PanePartial):
            found[key_of(partial, "")] = {
                part.model: [
                    readable_cells({cell.key: Profile.from_bytes(cell.profile) for cell in cells})
                    for cells in (part.on_time, part.welcome)
                ]
                for part in partial.models
            }
        else:
            said = {part.model: (part.books, part.mark_ms) for part in partial.models if part.books.read}
            found[key_of(partial, "")] = found.get(key_of(partial, ""), {}) | said
    return {key: said for key, said in found.items() if said}


def rejected(worker: Worker) -> list[tuple[int, str]]:
    """Offset and reason of every reject, in the order of the log."""
    return sorted((item.offset, item.reject.reason) for step in worker.steps for item in step.rejects)


@settings(max_examples=30)
@given(streams(), splits, st.lists(st.floats(0, 1), min_size=1, max_size=3))
def test_a_worker_killed_anywhere_is_resumed_without_a_trace(
    drafts: list[Draft], cuts: list[float], kills: list[float]
) -> None:
    """A kill may fall between any two sends: each incarnation's log ends anywhere, and so does its progress."""
    log: list[Partial] = []
    progress: Progress | None = None
    for kill in kills:
        worker = Worker(progress)
        for part in parts_of(rest(drafts, progress), cuts):
            worker.read(part)
        sends: list[Partial | Progress] = []
        for step in worker.steps:
            sends += step.partials
            sends += [step.progress] if step.progress else []
        for sent in sends[: int(kill * len(sends))]:
            if isinstance(sent, Progress):
                progress = sent
            else:
                log.append(sent)
    last = Worker(progress)
    last.read(rest(drafts, progress))
    log += last.partials
    assert Stage2(PLAN).apply(log).everything() == Stage2(PLAN).apply(run(drafts).partials).everything()


@settings(max_examples=30)
@given(streams(), splits, st.floats(0, 1), st.data())
def test_a_zombie_that_writes_on_changes_nothing(
    drafts: list[Draft], cuts: list[float], at: float, data: st.DataObject
) -> None:
    """The successor resumes at the zombie's last progress; both go on, and their records mix in the log."""
    zombie = run(drafts, cuts)
    sent = zombie.steps[: int(at * len(zombie.steps))]
    before = [partial for step in sent for partial in step.partials]
    progress = next((step.progress for step in reversed(sent) if step.progress), None)
    successor = Worker(progress)
    for part in parts_of(rest(drafts, progress), data.draw(splits)):
        successor.read(part)
    mixed = interleaved(data, [p for step in zombie.steps[len(sent) :] for p in step.partials], successor.partials)
    expected = Stage2(PLAN).apply(zombie.partials).everything()
    assert Stage2(PLAN).apply([*before, *mixed]).everything() == expected
    stale = data.draw(st.lists(st.sampled_from(zombie.partials), max_size=5)) if zombie.partials else []
    assert Stage2(PLAN).apply([*before, *mixed, *stale]).everything() == expected


def interleaved(data: st.DataObject, left: Sequence[T], right: Sequence[T]) -> list[T]:
    turns = data.draw(st.permutations([0] * len(left) + [1] * len(right)))
    queues = [iter(left), iter(right)]
    return [next(queues[turn]) for turn in turns]


@settings(max_examples=30)
@given(streams(), splits, st.floats(0, 1), st.data())
def test_a_compacted_log_gives_what_the_whole_log_gives(
    drafts: list[Draft], cuts: list[float], at: float, data: st.DataObject
) -> None:
    """Compaction keeps the last of each key; keys tell incarnations apart, so a zombie cannot have the last word."""
    zombie = run(drafts, cuts)
    sent = zombie.steps[: int(at * len(zombie.steps))]
    progress = next((step.progress for step in reversed(sent) if step.progress), None)
    successor = Worker(progress)
    successor.read(rest(drafts, progress))
    of_zombie = [(key_of(p, "zombie"), p) for step in zombie.steps for p in step.partials]
    before = sum(len(step.partials) for step in sent)
    of_successor = [(key_of(p, "successor"), p) for p in successor.partials]
    log = [*of_zombie[:before], *interleaved(data, of_zombie[before:], of_successor)]
    cleaned_to = data.draw(st.integers(0, len(log)))
    last = {key: at for at, (key, _) in enumerate(log)}
    kept = [partial for at, (key, partial) in enumerate(log) if at >= cleaned_to or last[key] == at]
    assert Stage2(PLAN).apply(kept).everything() == Stage2(PLAN).apply(p for _, p in log).everything()


def test_a_model_that_lags_behind_its_neighbour_takes_nothing_from_it() -> None:
    """A pane that stage 1 has let go, as alpha is far beyond it, is published again for beta alone.

    offset   0            1               2
    alpha    00:00        00:12
    beta                                  00:00   (its first event; alpha and beta are in one bucket)
    """
    drafts = [
        Draft(0, "alpha", START_MS, "v0", None, None, None),
        Draft(1, "alpha", START_MS + 12 * MINUTE_MS, "v0", None, None, None),
        Draft(2, "beta", START_MS, "v0", None, None, None),
    ]
    worker = run(drafts, [0.34, 0.67])
    compacted = {key_of(partial, ""): partial for partial in worker.partials}
    found = events_by_cell(Stage2(PLAN).apply(compacted.values()))
    assert found["alpha", START_MS, 0, ("v0", "", "")] == 1
    assert found["beta", START_MS, 0, ("v0", "", "")] == 1
    assert found == events_by_cell(Stage2(PLAN).apply(worker.partials))


@settings(max_examples=30)
@given(streams(), splits, st.randoms(use_true_random=False))
def test_publications_of_a_chunk_may_come_in_any_order_and_more_than_once(
    drafts: list[Draft], cuts: list[float], random: Any
) -> None:
    """As long as those of a full chunk come before the books that say so, as one producer's do."""
    partials = run(drafts, cuts).partials
    shuffled: list[Partial] = []
    for chunk in sorted({partial.chunk for partial in partials}):
        of_chunk = [partial for partial in partials if partial.chunk == chunk]
        last = [partial for partial in of_chunk if isinstance(partial, BooksPartial) and partial.complete]
        loose = [partial for partial in of_chunk if partial not in last]
        loose += random.sample(loose, min(3, len(loose)))
        loose += random.sample(shuffled, min(3, len(shuffled)))
        random.shuffle(loose)
        shuffled += [*loose, *last, *random.sample(last, min(1, len(last)))]
    assert Stage2(PLAN).apply(shuffled).panes() == Stage2(PLAN).apply(partials).panes()
    assert Stage2(PLAN).apply(shuffled).books() == Stage2(PLAN).apply(partials).books()


@settings(max_examples=30)
@given(streams(), splits)
def test_books_and_panes_equal_a_plain_count(drafts: list[Draft], cuts: list[float]) -> None:
    stage2 = Stage2(PLAN).apply(run(drafts, cuts).partials)
    books, cells = counted_plainly(drafts)
    found = stage2.books()
    assert {name: (b.read, b.counted, b.late, b.duplicate, dict(b.rejected)) for name, b in found.items()} == books
    assert all(b.balanced() for b in found.values())
    assert sum(b.read for b in found.values()) == len(drafts)
    assert events_by_cell(stage2) == cells


@settings(max_examples=30)
@given(streams(), streams(), st.data())
def test_two_partitions_may_be_read_in_any_interleaving(
    left: list[Draft], right: list[Draft], data: st.DataObject
) -> None:
    workers = Worker(partition=0), Worker(partition=1)
    for worker, drafts in zip(workers, (left, right), strict=True):
        for part in parts_of(drafts, [0.3, 0.6]):
            worker.read(part)
    one = Stage2(PLAN, 2).apply(interleaved(data, workers[0].partials, workers[1].partials))
    two = Stage2(PLAN, 2).apply([*workers[1].partials, *workers[0].partials])
    assert one.everything() == two.everything()
    assert sum(books.read for books in one.books().values()) == len(left) + len(right)


def events_by_cell(stage2: Stage2) -> dict[Any, int]:
    """(model, pane, class, cell) → events."""
    return {
        (name, start, timeliness, key): cell["counts"].get(0, 0) + cell["counts"].get(1, 0)
        for name, panes in stage2.panes().items()
        for start, classes in panes.items()
        for timeliness, cells in enumerate(classes)
        for key, cell in cells.items()
    }


def counted_plainly(drafts: Sequence[Draft]) -> tuple[dict[str, Any], dict[Any, int]]:
    """The oracle: dictionaries, a loop, and the words of the design."""
    books: dict[str, list[Any]] = {}
    times = {name: PlainTime(grace_ms) for name, grace_ms in GRACE_MS.items()}
    counted: dict[Any, dict[tuple[str, str | None], int]] = {}
    for draft in drafts:
        model = draft.model if draft.model in PLAN.models else "__other__"
        if draft.bad:
            book = books.setdefault("" if draft.bad in ("null_value", "bad_json") else str(model), [0, 0, 0, 0, {}])
            book[0] += 1
            book[4][draft.bad] = book[4].get(draft.bad, 0) + 1
            continue
        book = books.setdefault(str(model), [0, 0, 0, 0, {}])
        book[0] += 1
        if model == "__other__":
            book[1] += 1
            continue
        behind_ms = times[model].after(draft.ts_ms) - draft.ts_ms
        if behind_ms > LATENESS_MS[model]:
            book[2] += 1
            continue
        book[1] += 1
        pane = draft.ts_ms - draft.ts_ms % PANE_MS[model]
        place = (model, pane, int(behind_ms > GRACE_MS[model]))
        versions = counted.setdefault(place, {})
        version = draft.version if len(draft.version) <= 128 else "__other__"
        versions[version, draft.region] = versions.get((version, draft.region), 0) + 1
    cells: dict[Any, int] = {}
    for (model, pane, timeliness), versions in counted.items():
        kept = _kept({version for version, _ in versions} - {"__other__"}, PLAN.models[model].config)
        for (version, region), events in versions.items():
            named = version if version in kept else "__other__"
            for key in _cells_of(model, named, region):
                place = (model, pane, timeliness, key)
                cells[place] = cells.get(place, 0) + events
    return {name: tuple(book) for name, book in books.items()}, cells


def _kept(versions: set[str], config: Any) -> set[str]:
    order = sorted(versions, key=lambda version: (version not in config.versions, rank(version)))
    return set(order[: config.max_versions])


def _cells_of(model: str, version: str, region: str | None) -> list[tuple[str, str, str]]:
    declared = PLAN.models[model].config.segments.get("region")
    if declared is None:
        return [(version, "", "")]
    return [(version, "", ""), (version, "region", region if region in declared else "__other__")]


def test_the_drawn_streams_hold_every_case() -> None:
    """Guards the laws: lateness, welcome, folded versions, skipped chunks and every reject do occur in them."""
    seen: set[str] = set()

    @settings(max_examples=30)
    @given(streams())
    def draw(drafts: list[Draft]) -> None:
        worker = run(drafts)
        books, cells = counted_plainly(drafts)
        seen.update(f"rejected {reason}" for book in books.values() for reason in book[4])
        seen.update("late" for book in books.values() if book[2])
        seen.update("welcome" for place in cells if place[2] == 1)
        seen.update("folded" for place in cells if place[3][0] == "__other__")
        chunks = sorted({partial.chunk for partial in worker.partials})
        seen.update("skipped" for one, two in itertools.pairwise(chunks) if two > one + 1)
        seen.update("complete" for step in worker.steps if step.progress)

    draw()
    reasons = {f"rejected {reason}" for reason in ("null_value", "bad_json", "future", "wrong_type")}
    assert seen == {*reasons, "late", "welcome", "folded", "skipped", "complete"}


def test_what_is_published_does_not_depend_on_the_clock_of_the_worker() -> None:
    """Two workers at different times of day write the same sketches, to the byte where nothing is random."""
    drafts = [Draft(i, "gamma", 1_767_225_600_000 + i * 9_000, "v0", None, None, None) for i in range(20)]
    early, late = Worker(), Worker(clock_ms=CLOCK_MS + 86_400_000)
    for worker in (early, late):
        worker.read(drafts)
    panes = [[pack(p) for p in worker.partials if isinstance(p, PanePartial)] for worker in (early, late)]
    assert panes[0] == panes[1]
    assert len(panes[0]) > 3


FEWER = plan_of("kafka: {buckets: 2}\nlimits: {future: 2h}\nmodels: {gamma: {grace: 1m, lateness: 2m, pane: 2m}}")


@settings(max_examples=30)
@given(streams(), st.floats(0, 1), st.sampled_from(((FEWER, PLAN), (PLAN, FEWER))))
def test_books_of_an_open_chunk_are_those_of_the_configuration_that_counted_it_last(
    drafts: list[Draft], share: float, plans: tuple[Plan, Plan]
) -> None:
    """A model that is added or removed takes its records of the chunk along, whoever counted them before."""
    old = Worker(plan=plans[0])
    old.read(drafts[: int(share * len(drafts))])
    new = Worker(old.progress, plan=plans[1])
    new.read(rest(drafts, old.progress), publish=False)
    new.clock_ms += BEAT_MS
    new.publish()
    books = Stage2(plans[1]).apply([*old.partials, *new.partials]).books()
    assert sum(item.read for item in books.values()) == len(drafts)
