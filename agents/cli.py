"""The command `foreshock`: arguments → one call of the part that does it; errors → one line and an exit code."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import os
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import msgspec
from aiokafka.errors import KafkaError

from agents import acks as acknowledging
from agents import against_state as kept_state
from agents import alertmanager as alerting
from agents import delivery, ending, follow, logs, reports, topic_watch
from agents import demo as demonstration
from agents import ledger as books
from agents import webhook as webhooks
from agents.address import check_address, is_host, is_loopback, is_port
from agents.app import WebOptions, Worker
from agents.clients import Connection
from agents.clients import Security as ClientSecurity
from agents.files import lines, read_plan, reference
from agents.front import raise_file_limit
from agents.logs import echo
from agents.progress import Told
from agents.reading import MAX_RESULT_BYTES, MAX_SECRET_BYTES, check_regular, read_bytes
from agents.refusals import refusal
from agents.replay_together import replay_together
from streams.ack import Ack, Acks, Status, read_ack
from streams.action import Action
from streams.backtest import Backtest, Summary
from streams.compare import Change, Difference, Spell, compare, difference_line
from streams.config import OWN_TOPICS, SOURCES, Config, is_nameable
from streams.errors import UNREADABLE, BrokerError, ConfigError, DataError, ForeshockError
from streams.events import Invalid
from streams.learn import learn
from streams.ledger import LedgerRows, rows_of
from streams.ledger_text import ledger_lines
from streams.parking import check_none
from streams.plan import Facts
from streams.rehearse import rehearse
from streams.reports.backtest import BacktestPage, incident_line
from streams.reports.periods import Cadence, period_of
from streams.scaffold import foreshock_yaml
from streams.text import plain_json
from streams.times import rfc3339
from streams.unjudged import Unjudged, unjudged, unread


def nameable(context: click.Context, option: click.Parameter, name: str | None) -> str | None:
    """The name of a member or a group, which logs and Kafka's tools show."""
    if name is not None and not is_nameable(name):
        raise click.BadParameter(f"{name[:80]!r}; expected a printable name of 1 to 256 characters", context, option)
    return name


CONFIG = click.option(
    "-c", "--config", "config_file", type=click.Path(path_type=Path), required=True, help="The foreshock.yaml."
)
BROKER = click.option("--broker", help="host:port[,host:port]; instead of the configuration's.")
ALLOW_HOST = click.option(
    "--allow-host", "hosts", multiple=True, help="A host that may be called; left out: that of --url."
)
DECLARES = {Facts.FEEDBACK: "feedback", Facts.RUNS: "jobs", Facts.OUTCOMES: "kpis"}
"""What a model says of itself so that these are counted."""
EMBEDDED = click.option(
    "--embedded", is_flag=True, hidden=True, help="The broker is that of the demo, with its limits."
)

TRIES_BEFORE_PARKING = 10
"""About six minutes."""
STOP_WORKER_WITHIN_S = 20.0
"""After SIGTERM: below the 30 s after which Kubernetes and Docker Compose are often told to kill."""
WRITTEN = "what 'foreshock backtest' wrote"
SHOWN_INCIDENTS = 20
"""Of a backtest, in the terminal."""
LEDGER = "ledger.json"
"""What a backtest says of its ledgers."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's `mallopt`."""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="foreshock")
@click.option(
    "--log-format",
    "form",
    type=click.Choice([str(form) for form in logs.Form]),
    default=str(logs.Form.TEXT),
    show_default=True,
    envvar="FORESHOCK_LOG_FORMAT",
    help="Of the lines on stderr: for a person, or an object a line. Also by FORESHOCK_LOG_FORMAT.",
)
@click.pass_context
def cli(context: click.Context, form: str) -> None:
    """Watches machine-learning models in production, on Kafka."""
    context.obj = logs.Form(form)
    logs.to_stderr(context.obj, logging.WARNING)


