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
import ctypes
import fcntl
import os
import random
import re
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

KAFKA_VERSION = "4.4.0"
SCALA_VERSION = "2.13"
LOG4J_VERSION = "2.25.5"  # of the log4j-core that this Kafka brings: the slf4j binding must be of the same version
MAVEN_GOAL = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
LEAST_JAVA = 17

FETCH_TIMEOUT_S = 900.0
READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
POLL_S = 0.05

# Halves the processor time of a start and makes a slower broker: for tests that start many, never for benches.
QUICK_START = ("-XX:TieredStopAtLevel=1",)

# Below the kernel's ephemeral ports (from 32768): there, a client that retries while its broker is down can be given
# the broker's own port as its source port, connect to itself, and keep the broker from coming back.
PORTS = range(20_000, 30_000)

POM = f"""\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>foreshock</groupId>
  <artifactId>kafka-runtime</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId>
      <artifactId>kafka_{SCALA_VERSION}</artifactId>
      <version>{KAFKA_VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.apache.logging.log4j</groupId>
      <artifactId>log4j-slf4j-impl</artifactId>
      <version>{LOG4J_VERSION}</version>
    </dependency>
  </dependencies>
</project>
"""

# To standard output, which is `kafka.log`, so that whatever the JVM itself has to say stands in the same file.
LOGGING = """\
status = error
appender.stdout.type = Console
appender.stdout.name = stdout
appender.stdout.layout.type = PatternLayout
appender.stdout.layout.pattern = %d %p %m (%c)%n
rootLogger.level = info
rootLogger.appenderRef.stdout.ref = stdout
logger.config.name = org.apache.kafka.common.config.AbstractConfig
logger.config.level = warn
"""

PROPERTIES: Mapping[str, str] = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "log.dirs": "data",
    "auto.create.topics.enable": "false",
    "default.replication.factor": "1",
    "min.insync.replicas": "1",
    "offsets.topic.num.partitions": "4",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    # After a SIGKILL the controller turns the new broker away until the old one's session is over: 9 s at the default.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
}

NODES = 3
REPLICATED: Mapping[str, str] = {
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
    "offsets.topic.replication.factor": "3",
    "transaction.state.log.replication.factor": "3",
    "transaction.state.log.min.isr": "2",
    "share.coordinator.state.topic.replication.factor": "3",
    "share.coordinator.state.topic.min.isr": "2",
    # A follower that is gone is missed after so long; 30 s at the default.
    "replica.lag.time.max.ms": "5000",
}


class KafkaError(RuntimeError):
    """Kafka could not be fetched, started or stopped; the message is one line that says what to do about it."""


# --- Java and Maven


