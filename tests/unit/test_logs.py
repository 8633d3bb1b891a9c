"""Lines on stderr: one for each message, in either form, whatever the message holds."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from mode import Service

from agents import logs
from agents.acks import AckReader
from agents.cli import cli
from agents.clients import OUTAGE, Connection
from streams.ack import Ack
from streams.errors import BrokerError

LIBRARIES = ("agents.intake", "faust.app", "mode.services", "aiokafka.consumer.fetcher", "asyncio")


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Logging is the process's: what a test sets up is undone."""
    handlers, level, hook = logging.root.handlers[:], logging.root.level, sys.excepthook
    yield
    logging.captureWarnings(False)
    logging.root.handlers[:], sys.excepthook = handlers, hook
    logging.root.setLevel(level)


def said(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


@pytest.mark.parametrize("name", LIBRARIES)
def test_every_library_speaks_json(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OUTAGE, "_next", float("-inf"))  # whatever a test before has complained about
    logs.to_stderr(logs.Form.JSON)
    logging.getLogger(name).warning("%d records\nin two lines", 3)
    (line,) = said(capsys)
    assert line.pop("ts").endswith("Z")
    assert line == {"level": "warning", "logger": name, "event": "3 records\nin two lines"}


def test_the_place_is_in_fields_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    logs.to_stderr(logs.Form.JSON)
    logging.getLogger("agents.merge").error("left out", extra={"topic": "partials", "partition": 0, "other": 1})
    (line,) = said(capsys)
    assert (line["topic"], line["partition"]) == ("partials", 0)
    assert "other" not in line


def test_a_traceback_is_a_field(capsys: pytest.CaptureFixture[str]) -> None:
    logs.to_stderr(logs.Form.JSON)
    try:
        raise ValueError("bad\nthing")
    except ValueError as error:
        logging.getLogger("mode").exception("crashed")
        sys.excepthook(ValueError, error, error.__traceback__)
    crash, unexpected = said(capsys)
    assert crash["event"] == "crashed"
    assert (unexpected["event"], unexpected["level"]) == ("unexpected: ValueError", "critical")
    for line in (crash, unexpected):
        assert line["traceback"].startswith("Traceback") and line["traceback"].endswith("ValueError: bad\nthing")


@pytest.mark.parametrize("text", ["a\nERROR forged", "a\r\nb", "\u2028", "\ud800", '"}{', "\x1b[2J\x00"])
def test_a_message_cannot_forge_a_line(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    for form in logs.Form:
        logs.to_stderr(form)
        logging.getLogger("agents").error("%s", text.encode("utf-8", "replace").decode() if form == "text" else text)
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_text_is_for_a_person(capsys: pytest.CaptureFixture[str]) -> None:
    logs.to_stderr(logs.Form.TEXT)
    logging.getLogger("agents.app").info("metrics at %s", "here")
    logging.getLogger("faust").info("chatter")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(" INFO agents.app: metrics at here")


@pytest.mark.parametrize("form", logs.Form)
def test_the_last_line_of_a_command_is_in_the_same_form(form: logs.Form, tmp_path: Path) -> None:
    """And says the code by which the runbook is searched."""
    config = tmp_path / "none.yaml"
    command = [sys.executable, "-m", "agents", "--log-format", form, "worker", "-c", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    if form is logs.Form.JSON:
        told = json.loads(line)
        assert told["event"].startswith(f"foreshock: {config}: ")
        assert (told["code"], told["level"], told["logger"]) == ("FS-CONFIG", "critical", "foreshock")
    else:
        assert line.startswith(f"foreshock: {config}: ") and line.endswith(" [FS-CONFIG]")


def test_the_form_may_come_from_the_environment() -> None:
    done = CliRunner().invoke(cli, ["check", "-c", "none.yaml"], env={"FORESHOCK_LOG_FORMAT": "xml"})
    assert done.exit_code == 2 and "'xml' is not one of 'text', 'json'" in done.output


def test_what_a_record_holds_is_not_in_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    """A line says where it is."""
    logs.to_stderr(logs.Form.JSON)
    taken: list[Ack] = []
    reader = AckReader(Connection(broker="none:1"), taken.append)
    value = b'{"action_id": "a", "status": "secret-4711", "by": "ann", "ts": 1}'
    reader._take([SimpleNamespace(value=value, topic="acks", partition=2, offset=7)])  # type: ignore[list-item]
    (line,) = said(capsys)
    assert not taken and "4711" not in json.dumps(line)
    assert [line[name] for name in ("topic", "partition", "offset", "reason")] == ["acks", 2, 7, "wrong_type"]


def test_a_service_that_crashes_by_an_error_of_ours_leaves_it_to_the_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Which ends with its one line; any other error has its traceback."""

    class Part(Service):
        @Service.task
        async def _work(self) -> None:
            raise self.error

    def crashed_by(error: Exception) -> str:
        async def main() -> None:
            part = Part()
            part.error = error
            await part.start()
            while not part.crashed:
                await asyncio.sleep(0)
            await part.stop()

        logs.to_stderr(logs.Form.TEXT)
        asyncio.run(main())
        return capsys.readouterr().err

    assert crashed_by(BrokerError(seen="no topic")) == ""
    assert "Traceback" in crashed_by(ValueError("no reason"))


@pytest.mark.parametrize("form", list(logs.Form))
def test_a_flood_of_one_message_is_cut_and_counted(form: logs.Form, capsys: pytest.CaptureFixture[str]) -> None:
    logs.to_stderr(form)
    for offset in range(50_000):
        logging.getLogger("agents.acks").error("acks, offset %d: left out", offset)
    logging.getLogger("agents.acks").error("another line")
    logging.getLogger("agents.merge").info("acks, offset %d: left out", 7)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == logs.Repeats.LINES + 2
    assert "acks, offset 99: left out (more lines like this are not shown for 10 s)" in lines[99]


def test_after_a_flood_the_next_line_says_how_many_were_not_shown() -> None:
    now_s = 0.0
    repeats = logs.Repeats(lambda _: now_s)

    def shown(text: str, *args: object) -> str | None:
        record = logging.LogRecord("agents.acks", logging.ERROR, "", 0, text, args, None)
        return record.getMessage() if repeats(record) else None

    for at in range(1_000):
        assert (shown("offset %d", at) is not None) == (at < logs.Repeats.LINES)
    assert shown("of another kind") == "of another kind"
    now_s = logs.Repeats.WITHIN_S
    assert shown("offset %d", 1_000) == "offset 1000 (900 lines like this were not shown)"
    assert shown("offset %d", 1_001) == "offset 1001"
    now_s = -5.0  # the clock was set back
    assert shown("offset %d", 1_002) == "offset 1002"


def test_a_flood_of_different_messages_is_not_remembered_for_ever() -> None:
    repeats = logs.Repeats()
    for at in range(3 * logs.Repeats.KINDS):
        assert repeats(logging.LogRecord("agents", logging.ERROR, "", 0, f"line {at}", (), None))
    assert len(repeats._kinds) <= logs.Repeats.KINDS
