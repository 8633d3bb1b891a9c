"""Long work → a moving bar on a terminal, and a plain line every few seconds elsewhere. To stderr."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from agents.logs import say

PLAIN_EVERY_S = 5.0


class Told:
    """Progress of one piece of work: `with Told("reading") as told: told(done, total)`."""

    def __init__(self, what: str, total: int | None = None) -> None:
        self.what, self.total = what, total
        self._bar: Progress | None = None
        self._next_line = time.monotonic() + PLAIN_EVERY_S

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn())
            console = Console(stderr=True)
            self._bar = Progress(*columns, MofNCompleteColumn(), TimeElapsedColumn(), console=console, transient=True)
            self._task = self._bar.add_task(self.what, total=self.total)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, done: int, total: int | None = None) -> None:
        self.total = total if total is not None else self.total
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=self.total)
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + PLAIN_EVERY_S
            of = f" of {self.total:,}" if self.total else ""
            say(f"{self.what}: {done:,}{of}")