@cli.command()
@click.argument("reference_file", metavar="REFERENCE", type=click.Path(path_type=Path))
@click.option("--model", required=True, help="The model's name, as its events have it.")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="Folder for the configuration.")
@click.option("--labels", type=click.Path(path_type=Path), help="The reference's labels, .ndjson[.gz].")
@click.option("--segment", "segments", multiple=True, help="A column of a table to be watched by its values.")
@click.option("--force", is_flag=True, help="Write over what is there.")
def init(
    reference_file: Path, model: str, out: Path, labels: Path | None, segments: tuple[str, ...], force: bool
) -> None:
    """Learn a configuration and a baseline from reference data (.ndjson, .ndjson.gz, .parquet, .csv)."""
    yaml_file, baseline_file = out / "foreshock.yaml", out / f"{slug(model)}.baseline"
    if yaml_file.exists() and not force:
        raise ConfigError(
            place=str(yaml_file), seen="it exists", expected="a new folder", mend="choose another, or say --force"
        )
    reference(reference_file, segments, model)
    with Told("learning") as told:
        known = lines(existing(labels, "labels")) if labels else None
        learned = learn(model, lambda: reference(reference_file, segments, model), told, known)
    make_folder(out)
    baseline_file.write_bytes(learned.baseline.to_bytes())
    yaml_file.write_text(foreshock_yaml(learned, reference_file.name, baseline_file.name), encoding="utf-8")
    plan = read_plan(yaml_file)
    with Told("replaying the reference") as told:
        values = _counted(reference(reference_file, segments, model), told)
        realised = rehearse(plan, model, values, lines(labels) if labels else None, time.time_ns() // 1_000_000)
    if realised is not None:
        text = foreshock_yaml(learned, reference_file.name, baseline_file.name, realised.line)
        yaml_file.write_text(text, encoding="utf-8")
    columns = plan.models[model].config
    echo(
        f"{learned.baseline.events:,} events, {len(columns.features)} features, pane {columns.pane}, "
        f"{len(columns.rules)} rules"
    )
    if realised is not None:
        echo(f"replayed through it, the reference itself gives {realised.line}")
    else:
        echo("not replayed through it: that takes times, in order, and the model's name in its events", err=True)
    for reason, count in learned.rejected.items():
        echo(f"left out: {count:,} lines, {reason}", err=True)
    echo(f"wrote {yaml_file} and {baseline_file}")
    echo(f"next: foreshock backtest -c {yaml_file} --events FILE -o OUT, or foreshock worker -c {yaml_file}")


@cli.command()
@CONFIG
@click.option(
    "--against-state", is_flag=True, help="Say what a restart under it would make of what workers have kept on Kafka."
)
@BROKER
@EMBEDDED
def check(config_file: Path, against_state: bool, broker: str | None, embedded: bool) -> None:
    """Validate a configuration and its baselines; with --against-state, what a restart would keep and lose."""
    plan = read_plan(config_file)
    for name, model in plan.models.items():
        known = f"baseline of {model.baseline.events:,} events" if model.baseline else "no baseline"
        segments = sum(len(values) for values in model.config.segments.values())
        echo(
            f"{name}: {len(model.config.features)} features, {segments} segments, {len(model.config.rules)} rules, "
            f"pane {model.config.pane}, {known}"
        )
    notes = [note for model in plan.models.values() for note in unjudged(model)]
    _tell_unjudged(notes)
    if against_state:
        log_to_stderr(False, level=logging.WARNING)
        to = connection(plan.config, broker, embedded)
        for line in run_async(lambda: kept_state.lines_of(to, plan)):
            echo(line)
        for line in run_async(lambda: topic_watch.lines_of(to, plan)):
            echo(f"warning: {line}", err=True)
    elif broker:
        raise ConfigError(seen="--broker", expected="--against-state with it", mend="add it, or leave --broker out")
    echo(f"ok, but for {len(notes)} of the lines above: what they name is not judged" if notes else "ok")


def _tell_unjudged(notes: Iterable[Unjudged]) -> None:
    """Says what exit code 0 is not about."""
    for note in notes:
        echo(f"warning: {note.line}", err=True)


@cli.command()
@CONFIG
@click.option("--events", type=click.Path(path_type=Path), required=True, help="Inference events, .ndjson[.gz].")
@click.option("--labels", type=click.Path(path_type=Path), help="Their labels, .ndjson[.gz], in order of arrival.")
@click.option("--feedback", type=click.Path(path_type=Path), help="Overrides, complaints and workflow steps.")
@click.option("--runs", type=click.Path(path_type=Path), help="OpenLineage events of the model's jobs.")
@click.option("--outcomes", type=click.Path(path_type=Path), help="Observations of business KPIs.")
@click.option("--acks", type=click.Path(path_type=Path), help="What was done about its actions, .ndjson[.gz].")
@click.option("--compare", "other_file", type=click.Path(path_type=Path), help="Another configuration of this past.")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="Folder for the results.")
def backtest(
    config_file: Path,
    events: Path,
    labels: Path | None,
    feedback: Path | None,
    runs: Path | None,
    outcomes: Path | None,
    acks: Path | None,
    other_file: Path | None,
    out: Path,
) -> None:
    """Run the same pipeline over files: actions, windows, a summary, the ledger, a page. With --compare: what would
    have been."""
    plan = read_plan(config_file)
    other_plan = read_plan(other_file) if other_file else None
    existing(events, "inference events")
    later = lines(existing(labels, "labels")) if labels else ()
    if labels and not any(model.outcomes for model in plan.models.values()):
        raise ConfigError(
            place=str(config_file),
            seen="--labels, but no model with 'labels:'",
            expected="a model that says what its labels are",
            mend="run 'foreshock init --labels', or add 'labels: {task: …}'",
        )
    told = {
        kind: existing(file, kind)
        for kind, file in ((Facts.FEEDBACK, feedback), (Facts.RUNS, runs), (Facts.OUTCOMES, outcomes))
        if file is not None
    }
    for given in told:
        if given not in plan.kinds:
            raise ConfigError(
                place=str(config_file),
                seen=f"--{given}, but no model that declares any",
                expected=f"a model with '{DECLARES[given]}:'",
                mend=f"add '{DECLARES[given]}:', or leave --{given} out",
            )
    make_folder(out)
    now_ms = time.time_ns() // 1_000_000
    known = read_acks(acks) if acks else None
    run = Backtest(plan, now_ms, labelled=labels is not None, told=told, acks=known)
    report = BacktestPage()
    actions: list[Action] = []
    with Told("events") as progress, ExitStack() as stack:
        logs = ["actions", "windows"]
        if any(rule.shadow for model in plan.models.values() for rule in model.config.rules):
            logs.append("shadows")  # what rules that only try themselves out would have published
        files = {log: stack.enter_context((out / f"{log}.ndjson").open("wb")) for log in logs}
        for outcome in run.run(_counted(lines(events), progress), later, _told(told)):
            for log, file in files.items():
                file.writelines(msgspec.json.encode(item) + b"\n" for item in getattr(outcome, log))
            report.add(outcome)
            actions += outcome.actions if other_plan else ()
    if other_plan is not None:
        other = Backtest(other_plan, now_ms, labelled=labels is not None, told=told)
        with Told("events, compared") as progress:
            again = other.run(_counted(lines(events), progress), lines(labels) if labels else (), _told(told))
            _tell_differences(compare(actions, [action for outcome in again for action in outcome.actions]), out)
    summary = run.summary()
    (out / "summary.json").write_bytes(_json(summary))
    (out / LEDGER).write_bytes(_json(rows_of(run.ledgers().values())))
    (out / "report.html").write_text(report.html(plan, summary), encoding="utf-8")
    _tell(summary, run)
    _tell_incidents(report.incidents)
    for name, model in plan.models.items():
        counts = summary.models.get(name)
        missed = unread(model, counts, labelled=labels is not None, kinds=told.keys(), file=events.name)
        _tell_unjudged([*missed, *unjudged(model)])
    echo(f"wrote {', '.join(f'{log}.ndjson' for log in files)}, summary.json, {LEDGER} and report.html in {out}")
    check_none(run.parked.values())


