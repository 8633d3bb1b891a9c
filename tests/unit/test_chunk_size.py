"""Chunks of another size would give the numbers of chunks another meaning: the worker says so, and ends."""

from __future__ import annotations

import pytest

from streams.errors import ConfigError
from streams.progress import Progress, in_chunks_of


def test_the_size_is_written_down_and_held_to() -> None:
    first = in_chunks_of(Progress(2_048, {"m": 4}), 1_024)
    again = Progress.from_bytes(first.to_bytes())
    assert in_chunks_of(again, 1_024) == first
    with pytest.raises(ConfigError) as error:
        in_chunks_of(again, 65_536)
    assert str(error.value) == (
        "kafka.chunk_size: 65536; expected 1024, as all that is on the topics was counted; "
        "set it back, or use another prefix"
    )
