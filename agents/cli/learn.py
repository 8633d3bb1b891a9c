"""`foreshock init` and `foreshock check`: a configuration is learned from reference data, or validated."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import click

from agents.cli.options import (
    FILE,
    Reach,
    existing,
    log_to_stderr,
    make_folder,
    reaches_kafka,
    run_async,
    slug,
    warn_unjudged,
)
from agents.files import lines, read_plan, reference
from agents.logs import echo
from agents.progress import Told
from streams.errors import ConfigError
from streams.learn import Learned, learn
from streams.plan import Plan
from streams.rehearse import rehearse
from streams.scaffold import foreshock_yaml
from streams.unjudged import unjudged


@click.command()
@click.argument("reference_file", metavar="REFERENCE", type=FILE)
@click.option("--model", required=True, help="The model's name, as its events have it.")
@click.option("-o", "--out", type=FILE, required=True, help="Folder for the configuration.")
@click.option("--labels", type=FILE, help="The reference's labels, .ndjson[.gz].")
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
        values = told.counted(reference(reference_file, segments, model))
        realised = rehearse(plan, model, values, lines(labels) if labels else None, time.time_ns() // 1_000_000)
    if realised is not None:
        text = foreshock_yaml(learned, reference_file.name, baseline_file.name, realised.line)
        yaml_file.write_text(text, encoding="utf-8")
    _say_learned(learned, plan, model, realised.line if realised is not None else None)
    echo(f"wrote {yaml_file} and {baseline_file}")
    echo(f"next: foreshock backtest -c {yaml_file} --events FILE -o OUT, or foreshock worker -c {yaml_file}")


def _say_learned(learned: Learned, plan: Plan, model: str, realised: str | None) -> None:
    columns = plan.models[model].config
    echo(
        f"{learned.baseline.events:,} events, {len(columns.features)} features, pane {columns.pane}, "
        f"{len(columns.rules)} rules"
    )
    if realised is not None:
        echo(f"replayed through it, the reference itself gives {realised}")
    else:
        echo("not replayed through it: that takes times, in order, and the model's name in its events", err=True)
    for reason, count in learned.rejected.items():
        echo(f"left out: {count:,} lines, {reason}", err=True)


@click.command()
@reaches_kafka
@click.option(
    "--against-state", is_flag=True, help="Say what a restart under it would make of what workers have kept on Kafka."
)
def check(reach: Reach, against_state: bool) -> None:
    """Validate a configuration and its baselines; with --against-state, what a restart would keep and lose."""
    plan = reach.plan
    for name, model in plan.models.items():
        known = f"baseline of {model.baseline.events:,} events" if model.baseline else "no baseline"
        segments = sum(len(values) for values in model.config.segments.values())
        echo(
            f"{name}: {len(model.config.features)} features, {segments} segments, {len(model.config.rules)} rules, "
            f"pane {model.config.pane}, {known}"
        )
    notes = [note for model in plan.models.values() for note in unjudged(model)]
    warn_unjudged(notes)
    if against_state:
        from agents import against_state as kept_state  # here: these reach Kafka, which the other checks do without
        from agents import topic_watch

        log_to_stderr(level=logging.WARNING)
        for line in run_async(lambda: kept_state.lines_of(reach.connection, plan)):
            echo(line)
        for line in run_async(lambda: topic_watch.lines_of(reach.connection, plan)):
            echo(f"warning: {line}", err=True)
    elif reach.broker:
        raise ConfigError(seen="--broker", expected="--against-state with it", mend="add it, or leave --broker out")
    echo(f"ok, but for {len(notes)} of the lines above: what they name is not judged" if notes else "ok")
