"""Maven coordinates → an Apache Kafka (KRaft) on loopback, for tests, benches and trying things out; no Docker.

    python deploy/kafka.py fetch                        fill the cache, print its folder
    python deploy/kafka.py run [--port N] [--dir D]     in the foreground, until Ctrl-C or SIGTERM
    python deploy/kafka.py start [--port N] [--dir D]   in the background
    python deploy/kafka.py stop [--dir D]

It needs Java 17 or later, and Maven for the first fetch, which fills a cache: `$FORESHOCK_CACHE`, by default
`~/.cache/foreshock`. A broker's folder holds all it has: `server.properties`, `data/`, `kafka.log`. From Python:

    with Broker.start(folder) as broker:
        connect(broker.bootstrap)

One node, one replica, and its own PLAINTEXT listener asks nobody who they are: never a production broker. Tests add
listeners that do, with `listeners`, `scram` and `properties`. `Cluster.start` makes three nodes that keep three
replicas, for whoever wants to lose one.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

sys.path.insert(0, str(Path(__file__).parents[1]))

from deploy.kafka_files import (
    KAFKA_VERSION,
    LOGGING,
    PROPERTIES,
    REPLICATED,
    KafkaError,
    cache_folder,
    fetch,
    find_java,
    take_lock,
)
from deploy.loopback import death_with_parent, free_port, free_ports, is_free, is_ready

READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
POLL_S = 0.05

# Halves the processor time of a start and makes a slower broker: for tests that start many, never for benches.
QUICK_START = ("-XX:TieredStopAtLevel=1",)


NODES = 3


# --- The broker


@dataclass(eq=False)
class Broker:
    """One Kafka node: its folder, its loopback port, its process. Made by `Broker.start`, stopped as a `with` ends."""

    dir: Path
    port: int
    heap: str
    jvm: Sequence[str] = ()
    detached: bool = False
    listeners: Mapping[str, int] = field(default_factory=dict)
    scram: Mapping[str, str] = field(default_factory=dict, repr=False)
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _log_offset: int = field(default=0, repr=False)  # where this launch's part of the log begins

    @classmethod
    def start(
        cls,
        dir: str | os.PathLike[str],
        port: int | None = None,
        *,
        properties: Mapping[str, str] | None = None,
        heap: str = "512m",
        jvm: Sequence[str] = (),
        detached: bool = False,
        listeners: Mapping[str, int] | None = None,
        scram: Mapping[str, str] | None = None,
    ) -> Self:
        """A broker that is ready for clients, on the data in `dir` if there is any.

        `port`: any free one when None. `properties`: server properties, over ours. `heap`: the JVM's -Xmx. `jvm`: more
        options of the JVM, such as QUICK_START. `detached`: it outlives this process. Otherwise it dies with it: always
        at a normal exit, and on Linux even when the process is killed, if this call came from the main thread.
        `listeners`: names and ports of more listeners, advertised as `localhost`; `properties` say their protocols.
        `scram`: passwords of the users that a new data folder has. KafkaError when it isn't ready within 60 s.
        """
        if port is not None and not is_free(port):
            raise KafkaError(f"port {port} is in use on 127.0.0.1: give another, or none for a free one")
        folder = Path(dir).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        broker = cls(
            folder, free_port() if port is None else port, heap, tuple(jvm), detached, listeners or {}, scram or {}
        )
        broker._launch(properties or {})
        return broker

    @property
    def bootstrap(self) -> str:
        """What a client's `bootstrap_servers` takes."""
        return f"127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        """Kafka's log, all runs in one file."""
        return self.dir / "kafka.log"

    @property
    def pid(self) -> int | None:
        """The process's id while it runs: for a test that pauses it with SIGSTOP, say."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """End it with SIGTERM, as an operator would, and with SIGKILL if it is still there after the timeout."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._reap()

    def kill(self) -> None:
        """End it with SIGKILL: nothing is flushed, no farewell to the controller."""
        if self._process is not None:
            self._process.kill()
            self._reap()

    def send_signal(self, number: signal.Signals) -> None:
        """SIGSTOP, for a broker that hangs; SIGCONT, and it goes on."""
        if self._process is not None:
            self._process.send_signal(number)

    def restart(self) -> None:
        """Start it again on the same data, port and properties; stop it first if it still runs."""
        self.stop()
        if not is_free(self.port):
            raise KafkaError(f"port {self.port} was taken by another process while the broker was down: try again")
        self._launch(None)

    def wait(self) -> int:
        """Wait until the process ends by itself; return its exit code."""
        assert self._process is not None, "the broker was stopped"
        return self._process.wait()

    def last_words(self) -> str:
        """The last line since the start that tells of an error, else the last of all; and where the log is."""
        with self.log.open("rb") as log:
            log.seek(self._log_offset)
            said = log.read().decode("utf-8", errors="replace")
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        errors = [line for line in lines if re.search(r" (ERROR|FATAL) |Exception|Error", line)]
        return f"{(errors or lines or ['it said nothing'])[-1]} (its log: {self.log})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _launch(self, properties: Mapping[str, str] | None) -> None:
        """Start the process and wait until it is ready; None as properties keeps those of the last time."""
        self._begin(properties)
        self._until_ready()

    def _begin(self, properties: Mapping[str, str] | None) -> None:
        java = [find_java(), "-Djava.awt.headless=true", "-Djava.net.preferIPv4Stack=true"]
        java += ["-Dlog4j2.configurationFile=log4j2.properties", "-cp", f"{fetch()}/*"]
        lock = take_lock(self.dir / "broker.lock", wait=False)
        if lock is None:
            raise KafkaError(f"a broker already runs on {self.dir}: stop it, or choose another folder")
        self._log_offset = self.log.stat().st_size if self.log.exists() else 0
        try:
            if properties is not None:
                self._write_configuration(properties)
            self._format_once(java)
            # Java inherits the lock, and holds it exactly as long as it lives: a pid file alone could name a stranger.
            self._process = self._spawn(
                [*java, f"-Xmx{self.heap}", *self.jvm, "kafka.Kafka", "server.properties"], lock
            )
        finally:
            os.close(lock)
        if not self.detached:
            atexit.register(self.kill)

    def _until_ready(self, least: int = 1) -> None:
        assert self._process is not None
        try:
            (self.dir / "broker.pid").write_text(f"{self._process.pid}\n")
            self._await_ready(self._process, least)
        except BaseException:
            self.kill()
            raise

    def _write_configuration(self, properties: Mapping[str, str]) -> None:
        client, controller = f"127.0.0.1:{self.port}", f"127.0.0.1:{free_port(but=self.port)}"
        addresses = {
            "listeners": ",".join([f"PLAINTEXT://{client}", f"CONTROLLER://{controller}", *self._more("127.0.0.1")]),
            "advertised.listeners": ",".join([f"PLAINTEXT://{client}", *self._more("localhost")]),
            "controller.quorum.voters": f"1@{controller}",
        }
        lines = [f"{name}={value}\n" for name, value in {**PROPERTIES, **addresses, **properties}.items()]
        (self.dir / "server.properties").write_text("".join(lines), encoding="utf-8")
        (self.dir / "log4j2.properties").write_text(LOGGING, encoding="utf-8")

    def _more(self, host: str) -> list[str]:
        return [f"{name}://{host}:{port}" for name, port in self.listeners.items()]

    def _format_once(self, java: Sequence[str]) -> None:
        if (self.dir / "data" / "meta.properties").exists():
            return
        cluster = self.dir / "cluster.id"  # kept: `properties` may have put the data elsewhere, formatted under this id
        if not cluster.exists():
            cluster.write_text(secrets.token_urlsafe(16), encoding="utf-8")
        command = [*java, *QUICK_START, "kafka.tools.StorageTool", "format", "--ignore-formatted"]
        command += [f"--cluster-id={cluster.read_text(encoding='utf-8')}", "--config=server.properties"]
        for user, password in self.scram.items():
            for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512"):
                command.append(f"--add-scram={mechanism}=[name={user},password={password}]")
        code = self._spawn(command).wait()
        if code != 0:
            raise KafkaError(f"Kafka could not format its data folder: {self.last_words()}")

    def _spawn(self, command: Sequence[str], *inherited: int) -> subprocess.Popen[bytes]:
        """Run Java in the broker's folder, its output to the log, out of the reach of the terminal's Ctrl-C."""
        with self.log.open("ab") as log:
            return subprocess.Popen(
                command,
                cwd=self.dir,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=inherited,
                preexec_fn=None if self.detached else death_with_parent(),
            )

    def _await_ready(self, process: subprocess.Popen[bytes], least: int) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not is_ready(self.port, least):
            if process.poll() is not None:
                raise KafkaError(f"Kafka ended with {process.returncode} before it was ready: {self.last_words()}")
            if time.monotonic() > deadline:
                raise KafkaError(f"Kafka was not ready after {READY_TIMEOUT_S:.0f} s; its log is {self.log}")
            time.sleep(POLL_S)

    def _reap(self) -> None:
        assert self._process is not None
        self._process.wait()
        self._process = None
        atexit.unregister(self.kill)


