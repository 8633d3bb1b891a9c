"""The name of a variable or of a file → the secret that it holds."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from agents.reading import MAX_SECRET_BYTES, read_bytes
from streams.errors import ConfigError


def secret(options: Mapping[str, str | Path | None]) -> str:
    """The secret. `options`: the variable and the file, in this order, each by the name of its option.

    Raises:
        ConfigError: if neither holds one, or the file cannot be read.
    """
    (variable, file), names = options.values(), " or ".join(options)
    found = os.environ.get(str(variable), "") if variable else ""
    if not variable and file:
        try:
            found = read_bytes(Path(file), "a secret", MAX_SECRET_BYTES).decode("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            seen = getattr(error, "strerror", None) or "no UTF-8"
            raise ConfigError(place=[*options][1], seen=seen, expected="a readable file") from None
    if not found:
        raise ConfigError(place=names, seen="nothing", expected="a secret", mend="set one of them")
    return found
