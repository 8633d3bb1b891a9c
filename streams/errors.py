"""The errors that reach a person: one line that says what was seen, what was expected, and the mend.

ForeshockError          exit code 1
├── ConfigError         exit code 2: the configuration or the arguments are unusable
├── DataError           a file or stream of the user's cannot be read
├── SketchError         bytes that are no sketch or no partial of a format that we know
├── NewerError          a record in a format of a later release: to go on without it would give wrong counts
├── RecordTooLarge      a record of one model that its topic does not take, and that cannot be divided
├── BrokerError         Kafka refuses something, or a topic is not as it must be
│   └── BrokerAway      Kafka does not answer, and may do so later
└── StoreError          the disk of the label join fails, or is full
    ├── StoreDamaged    what is on it cannot be read back: it is set aside, and rebuilt from the topics
    └── StoreHeld       another process has it open

Each has a code of its own, by which docs/runbook.md is searched.
"""

from typing import ClassVar, Self

import msgspec

MAX_CHARACTERS = 2_000
"""Of an error's line: what is repeated of a user's file may be of any length."""
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that are not what was asked for; for an invalid text and for what is nested too deep it
is Python's own errors."""


class ForeshockError(Exception):
    """One line: `place: saw …; expected …; mend`. Parts that are empty are left out."""

    code: ClassVar[str] = "FS-FAILED"
    exit_code: ClassVar[int] = 1

    def __init__(self, *, seen: str, expected: str = "", mend: str = "", place: str = "") -> None:
        self.seen, self.expected, self.mend, self.place = seen, expected, mend, place
        super().__init__(seen)

    def at(self, place: str) -> Self:
        """The same, now that its place is known."""
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
    """Bytes that are no sketch or no partial of a format that we know."""

    code = "FS-SKETCH"


class NewerError(ForeshockError):
    """A record in a format of a later release: to go on without it would give wrong counts."""

    code = "FS-NEWER"


class RecordTooLarge(ForeshockError):
    """A record of one model is larger than its topic takes, and cannot be divided."""

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


class StoreError(ForeshockError):
    """The disk of the label join fails, or is full."""

    code = "FS-STORE"


class StoreDamaged(StoreError):
    """What a folder of the label join holds cannot be read back: it is set aside, and rebuilt from the topics."""

    code = "FS-DAMAGED"


class StoreHeld(StoreError):
    """Another process has the folder open."""

    code = "FS-HELD"
