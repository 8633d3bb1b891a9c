"""Starts a job for every incident that asks for retraining: the smallest consumer that acts once on each.

    foreshock actions -c churn/foreshock.yaml --follow --json | python examples/start_retraining.py JOURNAL -- COMMAND …

COMMAND gets the action as JSON on its standard input, the action's id in FORESHOCK_ACTION_ID, and in FORESHOCK_ATTEMPT
how often it has been started for it. JOURNAL is a file with a line for every start and every good end.

An id that is done is never started again, whatever is repeated and whatever crashes. Who is killed while a job runs
does not see how it ends: so the next run waits until that job is over (it holds the journal's lock), and starts it
once more, with the same id and the next attempt. If the job makes what it makes under the id (a model's name, a folder,
a key) the repeat finds it there, and the effect is exactly one. Of a job that it does not know no program can say more.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path


class Journal:
    """What was started and what is done, by action id; locked as long as its writer or a job of it is there."""

    def __init__(self, file: Path) -> None:
        self.lock = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{file}: waiting for the job that is still running", file=sys.stderr)
            fcntl.flock(self.lock, fcntl.LOCK_EX)
        written = file.read_text(encoding="utf-8")
        lines = [line.partition(" ") for line in written.split("\n")[:-1]]
        self.attempts = Counter(action_id for word, _, action_id in lines if word == "started")
        self.done = {action_id for word, _, action_id in lines if word == "done"}
        os.ftruncate(self.lock, len(written[: written.rfind("\n") + 1].encode()))  # what a crash has cut off

    def write(self, word: str, action_id: str) -> None:
        """On the disk when it returns."""
        os.write(self.lock, f"{word} {action_id}\n".encode())
        os.fsync(self.lock)


def start(lines: Iterable[str], journal: Journal, command: Sequence[str]) -> None:
    """Takes actions, one a line, until there are no more."""
    for line in lines:
        action_id = wanted(line)
        if action_id is None or action_id in journal.done:
            continue
        journal.attempts[action_id] += 1
        journal.write("started", action_id)
        about = {"FORESHOCK_ACTION_ID": action_id, "FORESHOCK_ATTEMPT": str(journal.attempts[action_id])}
        ended = subprocess.run(
            command, input=line, text=True, check=False, env=os.environ | about, pass_fds=[journal.lock]
        )
        if ended.returncode == 0:
            journal.done.add(action_id)
            journal.write("done", action_id)
        else:
            print(f"{action_id}: the job ended with {ended.returncode}; tried again next time", file=sys.stderr)


def wanted(line: str) -> str | None:
    """The id of an action that begins an incident to retrain for; the news of an incident and its end start nothing."""
    try:
        action = json.loads(line)
        data = action["data"]
        begins = (data["action"], data["state"], data["revision"]) == ("retrain", "firing", 0)
        action_id = str(action["id"])
    except (ValueError, KeyError, TypeError):
        print(f"no action: {line[:80]!r}; left out", file=sys.stderr)
        return None
    return action_id if begins and action_id.isalnum() else None


if __name__ == "__main__":
    if len(sys.argv) < 4 or sys.argv[2] != "--":
        sys.exit("usage: start_retraining.py JOURNAL -- COMMAND …")
    start(sys.stdin, Journal(Path(sys.argv[1])), sys.argv[3:])
