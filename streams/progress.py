"""Where a source partition resumes: `Progress` ↔ sealed bytes."""

from __future__ import annotations

import msgspec

from streams.errors import UNREADABLE, ConfigError, SketchError
from streams.partial import Mark, Natural
from streams.position import generation_of
from streams.seal import CONTINUED, seal, unseal
from streams.stream_time import StreamTime


class Progress(msgspec.Struct, frozen=True):
    """Where a source partition resumes, and every model's stream time; up to 0.1 only the marks were kept.

    `next_offset`: a position (`streams.position`), at a chunk's bound unless counting began or went on within a chunk.
    `logs`: per generation of the log its topic's id, empty if it is not known. `began`: the position at which counting
    of this generation began. `lost`: records of the partition that were gone before they were counted, ever.
    """

    next_offset: Natural
    marks_ms: dict[str, Mark]
    logs: list[str] = []
    began: Natural = 0
    lost: Natural = 0
    times: dict[str, StreamTime] = {}
    chunk_size: Natural = 0
    """Of the chunks that were counted; 0: of release 0.1, which did not say it."""

    def to_bytes(self, key: bytes = b"") -> bytes:
        """Sealed bytes, for a record under this key."""
        plain = generation_of(self.next_offset) == 0 and not self.lost
        return seal(msgspec.msgpack.encode(self), 0 if plain else CONTINUED, key)

    @classmethod
    def from_bytes(cls, data: bytes, key: bytes = b"") -> Progress:
        """Raises SketchError for what is none, NewerError for what a later release wrote under this key."""
        try:
            return msgspec.msgpack.decode(unseal(data, key), type=cls)
        except UNREADABLE as error:
            raise SketchError(seen=f"progress that does not open ({error})", expected="packed progress") from None


def in_chunks_of(progress: Progress, chunk_size: int) -> Progress:
    """The progress, with the size of the chunks that are counted.

    Raises:
        ConfigError: it was written with chunks of another size: their numbers would mean other records.
    """
    if progress.chunk_size not in (0, chunk_size):
        raise ConfigError(
            place="kafka.chunk_size",
            seen=str(chunk_size),
            expected=f"{progress.chunk_size}, as all that is on the topics was counted",
            mend="set it back, or use another prefix",
        )
    return msgspec.structs.replace(progress, chunk_size=chunk_size)
