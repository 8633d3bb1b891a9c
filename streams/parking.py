"""An exception in one model's evaluation → that model is parked, and the others continue.

This process counts and evaluates a parked model no further; a restart tries it again. The model's records on the topics
stay, so that a repaired release evaluates them.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from streams.errors import BrokerError, ForeshockError, NewerError, StoreError

NOT_OF_ONE_MODEL = (MemoryError, OSError, NewerError, StoreError, BrokerError)
"""Errors that parking cannot isolate: all models share memory, disk, release and broker."""

MAX_MESSAGE = 200
"""Reported characters of an exception's message."""
OURS = re.compile(r"(streams|agents)/[\w/]+\.py$")


class Phase(StrEnum):
    """The step that raised the exception."""

    COUNT = "count"
    JOIN = "join"
    RESTORE = "restore"
    FOLD = "fold"
    EVALUATE = "evaluate"
    KPIS = "kpis"
    LABELS = "labels"
    LEDGER = "ledger"
    PACK = "pack"


@dataclass(frozen=True, slots=True)
class Parked:
    """Why a model is parked.

    `place` is the file and line of the project that raised the exception, `error` its class and message, without
    control characters and with at most MAX_MESSAGE characters of the message.
    """

    model: str
    phase: Phase
    place: str
    error: str

    def __str__(self) -> str:
        return f"{self.phase}: {self.place}: {self.error}"


def parked(model: str, phase: Phase, error: BaseException) -> Parked:
    """The report of an exception."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{found[0]}:{frame.lineno}" for frame in frames if (found := OURS.search(frame.filename))]
    place = places[-1] if places else "unknown"
    return Parked(model, phase, place, f"{type(error).__name__}: {printable(str(error))}")


def printable(text: str) -> str:
    """A text of a payload or of an exception, safe for one line of a log or a page."""
    shown = "".join(sign if sign.isprintable() else "?" for sign in " ".join(text[: 2 * MAX_MESSAGE].split()))
    return shown if len(shown) <= MAX_MESSAGE else shown[: MAX_MESSAGE - 1] + "…"


def longest(n: int, attempt: Callable[[int], object]) -> int:
    """How many of the first rows can be processed if all `n` cannot: `attempt(k)` raises for the first `k`, or not.

    >>> longest(5, lambda k: [0, 1, 2][k])
    2
    """
    good, bad = 0, n
    while bad - good > 1:
        middle = (good + bad) // 2
        try:
            attempt(middle)
        except NOT_OF_ONE_MODEL:
            raise
        except Exception:
            bad = middle
        else:
            good = middle
    return good


def check_none(parked: Iterable[Parked]) -> None:
    """Raises ForeshockError if a model is parked, for commands whose user waits for the result."""
    found = list(parked)
    if found:
        raise ForeshockError(
            place=f"model {printable(found[0].model)}",
            seen=f"an exception in its evaluation ({found[0]})" + (f", and {len(found) - 1} more" * (len(found) > 1)),
            expected="none; the other models were evaluated",
            mend="report this line: it is a fault of Foreshock",
        )


T = TypeVar("T")


class Parking:
    """The parked models: of one bucket in stage 2, of one partition in stage 1."""

    def __init__(self) -> None:
        self.models: dict[str, Parked] = {}
        self._news: list[Parked] = []

    def __contains__(self, model: object) -> bool:
        return model in self.models

    def park(self, model: str, phase: Phase, error: Exception) -> None:
        """Parks a model; a parked model keeps its first reason."""
        if model not in self.models:
            self.models[model] = parked(model, phase, error)
            self._news.append(self.models[model])

    @contextmanager
    def guard(self, model: str, phase: Phase) -> Iterator[None]:
        """Parks the model if the block raises. NOT_OF_ONE_MODEL pass through."""
        try:
            yield
        except NOT_OF_ONE_MODEL:
            raise
        except Exception as error:
            self.park(model, phase, error)

    def guarded(self, model: str, phase: Phase, items: Iterable[T]) -> Iterator[T]:
        """The items, until the model is parked: because the iterator raised, or by the consumer of the items."""
        rest = iter(items)
        while model not in self.models:
            try:
                item = next(rest)
            except StopIteration:
                return
            except NOT_OF_ONE_MODEL:
                raise
            except Exception as error:
                self.park(model, phase, error)
                return
            yield item

    def news(self) -> list[Parked]:
        """The models that were parked since the last call."""
        news, self._news = self._news, []
        return news
