"""A compressed body → its bytes in chunks of bounded size, however much it inflates to."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import cramjam

AT_ONCE_BYTES = 4 << 20
"""What inflates to less is inflated in one step; more comes in chunks."""
CHUNK_BYTES = 1 << 20
MAX_INFLATED_BYTES = 1 << 31
"""Of one batch: no producer can write more, since Kafka's lengths are 32 bits."""
MAX_RAW_SNAPPY_BYTES = 64 << 20
"""A block of snappy must be inflated in one step."""

NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)
_AT_ONCE = {GZIP: cramjam.gzip, LZ4: cramjam.lz4, ZSTD: cramjam.zstd}
_ARROW = {LZ4: "lz4", ZSTD: "zstd"}
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
            yield from _bounded(_gunzipped(body) if codec == GZIP else _streamed(codec, body))
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


def _gunzipped(body: bytes | memoryview) -> Iterator[bytes]:
    rest = bytes(body)
    try:
        while rest:
            stream = zlib.decompressobj(wbits=31)
            while not stream.eof:
                chunk = stream.decompress(rest, CHUNK_BYTES)
                rest = stream.unconsumed_tail
                if chunk:
                    yield chunk
                elif not rest and not stream.eof:
                    raise NoInflation("gzip that was cut off")
            rest = stream.unused_data
    except zlib.error as error:
        raise NoInflation(f"no gzip: {error}") from None


def _streamed(codec: int, body: bytes | memoryview) -> Iterator[bytes]:
    import pyarrow  # 30 MB that few workers need: for batches that are large, or damaged

    name = _ARROW[codec]
    try:
        with pyarrow.CompressedInputStream(pyarrow.BufferReader(bytes(body)), name) as stream:
            while chunk := stream.read(CHUNK_BYTES):
                yield chunk
    except (OSError, MemoryError) as error:  # pyarrow.ArrowInvalid is a ValueError
        raise NoInflation(f"no {name}: {error}") from None
    except ValueError as error:
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
