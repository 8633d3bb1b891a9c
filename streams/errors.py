"""The errors that reach a person: one line that says what was seen, what was expected, and the mend.

ForeshockError          exit code 1
├── ConfigError         exit code 2: the configuration or the arguments are unusable
├── DataError           a file or stream of the user's cannot be read
├── SketchError         bytes that are no sketch or no partial of this version
└── BrokerError         Kafka cannot be reached, or a topic is not as it must be
"""

from typing import ClassVar

import msgspec

UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that are not what was asked for; for an invalid text and for what is nested too deep it
is Python's own errors."""


class ForeshockError(Exception):
    """One line: `place: saw …; expected …; mend`. Parts that are empty are left out."""

    exit_code: ClassVar[int] = 1

    def __init__(self, *, seen: str, expected: str = "", mend: str = "", place: str = "") -> None:
        self.seen, self.expected, self.mend, self.place = seen, expected, mend, place
        super().__init__(seen)

    def __str__(self) -> str:
        parts = [self.seen, f"expected {self.expected}" if self.expected else "", self.mend]
        text = "; ".join(part for part in parts if part)
        line = f"{self.place}: {text}" if self.place else text
        return " ".join(line.split())


class ConfigError(ForeshockError):
    """The configuration or the arguments are unusable."""

    exit_code = 2


class DataError(ForeshockError):
    """A file or stream of the user's cannot be read."""


class SketchError(ForeshockError):
    """Bytes that are no sketch or no partial of this version."""


class BrokerError(ForeshockError):
    """Kafka cannot be reached, or a topic is not as it must be."""
