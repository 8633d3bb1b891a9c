"""Plan and connection → a running worker. This module alone wires the parts together.

inference, labels        ┐
feedback, runs, outcomes ┴→ Intake ─→ channel ─→ sketch agent ─→ partials
                  partials ─→ Intake ─→ channel ─→ merge agent ─→ windows, actions
                      acks ─→ AckReader ─┘
"""

from __future__ import annotations

import asyncio
import gc
import logging
import secrets
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import faust
from aiokafka import TopicPartition
from faust.app.base import BootStrategy
from mode import Service
from prometheus_client import CollectorRegistry

from agents import parked, topics
from agents.acks import AckReader
from agents.assignor import NOTHING
from agents.channel import Batch, BatchChannel
from agents.clients import Connection
from agents.exporter import Exporter, Starting
from agents.flow import Flow
from agents.free_pages import FreePages
from agents.intake import Intake
from agents.liveness import KafkaWatch, Liveness
from agents.merge import MergeStage
from agents.publish import Producer
from agents.sketch import SketchStage
from agents.store import Stores
from agents.topic_watch import TopicWatch
from agents.web import Web
from agents.web_options import WebOptions
from streams import calibrate
from streams.active import configuration_of
from streams.codecs import decoder_of
from streams.needs import needs_of
from streams.plan import Facts, Plan
from streams.replaying import waiting_text

log = logging.getLogger(__name__)
T = TypeVar("T")

CHANNEL_BATCHES = 1
"""A batch that waits is a batch that has left the processor's cache when its turn comes."""
DRAIN_LOOK_S = 0.1
RETRIED_LATELY_S = 10.0
"""A worker whose publications Kafka did not take within so long is not ready."""


class _WithoutKafka(BootStrategy):
    enable_kafka = False
    enable_web = False


class _Agents(faust.App):
    """Agents over channels alone: what is read comes by our intakes, and what is written goes by our producer."""

    BootStrategy = _WithoutKafka

    async def _wait_for_table_recovery_completed(self) -> bool:
        return False  # there are no tables, and nothing that would ever recover them


