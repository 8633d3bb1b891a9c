"""Whatever a payload holds: no control character, override or line feed of it reaches a terminal, a log or a page."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import sys
import unicodedata
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents import follow, logs
from streams.action import action_line, line_of
from streams.errors import ForeshockError
from streams.reports.html import safe, tag
from streams.text import html_text, plain, plain_json, plain_lines
from tests.actions import action

HOSTILE = st.text(
    st.sampled_from("\x00\x07\x08\t\n\r\x1b\x7f\x85\x9b\xad\u061c\u200b\u200e\u2028\u2029\u202e\u2066\ufeff\U000e0041")
    | st.sampled_from('a[0m;<>&"{}\\é漢'),
    max_size=40,
) | st.text(st.characters(codec="utf-8"), max_size=40)


def is_safe(char: str) -> bool:
    """By the categories of Unicode alone: neither control, nor format, nor surrogate, nor separator of lines."""
    return unicodedata.category(char) not in {"Cc", "Cs", "Zl", "Zp"} and not (
        unicodedata.category(char) == "Cf" and unicodedata.bidirectional(char) != "AN"
    )


def assert_safe(text: str, *, but: str = "") -> None:
    assert [char for char in text if not is_safe(char) and char not in but] == []


FORMATS_WITH_A_GLYPH = {
    chr(code) for code in (*range(0x110BD, 0x110CE), *range(0x13430, 0x13456), *range(0x1BCA0, 0x1D17B))
}
"""Signs of old scripts, shorthand and music that Unicode files under its format characters."""


@given(st.text(st.characters(exclude_categories=()), max_size=60))
def test_no_unsafe_character_passes_whatever_the_text(text: str) -> None:
    for char in plain(text):
        assert is_safe(char) or char in FORMATS_WITH_A_GLYPH
    for char in plain_lines(text):
        assert is_safe(char) or char == "\n" or char in FORMATS_WITH_A_GLYPH


@given(st.text("abcXYZ 0189-_.:;,+*/()[]{}<>=!?'\"\\|~^äöüß漢字", max_size=60))
def test_text_of_people_stays_as_it_is(text: str) -> None:
    assert plain(text) == text and plain_lines(text) == text and plain_json(text) == text


@given(st.recursive(HOSTILE | st.integers(), lambda item: st.lists(item) | st.dictionaries(HOSTILE, item)))
def test_json_means_the_same(value: object) -> None:
    for made in (json.dumps(value, ensure_ascii=False), json.dumps(value, ensure_ascii=False, indent="\t")):
        assert json.loads(plain_json(made)) == value
        assert_safe(plain_json(made))


def record(message: str, *args: object, exc_info: Any = None, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("agents.x", logging.ERROR, "", 0, message, args, exc_info)
    made.__dict__.update(extra)
    return made


def raised(text: str) -> Any:
    try:
        raise ValueError(text)
    except ValueError:
        return sys.exc_info()


def log_line(text: str) -> str:
    return logs.TextLines().format(record("model %s", text))


def json_line(text: str) -> str:
    line = json.loads(logs.JsonLines().format(record("%s", text, model=text, action_id=text)))
    assert_safe(line["event"], but="\n")
    return str(line["model"] + line["action_id"])


def hostile_action(text: str) -> bytes:
    made = msgspec.json.decode(msgspec.json.encode(action("f", 1)))
    made["subject"] = made["data"]["model"] = made["data"]["rule"] = made["data"]["model_version"] = text
    made["data"]["segment"] = {text: text}
    for signal in made["data"]["signals"]:
        signal["feature"] = text
    return msgspec.json.encode(made)


def error_line(text: str) -> str:
    return spoken(lambda: logs.say(f"foreshock: {ForeshockError(place=text, seen=text)}"), "stderr")


def echoed(text: str) -> str:
    return spoken(lambda: logs.echo(text), "stdout")


def spoken(what: Callable[[], None], to: str) -> str:
    stream = io.StringIO()
    redirect = contextlib.redirect_stderr if to == "stderr" else contextlib.redirect_stdout
    with redirect(stream):
        what()
    text = stream.getvalue()
    assert text.endswith("\n")
    return text[:-1]


def followed(text: str) -> str:
    said: list[str] = []
    follow.say_all([SimpleNamespace(value=hostile_action(text))], said.append, as_json=True)
    return said[0]


SINKS: dict[str, Callable[[str], str]] = {
    "a line of the log": log_line,
    "a line of the log, for a collector": json_line,
    "the line a command ends with": error_line,
    "a line of a command's result": echoed,
    "an action, for a person": lambda text: line_of(hostile_action(text)),
    "an action, as JSON": followed,
    "what is no action": lambda text: line_of(text.encode("utf-8", "replace")),
}


@pytest.fixture(autouse=True)
def _plain_log() -> Iterator[None]:
    """Commands speak plain text: no formatter of another test is left."""
    handlers = logging.root.handlers[:]
    logging.root.handlers[:] = []
    yield
    logging.root.handlers[:] = handlers


@pytest.mark.parametrize("sink", SINKS)
@given(text=HOSTILE)
def test_every_sink_keeps_control_characters_to_itself(sink: str, text: str) -> None:
    assert_safe(SINKS[sink](text))


@given(text=HOSTILE)
def test_pages_show_no_override_and_no_tag_of_a_payload(text: str) -> None:
    for page in (str(safe(text)), str(tag("p", text, title=text)), html_text(text)):
        assert_safe(page, but="\n")
    assert "<" not in html_text(text) and '"' not in html_text(text)


@given(text=HOSTILE)
def test_a_traceback_forges_no_line(text: str) -> None:
    first, *rest = logs.TextLines().format(record("failed", exc_info=raised(text))).split("\n")
    assert first.endswith("failed") and rest and all(line.startswith("    ") for line in rest)
    for line in rest:
        assert_safe(line)


def test_the_line_of_an_action_says_what_it_hides() -> None:
    assert "\\x1b[2J" in line_of(hostile_action("m\x1b[2J")) and action_line(action("f", 1)) == line_of(
        msgspec.json.encode(action("f", 1))
    )
