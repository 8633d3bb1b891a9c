"""Records of `logging`, ours and the libraries' → lines on stderr: for a person, or JSON for a collector.

A JSON line has `ts`, `level`, `logger`, `event` (the message), those of FIELDS that locate it, and `traceback`. Neither
form holds payloads: they are on the topic, and the line says where.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Any

import click

from streams.errors import ForeshockError
from streams.text import plain, plain_lines
from streams.times import rfc3339

FIELDS = ("topic", "partition", "offset", "group", "model", "reason", "action_id", "code")
"""Fields that a line may have through `extra=`, beside its text."""
NO_ACTION = "actions: a record of %d bytes is no action; left out"


class Form(StrEnum):
    """The form of a line."""

    TEXT = "text"
    JSON = "json"


def to_stderr(form: Form, level: int = logging.INFO, *, verbose: bool = False) -> None:
    """Sends all lines to stderr; `level` is that of our own, the libraries only warn, unless `verbose`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form is Form.JSON else TextLines())
    handler.addFilter(_is_news)
    handler.addFilter(Repeats())
    logging.basicConfig(handlers=[handler], level=logging.DEBUG if verbose else logging.WARNING, force=True)
    logging.getLogger("agents").setLevel(logging.DEBUG if verbose else level)
    logging.captureWarnings(form is Form.JSON)
    sys.excepthook = _as_a_line if form is Form.JSON else sys.__excepthook__


def _is_news(record: logging.LogRecord) -> bool:
    """Not that a service crashed by an error of ours, with a traceback: the command ends with its one line."""
    return not (record.exc_info and isinstance(record.exc_info[1], ForeshockError))


@dataclass(slots=True)
class _Kind:
    """Lines of one message since `since_s`."""

    since_s: float
    lines: int = 0


class Repeats:
    """Lets `LINES` warnings of one message pass in `WITHIN_S`, and says how many more there were.

    A batch of two kilobytes may hold millions of records that cannot be read, each of which has a line.
    """

    LINES, WITHIN_S, KINDS = 100, 10.0, 1_000

    def __init__(self, clock: Callable[[logging.LogRecord], float] = lambda record: record.created) -> None:
        self._clock, self._kinds = clock, dict[tuple[str, str], _Kind]()

    def __call__(self, record: logging.LogRecord) -> bool:
        """Whether a record is shown; its message is changed if others are not."""
        if record.levelno < logging.WARNING:
            return True
        now_s, key = self._clock(record), (record.name, str(record.msg))
        kind = self._kinds.get(key)
        hidden = 0
        if kind is None or not 0 <= now_s - kind.since_s < self.WITHIN_S:
            hidden = max(0, kind.lines - self.LINES) if kind else 0
            if len(self._kinds) >= self.KINDS:
                self._kinds.clear()
            kind = self._kinds[key] = _Kind(now_s)
        kind.lines += 1
        if kind.lines > self.LINES:
            return False
        if hidden:
            record.msg, record.args = f"{record.getMessage()} ({hidden:,} lines like this were not shown)", ()
        if kind.lines == self.LINES:
            shown = f"{record.getMessage()} (more lines like this are not shown for {self.WITHIN_S:.0f} s)"
            record.msg, record.args = shown, ()
        return True


def say(text: str, *, code: str = "", level: int = logging.INFO) -> None:
    """Logs a line of the command itself, such as its last one: plain text, unless lines are JSON."""
    text = plain(text)
    formatter = logging.root.handlers[0].formatter if logging.root.handlers else None
    if isinstance(formatter, JsonLines):
        record = logging.LogRecord("foreshock", level, "", 0, text, (), None)
        record.code = code or None
        print(formatter.format(record), file=sys.stderr, flush=True)
    else:
        print(f"{text} [{code}]" if code else text, file=sys.stderr, flush=True)


def echo(text: str, *, err: bool = False) -> None:
    """Prints one line of a command's result, without control characters."""
    click.echo(plain(text), err=err)


class TextLines(logging.Formatter):
    """For a person: one line a message, then the traceback, if there is one, each of its lines indented."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = plain(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:
        return _indented(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:
        return _indented(super().formatStack(stack_info))


class JsonLines(logging.Formatter):
    """For a collector: one object a line, whatever the message holds."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "ts": rfc3339(int(record.created * 1000)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": plain_lines(record.getMessage()),
        }
        line |= {name: _field(found) for name in FIELDS if (found := getattr(record, name, None)) is not None}
        if record.exc_info:
            line["traceback"] = plain_lines(self.formatException(record.exc_info))
        return json.dumps(line, default=str)


def _field(value: object) -> object:
    return plain(value) if isinstance(value, str) else value


def _indented(text: str) -> str:
    """So that no line of an exception's own text can be taken for a line of the log."""
    return "\n".join("    " + line for line in plain_lines(text).split("\n"))


def _as_a_line(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    logging.getLogger("foreshock").critical("unexpected: %s", kind.__name__, exc_info=(kind, error, trace))
