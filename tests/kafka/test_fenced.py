"""Two processes with one instance name, on Apache Kafka: the one that is fenced ends and names the cause."""

from __future__ import annotations

import asyncio
from uuid import uuid4

from agents import topics
from agents.clients import Connection
from deploy.kafka import Broker
from streams.errors import BrokerError
from tests.embedded.conftest import Owner, until


def test_a_member_whose_name_another_took_ends_with_one_line(kafka: Broker) -> None:
    connection, topic = Connection(broker=kafka.bootstrap), f"t-{uuid4().hex[:8]}"

    async def main() -> None:
        await topics.create(connection, topic, 2)
        old, new = (Owner(connection, [topic], topic, group_instance_id="w1") for _ in range(2))
        async with old.running():
            await until(lambda: len(old.intake.assignment) == 2)
            async with new.running():
                await until(lambda: old.intake.crashed)
                await until(lambda: len(new.intake.assignment) == 2 and new.intake.settled)
                reason = old.intake.crash_reason
                assert isinstance(reason, BrokerError)
                assert "another process joined as instance 'w1'" in str(reason) and "--instance" in reason.mend
                held = new.intake.epoch
                await asyncio.sleep(4)  # longer than a heartbeat: the one that has the name now keeps it
                assert new.intake.epoch == held and not new.intake.crashed

    asyncio.run(main())


def test_a_member_that_lost_its_generation_joins_again_under_its_name(kafka: Broker) -> None:
    connection, topic = Connection(broker=kafka.bootstrap), f"t-{uuid4().hex[:8]}"

    async def main() -> None:
        await topics.create(connection, topic, 1)
        owner = Owner(connection, [topic], topic, group_instance_id="w1")
        async with owner.running():
            await until(lambda: owner.intake.settled and owner.intake.assignment)
            assert owner.intake._consumer is not None
            epoch = owner.intake.epoch
            owner.intake._consumer._coordinator.reset_generation()
            await until(lambda: owner.intake.epoch > epoch and owner.intake.settled and owner.intake.assignment)
            assert not owner.intake.crashed

    asyncio.run(main())


def test_a_member_that_hears_twice_that_it_was_replaced_does_not_take_the_name_back(kafka: Broker) -> None:
    """A heartbeat and a commit that are under way together are both refused."""
    connection, topic = Connection(broker=kafka.bootstrap), f"t-{uuid4().hex[:8]}"

    async def main() -> None:
        await topics.create(connection, topic, 2)
        old, new = (Owner(connection, [topic], topic, group_instance_id="w1") for _ in range(2))
        async with old.running():
            await until(lambda: len(old.intake.assignment) == 2)
            assert old.intake._consumer is not None
            coordinator = old.intake._consumer._coordinator
            member_id = coordinator.member_id
            async with new.running():
                await until(lambda: len(new.intake.assignment) == 2)
                coordinator.reset_generation()
                coordinator.reset_generation()
                assert coordinator.member_id == member_id
                await until(lambda: old.intake.crashed)
                assert "another process joined as instance 'w1'" in str(old.intake.crash_reason)
                assert not new.intake.crashed

    asyncio.run(main())
