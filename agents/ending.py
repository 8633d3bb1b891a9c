"""SIGTERM → the command ends with exit code 0 within seconds, whatever it waits for or computes.

Nothing is lost: what a worker holds in memory can be rebuilt from the topics, so no end has to be a clean one. This
module imports nothing slow, so that a signal during the imports of a command is not lost.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import signal
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
End = Callable[["asyncio.Task[Any]"], None]
"""Called in the event loop, again every `AGAIN_S`, until the task is done."""

WITHIN_S = 5.0
"""A command that has not ended by then is killed."""
AGAIN_S = 0.5


class _State:
    """What the handler of the process knows: there is one handler of a signal in a process."""

    def __init__(self) -> None:
        self.within_s = WITHIN_S
        self.signalled = False
        self.wake: Callable[[], object] | None = None
        """Tells the running event loop; None while no loop runs."""


_state = _State()


def install() -> None:
    """Makes SIGTERM end the process with exit code 0. May be called more than once, in the main thread.

    A signal after the command is done and its threads have ended changes nothing: otherwise the interpreter, on its way
    out, would remove its handler and die of the signal.
    """
    signal.signal(signal.SIGTERM, _on_sigterm)
    atexit.unregister(_ignore)
    atexit.register(_ignore)


def _ignore() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _on_sigterm(number: int, frame: object) -> None:
    if not _state.signalled:
        _state.signalled = True
        timer = threading.Timer(_state.within_s, os._exit, (0,))
        timer.daemon = True
        timer.start()
    if _state.wake is None:
        raise SystemExit(0)
    _state.wake()


def cancel(task: asyncio.Task[Any]) -> None:
    """Ends a task that has nothing to save."""
    task.cancel()


def run(work: Callable[[], Coroutine[Any, Any, T]], end: End = cancel, *, within_s: float = WITHIN_S) -> T:
    """The result of `work()` in an event loop of its own.

    Raises:
        SystemExit: with code 0, if SIGTERM came meanwhile, whatever `work` then returned or raised.
    """
    _state.within_s = within_s
    try:
        result = asyncio.run(_until_signalled(work, end))
    except BaseException:
        if _state.signalled:
            raise SystemExit(0) from None
        raise
    if _state.signalled:
        raise SystemExit(0)
    return result


async def _until_signalled(work: Callable[[], Coroutine[Any, Any, T]], end: End) -> T:
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(work())

    def ask() -> None:
        if not task.done():
            end(task)
            loop.call_later(AGAIN_S, ask)  # the libraries swallow a cancellation now and then

    _state.wake = lambda: loop.call_soon_threadsafe(ask)
    try:
        return await task
    finally:
        _state.wake = None
