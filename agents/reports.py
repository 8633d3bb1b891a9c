"""The logs of a run, in a backtest's folder or on Kafka → the reports of every model, written to a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from agents import ledger as books_of
from agents.clients import Connection
from agents.files import lines
from agents.follow import read_all
from agents.loader import Records
from agents.reading import MAX_RESULT_BYTES, read_bytes
from streams.ack import read_ack
from streams.action import read_action
from streams.backtest import Summary
from streams.errors import UNREADABLE, ConfigError, DataError
from streams.events import Invalid
from streams.ledger import rows_of
from streams.ledger_rows import LedgerRows
from streams.plan import Plan
from streams.reports.gather import Gathered
from streams.reports.pages import page_of
from streams.reports.periods import Cadence, Period, day_of
from streams.reports.report import Books, report_of
from streams.times import NO_TIME, instant_ms
from streams.window import Clock, WindowRecord

Item = TypeVar("Item")
Take = Callable[[bytes], None]


class _End(msgspec.Struct):
    """What tells the last day of a log."""

    end: str
    clock: Clock = Clock.EVENT


WRITTEN = "what a backtest wrote"
_window = msgspec.json.Decoder(WindowRecord).decode
_end = msgspec.json.Decoder(_End).decode


class Source(Protocol):
    """Source of the logs."""

    def read(self, kind: str, take: Take) -> None:
        """Passes every value of a log, one of windows, actions, shadows and acks, in its order."""

    def ledger(self) -> LedgerRows | None:
        """The ledgers, if there are any."""

    def books(self, model: str) -> Books | None:
        """The books of the whole run, if they are known."""


class Folder:
    """A backtest's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not (path / "windows.ndjson").exists():
            raise ConfigError(
                place=str(path),
                seen="no windows.ndjson",
                expected="a folder that 'foreshock backtest' wrote",
                mend="run it with -o, or name its folder",
            )

    def read(self, kind: str, take: Take) -> None:
        file = self.path / f"{kind}.ndjson"
        for line in lines(file) if file.exists() else ():
            take(line)

    def ledger(self) -> LedgerRows | None:
        return self._json("ledger.json", LedgerRows)

    def books(self, model: str) -> Books | None:
        summary = self._json("summary.json", Summary)
        found = summary.models.get(model) if summary else None
        if found is None:
            return None
        return Books(
            read=found.read,
            counted=found.counted,
            late=found.late,
            rejected=found.rejected,
            duplicate=found.duplicate,
        )

    def _json(self, name: str, type_: type[Item]) -> Item | None:
        file = self.path / name
        try:
            return (
                msgspec.json.decode(read_bytes(file, WRITTEN, MAX_RESULT_BYTES), type=type_) if file.exists() else None
            )
        except UNREADABLE as error:
            raise DataError(
                place=str(file), seen=f"unreadable ({error})", expected="what a backtest wrote", mend="run it again"
            ) from None


class Topics:
    """The topics of a worker."""

    def __init__(self, connection: Connection, plan: Plan, run: Callable[..., object]) -> None:
        """The topics of a cluster.

        Parameters:
            run: takes a function that makes a coroutine, and runs it to its end.
        """
        self.connection, self.plan, self._run = connection, plan, run

    def read(self, kind: str, take: Take) -> None:
        if kind == "shadows":
            return  # what shadow rules decide is in the worker's log and metrics alone

        def take_all(records: Records) -> None:
            for record in records:
                if record.value is not None:
                    take(record.value)

        self._run(lambda: read_all(self.connection, take_all, kind))

    def ledger(self) -> LedgerRows | None:
        found: list[LedgerRows] = []

        async def read() -> None:
            found.append(rows_of(await books_of.from_topics(self.connection, self.plan)))

        self._run(read)
        return found[0]

    def books(self, model: str) -> Books | None:
        return None


def last_day(source: Source) -> date:
    """The last day with a window of events.

    Raises:
        DataError: if there is none.
    """
    latest_ms = NO_TIME

    def take(value: bytes) -> None:
        nonlocal latest_ms
        try:
            found = _end(value)
        except UNREADABLE:
            return
        if found.clock is Clock.EVENT:
            latest_ms = max(latest_ms, instant_ms(found.end))

    source.read("windows", take)
    if latest_ms == NO_TIME:
        raise DataError(
            seen="a log without windows", expected="at least one", mend="has the worker, or the backtest, run?"
        )
    return day_of(latest_ms - 1)


def gather(source: Source, models: list[str], period: Period) -> dict[str, Gathered]:
    """One pass over each log; records of other models, and what cannot be read, are left out."""
    found = {model: Gathered(model, period) for model in models}

    def windows(value: bytes) -> None:
        try:
            record = _window(value)
        except UNREADABLE:
            return
        if record.model in found:
            found[record.model].take_window(record)

    def actions(value: bytes, shadow: bool = False) -> None:
        action = read_action(value)
        if action is not None and action.data.model in found:
            found[action.data.model].take_action(action, shadow)

    def acks(value: bytes) -> None:
        try:
            ack = read_ack(value)
        except Invalid:
            return
        for gathered in found.values():
            gathered.take_ack(ack)

    source.read("windows", windows)
    source.read("actions", actions)
    source.read("shadows", lambda value: actions(value, True))
    source.read("acks", acks)
    return found


def write(source: Source, models: list[str], period: Period, name_of: Callable[[str], str], out: Path) -> Iterator[str]:
    """Writes a page and its JSON for every model, and yields a summary line for each.

    Parameters:
        name_of: a model's name as part of a file name.
    """
    ledger = source.ledger() if period.cadence is Cadence.MONTHLY else None
    day = day_of(period.end_ms - 1).isoformat()
    for model, gathered in gather(source, models, period).items():
        report = report_of(gathered, ledger, source.books(model))
        name = f"{name_of(model)}-{period.cadence}-{day}"
        (out / f"{name}.json").write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
        (out / f"{name}.html").write_text(page_of(report, period, f"{name}.json"), encoding="utf-8")
        yield f"{model}: {report.head.standing}. {report.head.verdict} wrote {out / name}.html and .json"
