"""Text of a payload or a peer → text that is safe on a terminal, in a log line, on a page and in a metric's label.

Control characters (C0, DEL, C1), the overrides and isolates of bidirectional text, line and paragraph separators,
characters without a glyph (zero width, tags, the byte order mark) and lone surrogates never pass.
"""

from __future__ import annotations

import re
from html import escape

UNSAFE = (
    "\\x00-\\x09\\x0b-\\x1f\\x7f-\\x9f\\xad\\u061c\\u115f\\u1160\\u180e\\u200b-\\u200f\\u2028-\\u202e\\u2060-\\u206f\\u3164"
    "\\ufeff\\uffa0\\ufff0-\\ufffb\\ud800-\\udfff\\U000e0000-\\U000e0fff"
)
"""All but the line feed, as the inside of a class of a regular expression."""
_unsafe = re.compile(f"[\n{UNSAFE}]")
_unsafe_in_lines = re.compile(f"[{UNSAFE}]")
_SPACES = frozenset("\t\n\v\f\r\x1c\x1d\x1e\x85\u2028\u2029")


def plain(text: str) -> str:
    r"""One line without an unsafe character: white space of any kind is a space, the rest is written out.

    >>> plain("a\nb\x1b[2J\u202e")
    'a b\\x1b[2J\\u202e'
    """
    return text if text.isascii() and text.isprintable() else _unsafe.sub(_written_out, text)


def plain_lines(text: str) -> str:
    r"""The same of a text of several lines: its line feeds stay.

    >>> plain_lines("a\r\nb\x1b")
    'a \nb\\x1b'
    """
    return _unsafe_in_lines.sub(_written_out, text)


def html_text(text: str) -> str:
    r"""The same as HTML, for elements and quoted attributes.

    >>> html_text("<b>\u202e")
    '&lt;b&gt;\\u202e'
    """
    return escape(plain_lines(text))


def exposition(page: str) -> str:
    r"""A page of metrics in the text format of Prometheus, its labels' values without unsafe characters.

    >>> exposition('up{model="a\x1b"} 1\n')
    'up{model="a\\\\x1b"} 1\n'
    """
    return _unsafe_in_lines.sub(lambda match: _written_out(match).replace("\\", "\\\\"), page)


def plain_json(text: str) -> str:
    r"""JSON on one line that means the same: what is unsafe inside of a string is escaped.

    >>> plain_json('{"a":\n "\u202e"}')
    '{"a":  "\\u202e"}'
    """
    return text if text.isascii() and text.isprintable() else _unsafe.sub(_escaped, text)


def _written_out(match: re.Match[str]) -> str:
    char = match[0]
    if char in _SPACES:
        return " "
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x1_0000 else f"\\U{code:08x}"


def _escaped(match: re.Match[str]) -> str:
    char = match[0]
    if char in "\t\n\r":
        return " "  # between values: inside of a string JSON has none of them
    code = ord(char)
    if code < 0x1_0000:
        return f"\\u{code:04x}"
    high, low = divmod(code - 0x1_0000, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"
