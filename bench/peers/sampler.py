"""Where a process spends its time: a look at the stack after every millisecond of processor time."""

from __future__ import annotations

import signal
import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Self

EVERY_S = 0.001
MOST = 40


class Sampler:
    """Counts the function that runs, by file and name, and those that called it; C code counts for its caller."""

    def __init__(self, wanted: bool) -> None:
        self.wanted = wanted
        self.own: Counter[str] = Counter()
        self.with_calls: Counter[str] = Counter()

    def __enter__(self) -> Self:
        if self.wanted:
            signal.signal(signal.SIGPROF, self._look)
            signal.setitimer(signal.ITIMER_PROF, EVERY_S, EVERY_S)
        return self

    def __exit__(self, *error: object) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)

    def _look(self, number: int, frame: FrameType | None) -> None:
        stack = []
        while frame is not None:
            if frame.f_code.co_name not in ("<listcomp>", "<genexpr>", "<dictcomp>", "<lambda>"):
                file = Path(frame.f_code.co_filename)
                stack.append(f"{file.parent.name}/{file.name} {frame.f_code.co_name}")
            frame = frame.f_back
        self.own.update(stack[:1])
        self.with_calls.update(set(stack))

    def show(self) -> None:
        """To stderr: standard output is for the figures."""
        total = self.own.total()
        for title, found in (("own", self.own), ("with what it calls", self.with_calls)) if total else ():
            print(f"\n{title}", file=sys.stderr)
            for place, count in found.most_common(MOST):
                print(f"{count / total:6.1%}  {place}", file=sys.stderr)