def _json(found: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n"


def read_acks(path: Path) -> Acks:
    """The acks of a file; what is none is told and left out."""
    found = Acks()
    for number, line in enumerate(lines(existing(path, "acks")), 1):
        try:
            found.take(read_ack(line))
        except Invalid as invalid:
            echo(f"{path}, line {number}: {invalid.reason} ({invalid.detail}); left out", err=True)
    return found


def existing(path: Path, what: str) -> Path:
    """The path; ConfigError unless a regular file is there."""
    try:
        check_regular(path, what)
    except OSError as error:
        seen = "no such file" if isinstance(error, FileNotFoundError) else str(error.strerror)
        raise ConfigError(place=str(path), seen=seen, expected=what, mend="check the path") from None
    return path


def _told(files: Mapping[Facts, Path]) -> dict[Facts, Iterator[bytes]]:
    return {kind: lines(file) for kind, file in files.items()}


def _counted(values: Any, told: Told) -> Any:
    for number, value in enumerate(values, 1):
        if not number % 4096:
            told(number)
        yield value


def _tell_differences(found: list[Difference], out: Path) -> None:
    (out / "comparison.ndjson").write_bytes(b"".join(msgspec.json.encode(item) + b"\n" for item in found))
    for item in found:
        if item.change is not Change.SAME:
            echo(difference_line(item))
    counts = Counter(item.change for item in found)
    echo("compared: " + ", ".join(f"{change} {counts[change]}" for change in Change) + "; see comparison.ndjson")


def _tell(summary: Summary, run: Backtest) -> None:
    for name, model in summary.models.items():
        found = ", ".join(f"{action} {count}" for action, count in sorted(model.actions.items())) or "none"
        echo(
            f"{name}: read {model.read:,} = counted {model.counted:,} + late {model.late:,} + "
            f"rejected {model.rejected:,} + duplicate {model.duplicate:,}; incidents: {found}"
        )
        if model.labels:
            said = ", ".join(f"{what} {count:,}" for what, count in model.labels.items())
            echo(f"{name}, labels: {said}")
        for kind, told in model.told.items():
            echo(f"{name}, {kind}: {', '.join(f'{what} {count:,}' for what, count in told.items())}")
    if summary.rejected:
        echo(f"rejected before a model could be read: {summary.rejected:,}")
    for reason, count in run.reject_reasons.most_common(5):
        echo(f"rejected: {count:,} {reason}", err=True)


def _tell_incidents(found: list[Spell]) -> None:
    for spell in found[:SHOWN_INCIDENTS]:
        echo(f"{spell.model}, {incident_line(spell)}")
    if len(found) > SHOWN_INCIDENTS:
        echo(f"{len(found) - SHOWN_INCIDENTS:,} more incidents are in report.html")


@cli.command()
@CONFIG
@BROKER
@EMBEDDED
@click.option("--listen", help="host:port of /metrics and /health; instead of the configuration's.")
@click.option("--open", "is_open", is_flag=True, help="Let anybody in reach read them, without a token.")
@click.option("--drain", is_flag=True, help="Stop when everything has been read: closes and judges every open pane.")
@click.option(
    "--instance", callback=nameable, help="A name of its own for this worker: its restart then is no rebalance."
)
@click.option(
    "--state", type=click.Path(path_type=Path), help="Folder of the label join (default: state, by the configuration)."
)
@click.option("--verbose", is_flag=True, help="Log more.")
def worker(
    config_file: Path,
    broker: str | None,
    embedded: bool,
    listen: str | None,
    is_open: bool,
    drain: bool,
    instance: str | None,
    state: Path | None,
    verbose: bool,
) -> None:
    """Run the stream processor until SIGTERM or Ctrl-C."""
    log_to_stderr(verbose)
    plan = read_plan(config_file)
    options = web_options(plan.config, listen, is_open)
    to = connection(plan.config, broker, embedded)
    tune_memory()
    raise_file_limit()
    folder = state or config_file.parent / "state"
    _work(Worker(plan, to, options, drain=drain, instance=instance, state=folder))


def _work(process: Worker) -> None:
    """Runs a worker until it is done, SIGTERM or Ctrl-C."""

    def end(task: asyncio.Task[Any]) -> None:
        process.stop.set()
        if not process.ready.is_set():
            task.cancel()  # it still waits for Kafka

    async def work() -> None:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, end, task)
        try:
            await process.run()
        except asyncio.CancelledError:
            if not process.stop.is_set():
                raise RuntimeError("the worker was cancelled, though nobody told it to end") from None

    ending.run(work, end, within_s=STOP_WORKER_WITHIN_S)