class Worker:
    """One stream processor. `run` lasts until `stop` is set or a part fails.

    With `drain` it is `finished` when the topics have been read to their end and every open pane is closed and
    evaluated; then it stops, unless `keep` is set.
    """

    def __init__(
        self,
        plan: Plan,
        connection: Connection,
        web: WebOptions,
        *,
        drain: bool = False,
        keep: bool = False,
        instance: str | None = None,
        state: Path | None = None,
    ) -> None:
        """`state`: the folder of what can be rebuilt; without one it is rebuilt at every start."""
        self.state = state
        self.plan, self.connection = plan, connection
        self.drain, self.keep, self.instance = drain, keep, instance
        self.stop = asyncio.Event()
        self.ready = asyncio.Event()
        self.finished = asyncio.Event()
        self.error: BaseException | None = None
        self._web_options = web
        self._waits = "it starts"
        """What it waits for, before it has any partitions."""
        self._watch: KafkaWatch | None = None
        self._liveness = Liveness(time.monotonic())

    def finish(self) -> None:
        """From now on, `drain`: nothing more is going to come."""
        self.drain = self.sketch.draining = True

    async def run(self) -> None:
        """Raises what made it fail. Its pages answer from the first moment on, whatever it waits for."""
        async with AsyncExitStack() as stack:
            stack.callback(gc.unfreeze)  # what is frozen would keep the ended worker, and its sketches, for ever
            registry = CollectorRegistry()
            starting = Starting()
            registry.register(starting)
            self.web = self._web(registry)
            await stack.enter_async_context(_started(self.web))
            log.info("pages at %s", self.web.url)
            services = await self._build(stack)
            registry.unregister(starting)
            registry.register(
                Exporter(self.sketch, self.merge, self.acks, self.plan.config.web.max_series, self.topic_watch)
            )
            for service in services:
                self._waits = f"{service.label} starts"
                await stack.enter_async_context(_started(service))
            log.info("metrics at %s/metrics", self.web.url)
            self._waits = ""
            self.ready.set()
            await self._until_over()
        if self.error is not None:
            raise self.error

    async def _build(self, stack: AsyncExitStack) -> tuple[Service, ...]:
        """The stages and what feeds them, as soon as Kafka has the topics: services in the order of their start."""
        kafka = self.plan.config.kafka
        source = self.connection.topic(kafka.inference)
        self._waits = f"it waits for topic {source}"
        partitions = await topics.wait_for(self.connection, source, self._say_wait)
        limits = await self._answered(
            lambda: topics.ensure(self.connection, inference_partitions=partitions, buckets=kafka.buckets)
        )
        await asyncio.to_thread(decoder_of, self.plan)  # a second for thousands of models; the pages answer meanwhile
        gc.freeze()  # or every full collection would look at all that was compiled
        sources = [source]
        stores = None
        if any(model.outcomes is not None for model in self.plan.models.values()):
            await asyncio.to_thread(calibrate.prepare)
            labels = self.connection.topic(kafka.labels)
            sources.append(await self._answered(lambda: topics.co_partitioned(self.connection, labels, source)))
            stores = Stores(self.state or Path(stack.enter_context(tempfile.TemporaryDirectory())))
        producer = Producer(self.connection, limits, partial(topics.limits, self.connection))
        await self._answered(producer.start)
        stack.push_async_callback(producer.stop)
        told = {kind: await self._answered(partial(self._told, kind, source)) for kind in self.plan.kinds}
        sources += [self.connection.topic(self.plan.topic_of(kind)) for kind in told]
        self.sketch = SketchStage(self.plan, self.connection, producer, secrets.token_hex(4), stores, told)
        self.merge = MergeStage(self.plan, self.connection, producer, partitions, told)
        self.sketch.draining = self.drain
        app = self._app(stack.enter_context(tempfile.TemporaryDirectory(prefix="foreshock-")))
        self._connect(app, sources, partial(stores.stored, source) if stores else NOTHING)
        self.acks = AckReader(self.connection, self.merge.take_ack)
        self._watch = KafkaWatch(lambda: producer.client)
        self.topic_watch = TopicWatch(
            self.connection,
            needs_of(self.plan),
            sizes=lambda: producer.largest,
            on_limits=partial(self._take_limits, producer),
        )
        assert self.sketch.intake is not None and self.merge.intake is not None
        return (FreePages(), self._watch, self.topic_watch, app, self.acks, self.merge.intake, self.sketch.intake)

    def _connect(self, app: faust.App, sources: list[str], stored: Callable[[], Iterable[int]]) -> None:
        """Gives each stage its intake: a group, a channel and an agent."""
        group = self.connection.topic(self.plan.config.kafka.group)
        configuration = configuration_of(self.plan)
        self.sketch.intake = Intake(
            self.connection,
            sources,
            group,
            self._agent(app, "sketch", self.sketch.process),
            on_assigned=self.sketch.on_assigned,
            on_revoked=self.sketch.on_revoked,
            group_instance_id=self.instance,
            stored=stored,
            configuration=configuration,
        )
        self.merge.intake = Intake(
            self.connection,
            [self.connection.topic("partials")],
            f"{group}-merge",
            self._agent(app, "merge", self.merge.process),
            on_assigned=self.merge.on_assigned,
            on_revoked=self.merge.on_revoked,
            group_instance_id=self.instance,
            configuration=configuration,
        )

    def _take_limits(self, producer: Producer, limits: Mapping[str, int]) -> None:
        """What was too large for its topic is tried again when its limit has been raised."""
        producer.take_limits(limits)
        self.sketch.retry()
        self.merge.retry()

    def _say_wait(self, reason: str) -> None:
        self._waits = reason
        log.warning("%s", reason)

    async def _answered(self, work: Callable[[], Awaitable[T]]) -> T:
        return await topics.until_answered(work, self._say_wait)

    async def _told(self, kind: Facts, source: str) -> int:
        """How many partitions a topic of facts has; it is created if it is missing."""
        topic = self.connection.topic(self.plan.topic_of(kind))
        if kind is Facts.FEEDBACK:
            await topics.co_partitioned(self.connection, topic, source)
        else:
            await topics.create(self.connection, topic, topics.FEW)
        return await topics.find(self.connection, topic) or topics.FEW

    def _app(self, folder: str) -> faust.App:
        return _Agents(
            "foreshock",
            datadir=folder,
            store="memory://",
            topic_allow_declare=False,
            topic_disable_leader=True,
            stream_wait_empty=False,
        )

    def _agent(self, app: faust.App, name: str, process: Callable[[Batch], Awaitable[None]]) -> BatchChannel:
        channel = BatchChannel(app, maxsize=CHANNEL_BATCHES)

        @app.agent(channel, name=name)
        async def agent(batches: Any) -> None:
            async for batch in batches:
                try:
                    await process(batch)
                except Exception as error:  # Faust would log it, skip the batch, and go on with wrong counts
                    self._fail(error)

        return channel

    def _fail(self, error: BaseException) -> None:
        if self.error is None:
            self.error = error
        self.stop.set()

    def _web(self, registry: CollectorRegistry) -> Web:
        options = self._web_options
        return Web(registry, self._health, self._not_ready, host=options.host, port=options.port, token=options.token)

    def _intakes(self) -> dict[str, Intake]:
        """By stage, once there are any."""
        if self._watch is None:
            return {}
        return {
            stage: intake
            for stage, intake in (("sketch", self.sketch.intake), ("merge", self.merge.intake))
            if intake is not None
        }

    def _not_ready(self) -> str:
        """Why not: it starts, has no partitions yet, stage 2 is not rebuilt, or Kafka is away or takes nothing."""
        if self._waits or self._watch is None:
            return self._waits or "it starts"
        now = time.monotonic()
        if silent_s := self._watch.silent_s(now):
            return f"Kafka at {self.connection.broker} has not answered for {silent_s:.0f} s"
        if not all(intake.settled for intake in self._intakes().values()):
            left = self.merge.to_rebuild
            return f"stage 2 is rebuilt, {left} records to read" if left else "its group assigns partitions"
        if now - self._retried_at() < RETRIED_LATELY_S:
            return "Kafka does not take what is published; the log says why"
        return ""

    def _retried_at(self) -> float:
        return max(self.sketch.work.retried_at, self.merge.work.retried_at)

    def _health(self) -> tuple[bool, dict[str, Any]]:
        """Whether a restart would not help, and what there is to say. It fails when a stage is stuck."""
        now = time.monotonic()
        if self._watch is None:
            return True, {"waits": self._waits}
        flows = {stage: intake.snapshot() for stage, intake in self._intakes().items()}
        stages = {stage: (_position(found), _lag(found)) for stage, found in flows.items()}
        # A partition that no broker leads waits for Kafka, one of a later release's for that, one that is held back for
        # another topic: not for a restart.
        later = {TopicPartition(*place) for place in self.sketch.later}
        led = {
            stage: {tp: flow for tp, flow in flows[stage].items() if intake.can_read(tp) and tp not in later}
            for stage, intake in self._intakes().items()
        }
        readable = {stage: (_position(flows[stage]), _lag(found)) for stage, found in led.items()}
        stuck = self._liveness.stuck(readable, max(self._watch.silent_at, self._retried_at()), now)
        return not stuck, {
            "lag": stages["sketch"][1],
            "merge_lag": stages["merge"][1],
            "partitions": sorted(tp.partition for tp in flows["sketch"]),
            "buckets": len(self.merge.judges),
            "kafka_silent_s": round(self._watch.silent_s(now)),
            "stuck": stuck,
            "waits": "; ".join(dict.fromkeys(intake.waits for intake in self._intakes().values() if intake.waits)),
            "later_release": sorted({str(error) for error in self.sketch.later.values()}),
            "topics": [f"{topic} {said}" for (topic, _), said in sorted(self.topic_watch.faults.items())],
            "replays": [f"{name}: {waiting_text(found)}" for name, found in sorted(self.merge.awaited.items())],
            **parked.details([*self.merge.parked, *self.sketch.parked]),
        }

    async def _until_over(self) -> None:
        services = [service for service in (self.sketch.intake, self.merge.intake, self.acks) if service is not None]
        while not self.stop.is_set():
            for service in services:
                if service.crashed:
                    self._fail(service.crash_reason or RuntimeError(f"{service.label} stopped"))
            if self.drain and self.sketch.drained.is_set() and self._is_merged():
                self.finished.set()
                if not self.keep:
                    return
            try:
                async with asyncio.timeout(DRAIN_LOOK_S):
                    await self.stop.wait()
            except TimeoutError:
                continue

    def _is_merged(self) -> bool:
        positions = self.merge.positions
        return all(positions.get(bucket, -1) > offset for bucket, offset in self.sketch.sent.items())


def _position(flows: Mapping[TopicPartition, Flow]) -> int:
    return sum(flow.position or 0 for flow in flows.values())


def _lag(flows: Mapping[TopicPartition, Flow]) -> int:
    return sum(flow.lag or 0 for flow in flows.values())


@asynccontextmanager
async def _started(service: Service) -> AsyncIterator[Service]:
    await service.start()
    try:
        yield service
    finally:
        await service.stop()
