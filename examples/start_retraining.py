"""Starts a job for every action that asks for retraining: the smallest consumer that acts once on each.

    foreshock actions -c churn/foreshock.yaml --follow --json | python examples/start_retraining.py DONE -- COMMAND …

DONE is a file of action ids. An id is written there when COMMAND has ended well, so a crash repeats the job that it
interrupted, and nothing else. COMMAND gets the action as JSON on its standard input.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path


def start(lines: Iterable[str], done_file: Path, command: Sequence[str]) -> None:
    """Takes actions, one a line, until there are no more."""
    done = set(done_file.read_text(encoding="utf-8").split()) if done_file.exists() else set()
    with done_file.open("a", encoding="utf-8", buffering=1) as log:
        for line in lines:
            action = json.loads(line)
            wanted = action["data"]["action"] == "retrain" and action["data"]["state"] == "firing"
            if not wanted or action["id"] in done:
                continue
            ended = subprocess.run(command, input=line, text=True, check=False)
            if ended.returncode == 0:
                done.add(action["id"])
                log.write(action["id"] + "\n")
            else:
                print(f"{action['id']}: the job ended with {ended.returncode}; tried again next time", file=sys.stderr)


if __name__ == "__main__":
    if len(sys.argv) < 4 or sys.argv[2] != "--":
        sys.exit("usage: start_retraining.py DONE -- COMMAND …")
    start(sys.stdin, Path(sys.argv[1]), sys.argv[3:])
