"""The short run: every kind of fault once, by a seed of its own each time; `make test-faults` is the long one."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.kafka import Broker
from tests.faults import hostile, schedules
from tests.faults.draw import ALWAYS, KINDS, STREAMS, Schedule, drawn
from tests.faults.edited import FINE_MS, layout_errors
from tests.faults.harness import SEED
from tests.faults.injections import FAULTS
from tests.faults.oracle import Verdict
from tests.faults.reference import Expected, ModelRules, Pane
from tests.faults.schedules import Played, repeat, run, table
from tests.faults.stage import Ground
from tests.faults.stream import MODEL

SHORT = (
    ("kill", "store", "stop", "kill", "labels", "repeats", "delete"),
    ("compact", "hostile", "labels", "transactions"),
    ("freeze", "edit", "schema change", "repeats"),
    ("guests", "twin", "odd batches", "slow clock"),
    ("broker", "hang", "labels", "lagging partition"),
    ("node", "kill", "late topic"),
    ("disk", "labels", "repeats"),
    ("clock", "many names"),
    ("retention", "labels"),
    ("kill", "fast clock", "labels"),
    ("kill", "added partitions", "labels"),
    ("layout", "labels"),
    ("made anew", "labels", "repeats"),
)
"""What goes together, in the order in which it comes."""
ELSEWHERE = {"outage", "silent partition", "refuse", "bursts"}
"""Half a minute, a worker that has to come to a stand, and a machine that is kept busy are for the long run; a silent
partition has a test of its own."""


@pytest.fixture(scope="module")
def ground(kafka: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with Ground(tmp_path_factory.mktemp("ground"), kafka) as found:
        yield found


@pytest.mark.parametrize("kinds", SHORT, ids=", ".join)
def test_whatever_happens_nothing_is_lost_and_nothing_told_twice(
    ground: Ground, tmp_path: Path, kinds: tuple[str, ...]
) -> None:
    """Windows, actions, books and dead letters are those of the oracle."""
    print(f"seed {SEED} (FORESHOCK_SEED repeats it)")
    faults = tuple(name for name in kinds if name in FAULTS)
    schedule = Schedule(SEED, faults, frozenset(STREAMS.keys() & {*ALWAYS, *kinds}), events=16_000)
    verdict = run(schedule, ground, tmp_path)
    assert not verdict.wrong, "\n".join(verdict.wrong[:100])


def test_the_short_run_has_every_kind_of_fault() -> None:
    assert {name for kinds in SHORT for name in kinds} | ELSEWHERE >= {*KINDS, *STREAMS} - {*ALWAYS}


# --- The long run's own parts


def test_a_seed_always_draws_the_same_schedule_and_few_draw_every_kind() -> None:
    found = [drawn(seed) for seed in range(100, 100 + len(KINDS))]
    assert found == [drawn(schedule.seed) for schedule in found]
    assert {name for schedule in found for name in schedule.kinds} >= {*KINDS}
    for schedule in (drawn(seed) for seed in range(500)):
        needs = [FAULTS[name] for name in schedule.faults]
        assert schedule.labelled or not any(fault.labelled for fault in needs)
        assert len({fault.through for fault in needs if fault.through}) <= 1
        assert not {"labels", "added partitions", "repeats"} <= schedule.streams
        assert not any(one.deleting and two.labelled for one in needs for two in needs)


def test_values_of_any_size_are_damaged() -> None:
    for size in range(1, 40):
        rng, whole = random.Random(size), bytes(range(size))
        assert whole not in [hostile._value(rng, [whole]) for _ in range(100)]


def test_panes_are_beside_each_other_and_hold_what_their_time_has() -> None:
    rules = ModelRules(MODEL, 60_000, 0, 0, 0, 0, 0, False, "channel", frozenset(), ())
    fine = Expected({(at * FINE_MS, None, None): Pane(events=3, on_time=2) for at in range(40)})

    def wrong(*panes: tuple[int, int, int]) -> int:
        """Of start and end in minutes, and events."""
        windows = [
            {"model": MODEL, "clock": "event", "version": None, "segment": None, "counts": {"events": events}}
            | {"start": f"1970-01-01T00:{start:02}:00Z", "end": f"1970-01-01T00:{end:02}:00Z"}
            for start, end, events in panes
        ]
        return len(layout_errors(rules, fine, {60_000, 180_000}, windows))

    assert wrong((1, 2, 6), (2, 3, 4), (3, 6, 15)) == wrong((1, 2, 6), (3, 6, 18)) == 0
    assert wrong((1, 2, 7)) == wrong((1, 2, 3)) == wrong((3, 6, 19)) == wrong() == 1
    assert wrong((2, 3, 6), (3, 4, 6), (3, 6, 18)) == wrong((1, 2, 6), (3, 4, 6)) == wrong((1, 2, 6), (6, 9, 18)) == 1


def test_only_wanted_kinds_are_drawn_and_the_command_repeats_them() -> None:
    schedule = drawn(7, ["kill", "node"])
    assert {*schedule.faults} <= {"kill", "node"}
    assert repeat(schedule, "kill,node") == "make test-faults SEED=7 FAULTS='kill,node'"


def test_the_table_sums_by_kind_and_counts_what_failed() -> None:
    good, bad = Verdict(100, 0, 0, 0, 0, ()), Verdict(50, 2, 1, 1, 0, ("lost",))
    one, two = Schedule(1, ("kill",), frozenset({"labels"})), Schedule(2, ("kill", "stop"), frozenset())
    text = table([Played(one, good, 1.0), Played(two, bad, 1.0)])
    assert "| 1, 2 | kill | 2 | 150 | 2 | 1 | 1 | 0 | 1 |" in text
    assert "| 12 | labels | 1 | 100 | 0 | 0 | 0 | 0 | 0 |" in text
    assert "| | **all** | 2 | 150 | 2 | 1 | 1 | 0 | 1 |" in text
    assert "outage" not in text


def test_the_table_is_written_between_its_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = tmp_path / "reliability.md"
    document.write_text(f"before\n{schedules.BEGIN}\nold\n{schedules.END}\nafter\n")
    monkeypatch.setattr(schedules, "REPORT", document)
    schedules.write_report("new")
    assert document.read_text() == f"before\n{schedules.BEGIN}\n\nnew\n\n{schedules.END}\nafter\n"
