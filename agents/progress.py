"""Long work → a moving bar on a terminal, and a plain line every few seconds elsewhere. To stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

import click

from agents.logs import say

if TYPE_CHECKING:
    from click._termui_impl import ProgressBar

T = TypeVar("T")

PLAIN_EVERY_S = 5.0
COUNTED_AT_ONCE = 4096


class Told:
    """Progress of one piece of work: `with Told("reading") as told: told(done, total)`."""

    def __init__(self, what: str, total: int | None = None) -> None:
        self.what, self.total = what, total
        self._bar: ProgressBar[int] | None = None
        self._next_line = time.monotonic() + PLAIN_EVERY_S

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            bar = click.progressbar(length=self.total or 0, label=self.what, show_pos=True, file=sys.stderr)
            bar.length = self.total  # none: it moves, and says how many are done
            self._bar = bar.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.__exit__(kind, error, trace)

    def __call__(self, done: int, total: int | None = None) -> None:
        self.total = total if total is not None else self.total
        if self._bar is not None:
            self._bar.length = self.total
            self._bar.update(done - self._bar.pos)
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + PLAIN_EVERY_S
            of = f" of {self.total:,}" if self.total else ""
            say(f"{self.what}: {done:,}{of}")

    def counted(self, values: Iterable[T]) -> Iterator[T]:
        """The values; how many have gone by is shown now and then."""
        for number, value in enumerate(values, 1):
            if not number % COUNTED_AT_ONCE:
                self(number)
            yield value
