"""One Apache Kafka for the whole session; a test that breaks its broker starts one of its own."""

import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))  # `deploy` is a folder of scripts, not an installed package

from agents.clients import Connection
from deploy.kafka import QUICK_START, Broker
from tests.kafka import secured as locks


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A started broker, shared: give topics and groups names of their own."""
    with Broker.start(tmp_path_factory.mktemp("kafka"), jvm=QUICK_START) as broker:
        yield broker


@pytest.fixture(scope="session")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[locks.Secured]:
    """A started broker that demands TLS and who one is, and allows nobody anything."""
    started = locks.start(tmp_path_factory.mktemp("secured"))
    with started.broker:
        yield started


@pytest.fixture
def connection(kafka: Broker) -> Connection:
    """How to reach the shared broker."""
    return Connection(broker=kafka.bootstrap)


@pytest.fixture
def topic() -> str:
    """A name that no other test has."""
    return f"t-{uuid4().hex[:8]}"