@cli.command()
@CONFIG
@BROKER
@EMBEDDED
@click.option("--topic", help="Of FILE, without the prefix.")
@click.option("--events", type=click.Path(path_type=Path), help="Inference events, .ndjson[.gz].")
@click.option("--labels", type=click.Path(path_type=Path), help="Their labels, .ndjson[.gz].")
@click.option("--feedback", type=click.Path(path_type=Path), help="Overrides, complaints and workflow steps.")
@click.option("--runs", type=click.Path(path_type=Path), help="OpenLineage events of jobs.")
@click.option("--outcomes", type=click.Path(path_type=Path), help="Observations of business KPIs.")
@click.option("--speed", type=click.FloatRange(min=0, min_open=True), help="Event time, so many times as fast.")
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="Records a second.")
@click.argument("file", type=click.Path(path_type=Path), required=False)
def produce(
    config_file: Path,
    broker: str | None,
    embedded: bool,
    topic: str | None,
    speed: float | None,
    rate: float | None,
    file: Path | None,
    **kinds: Path | None,
) -> None:
    """Replay FILE to a topic, or the files of several topics together, by the times of their records: as fast as Kafka
    takes them, or paced."""
    if speed and rate:
        raise ConfigError(seen="--speed and --rate", expected="one of them", mend="leave one out")
    config = read_plan(config_file).config
    log_to_stderr(False)
    to = connection(config, broker, embedded)
    names = {"events": config.kafka.inference} | {kind: getattr(config.kafka, kind) for kind in ("labels", *Facts)}
    files = {to.topic(name): found for kind, name in names.items() if (found := kinds[kind]) is not None}
    if bool(files) == (file is not None) or (file is None) != (topic is None):
        raise ConfigError(
            seen="no file, or both kinds of them" if bool(files) == (file is not None) else "one of --topic and FILE",
            expected="--topic NAME FILE; or --events FILE with --labels, --feedback, --runs, --outcomes",
            mend="say which records go to which topic",
        )
    if file is not None and topic is not None:
        files = {to.topic(topic): file}
    with Told("records") as told:
        sent = run_async(
            lambda: replay_together(to, files, speed=speed, rate=rate, on_progress=lambda sent: told(sent.records))
        )
    echo(f"sent {sent.records:,} records, {sent.bytes:,} bytes")
    if sent.unkeyed or sent.refused:
        echo(f"without a key: {sent.unkeyed:,}; too large for the topic: {sent.refused:,}", err=True)


