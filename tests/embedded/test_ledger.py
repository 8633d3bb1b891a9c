"""Acks and ledgers through a whole worker on the embedded broker, and the commands that write and show them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agents import topics
from agents.app import Worker
from agents.broker import EmbeddedBroker
from agents.clients import Connection
from agents.files import read_plan
from agents.ledger import from_topics
from agents.replay import generate
from agents.web_options import WebOptions
from streams.ack import Acks, read_ack
from streams.backtest import Backtest
from streams.ledger import Ledger, rows_of
from streams.ledger_rows import LedgerRows
from streams.plan import Plan
from tests.embedded.command import done, foreshock, one_line
from tests.embedded.conftest import until
from tests.embedded.test_worker import FINISHED_WITHIN_S, on_topic, project, running, samples, windows
from tests.faults.harness import write_config
from tests.faults.published import expected
from tests.faults.stream import MODEL, PARTITIONS, START_MS, Pair, labels_of, make_stream

NULLS, WRONG = "values-missing", "performance-falling"


def short_spans(broker: EmbeddedBroker, topic: str, folder: Path) -> tuple[Path, Plan, Connection]:
    """With so short a horizon a span of truth is a pane. Nulls are for a person to review: a claim about the model."""
    config, _, connection = project(broker, topic, folder, labelled=True, chunk_size=1_024)
    text = config.read_text(encoding="utf-8").replace("horizon: 30d", "horizon: 12h")
    nulls = "signals: [null_rate], response: "
    config.write_text(text.replace(f"{nulls}data_incident", f"{nulls}human_review"), encoding="utf-8")
    plan = read_plan(config)
    assert plan.models[MODEL].truth_ms == plan.models[MODEL].config.pane_ms
    return config, plan, connection


def ack(action: dict[str, Any], status: str, minutes: int = 2) -> Pair:
    said = {"action_id": action["id"], "status": status, "by": "ann", "ts": START_MS + minutes * 60_000}
    return action["id"].encode(), json.dumps(said).encode()


def exact(found: LedgerRows) -> Any:
    """The rows, without how long it was observed: a live run's last panes depend on the clock."""
    return found.proxies, [(row.rule, row.published, row.seen, row.acted, row.dismissed) for row in found.rules]


def books(worker: Worker) -> list[Ledger]:
    """The model's ledger, if the worker owns it by now."""
    return [judge.ledgers[MODEL] for judge in worker.merge.judges.values() if MODEL in judge.ledgers]


async def firing(connection: Connection, rule: str) -> dict[str, Any]:
    actions = await on_topic(connection, "actions")
    return next(a for a in actions if a["data"]["rule"] == rule and a["data"]["state"] == "firing")


def test_a_live_ledger_says_after_a_restart_what_a_backtest_says(
    broker: EmbeddedBroker, topic: str, tmp_path: Path
) -> None:
    """With acks before and after the restart, one that is none, and labels that correct what was settled."""
    config, plan, connection = short_spans(broker, topic, tmp_path)
    stream = make_stream(24_000, 51)
    labels = labels_of(stream.pairs, 52)
    reference = expected(config, stream, labels)
    state = tmp_path / "state"
    sent: list[Pair] = []

    async def main() -> LedgerRows:
        for name in ("inference", "labels"):
            await topics.create(connection, connection.topic(name), PARTITIONS)
        async with running(plan, connection, state=state) as worker:
            await until(lambda: books(worker))
            zeros = await samples(worker, "foreshock_ledger_alarms")
            assert {sample.labels["proxy"] for sample in zeros} >= {"null_rate", "score_drift", "total"}
            assert not any(sample.value for sample in zeros)
            await generate(connection, connection.topic("inference"), stream.pairs[:14_000])
            await generate(connection, connection.topic("labels"), labels[:15_000])
            (book,) = books(worker)
            await until(lambda: any(row.rule == NULLS and row.published for row in book.rules()))
            sent.append(ack(await firing(connection, NULLS), "dismissed"))
            await generate(connection, connection.topic("acks"), [*sent, (b"x", b'{"status": "seen"}')])
            await until(lambda: any(row.rule == NULLS and row.dismissed for row in book.rules()))
            rejects = {s.labels["reason"]: s.value for s in await samples(worker, "foreshock_rejects_total")}
            assert rejects["bad_ack"] == 1
            rules = await samples(worker, "foreshock_rule_actions")
            assert [s.value for s in rules if (s.labels["rule"], s.labels["status"]) == (NULLS, "dismissed")] == [1]
        late = ack(await firing(connection, NULLS), "seen")
        sent.append(late)
        await generate(connection, connection.topic("acks"), [late])
        await generate(connection, connection.topic("inference"), stream.pairs[14_000:])
        await generate(connection, connection.topic("labels"), labels[15_000:])
        async with running(plan, connection, state=state, drain=True, keep=True) as last:
            await asyncio.wait_for(last.finished.wait(), FINISHED_WITHIN_S)
            ours = rows_of(books(last))
        found = await windows(connection)
        assert found == reference.windows
        assert "truth" in {window["clock"] for window in found.values()}
        assert exact(rows_of(await from_topics(connection, plan))) == exact(ours)
        return ours

    shown = asyncio.run(main())
    run = Backtest(plan, START_MS + 10**9, labelled=True, acks=Acks(read_ack(value) for _, value in sent))
    for _ in run.run([value for _, value in stream.pairs], [value for _, value in labels]):
        pass
    assert exact(shown) == exact(rows_of(run.ledgers().values()))
    (nulls,) = [row for row in shown.rules if row.rule == NULLS]
    assert nulls.dismissed and nulls.seen and not nulls.acted
    total = shown.proxies[-1]
    assert total.alarms > 0 and total.missed > 0, "labels go bad with inputs as they were"


