"""The entry point: commands are imported when they are asked for, and errors end in one line and an exit code."""

from __future__ import annotations

import re
import sys
from types import SimpleNamespace

import click
import pytest
from aiokafka.errors import TopicAuthorizationFailedError

from agents.cli import cli, main
from agents.cli.main import MODULE_OF
from streams.errors import BrokerError, ConfigError, DataError, ForeshockError

CONTEXT = click.Context(cli)
PACKAGE = main.__module__.rpartition(".")[0]


@pytest.mark.parametrize("name", MODULE_OF)
def test_a_command_is_where_the_table_says(name: str) -> None:
    command = cli.get_command(CONTEXT, name)
    assert command is not None and command.name == name and command.help


def test_a_command_that_there_is_not_is_a_usage_error() -> None:
    assert cli.get_command(CONTEXT, "options") is None
    assert cli.list_commands(CONTEXT) == sorted(MODULE_OF)


def ended_by(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> object:
    """The exit code of a command that raises this."""

    def raising() -> None:
        raise error

    monkeypatch.setitem(sys.modules, f"{PACKAGE}.actions", SimpleNamespace(ack=click.command("ack")(raising)))
    monkeypatch.setattr(sys, "argv", ["foreshock", "ack"])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ConfigError(seen="this", expected="that"), 2, r"this; expected that \[FS-CONFIG\]"),
        (DataError(seen="this"), 1, r"this \[FS-DATA\]"),
        (ForeshockError(seen="this"), 1, "this"),
        (TopicAuthorizationFailedError("events"), 1, f"Kafka: .*{BrokerError.code}"),
        (OSError(28, "No space left on device", "out/windows.ndjson"), 1, "out/windows.ndjson: No space left.*FS-DATA"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_an_error_ends_in_one_line_and_its_exit_code(
    error: Exception, code: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended_by(error, monkeypatch) == code
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert re.search(line, said[0]), said[0]


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (BrokenPipeError(), 1)])
def test_an_end_that_somebody_wants_says_nothing(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended_by(error, monkeypatch) == code
    assert not capsys.readouterr().err.strip()


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZeroDivisionError):
        ended_by(ZeroDivisionError(), monkeypatch)
