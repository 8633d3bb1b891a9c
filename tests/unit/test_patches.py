"""What aiokafka does otherwise than a worker needs."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from aiokafka.consumer.fetcher import Fetcher
from aiokafka.errors import KafkaConnectionError

from agents import clients


def test_a_fetch_that_waits_to_try_again_ends_when_its_consumer_stops() -> None:
    """Otherwise stopping a consumer while the broker is away looks like a cancellation of whoever stops it."""
    assert clients  # the patch is in force wherever a client can be made

    async def main() -> None:
        asked = asyncio.Event()

        async def away(*request: Any) -> None:
            asked.set()
            raise KafkaConnectionError("away")

        fetcher: Any = object.__new__(Fetcher)
        fetcher.__dict__ |= {"_client": SimpleNamespace(send=away), "_retry_backoff": 60.0}
        fetcher._invalidate_preferred_read_replica_for_node = lambda *request: None
        waiting = asyncio.ensure_future(fetcher._proc_fetch_request(None, 1, SimpleNamespace(topics=[])))
        fetcher.__dict__ |= {"_fetch_task": asyncio.ensure_future(asyncio.sleep(60))}
        fetcher.__dict__ |= {"_fetch_waiters": set(), "_pending_tasks": {waiting}}
        await asked.wait()
        await fetcher.close()
        assert waiting.done()

    asyncio.run(main())