def find_java() -> str:
    """The `java` of `$JAVA_HOME`, else of the path; KafkaError when there is none, or when it is too old for Kafka."""
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=os.path.join(home, "bin")) if home else None
    java = java or shutil.which("java")
    if java is None:
        raise KafkaError(f"no java on the PATH and none in JAVA_HOME: install Java {LEAST_JAVA} or later")
    said = subprocess.run([java, "-version"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    version = re.search(r'version "(?:1\.)?(\d+)', said.stderr + said.stdout)
    if version is None:
        raise KafkaError(f"{java} -version names no version: set JAVA_HOME to Java {LEAST_JAVA} or later")
    if int(version[1]) < LEAST_JAVA:
        raise KafkaError(
            f"{java} is Java {version[1]}, and Kafka {KAFKA_VERSION} needs {LEAST_JAVA} or later: "
            "install one, or set JAVA_HOME to it"
        )
    return java


def cache_folder() -> Path:
    """`$FORESHOCK_CACHE`, else `~/.cache/foreshock`."""
    named = os.environ.get("FORESHOCK_CACHE")
    return Path(named).absolute() if named else Path.home() / ".cache" / "foreshock"


def fetch() -> Path:
    """The folder with Kafka's jars, filled through Maven when this is the first call on the machine."""
    cache = cache_folder()
    home = cache / f"kafka-{KAFKA_VERSION}"
    if not _is_filled(home / "libs"):
        cache.mkdir(parents=True, exist_ok=True)
        with _locked(cache / f"kafka-{KAFKA_VERSION}.lock"):
            if not _is_filled(home / "libs"):  # another caller may have filled it while this one waited
                _fill(home)
    return home / "libs"


def _is_filled(libs: Path) -> bool:
    return (libs / f"kafka_{SCALA_VERSION}-{KAFKA_VERSION}.jar").exists()


def _fill(home: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="kafka-fetch-", dir=home.parent) as scratch:
        filled = Path(scratch, home.name)
        filled.mkdir()
        (filled / "pom.xml").write_text(POM, encoding="utf-8")
        _copy_dependencies(filled)
        if not _is_filled(filled / "libs"):
            raise KafkaError(f"Maven ended well but brought no kafka_{SCALA_VERSION}-{KAFKA_VERSION}.jar: try again")
        shutil.rmtree(home, ignore_errors=True)  # only ever a folder without its jars, see `fetch`
        filled.rename(home)


def _copy_dependencies(folder: Path) -> None:
    find_java()
    maven = shutil.which("mvn")
    if maven is None:
        raise KafkaError("no mvn on the PATH: install Maven, which fetches Kafka on the first use")
    command = [maven, "-q", "-B", "--strict-checksums", MAVEN_GOAL]
    command += ["-DincludeScope=runtime", "-DoutputDirectory=libs"]
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            timeout=FETCH_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise KafkaError(
            f"Maven did not fetch Kafka {KAFKA_VERSION} within {FETCH_TIMEOUT_S:.0f} s: is Maven Central within reach?"
        ) from None
    if done.returncode != 0:
        raise KafkaError(
            f"Maven could not fetch Kafka {KAFKA_VERSION}; is Maven Central within reach, "
            f"or a mirror of it set in Maven's settings.xml? It said: {_first_error(done.stdout)}"
        )


def _first_error(output: str) -> str:
    """The first line that Maven marks as an error, without its colours."""
    lines = re.sub(r"\x1b\[[0-9;]*m", "", output).splitlines()
    errors = [line.removeprefix("[ERROR] ") for line in lines if line.startswith("[ERROR] ")]
    return next(iter(errors or lines), "nothing")


# --- Locks, ports, answers


def _lock(path: Path, *, wait: bool) -> int | None:
    """An open descriptor that holds the lock of this file; None when another has it and we don't wait."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = _lock(path, wait=True)
    assert descriptor is not None
    try:
        yield
    finally:
        os.close(descriptor)


def is_free(port: int) -> bool:
    """Whether a broker could listen on this loopback port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Java does: TIME_WAIT is no hindrance
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port(*, but: int | None = None) -> int:
    """A loopback port, not this one, on which nobody listens."""
    # Not the shared generator: tests seed it, and two test runs at once would be given the same ports.
    for port in random.SystemRandom().sample(PORTS, 200):
        if port != but and is_free(port):
            return port
    raise KafkaError(f"found no free port among {PORTS.start} to {PORTS.stop - 1}: name one with --port")


def _free_ports(count: int) -> list[int]:
    """Different ones."""
    found: list[int] = []
    while len(found) < count:
        found = list(dict.fromkeys([*found, free_port()]))
    return found


CORRELATION = 0x466F7265
METADATA_OF_NO_TOPIC = struct.pack(">ihhihi", 14, 3, 1, CORRELATION, -1, 0)  # size, api, version, id, no client, topics


def is_ready(port: int, least: int = 1) -> bool:
    """Whether Kafka answers on this loopback port, and lists `least` brokers that may lead partitions.

    A broker answers a moment before the controller unfences it, and until then a topic cannot be created: so Metadata,
    which lists unfenced brokers only, and not ApiVersions.
    """
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
            connection.sendall(METADATA_OF_NO_TOPIC)
            with connection.makefile("rb") as answer:
                _, correlation, brokers = struct.unpack(">iii", answer.read(12))
    except (OSError, struct.error):
        return False
    return bool(correlation == CORRELATION and brokers >= least)


def death_with_parent() -> Callable[[], None] | None:
    """What a child calls before it becomes Java, so that Linux kills it when we die; None where that can't be had.

    Linux takes the end of the thread that forked for the parent's death, so it is for the main thread only.
    """
    if not sys.platform.startswith("linux") or threading.current_thread() is not threading.main_thread():
        return None
    set_parent_death_signal = 1
    prctl = ctypes.CDLL(None).prctl  # looked up before the fork: the child of a threaded process should do very little
    parent = os.getpid()

    def bind() -> None:
        prctl(set_parent_death_signal, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the call
            os._exit(1)

    return bind


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
        lock = _lock(self.dir / "broker.lock", wait=False)
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
        ports = _free_ports(2 * NODES)
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
    lock = _lock(folder / "broker.lock", wait=False)
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