@cli.command()
@CONFIG
@BROKER
@EMBEDDED
@click.option("--follow", "go_on", is_flag=True, help="Wait for more.")
@click.option("--json", "as_json", is_flag=True, help="The events as they are, one a line.")
def actions(config_file: Path, broker: str | None, embedded: bool, go_on: bool, as_json: bool) -> None:
    """Show the actions that were published."""
    log_to_stderr(False)
    to = connection(read_plan(config_file).config, broker, embedded)
    run_async(lambda: follow.actions(to, echo, go_on=go_on, as_json=as_json))


@cli.command()
@CONFIG
@BROKER
@EMBEDDED
@click.argument("action_id", metavar="ID")
@click.option("--status", type=click.Choice([str(status) for status in Status]), required=True, help="What was done.")
@click.option("--by", required=True, help="Who did it: a person or a program.")
@click.option("--note", default="", help="Why, for the next reader.")
@click.option("--force", is_flag=True, help="Even if the topic of actions no longer holds that id.")
def ack(
    config_file: Path,
    broker: str | None,
    embedded: bool,
    action_id: str,
    status: str,
    by: str,
    note: str,
    force: bool,
) -> None:
    """Say what was done about the action of this id: seen, acted, dismissed (as a false alarm), done."""
    log_to_stderr(False)
    to = connection(read_plan(config_file).config, broker, embedded)
    now = rfc3339(time.time_ns() // 1_000_000)
    said = Ack(action_id=action_id, status=Status(status), by=by, ts=now, note=note)
    run_async(lambda: acknowledging.send(to, said, force=force))
    echo(f"{status}: {action_id}")


@cli.command()
@CONFIG
@BROKER
@EMBEDDED
@click.option("--from", "folder", type=click.Path(path_type=Path), help="A backtest's folder, instead of the topics.")
@click.option("--json", "as_json", is_flag=True, help="For a program.")
def ledger(config_file: Path, broker: str | None, embedded: bool, folder: Path | None, as_json: bool) -> None:
    """Show how far each proxy can be trusted, and what was done about the actions of each rule."""
    if folder and broker:
        raise ConfigError(seen="--from and --broker", expected="one of them", mend="leave one out")
    log_to_stderr(False)
    plan = read_plan(config_file)
    if folder:
        rows = read_rows(folder / LEDGER)
    else:
        to = connection(plan.config, broker, embedded)
        rows = rows_of(run_async(lambda: books.from_topics(to, plan)))
    if as_json:
        for line in _json(rows).decode().splitlines():
            click.echo(plain_json(line))
        return
    for line in ledger_lines(rows):
        echo(line)


@cli.command()
@CONFIG
@BROKER
@EMBEDDED
@click.option("--cadence", type=click.Choice([str(cadence) for cadence in Cadence]), required=True, help="Which one.")
@click.option(
    "--at",
    "day",
    type=click.DateTime(["%Y-%m-%d"]),
    help="The day (UTC) that it is of, ends with, or the month holds; left out: the last one in the log.",
)
@click.option("--from", "folder", type=click.Path(path_type=Path), help="A backtest's folder, instead of the topics.")
@click.option("--model", "models", multiple=True, help="One model, instead of all.")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="Folder for the pages.")
def report(
    config_file: Path,
    broker: str | None,
    embedded: bool,
    cadence: str,
    day: datetime | None,
    folder: Path | None,
    models: tuple[str, ...],
    out: Path,
) -> None:
    """Write the daily check, the weekly segment review or the monthly retraining review: a page and its JSON."""
    if folder and broker:
        raise ConfigError(seen="--from and --broker", expected="one of them", mend="leave one out")
    log_to_stderr(False)
    plan = read_plan(config_file)
    for unknown in (name for name in models if name not in plan.models):
        raise ConfigError(
            seen=f"--model {unknown}", expected="one of " + ", ".join(plan.models), mend="see the configuration"
        )
    source: reports.Source
    if folder:
        source = reports.Folder(folder)
    else:
        source = reports.Topics(connection(plan.config, broker, embedded), plan, run_async)
    at = day.date() if day else reports.last_day(source)
    make_folder(out)
    wanted = list(models) or list(plan.models)
    for line in reports.write(source, wanted, period_of(Cadence(cadence), at), slug, out):
        echo(line)


