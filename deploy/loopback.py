"""Ports on loopback, whether a Kafka answers on one, and processes that end with their parent."""

from __future__ import annotations

import ctypes
import os
import random
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable

from deploy.kafka_files import KafkaError

# Below the kernel's ephemeral ports (from 32768): there, a client that retries while its broker is down can be given
# the broker's own port as its source port, connect to itself, and keep the broker from coming back.
PORTS = range(20_000, 30_000)


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


def free_ports(count: int) -> list[int]:
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
