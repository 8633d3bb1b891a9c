"""A record that was rejected → the record of the topic `dead-letter`."""

from __future__ import annotations

from agents.publish import Outgoing
from streams.position import offset_of
from streams.records import RejectedRecord
from streams.text import plain


def dead_letter(item: RejectedRecord, source: str, topic: str) -> Outgoing:
    """The value as it came; where it came from, and why it was rejected, in the headers.

    `source`: the topic that it came from. `topic`: the one of dead letters.
    """
    headers = (
        ("foreshock.topic", source.encode()),
        ("foreshock.partition", str(item.partition).encode()),
        ("foreshock.offset", str(offset_of(item.offset)).encode()),
        ("foreshock.reason", item.reject.reason.encode()),
        ("foreshock.detail", plain(item.reject.detail).encode()),
        ("foreshock.model", item.reject.model.encode("utf-8", "replace")),
    )
    return Outgoing(topic, f"{source}-{item.partition}".encode(), item.value, headers=headers)