def test_acks_and_the_ledger_by_their_commands(broker: EmbeddedBroker, topic: str, tmp_path: Path) -> None:
    config, plan, connection = short_spans(broker, topic, tmp_path)
    stream = make_stream(12_000, 53)
    to = ("-c", config, "--broker", broker.bootstrap, "--embedded")
    missing = foreshock("ack", *to, "a1", "--status", "acted", "--by", "ann")
    assert missing.returncode == 1 and "actions" in one_line(missing)

    async def fill() -> str:
        for name in ("inference", "labels"):
            await topics.create(connection, connection.topic(name), PARTITIONS)
        await generate(connection, connection.topic("inference"), stream.pairs)
        worker = Worker(plan, connection, WebOptions(), drain=True)
        await asyncio.wait_for(worker.run(), FINISHED_WITHIN_S)
        return str((await firing(connection, NULLS))["id"])

    action_id = asyncio.run(fill())
    unknown = foreshock("ack", *to, "a1", "--status", "acted", "--by", "ann")
    assert unknown.returncode == 2 and "no action 'a1'" in one_line(unknown) and "--force" in unknown.stderr
    assert not asyncio.run(on_topic(connection, "acks"))
    assert (
        done("ack", *to, action_id, "--status", "acted", "--by", "ann", "--note", "feed mended")
        == f"acted: {action_id}\n"
    )
    (said,) = asyncio.run(on_topic(connection, "acks"))
    assert (said["action_id"], said["by"], said["note"]) == (action_id, "ann", "feed mended")
    table = done("ledger", *to)
    assert table.startswith(f"{MODEL}\n") and "null_rate" in table
    found = json.loads(done("ledger", *to, "--json"))
    (nulls,) = [row for row in found["rules"] if row["rule"] == NULLS]
    assert nulls["acted"] == 1 and nulls["share"] == 1 / nulls["published"]


@pytest.mark.parametrize(
    ("arguments", "seen"),
    [
        (("a1", "--status", "forgotten", "--by", "ann"), "forgotten"),
        (("a1", "--status", "seen"), "--by"),
        (("a" * 200, "--status", "seen", "--by", "ann"), "128"),
        (("a1", "--status", "seen", "--by", ""), "by"),
        (("a1", "--status", "seen", "--by", "ann", "--note", "x" * 3_000), "2000"),
    ],
)
def test_an_ack_that_is_none_is_refused_in_one_line(
    broker: EmbeddedBroker, topic: str, tmp_path: Path, arguments: tuple[str, ...], seen: str
) -> None:
    config, _, _ = project(broker, topic, tmp_path)
    refused = foreshock("ack", "-c", config, "--broker", broker.bootstrap, "--embedded", *arguments)
    assert refused.returncode == 2
    assert seen in one_line(refused)


@pytest.fixture(scope="module")
def tested(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A configuration, and the folder of a backtest with acks: of its own actions, as a run before told them."""
    folder = tmp_path_factory.mktemp("ledger")
    config = write_config(folder, "", labelled=True)
    config.write_text(config.read_text(encoding="utf-8").replace("horizon: 30d", "horizon: 12h"), encoding="utf-8")
    stream = make_stream(24_000, 54)
    for name, pairs in (("events", stream.pairs), ("labels", labels_of(stream.pairs, 55))):
        (folder / f"{name}.ndjson").write_bytes(b"".join(value + b"\n" for _, value in pairs))
    run = ("backtest", "-c", config, "--events", folder / "events.ndjson", "--labels", folder / "labels.ndjson")
    done(*run, "-o", folder / "first")
    lines = (folder / "first" / "actions.ndjson").read_text(encoding="utf-8").splitlines()
    acks = [ack(action, "acted")[1] for line in lines if (action := json.loads(line))["data"]["rule"] == NULLS]
    (folder / "acks.ndjson").write_bytes(b"\n".join([*acks, b'{"status": "seen"}']))
    found = foreshock(*run, "--acks", folder / "acks.ndjson", "-o", folder / "out")
    assert found.returncode == 0 and "ledger.json" in found.stdout
    assert f"line {len(acks) + 1}: missing_field" in found.stderr
    return config, folder / "out"


def test_a_backtest_writes_its_ledger_with_what_was_done(tested: tuple[Path, Path]) -> None:
    config, out = tested
    rows = msgspec.json.decode((out / "ledger.json").read_bytes(), type=LedgerRows)
    (nulls,) = [row for row in rows.rules if row.rule == NULLS]
    assert nulls.acted == nulls.published > 0
    (first,) = [
        row
        for row in msgspec.json.decode((out.parent / "first" / "ledger.json").read_bytes(), type=LedgerRows).rules
        if row.rule == NULLS
    ]
    assert (first.published, first.acted) == (nulls.published, 0)
    assert done("ledger", "-c", config, "--from", out, "--json") == (out / "ledger.json").read_text(encoding="utf-8")
    table = done("ledger", "-c", config, "--from", out)
    assert f"  {NULLS}" in table and "false alarms: " in table


def test_a_folder_without_a_ledger_is_refused_in_one_line(tested: tuple[Path, Path], tmp_path: Path) -> None:
    config, out = tested
    missing = foreshock("ledger", "-c", config, "--from", tmp_path)
    assert missing.returncode == 2 and "ledger.json" in one_line(missing)
    (tmp_path / "ledger.json").write_text('{"proxies": 3}', encoding="utf-8")
    broken = foreshock("ledger", "-c", config, "--from", tmp_path)
    assert broken.returncode == 1 and "no ledger" in one_line(broken)
    both = foreshock("ledger", "-c", config, "--from", out, "--broker", "127.0.0.1:9")
    assert both.returncode == 2 and "one of them" in one_line(both)
