"""A Kafka that cannot be reached is told in one line that names the address which does not work."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from agents import topics
from agents.clients import Connection
from deploy.kafka import QUICK_START, Broker
from deploy.loopback import free_port
from streams.errors import BrokerAway

ADVERTISED = ("kafka.internal.invalid:9092", "127.0.0.1:1")


def line_of(address: str) -> str:
    with pytest.raises(BrokerAway) as raised:
        asyncio.run(topics.find(Connection(broker=address), "inference"))
    line = str(raised.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize("address", ["kafka.does-not-exist.invalid:9092", "127.0.0.1:1"])
def test_an_address_that_leads_nowhere_is_named(address: str) -> None:
    assert line_of(address).startswith(f"Kafka at {address}: ")


def test_an_advertised_address_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    """Within seconds, and so that it cannot be taken for the address that was given."""
    ports = {name: free_port() for name in ("NAME", "PORT")}
    names = ("PLAINTEXT", "CONTROLLER", *ports)
    inner = free_port()
    listed = [f"PLAINTEXT://127.0.0.1:{inner}", *(f"{name}://{to}" for name, to in zip(ports, ADVERTISED, strict=True))]
    properties = {
        "listener.security.protocol.map": ",".join(f"{name}:PLAINTEXT" for name in names),
        "advertised.listeners": ",".join(listed),
    }
    with Broker.start(tmp_path, inner, jvm=QUICK_START, listeners=ports, properties=properties):
        for port, to in zip(ports.values(), ADVERTISED, strict=True):
            began = time.monotonic()
            line = line_of(f"127.0.0.1:{port}")
            assert time.monotonic() - began < 15
            assert f"127.0.0.1:{port} answers, and sends us to {to}, which it advertises" in line
            assert "advertised.listeners" in line
