"""Files of several topics are merged by the times of their records."""

from __future__ import annotations

import json
from pathlib import Path

from agents.replay_together import merged

START_MS = 1_767_225_600_000


def written(path: Path, name: str, times_s: list[int | None]) -> Path:
    rows = [{name: START_MS + 1_000 * at, "n": at} if at is not None else {"n": None} for at in times_s]
    path.write_bytes(b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    return path


def test_they_come_by_their_times_and_each_topic_in_its_own_order(tmp_path: Path) -> None:
    files = {
        "events": written(tmp_path / "e", "ts", [0, 10, 20, 15, 30]),
        "labels": written(tmp_path / "l", "label_ts", [5, 10, 40]),
    }
    found = [(topic, json.loads(value)["n"]) for topic, value in merged(files)]
    assert found == [
        ("events", 0),
        ("labels", 5),
        ("events", 10),
        ("labels", 10),
        ("events", 20),
        ("events", 15),
        ("events", 30),
        ("labels", 40),
    ]


def test_what_has_no_time_or_is_far_ahead_holds_nothing_back(tmp_path: Path) -> None:
    files = {
        "events": written(tmp_path / "e", "ts", [0, 3_600, 1, None, 2]),
        "labels": written(tmp_path / "l", "label_ts", [1, 2, 3]),
    }
    found = [(topic, json.loads(value)["n"]) for topic, value in merged(files)]
    assert [n for topic, n in found if topic == "events"] == [0, 3_600, 1, None, 2]
    assert found.index(("events", 2)) < found.index(("labels", 3))
