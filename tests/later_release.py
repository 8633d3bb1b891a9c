"""Records as a later release writes them: whole, under their own key, and in a format that this one does not read."""

from __future__ import annotations

from streams import seal

LATER = max(seal.READS) + 1
HEAD_BYTES = seal._SEAL.size


def later_release(value: bytes, key: bytes) -> bytes:
    """The record in the next format but one. A state, which is plain JSON today, is sealed then as all others are."""
    payload = value[HEAD_BYTES:] if seal.is_sealed(value) else value
    return seal._SEAL.pack(seal.MAGIC, LATER, seal._checksum(LATER, key, payload)) + payload
