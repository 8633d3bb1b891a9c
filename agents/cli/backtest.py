"""`foreshock backtest`: the whole pipeline over files; its results as files, lines and a page."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import click
import msgspec

from agents.cli.options import CONFIG, FILE, LEDGER, existing, make_folder, pretty_json, warn_unjudged
from agents.files import lines, read_plan
from agents.logs import echo
from agents.progress import Told
from streams.ack import Acks, read_ack
from streams.action import Action
from streams.backtest import Backtest, Summary
from streams.compare import Change, Difference, Spell, compare, difference_line
from streams.events import Invalid
from streams.inputs import check_inputs
from streams.judge_model import Outcome
from streams.ledger import rows_of
from streams.parking import check_none
from streams.plan import Facts, Plan
from streams.reports.backtest import BacktestPage, incident_line
from streams.unjudged import unjudged, unread

SHOWN_INCIDENTS = 20
"""In the terminal; all of them are in the page."""


@dataclass(frozen=True, slots=True)
class _Past:
    """The files of a past. `now_ms`: when it is replayed."""

    events: Path
    labels: Path | None
    side_inputs: Mapping[Facts, Path]
    now_ms: int

    def backtest(self, plan: Plan, acks: Acks | None = None) -> Backtest:
        return Backtest(plan, self.now_ms, labelled=self.labels is not None, told=self.side_inputs, acks=acks)

    def outcomes(self, run: Backtest, progress: Told) -> Iterator[Outcome]:
        labels = lines(self.labels) if self.labels else ()
        side_inputs = {kind: lines(file) for kind, file in self.side_inputs.items()}
        return run.run(progress.counted(lines(self.events)), labels, side_inputs)


@click.command()
@CONFIG
@click.option("--events", type=FILE, required=True, help="Inference events, .ndjson[.gz].")
@click.option("--labels", type=FILE, help="Their labels, .ndjson[.gz], in order of arrival.")
@click.option("--feedback", type=FILE, help="Overrides, complaints and workflow steps.")
@click.option("--runs", type=FILE, help="OpenLineage events of the model's jobs.")
@click.option("--outcomes", type=FILE, help="Observations of business KPIs.")
@click.option("--acks", "acks_file", type=FILE, help="What was done about its actions, .ndjson[.gz].")
@click.option("--compare", "other_file", type=FILE, help="Another configuration of this past.")
@click.option("-o", "--out", type=FILE, required=True, help="Folder for the results.")
def backtest(
    config_file: Path,
    events: Path,
    labels: Path | None,
    acks_file: Path | None,
    other_file: Path | None,
    out: Path,
    **side_inputs: Path | None,
) -> None:
    """Run the same pipeline over files: actions, windows, a summary, the ledger, a page. With --compare: what would
    have been."""
    plan = read_plan(config_file)
    other_plan = read_plan(other_file) if other_file else None
    past = _past(events, labels, side_inputs)
    check_inputs(plan, str(config_file), labelled=labels is not None, side_inputs=past.side_inputs)
    make_folder(out)
    run, page = past.backtest(plan, read_acks(acks_file) if acks_file else None), BacktestPage()
    published, logs = _run(run, past, page, out)
    if other_plan is not None:
        with Told("events, compared") as progress:
            again = [
                action for outcome in past.outcomes(past.backtest(other_plan), progress) for action in outcome.actions
            ]
        _say_differences(compare(published, again), out)
    summary = run.summary()
    (out / "summary.json").write_bytes(pretty_json(summary))
    (out / LEDGER).write_bytes(pretty_json(rows_of(run.ledgers().values())))
    (out / "report.html").write_text(page.html(plan, summary), encoding="utf-8")
    _say_summary(summary, run)
    _say_incidents(page.incidents)
    _warn(plan, past, summary)
    echo(f"wrote {', '.join(f'{log}.ndjson' for log in logs)}, summary.json, {LEDGER} and report.html in {out}")
    check_none(run.parked.values())


def _past(events: Path, labels: Path | None, side_inputs: Mapping[str, Path | None]) -> _Past:
    """The files, each of which must exist."""
    existing(events, "inference events")
    if labels:
        existing(labels, "labels")
    files = {kind: existing(file, kind) for kind in Facts if (file := side_inputs[kind]) is not None}
    return _Past(events, labels, files, time.time_ns() // 1_000_000)


def _run(run: Backtest, past: _Past, page: BacktestPage, out: Path) -> tuple[list[Action], list[str]]:
    """Writes the logs as the backtest goes on; its actions, and the names of the logs."""
    logs = ["actions", "windows"]
    if any(rule.shadow for model in run.plan.models.values() for rule in model.config.rules):
        logs.append("shadows")  # what rules that only try themselves out would have published
    actions: list[Action] = []
    with Told("events") as progress, ExitStack() as stack:
        files = {log: stack.enter_context((out / f"{log}.ndjson").open("wb")) for log in logs}
        for outcome in past.outcomes(run, progress):
            for log, file in files.items():
                file.writelines(msgspec.json.encode(item) + b"\n" for item in getattr(outcome, log))
            page.add(outcome)
            actions += outcome.actions
    return actions, logs


def read_acks(path: Path) -> Acks:
    """The acks of a file; a line that is none is reported and left out."""
    acks = Acks()
    for number, line in enumerate(lines(existing(path, "acks")), 1):
        try:
            acks.take(read_ack(line))
        except Invalid as invalid:
            echo(f"{path}, line {number}: {invalid.reason} ({invalid.detail}); left out", err=True)
    return acks


def _say_differences(differences: list[Difference], out: Path) -> None:
    (out / "comparison.ndjson").write_bytes(b"".join(msgspec.json.encode(item) + b"\n" for item in differences))
    for item in differences:
        if item.change is not Change.SAME:
            echo(difference_line(item))
    counts = Counter(item.change for item in differences)
    echo("compared: " + ", ".join(f"{change} {counts[change]}" for change in Change) + "; see comparison.ndjson")


def _say_summary(summary: Summary, run: Backtest) -> None:
    for name, model in summary.models.items():
        incidents = ", ".join(f"{action} {count}" for action, count in sorted(model.actions.items())) or "none"
        echo(
            f"{name}: read {model.read:,} = counted {model.counted:,} + late {model.late:,} + "
            f"rejected {model.rejected:,} + duplicate {model.duplicate:,}; incidents: {incidents}"
        )
        if model.labels:
            echo(f"{name}, labels: {_counts(model.labels.items())}")
        for kind, counts in model.told.items():
            echo(f"{name}, {kind}: {_counts(counts.items())}")
    if summary.rejected:
        echo(f"rejected before a model could be read: {summary.rejected:,}")
    for reason, count in run.reject_reasons.most_common(5):
        echo(f"rejected: {count:,} {reason}", err=True)


def _counts(counts: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{what} {count:,}" for what, count in counts)


def _say_incidents(incidents: list[Spell]) -> None:
    for incident in incidents[:SHOWN_INCIDENTS]:
        echo(f"{incident.model}, {incident_line(incident)}")
    if len(incidents) > SHOWN_INCIDENTS:
        echo(f"{len(incidents) - SHOWN_INCIDENTS:,} more incidents are in report.html")


def _warn(plan: Plan, past: _Past, summary: Summary) -> None:
    """Warns of what was not judged, and why."""
    kinds, labelled = past.side_inputs.keys(), past.labels is not None
    for name, model in plan.models.items():
        counts = summary.models.get(name)
        warn_unjudged(unread(model, counts, labelled=labelled, kinds=kinds, file=past.events.name))
        warn_unjudged(unjudged(model))
