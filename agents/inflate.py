"""A compressed body → its bytes in chunks of bounded size, however much it inflates to."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Protocol

import cramjam

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

AT_ONCE_BYTES = 4 << 20
"""What inflates to less is inflated in one step; more comes in chunks."""
CHUNK_BYTES = 1 << 20
_PIECE_BYTES = 16 << 10
"""Of a body, fed at a time: what a frame does not use is copied, and frames may be as short as 15 bytes."""
MAX_INFLATED_BYTES = 1 << 31
"""Of one batch: no producer can write more, since Kafka's lengths are 32 bits."""
MAX_RAW_SNAPPY_BYTES = 64 << 20
"""A block of snappy must be inflated in one step."""

NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)
_AT_ONCE = {GZIP: cramjam.gzip, LZ4: cramjam.lz4, ZSTD: cramjam.zstd}
_XERIAL = b"\x82SNAPPY\0"
_XERIAL_HEADER_BYTES = 16

_scratch = bytearray()


class NoInflation(Exception):
    """A body that is not of its codec, or that inflates to more than any batch."""


def inflated(codec: int, body: bytes | memoryview) -> Iterator[bytes]:
    """The bytes of a body, at most AT_ONCE_BYTES (snappy: MAX_RAW_SNAPPY_BYTES) at a time.

    Raises:
        NoInflation: at the first byte that cannot be had; what came before it is good.
    """
    if codec == NONE:
        yield bytes(body)
    elif codec == SNAPPY:
        yield from _bounded(_unsnapped(memoryview(body)))
    elif codec in _AT_ONCE:
        whole = at_once(codec, body)
        if whole is not None:
            yield bytes(whole)
        else:
            yield from _bounded(_streamed(codec, body))
    else:
        raise NoInflation(f"an unknown codec, {codec}")


def _bounded(chunks: Iterator[bytes]) -> Iterator[bytes]:
    total = 0
    for chunk in chunks:
        total += len(chunk)
        if total > MAX_INFLATED_BYTES:
            raise NoInflation(f"it inflates to more than {MAX_INFLATED_BYTES} bytes")
        yield chunk


def at_once(codec: int, body: bytes | memoryview) -> bytes | memoryview | None:
    """All of a body; None for what is more than AT_ONCE_BYTES, damaged, or of another codec: see `inflated`."""
    global _scratch
    if codec == NONE:
        return body
    if codec not in _AT_ONCE:
        return None
    if not _scratch:
        _scratch = bytearray(AT_ONCE_BYTES)
    try:
        size: int = _AT_ONCE[codec].decompress_into(body, _scratch)
    except cramjam.DecompressionError:
        return None
    return bytes(memoryview(_scratch)[:size])


class _Frame(Protocol):
    """Decompresses one frame, as the standard library's `compression.zstd` does."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes | None: ...
    def decompress(self, data: bytes | memoryview, max_length: int, /) -> bytes: ...


class _GzipFrame:
    """The same of zlib, whose object hands back what it has not taken yet."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._stream.eof

    @property
    def needs_input(self) -> bool:
        return not self._stream.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._stream.unused_data

    def decompress(self, data: bytes | memoryview, max_length: int, /) -> bytes:
        return self._stream.decompress(data or self._stream.unconsumed_tail, max_length)


def _lz4_frame() -> _Frame:
    import lz4.frame  # for batches that are large, or damaged

    frame: _Frame = lz4.frame.LZ4FrameDecompressor()
    return frame


_FRAMES: dict[int, tuple[str, Callable[[], _Frame]]] = {
    GZIP: ("gzip", _GzipFrame),
    LZ4: ("lz4", _lz4_frame),
    ZSTD: ("zstd", zstd.ZstdDecompressor),
}
"""Of each codec its name, and what decompresses a frame. (A frame of zstd may ask for a window of 128 MiB at most.)"""


def _streamed(codec: int, body: bytes | memoryview) -> Iterator[bytes]:
    """The frames of a body, one after the other."""
    (name, make), data, start = _FRAMES[codec], memoryview(body), 0
    try:
        while start < len(data):
            frame = make()
            while not frame.eof:
                piece = data[start : start + _PIECE_BYTES] if frame.needs_input else b""
                start += len(piece)
                chunk = frame.decompress(piece, CHUNK_BYTES)
                if chunk:
                    yield chunk
                elif start == len(data) and frame.needs_input and not frame.eof:
                    raise NoInflation(f"{name} that was cut off")
            start -= len(frame.unused_data or b"")
    except (zlib.error, zstd.ZstdError, RuntimeError, MemoryError) as error:  # lz4's own is a RuntimeError
        raise NoInflation(f"no {name}: {error}") from None


def _unsnapped(body: memoryview) -> Iterator[bytes]:
    if bytes(body[: len(_XERIAL)]) != _XERIAL:
        yield _raw_snappy(body)
        return
    at = _XERIAL_HEADER_BYTES
    while at < len(body):
        size = int.from_bytes(body[at : at + 4], "big")
        at += 4
        if at + size > len(body):
            raise NoInflation("snappy that was cut off")
        yield _raw_snappy(body[at : at + size])
        at += size


def _raw_snappy(block: memoryview) -> bytes:
    try:
        size = cramjam.snappy.decompress_raw_len(block)
        if size > MAX_RAW_SNAPPY_BYTES:
            raise NoInflation(f"a block of snappy that inflates to {size} bytes")
        return bytes(cramjam.snappy.decompress_raw(block))
    except cramjam.DecompressionError as error:
        raise NoInflation(f"no snappy: {error}") from None
