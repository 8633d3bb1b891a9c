"""Payload ↔ sealed bytes: magic, format, checksum.

From format 3 on the checksum covers the record's key and the format too, so damage, or a copy under another key, is
never taken for a record of a later release.
"""

from __future__ import annotations

import struct
import zlib

from streams.errors import NewerError, SketchError

_SEAL = struct.Struct("<4sBI")
MAGIC = b"FSHK"
WRITES, READS = 1, (1, 2)
"""The format of what is written, and the formats that are read. A new one is read by a release before it is written by
the next: then workers of both run side by side, and either may be rolled back."""
CONTINUED = 2
"""The format of the few records that tell of a log that was truncated or made anew. A worker of an earlier release
would take them for something else, so it ends when it meets one."""
KEYED = 3
"""From this format on the checksum covers key, format and payload; before it covers the payload alone. Nothing writes
such a format yet: the rule is set before the first one, so that every release can tell one from damage."""
MAX_BYTES = 64 << 20


def inflate(data: bytes) -> bytes:
    """The decompressed bytes, if there are no more than a record may have: a few bytes may inflate to gigabytes.

    Raises:
        SketchError: if it is larger, or is not what `zlib.compress` wrote.
    """
    opening = zlib.decompressobj()
    try:
        found = opening.decompress(data, MAX_BYTES)
    except zlib.error as error:
        raise SketchError(seen=f"bytes that do not inflate ({error})", expected="compressed bytes") from None
    if not opening.eof or opening.unused_data:
        raise SketchError(seen="bytes that inflate to no end of their own", expected=f"{MAX_BYTES} bytes at the most")
    return found


def seal(payload: bytes, at_least: int = 0, key: bytes = b"") -> bytes:
    """The payload behind magic, format and checksum. `at_least`: the format that can hold it. `key`: the record's."""
    written = max(WRITES, at_least)
    return _SEAL.pack(MAGIC, written, _checksum(written, key, payload)) + payload


def is_sealed(data: bytes) -> bool:
    """Whether the bytes begin as sealed ones do."""
    return data.startswith(MAGIC)


def _checksum(written: int, key: bytes, payload: bytes) -> int:
    if written < KEYED:
        return zlib.crc32(payload)
    head = struct.pack("<BI", written, len(key)) + key
    return zlib.crc32(payload, zlib.crc32(head))


def unseal(data: bytes, key: bytes = b"") -> bytes:
    """The payload, if magic, checksum and format hold.

    Raises:
        NewerError: it is whole, of a later release, and was written under this key.
        SketchError: it is none of ours.
    """
    if len(data) < _SEAL.size or len(data) > MAX_BYTES:
        raise SketchError(seen=f"{len(data)} bytes", expected=f"{_SEAL.size} to {MAX_BYTES}")
    magic, written, checksum = _SEAL.unpack_from(data)
    payload = data[_SEAL.size :]
    if magic != MAGIC:
        raise SketchError(seen=f"magic {magic!r}", expected=f"{MAGIC!r}")
    if _checksum(written, key, payload) != checksum:
        raise SketchError(seen=f"a wrong checksum for format {written}", expected="the checksum of what was sealed")
    check_format(written)
    return payload


def check_format(written: int) -> None:
    """Raises NewerError, or SketchError, for a format that is not read. The seal has been checked before."""
    expected = f"format {' or '.join(map(str, READS))}"
    if written > max(READS):
        raise NewerError(
            seen=f"format {written}, of a later release", expected=expected, mend="upgrade this worker; nothing is lost"
        )
    if written not in READS:
        raise SketchError(seen=f"format {written}", expected=expected)
