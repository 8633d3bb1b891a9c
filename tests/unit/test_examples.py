"""The example consumer: a job for every action that asks for one, and for none twice."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec

from streams.action import Action
from tests.actions import action

SCRIPT = Path(__file__).parents[2] / "examples" / "start_retraining.py"
KEEP = "import sys; open(sys.argv[1], 'a').write(sys.stdin.read())"
FAIL_ONCE = "import pathlib, sys; p = pathlib.Path(sys.argv[1]); old = p.exists(); p.touch(); sys.exit(0 if old else 3)"

STORY = [("f", 1, "a"), ("s", 2, "c"), ("f", 1, "a"), ("r", 3, "a")]


def run(folder: Path, actions: list[Action], job: str) -> subprocess.CompletedProcess[str]:
    lines = "".join(msgspec.json.encode(item).decode() + "\n" for item in actions)
    command = [sys.executable, str(SCRIPT), str(folder / "done"), "--", sys.executable, "-c", job, str(folder / "jobs")]
    return subprocess.run(command, input=lines, capture_output=True, text=True, check=True)


def retrain(letter: str, hour: int, rule: str) -> Action:
    found = action(letter, hour, rule)
    return msgspec.structs.replace(found, data=msgspec.structs.replace(found.data, action="retrain"))


def jobs(folder: Path) -> list[str]:
    return [msgspec.json.decode(line, type=Action).data.rule for line in (folder / "jobs").read_text().splitlines()]


def test_each_action_that_asks_for_it_starts_one_job_over_restarts_too(tmp_path: Path) -> None:
    story = [
        retrain("f", 1, "a"),
        action("f", 1, "b"),
        retrain("s", 2, "c"),
        retrain("f", 1, "a"),
        retrain("r", 3, "a"),
    ]
    run(tmp_path, story, KEEP)
    run(tmp_path, [*story, retrain("f", 5, "d")], KEEP)
    assert jobs(tmp_path) == ["a", "d"]


def test_a_job_that_fails_is_tried_again_next_time(tmp_path: Path) -> None:
    story = [retrain("f", 1, "a")]
    assert "tried again next time" in run(tmp_path, story, FAIL_ONCE).stderr
    assert run(tmp_path, story, FAIL_ONCE).stderr == ""
    assert (tmp_path / "done").read_text().split() == [story[0].id]
