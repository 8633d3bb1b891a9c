"""Liveness tells only what a restart can mend."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agents.liveness import SILENT_S, STALLED_S, KafkaWatch, Liveness

NEVER = float("-inf")


def test_a_stage_that_stands_still_while_kafka_answers_is_stuck() -> None:
    liveness = Liveness(0.0)
    for now in range(0, 60, 10):
        assert liveness.stuck({"sketch": (5, 7), "merge": (now, 1)}, NEVER, now) == []
    assert liveness.stuck({"sketch": (5, 7), "merge": (60, 1)}, NEVER, 60.0) == ["sketch"]
    assert liveness.stuck({"sketch": (6, 6), "merge": (60, 1)}, NEVER, 61.0) == []


def test_each_stage_is_looked_at_by_itself() -> None:
    """Stage 1 that reads on does not hide that stage 2 is stuck."""
    liveness = Liveness(0.0)
    found = [liveness.stuck({"sketch": (now, 7), "merge": (5, 7)}, NEVER, now) for now in range(0, 70, 10)]
    assert found == [[]] * 6 + [["merge"]]


@given(st.lists(st.tuples(st.floats(0.5, 30), st.booleans()), max_size=60), st.integers(1, 9))
def test_nothing_is_stuck_within_a_minute_after_an_outage(steps: list[tuple[float, bool]], lag: int) -> None:
    """However long it lasted: what stands still since then, and answers, is."""
    liveness, now, silent_at = Liveness(0.0), 0.0, 0.0
    for after_s, silent in steps:
        now += after_s
        silent_at = now if silent else silent_at
        stuck = liveness.stuck({"sketch": (1, lag)}, silent_at, now)
        if now - silent_at < STALLED_S:
            assert stuck == []
    assert liveness.stuck({"sketch": (1, lag)}, silent_at, now) == (
        ["sketch"] if steps and now - max(silent_at, steps[0][0]) >= STALLED_S else []
    )


def test_kafka_is_away_when_it_does_not_answer() -> None:
    class Client:
        answers: Any = True

        async def force_metadata_update(self) -> bool:
            if isinstance(self.answers, Exception):
                raise self.answers
            return bool(self.answers)

    async def main() -> None:
        client = Client()
        watch = KafkaWatch(lambda: client)
        watch.answered_at = watch.silent_at = 0.0
        assert watch.silent_s(SILENT_S + 1.0) == SILENT_S + 1.0
        async with watch:
            await asyncio.sleep(0.05)
        assert watch.answered_at > 0.0 and watch.silent_at == 0.0 and watch.silent_s(watch.answered_at + 1.0) == 0.0
        for failing in (False, OSError("away"), TimeoutError()):
            client.answers = failing
            watch = KafkaWatch(lambda: client)
            watch.silent_at = 0.0
            async with watch:
                await asyncio.sleep(0.05)
            assert watch.silent_at > 0.0

    asyncio.run(main())
