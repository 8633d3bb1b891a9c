"""What Prometheus is configured with: read without it, and by its own promtool where there is one."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.check_prometheus import CONFIG, RULES
from tests.deploy.promql import parsed, unknown

ROOT = Path(__file__).parents[2]
(GROUP,) = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
ALERTS: list[dict[str, Any]] = GROUP["rules"]

each_alert = pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool (Debian: prometheus)")


def test_the_worker_is_scraped() -> None:
    config = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    (job,) = config["scrape_configs"]
    command = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["worker"]["command"]
    _, _, port = command[command.index("--listen") + 1].rpartition(":")
    assert job["static_configs"] == [{"targets": [f"worker:{port}"]}]
    assert config["rule_files"] == [RULES.name]


@each_alert
def test_an_alert_asks_for_what_there_is(alert: dict[str, Any]) -> None:
    parsed(alert["expr"])
    assert not unknown(alert["expr"])


@each_alert
def test_an_alert_can_be_answered(alert: dict[str, Any]) -> None:
    """It waits before it cries, says how bad it is and what it means, and where it is written what to do."""
    assert re.fullmatch(r"\d+m", alert["for"])
    assert alert["labels"].keys() == {"severity"} and alert["labels"]["severity"] in ("critical", "warning", "info")
    assert alert["annotations"].keys() == {"summary", "description", "runbook"}
    assert len(alert["annotations"]["description"].split()) > 15
    assert alert["annotations"]["runbook"] == f"docs/runbook.md#{alert['alert'].lower()}"


def test_alerts_are_about_foreshock_itself() -> None:
    """Models are what rules with a response are for."""
    about_models = ("foreshock_signal", "foreshock_action", "foreshock_decisions", "foreshock_window")
    assert not [alert for alert in ALERTS if any(metric in alert["expr"] for metric in about_models)]


def test_every_alert_is_tried() -> None:
    """On a timeline on which it must fire."""
    tried = Path(__file__).with_name("rules_test.yml").read_text(encoding="utf-8")
    assert {alert["alert"] for alert in ALERTS} == {*re.findall(r'alertname="(\w+)"', tried)}


@needs_promtool
@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "config", str(CONFIG)),
        ("check", "rules", "--lint=all", "--lint-fatal", str(RULES)),
        ("test", "rules", str(Path(__file__).with_name("rules_test.yml"))),
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_promtool_agrees(arguments: tuple[str, ...]) -> None:
    """The last of them runs the alerts over made-up series."""
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