def read_rows(path: Path) -> LedgerRows:
    """What a backtest wrote of its ledgers."""
    try:
        return msgspec.json.decode(read_bytes(existing(path, WRITTEN), WRITTEN, MAX_RESULT_BYTES), type=LedgerRows)
    except UNREADABLE as error:
        raise DataError(
            place=str(path), seen=f"no ledger ({error})", expected="what a backtest wrote", mend="run it again"
        ) from None


@cli.command()
@CONFIG
@BROKER
@EMBEDDED
@click.option("--url", required=True, help="https://host/path; http on loopback, or to a host that is allowed.")
@ALLOW_HOST
@click.option("--secret-env", help="The variable that holds the secret of the signature.")
@click.option("--secret-file", type=click.Path(path_type=Path), help="Or the file.")
@click.option(
    "--group",
    default="foreshock-webhook",
    show_default=True,
    callback=nameable,
    help="The consumer group: one an address.",
)
@click.option("--instance", callback=nameable, help="A name of its own in the group: after a crash it goes on at once.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0.1, 600),
    default=webhooks.ANSWER_WITHIN_S,
    show_default=True,
    help="Seconds for an answer.",
)
@click.option("--park", help="A topic, without the prefix, for actions that are refused or given up; it must be there.")
@click.option(
    "--tries",
    type=click.IntRange(0),
    help="An action that was not taken so often is parked, or left out; 0: never. Left out: 10 with --park, else 0.",
)
@click.option("--listen", help="host:port of its /metrics and /health; left out: none.")
def webhook(
    config_file: Path,
    broker: str | None,
    embedded: bool,
    url: str,
    hosts: tuple[str, ...],
    secret_env: str | None,
    secret_file: Path | None,
    group: str,
    instance: str | None,
    timeout_s: float,
    park: str | None,
    tries: int | None,
    listen: str | None,
) -> None:
    """Send every action to an address, signed (Standard Webhooks), until it is stopped."""
    log_to_stderr(False)
    config = read_plan(config_file).config
    to = connection(config, broker, embedded)
    key = webhooks.key_of(secret({"--secret-env": secret_env, "--secret-file": secret_file}))
    most = tries if tries is not None else TRIES_BEFORE_PARKING if park else 0
    target = webhooks.Webhook(check_address(url, hosts), key, timeout_s, most)
    web = web_options(config, listen) if listen else None
    pages = (web.host, web.port, web.token) if web else None
    if park and park in (*OWN_TOPICS, *(getattr(config.kafka, key) for key in SOURCES)):
        expected = "a topic of its own: what is parked in one that is read would come back"
        raise ConfigError(place="--park", seen=repr(park), expected=expected, mend="name another topic")
    parked_in = to.topic(park) if park else None
    run_async(lambda: delivery.run(to, to.topic(group), target, instance, park=parked_in, pages=pages))


