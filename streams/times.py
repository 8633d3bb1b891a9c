"""Epoch milliseconds → RFC 3339 text."""

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def rfc3339(time_ms: int) -> str:
    """UTC with milliseconds where there are any.

    >>> rfc3339(1_767_571_210_714)
    '2026-01-05T00:00:10.714Z'
    """
    moment = _EPOCH + timedelta(milliseconds=time_ms)
    return moment.isoformat(timespec="milliseconds" if time_ms % 1000 else "seconds").replace("+00:00", "Z")
