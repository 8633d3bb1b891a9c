"""Two workers get one model more, one after the other, while events of both models come in."""

from __future__ import annotations

import copy
import shutil
import threading
from collections import Counter
from functools import partial
from pathlib import Path

import yaml

from agents.clients import Connection
from agents.files import read_plan
from streams.config import OTHER
from streams.times import instant_ms
from tests.faults.harness import WorkerProcess, create, drain, fill, write_config
from tests.faults.oracle import differences
from tests.faults.payloads import changed
from tests.faults.published import Published, books, published, replayed
from tests.faults.stream import MODEL, PANE_MS, PARTITIONS, Pair, make_stream

NEW = "bank"
EVENTS, LASTS_S = 24_000, 20.0
"""Of each model, and so long their first half is written."""


def with_one_model_more(config: Path) -> Path:
    """The configuration, in a folder of its own, with a second model that is like the first."""
    folder = config.parent / "new"
    folder.mkdir()
    shutil.copy(config.parent / "shop.baseline", folder)
    document = yaml.safe_load(config.read_text(encoding="utf-8"))
    document["models"][NEW] = copy.deepcopy(document["models"][MODEL])
    (folder / config.name).write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return folder / config.name


def both() -> list[Pair]:
    """Events of both models, in turns."""
    old, new = (make_stream(EVENTS, seed, garbage=False).pairs for seed in (5, 6))
    renamed = [(key, changed(value, model=NEW)) for key, value in new]
    return [pair for pairs in zip(old, renamed, strict=False) for pair in pairs]


def panes(found: Published, model: str) -> dict[int, int]:
    """Events by start of the pane, all versions together."""
    counts: Counter[int] = Counter()
    for window in found.windows.values():
        whole = window["clock"] == "event" and window["version"] is None and window["segment"] is None
        start_ms = instant_ms(window["start"])
        if window["model"] == model and whole and instant_ms(window["end"]) - start_ms == PANE_MS:
            counts[start_ms] += window["counts"]["events"]
    return {at: n for at, n in counts.items() if n}


def test_a_model_that_a_roll_out_adds_is_judged_as_soon_as_all_of_its_events_are_counted(
    connection: Connection, tmp_path: Path
) -> None:
    config = write_config(tmp_path, connection.prefix, chunk_size=1024)
    after = with_one_model_more(config)
    pairs = both()
    create(connection)
    half = len(pairs) // 2
    writer = threading.Thread(target=partial(fill, connection, pairs[:half], rate=half / LASTS_S), daemon=True)
    start = partial(WorkerProcess, bootstrap=connection.broker)
    with start(config, instance="one") as one, start(config, instance="two") as two:
        writer.start()
        one.until(
            lambda: len(one.holds()) + len(two.holds()) == PARTITIONS and one.read() + two.read() > len(pairs) // 8
        )
        assert one.terminate(30) == 0, one.said
        with start(after, instance="one", log_name="one-new") as first:
            first.until(lambda: len(first.holds()) == PARTITIONS, 120)
            assert not two.holds() and two.page("/ready")[0] == 200, "what has the old configuration waits"
            assert two.terminate(30) == 0, two.said
            with start(after, instance="two", log_name="two-new") as second:
                second.until(lambda: len(first.holds()) + len(second.holds()) == PARTITIONS and second.holds(), 120)
                writer.join(120)
                fill(connection, pairs[half:])
                assert second.terminate(30) == 0, second.said
            # Whoever drains must have all partitions: Kafka keeps a member's until its session is over.
            first.until(lambda: len(first.holds()) == PARTITIONS, 120)
            assert first.terminate(30) == 0, first.said
    assert not writer.is_alive()
    drain(after, connection.broker, within_s=300)
    found, expected = published(connection), replayed(read_plan(after), [value for _, value in pairs], [])
    of_old = [{key: w for key, w in run.windows.items() if w["model"] == MODEL} for run in (found, expected)]
    assert differences(*of_old) == [], "the model that was there before knows nothing of it"
    actions = [{a["id"] for a in run.actions if a["data"]["model"] == MODEL} for run in (found, expected)]
    assert actions[0] == actions[1] and actions[0]
    counted, there = panes(found, NEW), panes(expected, NEW)
    assert len(there) > len(counted) >= 2, "it was added in the midst of its events"
    assert counted == {at: n for at, n in there.items() if at >= min(counted)}, "no pane holds a part of its events"
    kept = books(connection, after)
    assert kept[NEW].read + kept[OTHER].read == sum(1 for _ in pairs) - kept[MODEL].read
