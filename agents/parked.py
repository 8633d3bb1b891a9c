"""Parked models → lines of the log, and their part of `/health`."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from streams.parking import Parked, printable

log = logging.getLogger(__name__)

MAX_NAMED = 20
"""Parked models that `/health` names."""


def report(parked: Iterable[Parked]) -> None:
    """Logs a line for each model that has just been parked."""
    for item in parked:
        model, extra = printable(item.model), {"model": item.model, "reason": str(item.phase)}
        log.error("model %s is parked until a restart, the others go on: %s", model, item, extra=extra)


def details(parked: Iterable[Parked]) -> dict[str, object]:
    """How many models are parked, and the reasons of the first ones."""
    by_model = {item.model: item for item in parked}
    named = {printable(name): str(by_model[name]) for name in sorted(by_model)[:MAX_NAMED]}
    return {"parked": len(by_model), "parked_models": named} if by_model else {"parked": 0}
