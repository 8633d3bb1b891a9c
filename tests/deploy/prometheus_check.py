"""deploy/check_prometheus.py with a real Prometheus, on a made-up worker and on a real one that is fed.

Not collected by itself, for it takes two minutes and installs Debian's Prometheus:

    python -m pytest tests/deploy/prometheus_check.py
"""

from __future__ import annotations

import asyncio
import gzip
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agents import demo, topics
from agents.broker import EmbeddedBroker
from deploy.check_prometheus import RULES, free_port, tool
from streams.plan import Facts
from tests.deploy.contract import METRICS
from tests.deploy.fake_worker import fake_worker

SCRIPT = Path(__file__).parents[2] / "deploy" / "check_prometheus.py"
DAYS_A_SECOND = 1
FIRST_ACTION_WITHIN_S = 90
DECLARED = """\
    feedback: {override: {usual: 0.05}, complaint: {usual: 0.05}, workflow_step: {values: [call]}}
    kpis: {seats_sold: {aggregate: sum, better: higher, target: 100}}
    served: requests_served
    jobs: {nightly: {every: 1d}}
"""
RULE = "      - {name: job-failing, signals: [job_failure], response: data_incident}\n"


def check(worker: str, patience_s: int = 0, *options: str) -> subprocess.CompletedProcess[str]:
    tool("prometheus")
    command = [sys.executable, str(SCRIPT), worker, "--patience", str(patience_s), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_worker_that_keeps_the_contract_passes() -> None:
    with fake_worker() as url:
        done = check(url)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert " 0 without data" in done.stdout
    assert done.stdout.count(": ok, ") == RULES.read_text(encoding="utf-8").count("- alert:"), "every rule evaluates"


def test_nothing_firing_is_an_answer_unless_one_is_strict() -> None:
    with fake_worker("foreshock_action_firing") as url:
        assert [check(url, 0, *options).returncode for options in ([], ["--strict"])] == [0, 1]


def test_a_metric_that_is_gone_is_told_by_the_panels_that_miss_it() -> None:
    with fake_worker("foreshock_lag_records") as url:
        done = check(url)
    missing = [line for line in done.stdout.splitlines() if line.endswith("NO DATA")]
    assert done.returncode == 1
    assert len(missing) == 2 and all("Records waiting" in line for line in missing)


@pytest.mark.parametrize(
    ("worker", "complaint"),
    [("http://127.0.0.1:9", "was not scraped 2 times"), ("localhost:6066", "is no address of a worker")],
)
def test_a_worker_that_is_not_there_is_one_line(worker: str, complaint: str) -> None:
    done = check(worker)
    assert done.returncode == 1
    assert done.stderr.startswith("check_prometheus: ") and done.stderr.count("\n") == 1
    assert complaint in done.stderr


def tell(folder: Path) -> None:
    """Makes up, beside the demo's flights, feedback, a nightly job and a number of the business."""
    file = folder / "foreshock.yaml"
    file.write_text(file.read_text().replace("    rules:\n", f"{DECLARED}    rules:\n{RULE}", 1))
    told: dict[Facts, list[bytes]] = {kind: [] for kind in Facts}
    with gzip.open(folder / "events.ndjson.gz") as events:
        for number, line in enumerate(events):
            if number % 20:
                continue
            event = json.loads(line)
            about = {"model": event["model"], "ts": event["ts"]}
            for kind in ("override", "complaint", "workflow_step"):
                feedback = {**about, "event_id": event["event_id"], "kind": kind, "value": "call"}
                told[Facts.FEEDBACK].append(json.dumps(feedback).encode())
            for kpi in ("seats_sold", "requests_served"):
                told[Facts.OUTCOMES].append(json.dumps({**about, "kpi": kpi, "value": 20}).encode())
            run = {"run": {"runId": str(number)}, "job": {"namespace": "demo", "name": "nightly"}}
            told[Facts.RUNS].append(json.dumps({**run, "eventType": "COMPLETE", "eventTime": event["ts"]}).encode())
    for kind, lines in told.items():
        (folder / f"{kind}.ndjson").write_bytes(b"\n".join(lines))


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real one on an embedded broker, fed with the demo's stream, a day of flights a second."""
    folder = tmp_path_factory.mktemp("demo")
    demo.write(folder, lambda _: None)
    tell(folder)
    broker = EmbeddedBroker()
    asyncio.run(broker.start())
    address = f"127.0.0.1:{free_port()}"
    with ExitStack() as stack:
        stack.callback(lambda: asyncio.run(broker.stop()))
        for topic in (demo.INFERENCE, demo.LABELS):
            asyncio.run(topics.create(broker.connection(), topic, demo.PARTITIONS))

        def run(command: str, *arguments: str) -> None:
            reach = ("-c", str(folder / "foreshock.yaml"), "--broker", broker.bootstrap, "--embedded")
            program = (sys.executable, "-c", "from agents.cli import main; main()", command, *reach, *arguments)
            with (folder / f"{command}.log").open("wb") as log:
                process = subprocess.Popen(program, stdout=log, stderr=log)
            stack.callback(process.wait)
            stack.callback(process.terminate)

        run("worker", "--listen", address)
        speed = str(DAYS_A_SECOND * 86_400)
        run("produce", "--topic", demo.INFERENCE, "--speed", speed, str(folder / "events.ndjson.gz"))
        run("produce", "--topic", demo.LABELS, "--speed", speed, str(folder / "labels.ndjson.gz"))
        for kind in Facts:
            asyncio.run(topics.create(broker.connection(), kind, demo.PARTITIONS))
            run("produce", "--topic", kind, "--speed", speed, str(folder / f"{kind}.ndjson"))
        yield f"http://{address}"


def test_a_real_worker_has_data_for_every_panel(worker: str) -> None:
    done = check(worker, FIRST_ACTION_WITHIN_S, "--strict")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout


def test_a_real_worker_keeps_the_contract(worker: str) -> None:
    """Names and labels, to the letter. (Runs after the check: by then every metric has a series.)"""
    page = urllib.request.urlopen(f"{worker}/metrics").read().decode()
    samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
    found = {sample.name: frozenset(sample.labels) for sample in samples}
    assert found == {name: frozenset(labels) for name, labels in METRICS.items()}