@dataclass(eq=False)
class Cluster:
    """Three nodes, each a broker and a controller: one may be lost, and no acknowledged record with it."""

    brokers: list[Broker]

    @classmethod
    def start(cls, dir: str | os.PathLike[str], *, heap: str = "384m", jvm: Sequence[str] = ()) -> Self:
        """Three nodes that are ready for clients, on folders in `dir`; KafkaError when they aren't within 60 s."""
        identity = secrets.token_urlsafe(16)
        ports = free_ports(2 * NODES)
        voters = ",".join(f"{node}@127.0.0.1:{port}" for node, port in enumerate(ports[NODES:], 1))
        cluster = cls([])
        try:
            for node, (client, controller) in enumerate(zip(ports[:NODES], ports[NODES:], strict=True), 1):
                broker = Broker(Path(dir).absolute() / f"node-{node}", client, heap, tuple(jvm))
                broker.dir.mkdir(parents=True)
                (broker.dir / "cluster.id").write_text(identity, encoding="utf-8")
                listeners = f"PLAINTEXT://{broker.bootstrap},CONTROLLER://127.0.0.1:{controller}"
                own = {"node.id": str(node), "listeners": listeners, "controller.quorum.voters": voters}
                cluster.brokers.append(broker)
                broker._begin({**REPLICATED, **own})
            for broker in cluster.brokers:  # only together are they ready
                broker._until_ready(NODES)
        except BaseException:
            cluster.stop()
            raise
        return cluster

    @property
    def bootstrap(self) -> str:
        """What a client's `bootstrap_servers` takes: all of them, so that any may be down."""
        return ",".join(broker.bootstrap for broker in self.brokers)

    def stop(self) -> None:
        """End them all, at once: the last ones would wait in vain for a controller to say farewell to."""
        for broker in self.brokers:
            broker.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def stop_detached(folder: Path, timeout_s: float = STOP_TIMEOUT_S) -> None:
    """End the broker that runs on this folder, whoever started it; KafkaError when there is none."""
    if not _is_held(folder):
        raise KafkaError(f"no broker runs on {folder}")
    pid = int((folder / "broker.pid").read_text())
    for number, patience_s in ((signal.SIGTERM, timeout_s), (signal.SIGKILL, timeout_s)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            if not _is_held(folder):
                return
            time.sleep(POLL_S)
    raise KafkaError(f"the broker on {folder} (process {pid}) did not end, not even by SIGKILL")


def _is_held(folder: Path) -> bool:
    """Whether a live broker has the lock of this folder."""
    if not (folder / "broker.lock").exists():
        return False
    lock = take_lock(folder / "broker.lock", wait=False)
    if lock is not None:
        os.close(lock)
    return lock is None


# --- The command line


def _run(port: int | None, folder: Path | None) -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.suppress(KeyboardInterrupt))
        where = folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="foreshock-kafka-")))
        broker = stack.enter_context(Broker.start(where, port))
        print(f"bootstrap: {broker.bootstrap}", flush=True)
        code = broker.wait()
        if code not in (0, 128 + signal.SIGTERM):  # as it ends when `stop` stops it
            raise KafkaError(f"Kafka ended by itself with {code}: {broker.last_words()}")


