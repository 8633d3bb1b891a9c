"""Files of a past, beside its events → ConfigError where no model of the plan declares what is in one of them."""

from __future__ import annotations

from collections.abc import Iterable

from streams.errors import ConfigError
from streams.plan import Facts, Plan

DECLARED_BY = {Facts.FEEDBACK: "feedback", Facts.RUNS: "jobs", Facts.OUTCOMES: "kpis"}
"""By side input, the key under which a model declares what is counted of it."""


def check_inputs(plan: Plan, config_file: str, *, labelled: bool, side_inputs: Iterable[Facts]) -> None:
    """Checks that every kind of record is of use to some model.

    Parameters
    ----------
    config_file
        The configuration, for the message.
    labelled
        Whether there are labels.
    side_inputs
        The kinds of side inputs that there are.

    Raises
    ------
    ConfigError
        For the first kind that no model declares.
    """
    if labelled and not any(model.outcomes for model in plan.models.values()):
        raise ConfigError(
            place=config_file,
            seen="--labels, but no model with 'labels:'",
            expected="a model that says what its labels are",
            mend="run 'foreshock init --labels', or add 'labels: {task: …}'",
        )
    for kind in side_inputs:
        if kind not in plan.kinds:
            key = DECLARED_BY[kind]
            raise ConfigError(
                place=config_file,
                seen=f"--{kind}, but no model that declares any",
                expected=f"a model with '{key}:'",
                mend=f"add '{key}:', or leave --{kind} out",
            )
