"""The broker of the embedded tests."""

from tests.embedded.conftest import broker, topic

__all__ = ["broker", "topic"]
