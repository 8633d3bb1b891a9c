"""Restarts under another configuration: edits of rules and models, and of the layout of panes."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from agents.files import read_plan
from streams.errors import ForeshockError
from tests import config_edits
from tests.faults.reference import Expected, ModelRules, instant_ms, length_ms
from tests.faults.stage import Stage

RULE_EDITS = (
    *("owner", "budget", "over", "for", "clear", "min_n", "cool_down", "severity", "response", "shadow"),
    *("of_segments", "rule_removed", "rule_renamed", "rule_added", "rule_of_other_signals", "model_added"),
)
"""They leave alone where an event counts."""
LAYOUT_EDITS = (
    *("pane", "feature_removed", "feature_added", "features_reordered", "feature_widened"),
    *("segment_removed", "segment_added", "dimension_added"),
)
LONGEST_PANE_MS = 180_000
"""So that some are over before the stream is."""
FINE_MS = 30_000
"""Every pane that is drawn is a whole number of these."""


def edit(stage: Stage) -> None:
    """All workers stop, or die; the configuration's rules are edited; all start under the new one."""
    _edit(stage, RULE_EDITS)


def edit_layout(stage: Stage) -> None:
    """The same, with another pane, other features, edges of bins, or segments."""
    stage.layouts.add(_pane_ms(stage.config.read_text(encoding="utf-8")))
    _edit(stage, LAYOUT_EDITS)
    stage.layouts.add(_pane_ms(stage.config.read_text(encoding="utf-8")))


def _pane_ms(text: str) -> int:
    (model,) = yaml.safe_load(text)["models"].values()
    return length_ms(model["pane"])


def _edit(stage: Stage, names_of_edits: tuple[str, ...]) -> None:
    stage.until(lambda: any(worker.read() for worker in stage.crew.values()))
    names = sorted(stage.crew)
    for name in names:
        if stage.rng.random() < 0.5:
            stage.dismiss(name)
        else:
            stage.crew.pop(name).kill()
    text = stage.config.read_text(encoding="utf-8")
    for _ in range(stage.rng.randint(1, 3)):
        name, text = config_edits.draw(text, stage.rng, lambda t: _is_valid(stage.config, t), names_of_edits)
        stage.edits.append(name)
    stage.config.write_text(text, encoding="utf-8")
    for name in names:
        stage.start(name)
    stage.live(0.5, 2.0)


def _is_valid(config: Path, text: str) -> bool:
    if any(length_ms(model["pane"]) > LONGEST_PANE_MS for model in yaml.safe_load(text)["models"].values()):
        return False
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


def announced_ms(folder: Path) -> set[int]:
    """The times from which workers have said that they judge events, as what came before was counted otherwise."""
    texts = (log.read_text(encoding="utf-8", errors="replace") for log in folder.glob("worker-*.log"))
    return {instant_ms(time) for text in texts for time in re.findall(r"events are judged from (\S+) on", text)}


def layout_errors(
    rules: ModelRules,
    fine: Expected,
    lengths_ms: Iterable[int],
    windows: Iterable[Mapping[str, Any]],
    begun_ms: Collection[int] = (),
) -> list[str]:
    """Where panes of the whole model are beside those before them, or hold other events than their time has.

    `fine`: of panes of FINE_MS. `lengths_ms`: the panes of all configurations. `windows`: the last revision of each.
    A late event whose pane was judged under another layout may be in none. `begun_ms`: where a gap may end.
    """
    lengths_ms, spans = set(lengths_ms), dict[tuple[int, int], int]()
    for window in windows:
        start, end = instant_ms(window["start"]), instant_ms(window["end"])
        whole = window["clock"] == "event" and window["version"] is None and window["segment"] is None
        if window["model"] == rules.model and whole and end - start in lengths_ms:
            spans[start, end] = window["counts"]["events"]
    errors = [] if spans else ["no pane was judged"]
    for (start, end), said in spans.items():
        panes = [fine.panes.get((at, None, None)) for at in range(start, end, FINE_MS)]
        least, most = (sum(getattr(pane, name) for pane in panes if pane) for name in ("on_time", "events"))
        if not least <= said <= most:
            errors.append(f"pane {start} to {end}: {said} events instead of {least} to {most}")
    for before, after in pairwise(sorted(spans)):
        if after[0] < before[1]:
            errors.append(f"panes {before} and {after} hold the same events")
        elif after[0] - before[1] >= (after[1] - after[0] if len(lengths_ms) > 1 else 1) and after[0] not in begun_ms:
            errors.append(f"no pane between {before} and {after}")
    return errors
