"""The command `foreshock` as a person runs it: what it writes, what it says, and how it ends."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import pytest

from agents import topics
from agents.broker import EmbeddedBroker
from streams.reports.periods import Cadence
from tests.embedded.command import done, foreshock, one_line
from tests.embedded.forms import write_csv, write_gz, write_ndjson, write_parquet
from tests.faults.stream import MODEL, PARTITIONS, Stream, make_stream


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `foreshock init` wrote."""
    folder = tmp_path_factory.mktemp("learned")
    write_ndjson(folder / "reference.ndjson")
    said = done("init", folder / "reference.ndjson", "--model", MODEL, "-o", folder / "shop")
    assert said.startswith("4,000 events, 3 features, pane 1m, ")
    assert {file.name for file in (folder / "shop").iterdir()} == {"foreshock.yaml", "shop.baseline"}
    return folder / "shop"


@pytest.fixture(scope="module")
def stream() -> Stream:
    return make_stream(24_000, 42)


@pytest.fixture(scope="module")
def events(stream: Stream, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stream as a file. A line that is no UTF-8 is one too."""
    file = tmp_path_factory.mktemp("events") / "events.ndjson.gz"
    file.write_bytes(gzip.compress(b"".join(value + b"\n" for _, value in stream.pairs)))
    return file


def settings(folder: Path) -> list[str]:
    """The lines of a configuration that say something."""
    lines = (folder / "foreshock.yaml").read_text(encoding="utf-8").splitlines()
    return [re.sub(r"\s*#.*", "", line) for line in lines if not line.startswith("#")]


@pytest.mark.parametrize(
    ("name", "write"), [("r.ndjson.gz", write_gz), ("r.csv", write_csv), ("r.parquet", write_parquet)]
)
def test_the_same_is_learned_from_every_form_of_the_same_data(
    tmp_path: Path, learned: Path, name: str, write: Callable[[Path], None]
) -> None:
    write(tmp_path / name)
    said = done("init", tmp_path / name, "--model", MODEL, "-o", tmp_path / "out")
    realised = "the reference itself gives 0 incidents in 0.2 hours; the budget is 1 a week"
    assert realised in said
    assert realised in (tmp_path / "out" / "foreshock.yaml").read_text(encoding="utf-8")
    assert settings(tmp_path / "out") == settings(learned)
    assert "null" in (tmp_path / "out" / "foreshock.yaml").read_text(encoding="utf-8")


def test_what_was_learned_passes_the_check(learned: Path) -> None:
    said = done("check", "-c", learned / "foreshock.yaml")
    assert said.splitlines()[0].startswith(f"{MODEL}: 3 features, 2 segments, ")
    assert said.splitlines()[-1] == "ok"


def test_init_writes_over_what_is_there_only_if_told(tmp_path: Path) -> None:
    write_ndjson(tmp_path / "r.ndjson")
    init = ("init", tmp_path / "r.ndjson", "--model", MODEL, "-o", tmp_path / "out")
    done(*init)
    (tmp_path / "out" / "foreshock.yaml").write_text("mine", encoding="utf-8")
    refused = foreshock(*init)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "--force" in one_line(refused)
    assert (tmp_path / "out" / "foreshock.yaml").read_text(encoding="utf-8") == "mine"
    done(*init, "--force")
    done("check", "-c", tmp_path / "out" / "foreshock.yaml")


@dataclass
class Backtested:
    folder: Path
    said: str

    def lines(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / name).read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def backtested(learned: Path, events: Path, tmp_path_factory: pytest.TempPathFactory) -> Backtested:
    out = tmp_path_factory.mktemp("backtest") / "out"
    return Backtested(out, done("backtest", "-c", learned / "foreshock.yaml", "--events", events, "-o", out))


def test_a_backtest_writes_its_files(backtested: Backtested, stream: Stream) -> None:
    """And its summary has the books, balanced."""
    names = {file.name for file in backtested.folder.iterdir()}
    assert names == {"actions.ndjson", "windows.ndjson", "summary.json", "ledger.json", "report.html"}
    summary = json.loads((backtested.folder / "summary.json").read_text(encoding="utf-8"))
    assert set(summary) == {"read", "rejected", "models"}
    model = summary["models"][MODEL]
    assert set(model) == {
        "read",
        "counted",
        "late",
        "rejected",
        "duplicate",
        "labels",
        "told",
        "windows",
        "actions",
        "parked",
    }
    assert model["read"] == model["counted"] + model["late"] + model["rejected"] + model["duplicate"]
    assert summary["read"] == len(stream.pairs)
    assert model["counted"] + model["late"] == stream.counted + stream.late
    assert summary["rejected"] + model["rejected"] == stream.rejected
    assert model["windows"] <= len(backtested.lines("windows.ndjson"))  # and revisions
    assert set(summary["models"]) <= {MODEL, "__other__"}
    assert f"read {model['read']:,} = counted {model['counted']:,} + late {model['late']:,}" in backtested.said
    page = (backtested.folder / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>") and "values-missing" in page
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)  # it stands for itself


def test_the_same_past_under_another_configuration_says_what_would_have_been(
    learned: Path, events: Path, backtested: Backtested, tmp_path: Path
) -> None:
    text = (learned / "foreshock.yaml").read_text(encoding="utf-8")
    other = learned / "other.yaml"
    other.write_text(text.replace("name: values-missing,", "name: values-missing, shadow: true,"), encoding="utf-8")
    folder = tmp_path / "out"
    said = done("backtest", "-c", learned / "foreshock.yaml", "--compare", other, "--events", events, "-o", folder)
    found = Backtested(folder, said).lines("comparison.ndjson")
    changed = {
        (item["change"], (item["before"] or item["after"])["rule"]) for item in found if item["change"] != "same"
    }
    assert ("gone", "values-missing") in changed
    assert {change for change, rule in changed if rule == "values-missing"} == {"gone"}
    assert "gone   " in said and "compared: same " in said
    assert (folder / "actions.ndjson").read_bytes() == (backtested.folder / "actions.ndjson").read_bytes()


def test_a_window_says_what_was_seen_and_what_would_have_been_too_much(backtested: Backtested) -> None:
    windows = backtested.lines("windows.ndjson")
    assert {tuple(window) for window in windows} == {
        (
            *("model", "version", "segment", "start", "end", "revision", "counts"),
            *("top_unseen", "quantiles", "signals", "clock", "kpi", "maturity", "settled", "expected", "measures"),
            "online",
        )
    }
    assert {tuple(window["counts"]) for window in windows} == {("events", "errors")}
    signals = [signal for window in windows for signal in window["signals"]]
    assert {tuple(signal) for signal in signals} == {
        ("family", "name", "feature", "value", "baseline", "threshold", "n", "breached", "interval")
    }
    assert {signal["name"] for signal in signals} >= {"null_rate", "request_rate", "feature_drift", "score_drift"}
    assert {json.dumps(w["segment"]) for w in windows} == {
        "null",
        '{"channel": "web"}',
        '{"channel": "app"}',
    }
    assert {window["version"] for window in windows} == {None, "1", "2"}


def test_an_action_is_a_cloud_event_with_what_somebody_needs_to_act(backtested: Backtested) -> None:
    actions = backtested.lines("actions.ndjson")
    assert {tuple(action) for action in actions} == {
        ("specversion", "id", "source", "type", "subject", "time", "datacontenttype", "data")
    }
    assert {tuple(action["data"]) for action in actions} == {
        (
            *("action", "state", "model", "model_version", "segment", "layer", "rule", "severity", "window", "since"),
            *("revision", "reason", "owner", "runbook", "suppressed_by", "signals"),
        )
    }
    assert {tuple(signal) for action in actions for signal in action["data"]["signals"]} == {
        ("family", "name", "feature", "value", "baseline", "threshold", "n")
    }
    assert {(a["specversion"], a["source"], a["type"], a["subject"]) for a in actions} == {
        ("1.0", "foreshock/shop", "foreshock.action.v1", "shop")
    }
    rules = {(a["data"]["rule"], a["data"]["state"]) for a in actions}
    assert rules >= {("values-missing", "firing"), ("values-missing", "resolved"), ("requests-failing", "firing")}
    summary = json.loads((backtested.folder / "summary.json").read_text(encoding="utf-8"))
    began = [a["data"]["action"] for a in actions if a["data"]["state"] == "firing" and not a["data"]["revision"]]
    assert summary["models"][MODEL]["actions"] == {name: began.count(name) for name in began}


def reported(cadence: Cadence, folder: Path, *arguments: str | Path) -> dict[str, Any]:
    """The JSON of a report of the last day; its page is there too, and tells the same verdict."""
    said = done("report", "--cadence", cadence, *arguments, "-o", folder)
    name = f"{MODEL}-{cadence}-{'2026-01-31' if cadence is Cadence.MONTHLY else '2026-01-05'}"
    found: dict[str, Any] = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    page = (folder / f"{name}.html").read_text(encoding="utf-8")
    assert found["head"]["verdict"] in said and escape(found["head"]["verdict"]) in page
    return {"books": None, **found}


def test_a_report_of_a_backtest_tells_what_was_decided(backtested: Backtested, learned: Path, tmp_path: Path) -> None:
    daily = reported(Cadence.DAILY, tmp_path, "-c", learned / "foreshock.yaml", "--from", backtested.folder)
    summary = json.loads((backtested.folder / "summary.json").read_text(encoding="utf-8"))["models"][MODEL]
    assert {name: summary[name] for name in daily["books"]} == daily["books"]
    assert sum(day["events"] for day in daily["traffic"]) == summary["counted"]
    fired = {action["data"]["rule"] for action in backtested.lines("actions.ndjson")}
    assert {incident["rule"] for incident in daily["incidents"]} == fired
    assert any(line["breached"] and line["feature"] == "amount" for line in daily["data"])


def test_from_a_file_over_a_broker_to_the_actions(
    broker: EmbeddedBroker, topic: str, learned: Path, events: Path, backtested: Backtested, tmp_path: Path
) -> None:
    """produce, worker, actions: the ids are those of the backtest of the same file."""
    config = prefixed(learned, tmp_path, f"{topic}-")
    to = ("-c", config, "--broker", broker.bootstrap, "--embedded")
    produce = ("produce", *to, "--topic", "inference", events)

    for command in (produce, ("actions", *to)):  # before there is anything
        refused = foreshock(*command)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert topic in one_line(refused)
    connection = broker.connection(prefix=f"{topic}-")
    asyncio.run(topics.create(connection, connection.topic("inference"), PARTITIONS))

    assert done(*produce).startswith("sent 24,000 records, ")
    drained = foreshock("--log-format", "json", "worker", *to, "--listen", "127.0.0.1:0", "--drain")
    assert drained.returncode == 0, drained.stderr
    logged = [json.loads(line) for line in drained.stderr.splitlines()]
    assert any(line["logger"] == "agents.app" and line["event"].startswith("metrics at") for line in logged)
    found = [json.loads(line) for line in done("actions", *to, "--json").splitlines()]
    assert {action["id"] for action in found} == {action["id"] for action in backtested.lines("actions.ndjson")}
    lines = done("actions", *to).splitlines()
    assert len(lines) == len(found)
    assert any(
        re.match(r"2026-01-05T.*  firing   data_incident shop v1  values-missing: null_rate of amount", line)
        for line in lines
    )

    for cadence in Cadence:
        live = reported(cadence, tmp_path / "live", *to)
        past = reported(cadence, tmp_path / "past", "-c", config, "--from", backtested.folder)
        assert {**live, "books": None} == {**past, "books": None}, "the topics say what the backtest's files say"

    followed = subprocess.Popen(
        [sys.executable, "-m", "agents", "actions", *map(str, to), "--follow"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a run in the background ignores it
    )
    assert followed.stdout is not None
    shown = [followed.stdout.readline() for _ in lines]
    followed.send_signal(signal.SIGINT)
    _, complaint = followed.communicate(timeout=30)
    assert sorted(map(str.strip, shown)) == sorted(lines)
    assert (followed.returncode, complaint.strip()) == (130, "")


def prefixed(learned: Path, folder: Path, prefix: str) -> Path:
    """A copy of the configuration with a prefix of its own."""
    text = (learned / "foreshock.yaml").read_text(encoding="utf-8")
    (folder / "foreshock.yaml").write_text(text.replace("prefix: ''", f"prefix: '{prefix}'"), encoding="utf-8")
    (folder / "shop.baseline").write_bytes((learned / "shop.baseline").read_bytes())
    return folder / "foreshock.yaml"


# --- What goes wrong


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("init", "{tmp}/none.ndjson", "--model", "m", "-o", "{tmp}/x"), 1, "none.ndjson: no such file"),
        (("init", "{tmp}/empty.ndjson", "--model", "m", "-o", "{tmp}/x"), 1, "0 usable events"),
        (("init", "{tmp}/garbage.ndjson.gz", "--model", "m", "-o", "{tmp}/x"), 1, "garbage.ndjson.gz: Not a gzipped"),
        (("init", "{tmp}/garbage.parquet", "--model", "m", "-o", "{tmp}/x"), 1, "garbage.parquet: "),
        (("init", "{tmp}/latin.csv", "--model", "m", "-o", "{tmp}/x"), 1, "latin.csv: "),
        (("init", "{tmp}/events.txt", "--model", "m", "-o", "{tmp}/x"), 2, "a file of kind '.txt'"),
        (("init", "{tmp}/folder", "--model", "m", "-o", "{tmp}/x"), 2, "folder"),
        (("init", "{good}/reference.ndjson", "--model", MODEL, "-o", "{tmp}/empty.ndjson"), 2, "empty.ndjson"),
        (
            ("init", "{good}/reference.ndjson", "--model", "m", "-o", "{tmp}/x"),
            2,
            "events of 'shop' (4,000 events); expected events of 'm'",
        ),
        (("check", "-c", "{tmp}/none.yaml"), 2, "none.yaml: No such file"),
        (("check", "-c", "{tmp}/broken.yaml"), 2, "broken.yaml, line 3: no YAML"),
        (("check", "-c", "{tmp}/unknown.yaml"), 2, "line 5, models.shop.panes: unknown key 'panes'"),
        (("check", "-c", "{tmp}/no-response.yaml"), 2, "rule 'idle talk' without a response"),
        (("check", "-c", "{tmp}/no-baseline.yaml"), 2, "gone.baseline"),
        (("backtest", "-c", "{shop}", "--events", "{tmp}/none.ndjson", "-o", "{tmp}/x"), 2, "none.ndjson"),
        (("backtest", "-c", "{shop}", "--events", "{tmp}/garbage.ndjson.gz", "-o", "{tmp}/x"), 1, "Not a gzipped"),
        (("backtest", "-c", "{shop}", "--events", "{tmp}/empty.ndjson", "-o", "{tmp}/empty.ndjson"), 2, "empty.ndjson"),
        (("backtest", "-c", "{shop}", "--event", "x"), 2, "No such option: --event"),
        (("backtest", "-c", "{shop}"), 2, "Missing option '--events'"),
        (("produce", "-c", "{shop}", "--topic", "t", "--rate", "0", "f"), 2, "'--rate'"),
        (("produce", "-c", "{shop}", "--topic", "t", "--rate", "1", "--speed", "1", "f"), 2, "--speed and --rate"),
        (
            ("produce", "-c", "{shop}", "--broker", "127.0.0.1:9", "--topic", "t", "{tmp}/empty.ndjson"),
            1,
            "127.0.0.1:9",
        ),
        (("actions", "-c", "{shop}", "--broker", "127.0.0.1:9"), 1, "127.0.0.1:9"),
        (("actions", "-c", "{shop}", "--broker", "nowhere"), 2, "'nowhere'"),
        (("worker", "-c", "{shop}", "--broker", "a:b"), 2, "'a:b'"),
        (("worker", "-c", "{shop}", "--listen", "6066"), 2, "listen address '6066'"),
        (("worker", "-c", "{shop}", "--instance", "a\x1b[2Jb"), 2, r"'a\x1b[2Jb'; expected a printable name"),
        (
            ("webhook", "-c", "{shop}", "--url", "https://a.b", "--group", "a\nb"),
            2,
            r"'a\nb'; expected a printable name",
        ),
        (
            ("webhook", "-c", "{shop}", "--url", "https://a.b", "--secret-file", "{tmp}/key", "--park", "actions"),
            2,
            "--park: 'actions'; expected a topic of its own",
        ),
        (("report", "-c", "{shop}", "--cadence", "hourly", "-o", "{tmp}/x"), 2, "'hourly'"),
        (("report", "-c", "{shop}", "--cadence", "daily", "--at", "yesterday", "-o", "{tmp}/x"), 2, "'yesterday'"),
        (("report", "-c", "{shop}", "--cadence", "daily", "--from", "{tmp}/folder", "-o", "{tmp}/x"), 2, "no windows."),
        (("report", "-c", "{shop}", "--cadence", "daily", "--model", "m", "-o", "{tmp}/x"), 2, "--model m; expected"),
        (
            ("report", "-c", "{shop}", "--cadence", "daily", "--from", "a", "--broker", "b:1", "-o", "{tmp}/x"),
            2,
            "--from and --broker",
        ),
        (
            ("report", "-c", "{shop}", "--cadence", "daily", "--broker", "127.0.0.1:9", "-o", "{tmp}/x"),
            1,
            "127.0.0.1:9",
        ),
        (("wroker",), 2, "No such command 'wroker'"),
    ],
    ids=lambda value: " ".join(value[:1]) if isinstance(value, tuple) else None,
)
def test_a_mistake_is_one_line_and_an_exit_code(
    tmp_path: Path, learned: Path, arguments: Sequence[str], code: int, said: str
) -> None:
    """1: it failed; 2: the arguments or the configuration are unusable."""
    (tmp_path / "empty.ndjson").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "key").write_text("0123456789abcdef0123456789abcdef")
    for name in ("garbage.ndjson.gz", "garbage.parquet", "events.txt"):
        (tmp_path / name).write_bytes(b"not what the name says")
    (tmp_path / "latin.csv").write_bytes(b"amount,town\n1,K\xf6ln\n")
    (tmp_path / "broken.yaml").write_text("models:\n  shop: {pane: 1m\nx: 1\n")
    (tmp_path / "unknown.yaml").write_text("models:\n  shop:\n    pane: 1m\n    grace: 1m\n    panes: 1m\n")
    rule = "{name: idle talk, signals: [null_rate]}"
    (tmp_path / "no-response.yaml").write_text(f"models:\n  shop:\n    rules:\n      - {rule}\n")
    (tmp_path / "no-baseline.yaml").write_text("models:\n  shop: {baseline: gone.baseline}\n")
    places = {"tmp": tmp_path, "good": learned.parent, "shop": learned / "foreshock.yaml"}
    found = foreshock(*(text.format(**places) for text in arguments))
    assert found.returncode == code, found.stderr
    assert said in one_line(found)
    assert not (tmp_path / "x" / "foreshock.yaml").exists()


def test_a_page_whose_port_is_taken_is_told_in_one_line(
    broker: EmbeddedBroker, topic: str, learned: Path, tmp_path: Path
) -> None:
    connection = broker.connection(prefix=f"{topic}-")
    asyncio.run(topics.create(connection, connection.topic("inference"), 1))
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        config, port = prefixed(learned, tmp_path, f"{topic}-"), other.getsockname()[1]
        to = ("-c", config, "--broker", broker.bootstrap, "--embedded")
        found = foreshock("worker", *to, "--listen", f"127.0.0.1:{port}")
    assert found.returncode == 1
    assert "Traceback" not in found.stderr
    assert re.search(f"foreshock: web, 127.0.0.1:{port}: .*address already in use", found.stderr.splitlines()[-1])


def test_help_and_version_are_no_mistake() -> None:
    for arguments in (("--help",), ("worker", "-h"), ("--version",)):
        assert done(*arguments)
