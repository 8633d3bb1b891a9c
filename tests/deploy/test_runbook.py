"""docs/runbook.md: everything that may end a night's sleep has its place there, and nothing that does not exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from deploy.check_prometheus import RULES
from streams import decide, errors, events
from tests.deploy.contract import METRICS

RUNBOOK = Path(__file__).parents[2] / "docs" / "runbook.md"
SECTIONS = {
    title: dict(re.findall(r"^### (.+)\n\n((?:.+\n)+)", part, re.MULTILINE))
    for title, part in re.findall(r"^## (.+)\n((?:(?!## ).*\n)*)", RUNBOOK.read_text(encoding="utf-8"), re.MULTILINE)
}
STAGE_TWO = {"bad_partial", "bad_progress", "bad_ack"}
"""Counted with the dead letters' reasons, by agents/exporter.py."""


def error_classes(kind: type[errors.ForeshockError] = errors.ForeshockError) -> Iterator[type[errors.ForeshockError]]:
    yield kind
    for sub in kind.__subclasses__():
        yield from error_classes(sub)


WANTED = {
    "Alerts": {rule["alert"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]},
    "Exit codes": {f"Exit code {code}" for code in {0, 130, *(kind.exit_code for kind in error_classes())}},
    "Error codes": {kind.code for kind in error_classes()},
    "Dead letters": {*map(str, events.Reason)} | STAGE_TWO,
    "Decisions": {*map(str, decide.Reason)},
}


@pytest.mark.parametrize("section", WANTED)
def test_each_has_its_place(section: str) -> None:
    assert SECTIONS[section].keys() == WANTED[section]


def test_codes_tell_errors_apart() -> None:
    kinds = list(error_classes())
    assert len({kind.code for kind in kinds}) == len(kinds)
    assert all(re.fullmatch(r"FS-[A-Z]+", kind.code) for kind in kinds)


@pytest.mark.parametrize("alert", SECTIONS["Alerts"])
def test_an_alert_says_where_to_look_and_what_to_do(alert: str) -> None:
    said = SECTIONS["Alerts"][alert]
    assert re.search(r"^Look at: ", said, re.MULTILINE) and re.search(r"^Do: ", said, re.MULTILINE)


def test_metrics_and_topics_that_it_names_are_there() -> None:
    named = set(re.findall(r"foreshock_\w+", RUNBOOK.read_text(encoding="utf-8")))
    assert named <= METRICS.keys()


def test_its_links_lead_somewhere() -> None:
    text = RUNBOOK.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)", text):
        assert (RUNBOOK.parent / target).exists(), target
