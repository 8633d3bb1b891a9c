"""Text such as `15m` ↔ integer milliseconds."""

import re
from functools import lru_cache

from streams.errors import ConfigError

UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000}
HOUR_MS, DAY_MS, WEEK_MS = UNITS_MS["h"], UNITS_MS["d"], UNITS_MS["w"]
MAX_MS = 3_650 * DAY_MS
_DURATION = re.compile(r"(\d{1,9})(ms|s|m|h|d|w)", re.ASCII)


@lru_cache(4096)
def parse_ms(text: str, place: str = "") -> int:
    """Milliseconds of a duration.

    >>> parse_ms("15m")
    900000
    """
    match = _DURATION.fullmatch(text)
    value_ms = int(match[1]) * UNITS_MS[match[2]] if match else 0
    if not 0 < value_ms <= MAX_MS:
        raise ConfigError(
            place=place,
            seen=f"{text!r}",
            expected="a duration above zero and of at most ten years, such as 30s, 15m, 1h or 7d",
            mend="write one",
        )
    return value_ms


def format_ms(value_ms: int) -> str:
    """The shortest exact text of a duration.

    >>> format_ms(5_400_000)
    '90m'
    """
    for unit in ("w", "d", "h", "m", "s"):
        if value_ms % UNITS_MS[unit] == 0:
            return f"{value_ms // UNITS_MS[unit]}{unit}"
    return f"{value_ms}ms"