@cli.command()
@CONFIG
@BROKER
@EMBEDDED
@click.option("--url", required=True, help="Where Alertmanager is, as http://127.0.0.1:9093.")
@ALLOW_HOST
def alertmanager(config_file: Path, broker: str | None, embedded: bool, url: str, hosts: tuple[str, ...]) -> None:
    """Show every open incident as an alert of Prometheus Alertmanager, until it is stopped."""
    log_to_stderr(False)
    config = read_plan(config_file).config
    to, address = connection(config, broker, embedded), check_address(url, hosts)
    run_async(lambda: alerting.run(to, address, config.models))


@cli.command()
@click.option("--keep", is_flag=True, help="Stay up afterwards, with /metrics and the broker, until Ctrl-C.")
@click.option("--write", "folder", type=click.Path(path_type=Path), help="Only write the demo's files to a folder.")
@click.option("--listen", default="127.0.0.1:0", show_default=True, help="host:port of /metrics and /health.")
def demo(keep: bool, folder: Path | None, listen: str) -> None:
    """Flights of 2013, a model, an embedded broker, and what goes wrong: from events to actions in a minute or two."""
    log_to_stderr(False, level=logging.WARNING)
    if folder is not None:
        demonstration.write(folder, echo)
        return
    host, port = _address(listen)
    tune_memory()
    raise_file_limit()
    run_async(lambda: demonstration.run(echo, WebOptions(host=host, port=port), keep=keep))


def make_folder(path: Path) -> None:
    """The folder for results, and those above it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            place=str(path), seen=str(error.strerror), expected="a folder to write to", mend="choose another with -o"
        ) from None


def slug(name: str) -> str:
    """A file name for a model."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).lstrip(".") or "model"


