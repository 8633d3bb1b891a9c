"""Faults 7, 8 and 9: out of order, late, from the future, idle, lagging. Event time decides, nothing else."""

from __future__ import annotations

import random
import signal
from pathlib import Path
from uuid import uuid4

import pytest

from agents.clients import Connection
from streams.events import time_ms
from tests.faults.harness import WorkerProcess, create, drain, fill, send, write_config
from tests.faults.injections import SETTABLE
from tests.faults.published import Published, books, published
from tests.faults.stream import FUTURE_MS, MODEL, PANE_MS, PARTITIONS, START_MS, Pair, event, make_stream

GRACE_MS = 60_000
PER_PANE = 400


def quiet_pane(pane: int, partition: int, rng: random.Random) -> list[tuple[int, bytes]]:
    """(partition, event): `PER_PANE` events of one pane for one partition, in order."""
    return [
        (partition, event(f"{partition}-{pane}-{i}", START_MS + pane * PANE_MS + i * PANE_MS // PER_PANE, rng))
        for i in range(PER_PANE)
    ]


def by_pane(found: Published) -> dict[int, int]:
    """Events by the number of the pane."""
    counts: dict[int, int] = {}
    for (start_ms, _), events in found.panes().items():
        pane = (start_ms - START_MS) // PANE_MS
        counts[pane] = counts.get(pane, 0) + events
    return counts


def test_disorder_within_the_grace_gives_the_windows_of_the_ordered_run(kafka, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """Every count, signal and action is the same."""
    stream = make_stream(16_000, 7, garbage=False)
    in_order = sorted(stream.pairs, key=_time)
    rng = random.Random(7)
    shuffled = sorted(in_order, key=lambda pair: _time(pair) + rng.randrange(GRACE_MS))
    assert shuffled != in_order
    runs = []
    for name, pairs in (("ordered", in_order), ("shuffled", shuffled)):
        prefix = f"{name}-{uuid4().hex[:6]}-"
        config = write_config(tmp_path / name, prefix)
        connection = Connection(broker=kafka.bootstrap, prefix=prefix)
        fill(connection, pairs)
        drain(config, kafka.bootstrap)
        runs.append(published(connection))
        kept = books(connection, config)[MODEL]
        assert (kept.read, kept.counted, kept.late) == (16_000, 16_000, 0)
    ordered, disordered = runs
    assert disordered.windows == ordered.windows
    assert disordered.action_ids == ordered.action_ids
    assert ordered.action_ids
    assert sum(ordered.panes().values()) == 16_000


def _time(pair: Pair) -> int:
    text = pair[1].split(b'"ts": ', 1)[1]
    return int(text.split(b",", 1)[0])


def test_late_events_are_counted_late_and_those_of_the_future_are_turned_away(kafka, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """A broken clock somewhere upstream, in 1970 or in 2100, spoils no later pane."""
    prefix = f"late-{uuid4().hex[:6]}-"
    config = write_config(tmp_path, prefix)
    connection = Connection(broker=kafka.bootstrap, prefix=prefix)
    stream = make_stream(16_000, 8, garbage=False)
    rng = random.Random(8)
    strange = [
        *[(f"epoch-{i}", 0) for i in range(50)],
        *[(f"negative-{i}", -1) for i in range(10)],
        *[(f"future-{i}", FUTURE_MS) for i in range(50)],
        *[(f"never-{i}", 10**17) for i in range(10)],
    ]
    for event_id, ts in strange:
        place = rng.randrange(2_000, len(stream.pairs))  # where every partition has seen an event
        stream.pairs.insert(place, (event_id.encode(), event(event_id, ts, rng)))
    fill(connection, stream.pairs)
    drain(config, kafka.bootstrap)

    found, kept = published(connection), books(connection, config)[MODEL]
    assert found.panes() == stream.panes
    assert kept.late == stream.late + 60
    assert kept.rejected == {"future": 50, "wrong_type": 10}
    assert kept.read == len(stream.pairs) == kept.counted + kept.late + 60
    assert len(found.dead_letters) == 60
    assert max(time_ms(window["end"]) for window in found.windows.values()) < START_MS + 30 * PANE_MS


def test_an_idle_partition_holds_no_window_back(kafka, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """When it speaks again, of a time that was judged, its events come as a revision: none is late, none is lost."""
    prefix = f"idle-{uuid4().hex[:6]}-"
    config = write_config(tmp_path, prefix, idle="2s")
    connection = Connection(broker=kafka.bootstrap, prefix=prefix)
    rng = random.Random(9)
    create(connection)
    silent = PARTITIONS - 1
    send(
        connection,
        [
            item
            for pane in range(9)
            for p in range(PARTITIONS)
            if p != silent or pane < 2
            for item in quiet_pane(pane, p, rng)
        ],
    )
    with WorkerProcess(config, kafka.bootstrap) as worker:
        worker.until(lambda: len(by_pane(published(connection))) >= 7)
        whole, without = PARTITIONS * PER_PANE, (PARTITIONS - 1) * PER_PANE
        judged = by_pane(published(connection))
        assert {pane: judged[pane] for pane in range(7)} == {pane: whole if pane < 2 else without for pane in range(7)}

        send(connection, [item for pane in range(2, 9) for item in quiet_pane(pane, silent, rng)])
        worker.until(lambda: all(by_pane(published(connection)).get(pane) == whole for pane in range(8)))
        assert worker.terminate() == 0
    drain(config, kafka.bootstrap)
    assert by_pane(published(connection)) == dict.fromkeys(range(9), whole)
    kept = books(connection, config)[MODEL]
    assert (kept.read, kept.counted, kept.late) == (9 * whole, 9 * whole, 0)


def test_nothing_of_a_lagging_partition_is_late(kafka, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """Windows wait for it, however far ahead the others are."""
    prefix = f"lag-{uuid4().hex[:6]}-"
    config = write_config(tmp_path, prefix, idle="10m")
    connection = Connection(broker=kafka.bootstrap, prefix=prefix)
    rng = random.Random(10)
    create(connection)
    lagging = PARTITIONS - 1
    ahead = [item for pane in range(40) for p in range(lagging) for item in quiet_pane(pane, p, rng)[::8]]
    send(connection, [*ahead, *quiet_pane(0, lagging, rng)[::8]])
    with WorkerProcess(config, kafka.bootstrap) as worker:
        worker.until(lambda: worker.books().get("read") == len(ahead) + PER_PANE // 8)
        assert not published(connection).windows
        send(connection, [item for pane in range(1, 40) for item in quiet_pane(pane, lagging, rng)[::8]])
        worker.until(lambda: len(by_pane(published(connection))) == 38)  # the last ones wait for their grace
        assert worker.terminate() == 0
    drain(config, kafka.bootstrap)
    found = published(connection)
    assert by_pane(found) == dict.fromkeys(range(40), PARTITIONS * PER_PANE // 8)
    assert not any(window["revision"] for window in found.windows.values())
    kept = books(connection, config)[MODEL]
    assert (kept.read, kept.counted, kept.late) == (40 * PARTITIONS * PER_PANE // 8,) * 2 + (0,)


def test_a_clock_that_is_set_while_nothing_comes_is_no_silence(kafka, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """Silence is how long nothing came, not what the clock says: no pane is judged before its events are there."""
    prefix = f"clock-{uuid4().hex[:6]}-"
    config = write_config(tmp_path, prefix, idle="10m")
    connection = Connection(broker=kafka.bootstrap, prefix=prefix)
    rng = random.Random(12)
    create(connection)
    parts = [
        [item for pane in panes for p in range(PARTITIONS) for item in quiet_pane(pane, p, rng)]
        for panes in (range(3), range(3, 6), range(6, 9))
    ]
    with WorkerProcess(config, kafka.bootstrap, through=SETTABLE) as worker:
        for number, hour in enumerate((signal.SIGUSR1, signal.SIGUSR2)):
            send(connection, parts[number])
            read = PARTITIONS * PER_PANE * 3 * (number + 1)
            worker.until(lambda read=read: worker.books().get("counted") == read)
            worker.signal(hour)
            told = worker.published()
            worker.until(lambda told=told: worker.published() > told)  # that nothing more has come, and since when
        send(connection, parts[2])
        worker.until(lambda: worker.books().get("counted") == 9 * PARTITIONS * PER_PANE)
        assert worker.terminate() == 0
    drain(config, kafka.bootstrap)
    found = published(connection)
    assert by_pane(found) == dict.fromkeys(range(9), PARTITIONS * PER_PANE)
    assert not any(window["revision"] for window in found.windows.values())
    assert not found.actions


@pytest.mark.parametrize("share", [0.0, 0.1])
def test_a_stream_that_is_one_quiet_partition_of_many_is_judged(kafka, tmp_path: Path, share: float) -> None:  # type: ignore[no-untyped-def]
    """Partitions that never had a record, or hardly any, hold nothing back."""
    prefix = f"few-{uuid4().hex[:6]}-"
    config = write_config(tmp_path, prefix, idle="2s")
    connection = Connection(broker=kafka.bootstrap, prefix=prefix)
    rng = random.Random(11)
    create(connection)
    records = [item for pane in range(6) for item in quiet_pane(pane, 0, rng)]
    few = quiet_pane(0, 1, rng)[: int(share * PER_PANE)]
    send(connection, [*few, *records])
    with WorkerProcess(config, kafka.bootstrap) as worker:
        worker.until(lambda: len(by_pane(published(connection))) >= 4)
        assert worker.terminate() == 0
    assert by_pane(published(connection))[0] == PER_PANE + len(few)
