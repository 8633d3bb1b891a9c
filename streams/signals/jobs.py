"""Run events of jobs → how long ago each succeeded, and what went wrong since.

A job's state is a function of the set of its latest run events, so it does not matter in what order, or how often, they
come.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec
import numpy as np

from streams.config import Job
from streams.facts.read import Turn
from streams.plan import ModelPlan
from streams.signals.names import SIGNALS
from streams.signals.result import Result, effect_of

MOST_RUNS = 64
"""Runs of a job that are remembered beyond its last success: the latest ones."""


class JobState(msgspec.Struct, frozen=True):
    """What is remembered of a job, as plain fields: the time of its last success, and per run the times of its start
    and of its end without success."""

    success_ms: int | None = None
    started: dict[str, int] = {}
    failed: dict[str, int] = {}
    succeeded: dict[str, int] = {}

    def after(self, events: Iterable[tuple[int, Turn, str]]) -> JobState:
        """With run events of (time, turn, run)."""
        ends = {Turn.START: dict(self.started), Turn.COMPLETE: dict(self.succeeded), Turn.FAIL: dict(self.failed)}
        for ts_ms, turn, run in events:
            found = ends[Turn.FAIL if turn is Turn.ABORT else turn]
            found[run] = (
                min(ts_ms, found[run]) if turn is Turn.START and run in found else max(ts_ms, found.get(run, ts_ms))
            )
        success_ms = max(
            [*ends[Turn.COMPLETE].values(), *([] if self.success_ms is None else [self.success_ms])], default=None
        )
        return JobState(success_ms, *(_latest(ends[turn]) for turn in (Turn.START, Turn.FAIL, Turn.COMPLETE)))

    def failures(self) -> int:
        """Runs that ended without success after the last one that did not."""
        return sum(
            run not in self.succeeded and (self.success_ms is None or ts_ms > self.success_ms)
            for run, ts_ms in self.failed.items()
        )

    def overlong(self, now_ms: int, longest_ms: int) -> int:
        """Runs that have not ended and are older than allowed; those from before the last success are ignored."""
        return sum(
            run not in self.succeeded
            and run not in self.failed
            and now_ms - ts_ms > longest_ms
            and (self.success_ms is None or ts_ms > self.success_ms)
            for run, ts_ms in self.started.items()
        )


def _latest(runs: Mapping[str, int]) -> dict[str, int]:
    kept = sorted(runs.items(), key=lambda item: (item[1], item[0]))[-MOST_RUNS:]
    return dict(kept)


def job_results(plan: ModelPlan, states: Mapping[str, JobState], since_ms: int, now_ms: int) -> list[Result]:
    """Freshness and failures of every declared job. `since_ms`: from here on runs are waited for."""
    jobs: Mapping[str, Job] = plan.config.jobs
    columns = tuple(jobs)
    known = [states.get(name, JobState()) for name in columns]
    age = [(now_ms - (since_ms if state.success_ms is None else state.success_ms)) / 1000 for state in known]
    failures = [
        state.failures() + (state.overlong(now_ms, job.longest_ms) if job.longest_ms is not None else 0)
        for state, job in zip(known, jobs.values(), strict=True)
    ]
    n = np.full(len(columns), np.nan)
    every, allowed = (
        np.array([each / 1000 for each in part], float)
        for part in ([job.every_ms for job in jobs.values()], [job.allowed_ms for job in jobs.values()])
    )
    limit = np.full(len(columns), effect_of(plan, "job_failure"))
    return [
        Result(SIGNALS["freshness"], columns, np.array(age), every, allowed, n),
        Result(SIGNALS["job_failure"], columns, np.array(failures, float), np.zeros(len(columns)), limit, n),
    ]
