"""What several commands share: options, the broker that they name, files and folders."""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from agents import ending, logs
from agents.clients import Connection
from agents.clients import Security as ClientSecurity
from agents.files import read_plan
from agents.logs import echo
from agents.reading import check_regular
from streams.config import Config, is_nameable
from streams.errors import ConfigError
from streams.plan import Plan
from streams.unjudged import Unjudged

T = TypeVar("T")

FILE = click.Path(path_type=Path)
CONFIG = click.option("-c", "--config", "config_file", type=FILE, required=True, help="The foreshock.yaml.")
BROKER = click.option("--broker", help="host:port[,host:port]; instead of the configuration's.")
EMBEDDED = click.option(
    "--embedded", is_flag=True, hidden=True, help="The broker is that of the demo, with its limits."
)
FROM_FOLDER = click.option("--from", "folder", type=FILE, help="A backtest's folder, instead of the topics.")

WRITTEN = "what 'foreshock backtest' wrote"
LEDGER = "ledger.json"
"""What a backtest says of its ledgers."""


@dataclass(frozen=True)
class Reach:
    """A configuration, and the broker that it or an option names: read once, when they are asked for."""

    config_file: Path
    broker: str | None
    embedded: bool

    @cached_property
    def plan(self) -> Plan:
        return read_plan(self.config_file)

    @cached_property
    def connection(self) -> Connection:
        return connection(self.plan.config, self.broker, self.embedded)

    def check_source(self, folder: Path | None) -> None:
        """ConfigError if both a folder and a broker are named to read from."""
        if folder and self.broker:
            raise ConfigError(seen="--from and --broker", expected="one of them", mend="leave one out")


def reaches_kafka(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options -c, --broker and --embedded, which it takes as one `Reach`."""

    @CONFIG
    @BROKER
    @EMBEDDED
    @functools.wraps(command)
    def reaching(config_file: Path, broker: str | None, embedded: bool, **others: Any) -> None:
        command(Reach(config_file, broker, embedded), **others)

    return reaching


def connection(config: Config, broker: str | None, embedded: bool) -> Connection:
    """How to reach the broker of the configuration, or another one."""
    kafka = config.kafka
    security = ClientSecurity(**msgspec.structs.asdict(kafka.security))
    return Connection(
        broker=broker or kafka.broker,
        prefix=kafka.prefix,
        embedded=embedded,
        security=security,
        isolation=kafka.isolation,
    )


def nameable(context: click.Context, option: click.Parameter, name: str | None) -> str | None:
    """The name of a member or a group, which logs and Kafka's tools show."""
    if name is not None and not is_nameable(name):
        raise click.BadParameter(f"{name[:80]!r}; expected a printable name of 1 to 256 characters", context, option)
    return name


def log_to_stderr(verbose: bool = False, level: int = logging.INFO) -> None:
    """Logs in the form that `--log-format` names."""
    logs.to_stderr(click.get_current_context().find_root().obj, level, verbose=verbose)


def run_async(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """The result of the work, in an event loop that SIGTERM ends."""
    return ending.run(work)


def warn_unjudged(notes: Iterable[Unjudged]) -> None:
    """Warns of what exit code 0 says nothing about."""
    for note in notes:
        echo(f"warning: {note.line}", err=True)


def existing(path: Path, what: str) -> Path:
    """The path; ConfigError unless a regular file is there."""
    try:
        check_regular(path, what)
    except OSError as error:
        seen = "no such file" if isinstance(error, FileNotFoundError) else str(error.strerror)
        raise ConfigError(place=str(path), seen=seen, expected=what, mend="check the path") from None
    return path


def make_folder(path: Path) -> None:
    """Makes the folder for results, and those above it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            place=str(path), seen=str(error.strerror), expected="a folder to write to", mend="choose another with -o"
        ) from None


def slug(name: str) -> str:
    """A file name for a model."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).lstrip(".") or "model"


def pretty_json(record: object) -> bytes:
    """A record as indented JSON, with a newline at its end."""
    return msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n"