def _start(port: int | None, folder: Path) -> None:
    broker = Broker.start(folder, port, detached=True)
    print(f"bootstrap: {broker.bootstrap}")


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 65_536:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 1 to 65535")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    about = f"Apache Kafka {KAFKA_VERSION}, one node, on loopback."
    parser = argparse.ArgumentParser(prog="kafka.py", description=about)
    commands = parser.add_subparsers(dest="command", required=True, metavar="{fetch,run,start,stop}")
    commands.add_parser("fetch", help="fill the cache through Maven, and print its folder")
    run = commands.add_parser("run", help="run a broker until Ctrl-C or SIGTERM")
    start = commands.add_parser("start", help="start a broker in the background")
    stop = commands.add_parser("stop", help="stop the broker that was started in the background")
    for command in (run, start):
        command.add_argument("--port", type=_port, metavar="N", help="the port on 127.0.0.1 (default: a free one)")
    run.add_argument("--dir", type=Path, metavar="D", help="the broker's folder, kept (default: a temporary one)")
    for command in (start, stop):
        command.add_argument("--dir", type=Path, metavar="D", help="the broker's folder (default: in the cache)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 done, 1 failed with a line on stderr; argparse itself exits with 2."""
    chosen = _parser().parse_args(arguments)
    try:
        match chosen.command:
            case "fetch":
                print(fetch())
            case "run":
                _run(chosen.port, chosen.dir)
            case "start":
                _start(chosen.port, chosen.dir or cache_folder() / "broker")
            case "stop":
                stop_detached((chosen.dir or cache_folder() / "broker").absolute())
    except (KafkaError, OSError) as error:
        print(f"kafka.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
