"""Where a process spends its time: a look at the stack after every millisecond of processor time."""

from __future__ import annotations

import signal
import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Self

EVERY_S = 0.001
MOST = 30


class Sampler:
    """Counts the function that runs, by file and name; C code counts for the Python that called it."""

    def __init__(self, wanted: bool) -> None:
        self.wanted = wanted
        self.found: Counter[str] = Counter()

    def __enter__(self) -> Self:
        if self.wanted:
            signal.signal(signal.SIGPROF, self._look)
            signal.setitimer(signal.ITIMER_PROF, EVERY_S, EVERY_S)
        return self

    def __exit__(self, *error: object) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)

    def _look(self, number: int, frame: FrameType | None) -> None:
        while frame is not None and frame.f_code.co_name in ("<listcomp>", "<genexpr>", "<dictcomp>", "<lambda>"):
            frame = frame.f_back
        if frame is not None:
            file = Path(frame.f_code.co_filename)
            self.found[f"{file.parent.name}/{file.name} {frame.f_code.co_name}"] += 1

    def show(self) -> None:
        """To stderr: standard output is for the figures."""
        total = self.found.total()
        for place, count in self.found.most_common(MOST) if total else ():
            print(f"{count / total:6.1%}  {place}", file=sys.stderr)
