"""What a stage has done, for the metrics."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Work:
    """Counts since the start of the worker."""

    batches: int = 0
    seconds: float = 0.0
    partials: int = 0
    retries: int = 0
    """Publications that Kafka did not take, and that were tried again."""
    rejects: Counter[str] = field(default_factory=Counter)

    retried_at: float = float("-inf")
    """The last time of these, by the monotonic clock."""

    def retried(self) -> None:
        """Notes that Kafka did not take a publication."""
        self.retries += 1
        self.retried_at = time.monotonic()
