"""What a broker stands on: the jars of Apache Kafka, in a cache that Maven fills once; its properties; and locks."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

KAFKA_VERSION = "4.4.0"
SCALA_VERSION = "2.13"
LOG4J_VERSION = "2.25.5"  # of the log4j-core that this Kafka brings: the slf4j binding must be of the same version
MAVEN_GOAL = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
LEAST_JAVA = 17
FETCH_TIMEOUT_S = 900.0
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


class KafkaError(RuntimeError):
    """Kafka could not be fetched, started or stopped; the message is one line that says what to do about it."""


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
        with locked(cache / f"kafka-{KAFKA_VERSION}.lock"):
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


def take_lock(path: Path, *, wait: bool) -> int | None:
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
def locked(path: Path) -> Iterator[None]:
    descriptor = take_lock(path, wait=True)
    assert descriptor is not None
    try:
        yield
    finally:
        os.close(descriptor)


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
