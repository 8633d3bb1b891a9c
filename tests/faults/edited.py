"""Restarts under another configuration: edits of rules and models that leave alone where an event counts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from agents.files import read_plan
from streams.errors import ForeshockError
from tests import config_edits
from tests.faults.stage import Stage

RULE_EDITS = (
    *("owner", "budget", "over", "for", "clear", "min_n", "cool_down", "severity", "response", "shadow"),
    *("of_segments", "rule_removed", "rule_renamed", "rule_added", "rule_of_other_signals", "model_added"),
)


def edit(stage: Stage) -> None:
    """All workers stop, or die; somebody edits the configuration; all start under the new one."""
    stage.until(lambda: any(worker.read() for worker in stage.crew.values()))
    names = sorted(stage.crew)
    for name in names:
        if stage.rng.random() < 0.5:
            stage.dismiss(name)
        else:
            stage.crew.pop(name).kill()
    text = stage.config.read_text(encoding="utf-8")
    for _ in range(stage.rng.randint(1, 3)):
        name, text = config_edits.draw(text, stage.rng, lambda t: _is_valid(stage.config, t), RULE_EDITS)
        stage.edits.append(name)
    stage.config.write_text(text, encoding="utf-8")
    for name in names:
        stage.start(name)
    stage.live(0.5, 2.0)


def _is_valid(config: Path, text: str) -> bool:
    draft = config.with_suffix(".draft")
    draft.write_text(text, encoding="utf-8")
    try:
        read_plan(draft)
    except ForeshockError:
        return False
    return True


def orphans(config: Path, actions: Iterable[Mapping[str, Any]]) -> list[str]:
    """Incidents that a consumer takes for open, of rules that the configuration does not name, or has as shadows.

    `actions`: in the order of their topic.
    """
    found = yaml.safe_load(config.read_text(encoding="utf-8"))["models"]
    live = {(name, rule["name"]) for name, model in found.items() for rule in model["rules"] if not rule.get("shadow")}
    states: dict[tuple[Any, ...], str] = {}
    for action in actions:
        data = action["data"]
        states[data["model"], data["rule"], data["model_version"], str(data["segment"])] = data["state"]
    return [f"orphaned: {key}" for key, state in states.items() if state != "resolved" and key[:2] not in live]
