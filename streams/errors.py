"""Errors for a person: one line with the problem, what was expected, and the fix.

ForeshockError          exit code 1
├── ConfigError         exit code 2: the configuration or the arguments are unusable
├── DataError           a file or stream of the user's cannot be read
├── SketchError         bytes that are no sketch or no partial of a known format
├── NewerError          a record in a format of a later release: ignoring it would give wrong counts
├── RecordTooLarge      a record of one model that its topic does not accept, and that cannot be divided
├── BrokerError         Kafka refuses something, or a topic is not as it must be
│   └── BrokerAway      Kafka does not answer, and may do so later
└── StoreError          the disk of the label join fails, or is full
    ├── StoreDamaged    a folder cannot be read back: it is renamed, and rebuilt from the topics
    └── StoreHeld       another process has it open

Each has a code of its own, under which docs/runbook.md explains it.
"""

from typing import ClassVar, Self

import msgspec

MAX_CHARACTERS = 2_000
"""Length of an error's line: what it quotes from a user's file may be of any length."""
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes of another type or form; for invalid text and deep nesting they are Python's own
errors."""


class ForeshockError(Exception):
    """One line: `place: saw …; expected …; mend`. Empty parts are left out."""

    code: ClassVar[str] = "FS-FAILED"
    exit_code: ClassVar[int] = 1

    def __init__(self, *, seen: str, expected: str = "", mend: str = "", place: str = "") -> None:
        self.seen, self.expected, self.mend, self.place = seen, expected, mend, place
        super().__init__(seen)

    def at(self, place: str) -> Self:
        """The same error, located in a file or topic."""
        self.place = place
        return self

    def __str__(self) -> str:
        parts = [self.seen, f"expected {self.expected}" if self.expected else "", self.mend]
        text = "; ".join(part for part in parts if part)
        line = f"{self.place}: {text}" if self.place else text
        return " ".join(line[:MAX_CHARACTERS].split())


class ConfigError(ForeshockError):
    """The configuration or the arguments are unusable."""

    code = "FS-CONFIG"
    exit_code = 2


class DataError(ForeshockError):
    """A file or stream of the user's cannot be read."""

    code = "FS-DATA"


class SketchError(ForeshockError):
    """Bytes that are no sketch or no partial of a known format."""

    code = "FS-SKETCH"


class NewerError(ForeshockError):
    """A record in a format of a later release: ignoring it would give wrong counts."""

    code = "FS-NEWER"


class RecordTooLarge(ForeshockError):
    """A record of one model is larger than its topic accepts, and cannot be divided."""

    code = "FS-LARGE"

    def __init__(self, topic: str, size: int, limit: int) -> None:
        self.topic, self.size = topic, size
        super().__init__(
            place=f"topic {topic}",
            seen=f"a record of {size} bytes",
            expected=f"at most {limit} (max.message.bytes)",
            mend=f"set max.message.bytes of {topic} to {size} or more, or declare fewer features, segments or classes",
        )


class BrokerError(ForeshockError):
    """Kafka refuses something, or a topic is not as it must be."""

    code = "FS-BROKER"


class BrokerAway(BrokerError):
    """Kafka does not answer, and may do so later."""

    code = "FS-AWAY"


class TopicMissing(BrokerError):
    """A topic does not exist, or we may not describe it."""

    code = "FS-TOPIC"


class StoreError(ForeshockError):
    """The disk of the label join fails, or is full."""

    code = "FS-STORE"


class StoreDamaged(StoreError):
    """A folder of the label join cannot be read back: it is renamed, and rebuilt from the topics."""

    code = "FS-DAMAGED"


class StoreHeld(StoreError):
    """Another process has the folder open."""

    code = "FS-HELD"
