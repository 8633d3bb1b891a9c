"""One Apache Kafka for the whole session; a test that breaks its broker starts one of its own."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))  # `deploy` is a folder of scripts, not an installed package

from deploy.kafka import QUICK_START, Broker
from tests.faults.stage import EAGER_CLEANER


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A started broker, shared: give topics and groups names of their own."""
    with Broker.start(tmp_path_factory.mktemp("kafka"), jvm=QUICK_START, properties=EAGER_CLEANER) as broker:
        yield broker
