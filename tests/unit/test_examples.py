"""The example consumer: a job for every incident that asks for one, and for none twice."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec

from streams.action import Action
from tests.actions import action

SCRIPT = Path(__file__).parents[2] / "examples" / "start_retraining.py"
KEEP = "import sys; open(sys.argv[1], 'a').write(sys.stdin.read())"
FAIL_ONCE = "import pathlib, sys; p = pathlib.Path(sys.argv[1]); old = p.exists(); p.touch(); sys.exit(0 if old else 3)"


def run(folder: Path, actions: list[Action], job: str) -> subprocess.CompletedProcess[str]:
    lines = "".join(msgspec.json.encode(item).decode() + "\n" for item in actions)
    return subprocess.run(command_of(folder, job), input=lines, capture_output=True, text=True, check=True)


def command_of(folder: Path, job: str) -> list[str]:
    job_command = [sys.executable, "-c", job, str(folder / "jobs")]
    return [sys.executable, str(SCRIPT), str(folder / "journal"), "--", *job_command]


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
    journal = (tmp_path / "journal").read_text().split()
    assert journal == ["started", story[0].id, "started", story[0].id, "done", story[0].id]


def test_news_of_an_incident_and_what_is_no_action_start_nothing(tmp_path: Path) -> None:
    began = retrain("f", 1, "a")
    news = msgspec.structs.replace(began, id="1" * 32, data=msgspec.structs.replace(began.data, revision=1))
    (tmp_path / "jobs").touch()
    told = subprocess.run(
        command_of(tmp_path, KEEP),
        input="\n".join(["{", "[]", '{"id": 1}', "", msgspec.json.encode(news).decode()]) + "\n",
        capture_output=True,
        text=True,
        check=True,
    )
    assert jobs(tmp_path) == []
    assert told.stderr.count("left out") == 4


def test_a_journal_that_a_crash_has_cut_off_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    story = [retrain("f", 1, "a"), retrain("f", 1, "b")]
    (tmp_path / "journal").write_text(f"started {story[0].id}\ndone {story[0].id}\nstarted {story[1].id[:9]}")
    run(tmp_path, story, KEEP)
    assert jobs(tmp_path) == ["b"]
    assert (tmp_path / "journal").read_text().split()[4:] == ["started", story[1].id, "done", story[1].id]


WAITS = """
import os, pathlib, sys
folder = pathlib.Path(sys.argv[1]).parent
(folder / "running").write_text(os.environ["FORESHOCK_ATTEMPT"])
if os.environ["FORESHOCK_ATTEMPT"] == "1":
    open(folder / "gate").read()
with open(folder / "jobs", "a") as log:
    log.write(os.environ["FORESHOCK_ACTION_ID"] + os.environ["FORESHOCK_ATTEMPT"] + chr(10))
"""
"""A job that waits, the first time, until somebody opens the gate."""


def test_a_job_whose_starter_was_killed_is_waited_for_and_repeated_under_the_same_id(tmp_path: Path) -> None:
    """Never two at once."""
    item = retrain("f", 1, "a")
    line = msgspec.json.encode(item) + b"\n"
    os.mkfifo(tmp_path / "gate")
    first = subprocess.Popen(command_of(tmp_path, WAITS), stdin=subprocess.PIPE)
    assert first.stdin is not None
    first.stdin.write(line)
    first.stdin.flush()
    with open(tmp_path / "gate", "w"):  # opens when the job has come to it
        first.kill()
        first.wait()
        first.stdin.close()
        second = subprocess.Popen(command_of(tmp_path, WAITS), stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        assert second.stdin is not None and second.stderr is not None
        second.stdin.write(line)
        second.stdin.flush()
        assert b"waiting for the job that is still running" in second.stderr.readline()
        assert (tmp_path / "running").read_text() == "1"
    second.communicate()
    assert (tmp_path / "jobs").read_text().split() == [f"{item.id}1", f"{item.id}2"]
