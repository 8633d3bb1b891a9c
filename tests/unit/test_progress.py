"""agents/progress.py: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import io

import pytest

from agents import progress
from agents.progress import Told


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_a_bar_of_what_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with Told("learning") as told:
        told(10, 40)
        told(30)
    assert "learning" in terminal.getvalue() and "10/40" in terminal.getvalue() and "30/40" in terminal.getvalue()


def test_a_total_that_is_not_known_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with Told("events") as told:
        told(4_096)
        told(8_192)
    assert "  4096" in terminal.getvalue() and "8192" in terminal.getvalue() and "/" not in terminal.getvalue()


def test_elsewhere_a_line_says_so_every_few_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Told("events") as told:
        told(1)
        now[0] += progress.PLAIN_EVERY_S
        told(2_000, 3_000)
        told(2_500)
    assert capsys.readouterr().err == "events: 2,000 of 3,000\n"
