"""The command `foreshock`, run as a user would."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

WITHIN_S = 120.0


def foreshock(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "agents", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=WITHIN_S, check=False)


def done(*arguments: str | Path) -> str:
    """What a command that succeeds prints."""
    found = foreshock(*arguments)
    assert found.returncode == 0, found.stderr
    assert "Traceback" not in found.stderr
    return found.stdout


def one_line(found: subprocess.CompletedProcess[str]) -> str:
    """The complaint; it is one line, and a person's."""
    assert "Traceback" not in found.stderr
    lines = found.stderr.splitlines()
    assert len(lines) == 1, found.stderr
    assert lines[0].startswith("foreshock: ")
    return lines[0]
