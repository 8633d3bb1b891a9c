"""Files of a user → their bytes and lines, within limits: a file is never read further than it may be long."""

from __future__ import annotations

import gzip
import os
import stat
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from streams.errors import ConfigError, DataError

MIB = 1 << 20
MAX_CONFIG_BYTES = 24 * MIB
MAX_BASELINE_BYTES = 256 * MIB
MAX_SECRET_BYTES = 64 * 1024
MAX_RESULT_BYTES = 256 * MIB
"""Of a JSON file that a backtest wrote."""
MAX_LINE_BYTES = 16 * MIB
PIECE_BYTES = MIB
FREE_BYTES, MAX_RATIO = 64 * MIB, 200
"""A compressed file may become so many bytes, and beyond that so many times its own size."""

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


def check_regular(path: Path, expected: str, mend: str = "check the path") -> os.stat_result:
    """What is known of a regular file.

    Raises:
        ConfigError: if it is a folder, a pipe or a device: those may have no end.
        OSError: if there is none.
    """
    found = path.stat()
    kind = next((name for is_one, name in _KINDS if is_one(found.st_mode)), None)
    if kind is not None:
        raise ConfigError(place=str(path), seen=kind, expected=expected, mend=mend)
    return found


def read_bytes(path: Path, expected: str, most: int, mend: str = "check the path") -> bytes:
    """The bytes of a regular file.

    Raises:
        ConfigError: if it is none, or longer than `most` bytes.
        OSError: if it cannot be read.
    """
    check_regular(path, expected, mend)
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ConfigError(
            place=str(path),
            seen=f"more than {most:,} bytes",
            expected=f"{expected} of at most {most:,} bytes",
            mend=mend,
        )
    return data


def pieces(path: Path) -> Iterator[bytes]:
    """A file in pieces of about a MiB, inflated if its name ends in .gz.

    Raises:
        ConfigError: if it is no regular file, or inflates without measure.
        DataError: if it cannot be read.
    """
    with _readable(path):
        size = check_regular(path, "a file of lines").st_size
        compressed, done = path.name.endswith(".gz"), 0
        with cast(IO[bytes], gzip.open(path)) if compressed else path.open("rb") as file:
            while piece := file.read(PIECE_BYTES):
                done += len(piece)
                if compressed and done > max(FREE_BYTES, MAX_RATIO * size):
                    raise ConfigError(
                        place=str(path),
                        seen=f"{size:,} bytes that become more than {done - 1:,}",
                        expected=f"at most {MAX_RATIO} times as many",
                        mend="inflate it yourself if it is what you mean",
                    )
                yield piece


def lines(path: Path) -> Iterator[bytes]:
    """The lines of a file, without their ends, blank ones left out; errors as of `pieces`, and for a line too long."""
    for block in line_blocks(path):
        yield from block


def line_blocks(path: Path) -> Iterator[list[bytes]]:
    """The same, as the lines that end in each piece of the file."""
    rest: list[bytes] = []
    length = number = 0
    for piece in pieces(path):
        if piece.isspace() and not any(rest):  # blank lines, however many
            number += piece.count(b"\n")
            continue
        first, end, others = piece.partition(b"\n")
        length += len(first)
        if length > MAX_LINE_BYTES:
            raise ConfigError(
                place=f"{path}, line {number + 1}",
                seen=f"more than {MAX_LINE_BYTES:,} bytes",
                expected="one JSON object a line",
                mend="write each record on a line of its own",
            )
        rest.append(first)
        if not end:
            continue
        whole = [b"".join(rest), *others.split(b"\n")]
        rest = [whole.pop()]
        length, number = len(rest[0]), number + len(whole)
        yield _stripped(whole)
    yield _stripped([b"".join(rest)])


def _stripped(found: Iterable[bytes]) -> list[bytes]:
    return [stripped for line in found if (stripped := line.strip())]


def text_lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 text with their ends, as `csv` wants them; a byte order mark is left out.

    Raises:
        ConfigError: if it is no regular file, or a line is too long.
        OSError, UnicodeDecodeError: if it cannot be read.
    """
    check_regular(path, "a CSV file")
    with path.open(newline="", encoding="utf-8-sig") as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), ""), 1):
            if len(line) > MAX_LINE_BYTES:
                seen, expected = f"more than {MAX_LINE_BYTES:,} characters", "one row a line"
                raise ConfigError(place=f"{path}, line {number}", seen=seen, expected=expected, mend="check the file")
            yield line


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            place=str(path), seen=why(error), expected="a readable file of lines", mend="check it"
        ) from None


def why(error: Exception) -> str:
    """The reason of an error that reading a file gave."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
