"""agents/inflate.py: no header makes it take more memory than a chunk needs, and no body more time than its bytes."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable

import lz4.frame
import pytest

from agents.inflate import AT_ONCE_BYTES, CHUNK_BYTES, GZIP, LZ4, ZSTD, NoInflation, inflated
from tests.batches import CODECS, bomb

MIB = 1 << 20
KIB_PER_MIB = 1024
ZSTD_START = bytes.fromhex("28b52ffd")
LAST_RAW_BLOCK = bytes.fromhex("190000") + b"abc"
RUN_BLOCK = bytes.fromhex("02010078")
"""One of 128 KiB of "x", of four bytes, with another to follow: what a hostile header asks memory for."""


def whole(codec: int, body: bytes) -> bytes:
    return b"".join(inflated(codec, body))


every_codec = pytest.mark.parametrize("codec", [GZIP, LZ4, ZSTD], ids=["gzip", "lz4", "zstd"])


@every_codec
def test_frames_one_after_the_other_are_read_as_one(codec: int) -> None:
    frame = CODECS[codec](b"ab" * AT_ONCE_BYTES)
    assert whole(codec, frame + frame + CODECS[codec](b"")) == b"ab" * (2 * AT_ONCE_BYTES)


@every_codec
def test_no_chunk_is_larger_than_the_bound(codec: int) -> None:
    sizes = [len(chunk) for chunk in inflated(codec, bomb(codec, 64 * MIB))]
    assert sum(sizes) > 64 * MIB and max(sizes) <= CHUNK_BYTES


@every_codec
@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data + b"tail", lambda data: data[:3]])
def test_a_body_that_is_cut_off_or_has_a_tail_is_refused(codec: int, damage: Callable[[bytes], bytes]) -> None:
    with pytest.raises(NoInflation):
        whole(codec, damage(CODECS[codec](b"ab" * AT_ONCE_BYTES)))


@pytest.mark.parametrize(
    "body",
    [
        ZSTD_START + b"\x00\xa8" + LAST_RAW_BLOCK,  # a window of 2 GiB
        ZSTD_START + b"\xe0" + (1 << 60).to_bytes(8, "little") + LAST_RAW_BLOCK,  # 2**60 bytes, all in one segment
        ZSTD_START + b"\x00\xa8" + RUN_BLOCK * 64,
    ],
    ids=["a window", "a size", "a window and much to fill it"],
)
def test_a_zstd_header_that_asks_for_gigabytes_is_refused(body: bytes) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(NoInflation):
        whole(ZSTD, body)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 * KIB_PER_MIB


def test_a_zstd_header_that_asks_for_little_is_not() -> None:
    """Guards the test above: it is the size of the window alone that is refused."""
    assert whole(ZSTD, ZSTD_START + b"\x00\x68" + LAST_RAW_BLOCK) == b"abc"


def test_an_lz4_header_that_promises_more_than_comes_is_refused() -> None:
    with lz4.frame.LZ4FrameCompressor(auto_flush=True) as stream:
        header = bytearray(stream.begin(source_size=1 << 60))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(NoInflation):
        whole(LZ4, bytes(header) + (3 | 1 << 31).to_bytes(4, "little") + b"abc" + bytes(4))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 * KIB_PER_MIB


@pytest.mark.parametrize("codec", [LZ4, ZSTD], ids=["lz4", "zstd"])
def test_a_mebibyte_of_empty_frames_takes_a_second_or_so(codec: int) -> None:
    """And not 10 to 25, as it does where each frame copies what is left of the body."""
    frame = CODECS[codec](b"")
    body = frame * (MIB // len(frame)) + CODECS[codec](bytes(AT_ONCE_BYTES + 1))
    began = time.process_time()
    assert whole(codec, body) == bytes(AT_ONCE_BYTES + 1)
    assert time.process_time() - began < 6