def connection(config: Config, broker: str | None, embedded: bool) -> Connection:
    kafka = config.kafka
    security = ClientSecurity(**msgspec.structs.asdict(kafka.security))
    return Connection(
        broker=broker or kafka.broker,
        prefix=kafka.prefix,
        embedded=embedded,
        security=security,
        isolation=kafka.isolation,
    )


def web_options(config: Config, listen: str | None, is_open: bool = False) -> WebOptions:
    """Where the pages are. ConfigError where strangers could read them and nobody has said that they may."""
    host, port = _address(listen or config.web.listen)
    token = _token(config)
    if token is None and not (is_open or config.web.open) and not is_loopback(host):
        raise ConfigError(
            place="web",
            seen=f"{host}, which is not loopback, and no token",
            expected="web.token_file or web.token_env",
            mend="name one, listen on 127.0.0.1, or say --open if anybody in reach may read",
        )
    return WebOptions(host=host, port=port, token=token)


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not is_host(host) or not is_port(port):
        raise ConfigError(seen=f"listen address {text[:100]!r}", expected="host:port", mend="such as 127.0.0.1:6066")
    return host.strip("[]"), int(port)


def _token(config: Config) -> str | None:
    web = config.web
    if web.token_env and web.token_file:
        raise ConfigError(place="web", seen="token_env and token_file", expected="one of them", mend="leave one out")
    options = {"web.token_env": web.token_env, "web.token_file": web.token_file}
    return secret(options) if any(options.values()) else None


def secret(options: Mapping[str, str | Path | None]) -> str:
    """What a variable holds, or a file. `options`: the name of each by the name of its option, the variable first."""
    (variable, file), names = options.values(), " or ".join(options)
    found = os.environ.get(str(variable), "") if variable else ""
    if not variable and file:
        try:
            found = read_bytes(Path(file), "a secret", MAX_SECRET_BYTES).decode("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            seen = getattr(error, "strerror", None) or "no UTF-8"
            raise ConfigError(place=[*options][1], seen=seen, expected="a readable file") from None
    if not found:
        raise ConfigError(place=names, seen="nothing", expected="a secret", mend="set one of them")
    return found


def tune_memory() -> None:
    """Few and late collections: the objects of a batch die by their counts, so looking for cycles is mostly waste.

    And glibc keeps the megabytes that each fetch frees: to give them back and to get them anew, page by page, was a
    third of what fetching cost.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        mallopt(_M_TRIM_THRESHOLD, 64 << 20)


def log_to_stderr(verbose: bool, level: int = logging.INFO) -> None:
    logs.to_stderr(click.get_current_context().find_root().obj, level, verbose=verbose)


def run_async(work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return ending.run(work)


def _tell_usage(error: click.ClickException) -> None:
    context = getattr(error, "ctx", None)
    if context is None or isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):
        error.show()
        return
    line = " ".join(error.format_message().split())
    line = f"foreshock: {line.removesuffix('.')}; see '{context.command_path} -h'"
    logs.say(line, code=ConfigError.code, level=logging.CRITICAL)


def main() -> None:
    """Exit codes: 0 done or ended by SIGTERM, 1 failed, 2 unusable arguments or configuration, 130 Ctrl-C."""
    ending.install()
    try:
        cli(standalone_mode=False)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.ClickException as error:
        _tell_usage(error)
        sys.exit(2)
    except ForeshockError as error:
        logs.say(f"foreshock: {error}", code=error.code, level=logging.CRITICAL)
        sys.exit(error.exit_code)
    except KafkaError as error:
        line = f"foreshock: Kafka: {'; '.join(refusal(error, 'READ'))}"
        logs.say(line, code=BrokerError.code, level=logging.CRITICAL)
        sys.exit(1)
    except (KeyboardInterrupt, click.Abort):
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:  # of a file that we write: the disk is full, say
        line = f"foreshock: {error.filename or 'writing'}: {error.strerror or error}"
        logs.say(line, code=DataError.code, level=logging.CRITICAL)
        sys.exit(1)
