"""Members of a group with different configurations, on Apache Kafka: those of one get partitions, the rest wait."""

from __future__ import annotations

import asyncio
from uuid import uuid4

from agents import intake, topics
from agents.clients import Connection
from deploy.kafka import Broker
from streams.active import HASH_BYTES, Configuration, configured
from tests.embedded.conftest import Owner, until

OLD = configured([b"shop".ljust(HASH_BYTES)])
NEW = configured([b"shop".ljust(HASH_BYTES), b"bank".ljust(HASH_BYTES)])
OTHER = configured([b"else".ljust(HASH_BYTES)])


def settled(owner: Owner, partitions: int) -> bool:
    return owner.intake.settled and len(owner.intake.assignment) == partitions


def test_a_roll_out_that_adds_a_model_moves_all_to_whoever_knows_it(kafka: Broker) -> None:
    connection, topic = Connection(broker=kafka.bootstrap), f"t-{uuid4().hex[:8]}"

    def member(configuration: Configuration, name: str) -> Owner:
        return Owner(connection, [topic], topic, configuration=configuration, group_instance_id=name)

    async def main() -> None:
        await topics.create(connection, topic, 4)
        first, second, new = member(OLD, "one"), member(OLD, "two"), member(NEW, "three")
        async with first.running(), second.running():
            await until(lambda: settled(first, 2) and settled(second, 2))
            async with new.running():
                await until(lambda: settled(new, 4) and settled(first, 0) and settled(second, 0))
                assert "that of 1 of 3 members" in first.intake.waits and not new.intake.waits
            # It came back under its name with the old configuration: Kafka gives it what it had, without a rebalance.
            again = member(OLD, "three")
            async with again.running():
                await until(lambda: sum(len(o.intake.assignment) for o in (first, second, again)) == 4)
                await until(lambda: not any(owner.intake.waits for owner in (first, second, again)))

    asyncio.run(main())


def test_a_member_that_comes_back_under_its_name_with_another_configuration_reads_nothing_of_the_groups(
    kafka: Broker,
) -> None:
    connection, topic = Connection(broker=kafka.bootstrap), f"t-{uuid4().hex[:8]}"

    async def main() -> None:
        await topics.create(connection, topic, 3)
        stay = [Owner(connection, [topic], topic, configuration=OLD, group_instance_id=name) for name in "ab"]
        async with stay[0].running(), stay[1].running():
            async with Owner(connection, [topic], topic, configuration=OLD, group_instance_id="c").running() as before:
                await until(lambda: settled(before, 1))
            changed = Owner(connection, [topic], topic, configuration=OTHER, group_instance_id="c")
            async with changed.running():
                await until(lambda: changed.intake.waits and sum(len(o.intake.assignment) for o in stay) == 3)
                assert ("assigned", set()) not in changed.told and not changed.batches
                assert changed.intake.settled, "it is ready, so that a roll-out goes on"

    asyncio.run(main())


def test_a_group_with_a_member_that_waits_comes_to_rest(kafka: Broker) -> None:
    connection, topic = Connection(broker=kafka.bootstrap), f"t-{uuid4().hex[:8]}"

    async def main() -> None:
        await topics.create(connection, topic, 2)
        one = Owner(connection, [topic], topic, configuration=NEW, group_instance_id="one")
        two = Owner(connection, [topic], topic, configuration=OLD, group_instance_id="two")
        async with one.running(), two.running():
            await until(lambda: settled(one, 2) and two.intake.waits)
            epochs = one.intake.epoch, two.intake.epoch
            await asyncio.sleep(2 * intake.RETRY_S)
            assert (one.intake.epoch, two.intake.epoch) == epochs

    asyncio.run(main())
