"""`foreshock ledger` and `foreshock report`: how far signals can be trusted, and the pages of a day, week or month."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import click
import msgspec

from agents import ledger as books
from agents import reports
from agents.cli.options import (
    FILE,
    FROM_FOLDER,
    LEDGER,
    WRITTEN,
    Reach,
    existing,
    log_to_stderr,
    make_folder,
    pretty_json,
    reaches_kafka,
    run_async,
    slug,
)
from agents.logs import echo
from agents.reading import MAX_RESULT_BYTES, read_bytes
from streams.errors import UNREADABLE, ConfigError, DataError
from streams.ledger import rows_of
from streams.ledger_rows import LedgerRows
from streams.ledger_text import ledger_lines
from streams.reports.periods import Cadence, period_of
from streams.text import plain_json


@click.command()
@reaches_kafka
@FROM_FOLDER
@click.option("--json", "as_json", is_flag=True, help="For a program.")
def ledger(reach: Reach, folder: Path | None, as_json: bool) -> None:
    """Show how far each proxy can be trusted, and what was done about the actions of each rule."""
    reach.check_source(folder)
    log_to_stderr()
    plan = reach.plan
    if folder:
        rows = read_rows(folder / LEDGER)
    else:
        rows = rows_of(run_async(lambda: books.from_topics(reach.connection, plan)))
    if as_json:
        for line in pretty_json(rows).decode().splitlines():
            click.echo(plain_json(line))
        return
    for line in ledger_lines(rows):
        echo(line)


def read_rows(path: Path) -> LedgerRows:
    """What a backtest wrote of its ledgers."""
    try:
        return msgspec.json.decode(read_bytes(existing(path, WRITTEN), WRITTEN, MAX_RESULT_BYTES), type=LedgerRows)
    except UNREADABLE as error:
        raise DataError(
            place=str(path), seen=f"no ledger ({error})", expected="what a backtest wrote", mend="run it again"
        ) from None


@click.command()
@reaches_kafka
@click.option("--cadence", type=click.Choice([str(cadence) for cadence in Cadence]), required=True, help="Which one.")
@click.option(
    "--at",
    "day",
    type=click.DateTime(["%Y-%m-%d"]),
    help="The day (UTC) that it is of, ends with, or the month holds; left out: the last one in the log.",
)
@FROM_FOLDER
@click.option("--model", "models", multiple=True, help="One model, instead of all.")
@click.option("-o", "--out", type=FILE, required=True, help="Folder for the pages.")
def report(
    reach: Reach,
    cadence: str,
    day: datetime | None,
    folder: Path | None,
    models: tuple[str, ...],
    out: Path,
) -> None:
    """Write the daily check, the weekly segment review or the monthly retraining review: a page and its JSON."""
    reach.check_source(folder)
    log_to_stderr()
    plan = reach.plan
    for unknown in (name for name in models if name not in plan.models):
        raise ConfigError(
            seen=f"--model {unknown}", expected="one of " + ", ".join(plan.models), mend="see the configuration"
        )
    source: reports.Source
    source = reports.Folder(folder) if folder else reports.Topics(reach.connection, plan, run_async)
    at = day.date() if day else reports.last_day(source)
    make_folder(out)
    wanted = list(models) or list(plan.models)
    for line in reports.write(source, wanted, period_of(Cadence(cadence), at), slug, out):
        echo(line)
