"""Connections of one listening address → an HTTP server that those who say nothing, or read nothing, cannot hold.

A connection has a few seconds to send the head of its request, serves one request, and ends. Of more than `limit`, the
oldest that has not asked yet is closed, so one that asks at once (a probe) is always answered.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

if sys.platform != "win32":
    import resource

MAX_HEAD_BYTES = 16_384
HEAD_WITHIN_S = 5.0
WHOLE_WITHIN_S = 30.0
MAX_CONNECTIONS = 256
MAX_FILES = 65_536
TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


def raise_file_limit() -> int:
    """The number of files that this process may open, after it was raised as far as it may raise it itself."""
    if sys.platform == "win32":
        return MAX_FILES  # it has no limit of that kind
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return MAX_FILES if soft == resource.RLIM_INFINITY else soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):
        return soft
    return wanted


def connection_limit() -> int:
    """How many connections the pages may hold: never so many that files of the store or of Kafka find no room."""
    if sys.platform == "win32":
        return MAX_CONNECTIONS
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else max(8, min(MAX_CONNECTIONS, soft // 4))


class Front:
    """A factory of protocols for `loop.create_server`; `serve` makes the protocol that answers one request."""

    def __init__(
        self,
        serve: Callable[[], asyncio.Protocol],
        *,
        limit: int,
        head_within_s: float = HEAD_WITHIN_S,
        whole_within_s: float = WHOLE_WITHIN_S,
    ) -> None:
        self.serve, self.limit = serve, limit
        self.head_within_s, self.whole_within_s = head_within_s, whole_within_s
        self.waiting: dict[_Connection, None] = {}
        """Those that have not sent the head of a request yet, the oldest first."""
        self.serving: dict[_Connection, None] = {}

    def __call__(self) -> asyncio.Protocol:
        return _Connection(self)

    def admit(self, connection: _Connection) -> None:
        """Takes a connection; the oldest one makes room for it, those that have not asked first."""
        self.waiting[connection] = None
        if len(self.waiting) + len(self.serving) > self.limit:
            oldest = next(iter(self.waiting if len(self.waiting) > 1 else self.serving), connection)
            oldest.abort()

    def close(self) -> None:
        """Ends those that have not asked; the others are the server's."""
        for connection in list(self.waiting):
            connection.abort()


class _Connection(asyncio.Protocol):
    """Keeps what comes until it is the head of a request; from then on it hands on all that comes."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self._head = bytearray()
        self._inner: asyncio.Protocol | None = None
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._end_after(self._front.head_within_s)
        self._front.admit(self)

    def data_received(self, data: bytes) -> None:
        if self._inner is not None:
            self._inner.data_received(data)
            return
        self._head += data
        if b"\r\n\r\n" in self._head[:MAX_HEAD_BYTES]:
            self._begin()
        elif len(self._head) >= MAX_HEAD_BYTES and self._transport is not None:
            self._transport.write(TOO_LARGE)
            self._transport.close()

    def _begin(self) -> None:
        assert self._transport is not None
        self._front.waiting.pop(self, None)
        self._front.serving[self] = None
        self._end_after(self._front.whole_within_s)
        self._inner = self._front.serve()
        self._inner.connection_made(self._transport)
        self._inner.data_received(bytes(self._head))
        self._head.clear()

    def eof_received(self) -> bool | None:
        return self._inner.eof_received() if self._inner is not None else None

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        if self._inner is not None:
            self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        if self._inner is not None:
            self._inner.resume_writing()

    def abort(self) -> None:
        """Ends it at once, whatever is still to be sent."""
        self._forget()
        if self._transport is not None:
            self._transport.abort()

    def _end_after(self, seconds: float) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = asyncio.get_running_loop().call_later(seconds, self.abort)

    def _forget(self) -> None:
        self._front.waiting.pop(self, None)
        self._front.serving.pop(self, None)
        if self._deadline is not None:
            self._deadline.cancel()
