"""A requirements file → an environment of its own for a tool that we are compared with: ours has none of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from deploy.kafka import cache_folder


class NotInstalled(Exception):
    """The requirements can't be had here."""


def environment(requirements: Path) -> Path:
    """The interpreter of the environment, which is kept for the next time."""
    wanted = requirements.read_text()
    folder = cache_folder() / "bench-venvs" / requirements.stem
    python, ready = folder / "bin" / "python", folder / ".ready"
    if not ready.exists() or ready.read_text() != wanted:
        print(f"{requirements.stem}: installing into {folder}", file=sys.stderr)
        install = [str(python), "-m", "pip", "install", "-q", "--only-binary", ":all:"]
        try:
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True, capture_output=True)
            subprocess.run([*install, "-r", str(requirements)], check=True, capture_output=True)
        except subprocess.CalledProcessError as error:
            said = error.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
            raise NotInstalled(f"it cannot be installed here: {said[-1]}") from None
        ready.write_text(wanted)
    return python
