"""One Apache Kafka for the folder, and for each test a prefix of topics of its own."""

import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))  # `deploy` is a folder of scripts, not an installed package

from agents.clients import Connection
from deploy.kafka import QUICK_START, Broker


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A started broker, shared; a test that stops or breaks a broker starts one of its own."""
    with Broker.start(tmp_path_factory.mktemp("kafka"), jvm=QUICK_START) as broker:
        yield broker


@pytest.fixture
def connection(kafka: Broker) -> Connection:
    """The shared broker, with topics that no other test has."""
    return Connection(broker=kafka.bootstrap, prefix=f"case-{uuid4().hex[:8]}-")
