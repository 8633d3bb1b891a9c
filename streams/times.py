"""RFC 3339 texts ↔ epoch milliseconds, whole batches at a time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np

from streams.arrays import Ints

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
NO_TIME = -(2**63)
"""The value for a text that is no time."""

_DATE = len("0000-00-00")
_MS_OF_PLACE = {11: 36_000_000, 12: 3_600_000, 14: 600_000, 15: 60_000, 17: 10_000, 18: 1_000, 20: 100, 21: 10, 22: 1}
"""What a digit at this place of the text is worth."""
_TENS_OF_SIXTY = [14, 17]


def rfc3339(time_ms: int) -> str:
    """The time in UTC, with milliseconds where there are any.

    >>> rfc3339(1_767_571_210_714)
    '2026-01-05T00:00:10.714Z'
    """
    moment = _EPOCH + timedelta(milliseconds=time_ms)
    return moment.isoformat(timespec="milliseconds" if time_ms % 1000 else "seconds").replace("+00:00", "Z")


def instant_ms(text: str) -> int:
    """Epoch milliseconds of an RFC 3339 text, rounded down; without a zone it is UTC. NO_TIME for any other text.

    >>> instant_ms("2026-01-05T01:00:10.7149+01:00")
    1767571210714
    """
    try:
        moment = msgspec.convert(text, datetime)
    except msgspec.ValidationError:
        return NO_TIME
    return (moment.replace(tzinfo=moment.tzinfo or UTC) - _EPOCH) // _MILLISECOND


def instants_ms(texts: Sequence[str]) -> Ints:
    """`instant_ms` of each, (n,); at array speed for those that have a form which programs write UTC in.

    >>> instants_ms(["2026-01-05T00:00:10.714Z", "1969-12-31T23:59:59Z", "yesterday"]) - [0, 0, NO_TIME]
    array([1767571210714,         -1000,             0])
    """
    lengths = set(map(len, texts))
    if len(lengths) > 1:
        times = np.empty(len(texts), np.int64)
        for length in lengths:
            places = [at for at, text in enumerate(texts) if len(text) == length]
            times[places] = instants_ms([texts[at] for at in places])
        return times
    form = _FORMS.get(lengths.pop()) if lengths else None
    regular = form.times_ms(texts) if form else None
    return np.fromiter(map(instant_ms, texts), np.int64, len(texts)) if regular is None else regular


class _Form:
    """One way to write a time in UTC: `digits` with a 0 for any digit, and the zone."""

    def __init__(self, digits: str, zone: str) -> None:
        self.length = len(digits + zone)
        self._least = np.frombuffer((digits + zone).encode(), np.uint8)
        self._most = np.frombuffer((digits.replace("0", "9") + zone).encode(), np.uint8).copy()
        self._most[_TENS_OF_SIXTY] = ord("5")
        self._places = [place for place in _MS_OF_PLACE if place < len(digits)]
        self._worth = np.array([_MS_OF_PLACE[place] for place in self._places], float)

    def times_ms(self, texts: Sequence[str]) -> Ints | None:
        """Times of texts of this length; None if one of them has another form, or is no time."""
        joined = "".join(texts)
        if not joined.isascii():
            return None
        letters = np.ascontiguousarray(np.frombuffer(joined.encode(), np.uint8).reshape(-1, self.length).T)
        least, most = letters.min(axis=1), letters.max(axis=1)
        if (least < self._least).any() or (most > self._most).any():
            return None
        clock = letters[self._places] - float(ord("0"))
        if (clock[0] * 10 + clock[1]).max() >= 24:
            return None
        times: Ints = (self._worth @ clock).astype(np.int64)
        one_date = (least[:_DATE] == most[:_DATE]).all()
        dates = [texts[0][:_DATE]] if one_date else [text[:_DATE] for text in texts]
        midnights = {date: instant_ms(f"{date}T00:00:00Z") for date in set(dates)}
        if NO_TIME in midnights.values():
            return None
        return times + np.array([midnights[date] for date in dates], np.int64)


_FORMS = {
    form.length: form
    for fraction in ("", ".000", ".000000")
    for zone in ("", "Z", "+00:00")
    for form in [_Form("0000-00-00T00:00:00" + fraction, zone)]
}
