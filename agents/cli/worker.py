"""`foreshock worker`, `produce` and `demo`: the stream processor, records for it, and both with a broker."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agents import ending
from agents.cli.options import FILE, Reach, log_to_stderr, nameable, reaches_kafka, run_async
from agents.front import raise_file_limit
from agents.logs import echo
from agents.memory import tune_memory
from agents.progress import Told
from agents.replay_together import replay_together
from agents.web_options import WebOptions, listen_address, web_options
from streams.errors import ConfigError
from streams.plan import Facts

if TYPE_CHECKING:
    from agents.app import Worker

STOP_WORKER_WITHIN_S = 20.0
"""After SIGTERM: below the 30 s after which Kubernetes and Docker Compose are often set to kill."""


@click.command()
@reaches_kafka
@click.option("--listen", help="host:port of /metrics and /health; instead of the configuration's.")
@click.option("--open", "is_open", is_flag=True, help="Let anybody in reach read them, without a token.")
@click.option("--drain", is_flag=True, help="Stop when everything has been read: closes and judges every open pane.")
@click.option(
    "--instance", callback=nameable, help="A name of its own for this worker: its restart then is no rebalance."
)
@click.option("--state", type=FILE, help="Folder of the label join (default: state, by the configuration).")
@click.option("--verbose", is_flag=True, help="Log more.")
def worker(
    reach: Reach,
    listen: str | None,
    is_open: bool,
    drain: bool,
    instance: str | None,
    state: Path | None,
    verbose: bool,
) -> None:
    """Run the stream processor until SIGTERM or Ctrl-C."""
    log_to_stderr(verbose)
    check_system()
    from agents.app import Worker  # here, for it needs what a POSIX system alone has

    options = web_options(reach.plan.config, listen, is_open)
    tune_memory()
    raise_file_limit()
    folder = state or reach.config_file.parent / "state"
    _work(Worker(reach.plan, reach.connection, options, drain=drain, instance=instance, state=folder))


def check_system() -> None:
    """Raises ConfigError where a worker cannot run: it locks its files and is ended as POSIX systems do."""
    if sys.platform == "win32":
        raise ConfigError(
            seen="a worker on Windows",
            expected="Linux or macOS",
            mend="run it in a container or in WSL; init, check, backtest and report run here",
        )


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
                raise RuntimeError("the worker was cancelled, though nobody asked it to end") from None

    ending.run(work, end, within_s=STOP_WORKER_WITHIN_S)


@click.command()
@reaches_kafka
@click.option("--topic", help="Of FILE, without the prefix.")
@click.option("--events", type=FILE, help="Inference events, .ndjson[.gz].")
@click.option("--labels", type=FILE, help="Their labels, .ndjson[.gz].")
@click.option("--feedback", type=FILE, help="Overrides, complaints and workflow steps.")
@click.option("--runs", type=FILE, help="OpenLineage events of jobs.")
@click.option("--outcomes", type=FILE, help="Observations of business KPIs.")
@click.option("--speed", type=click.FloatRange(min=0, min_open=True), help="Event time, so many times as fast.")
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="Records a second.")
@click.argument("file", type=FILE, required=False)
def produce(
    reach: Reach,
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
    log_to_stderr()
    files = _files_by_topic(reach, topic, file, kinds)
    with Told("records") as told:
        sent = run_async(
            lambda: replay_together(
                reach.connection, files, speed=speed, rate=rate, on_progress=lambda sent: told(sent.records)
            )
        )
    echo(f"sent {sent.records:,} records, {sent.bytes:,} bytes")
    if sent.unkeyed or sent.refused:
        echo(f"without a key: {sent.unkeyed:,}; too large for the topic: {sent.refused:,}", err=True)


def _files_by_topic(
    reach: Reach, topic: str | None, file: Path | None, kinds: Mapping[str, Path | None]
) -> dict[str, Path]:
    """What is sent to which topic: either one file with its topic, or a file of each kind."""
    kafka, to = reach.plan.config.kafka, reach.connection
    names = {"events": kafka.inference} | {kind: getattr(kafka, kind) for kind in ("labels", *Facts)}
    files = {to.topic(name): path for kind, name in names.items() if (path := kinds[kind]) is not None}
    if bool(files) == (file is not None) or (file is None) != (topic is None):
        raise ConfigError(
            seen="no file, or both kinds of them" if bool(files) == (file is not None) else "one of --topic and FILE",
            expected="--topic NAME FILE; or --events FILE with --labels, --feedback, --runs, --outcomes",
            mend="say which records go to which topic",
        )
    return {to.topic(topic): file} if file is not None and topic is not None else files


@click.command()
@click.option("--keep", is_flag=True, help="Stay up afterwards, with /metrics and the broker, until Ctrl-C.")
@click.option("--write", "folder", type=FILE, help="Only write the demo's files to a folder.")
@click.option("--listen", default="127.0.0.1:0", show_default=True, help="host:port of /metrics and /health.")
def demo(keep: bool, folder: Path | None, listen: str) -> None:
    """Flights of 2013, a model, an embedded broker, and what goes wrong: from events to actions in a minute or two."""
    log_to_stderr(level=logging.WARNING)
    check_system()
    from agents import demo as demonstration

    if folder is not None:
        demonstration.write(folder, echo)
        return
    host, port = listen_address(listen)
    tune_memory()
    raise_file_limit()
    run_async(lambda: demonstration.run(echo, WebOptions(host=host, port=port), keep=keep))
