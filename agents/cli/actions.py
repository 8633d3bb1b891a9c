"""`foreshock actions`, `ack`, `webhook` and `alertmanager`: the topic of actions for people and other systems."""

from __future__ import annotations

import time
from pathlib import Path

import click

from agents import acks as acknowledging
from agents import alertmanager as alerting
from agents import delivery, follow
from agents import webhook as webhooks
from agents.address import check_address
from agents.cli.options import FILE, Reach, log_to_stderr, nameable, reaches_kafka, run_async
from agents.logs import echo
from agents.secret import secret
from agents.web_options import web_options
from streams.ack import Ack, Status
from streams.config import OWN_TOPICS, SOURCES, Config
from streams.errors import ConfigError
from streams.times import rfc3339

ALLOW_HOST = click.option(
    "--allow-host", "hosts", multiple=True, help="A host that may be called; left out: that of --url."
)
TRIES_BEFORE_PARKING = 10
"""About six minutes."""


@click.command()
@reaches_kafka
@click.option("--follow", "go_on", is_flag=True, help="Wait for more.")
@click.option("--json", "as_json", is_flag=True, help="The events as they are, one a line.")
def actions(reach: Reach, go_on: bool, as_json: bool) -> None:
    """Show the actions that were published."""
    log_to_stderr()
    run_async(lambda: follow.actions(reach.connection, echo, go_on=go_on, as_json=as_json))


@click.command()
@reaches_kafka
@click.argument("action_id", metavar="ID")
@click.option("--status", type=click.Choice([str(status) for status in Status]), required=True, help="What was done.")
@click.option("--by", required=True, help="Who did it: a person or a program.")
@click.option("--note", default="", help="Why, for the next reader.")
@click.option("--force", is_flag=True, help="Even if the topic of actions no longer holds that id.")
def ack(reach: Reach, action_id: str, status: str, by: str, note: str, force: bool) -> None:
    """Say what was done about the action of this id: `seen`, `acted`, `dismissed` (as a false alarm), `done`."""
    log_to_stderr()
    now = rfc3339(time.time_ns() // 1_000_000)
    said = Ack(action_id=action_id, status=Status(status), by=by, ts=now, note=note)
    run_async(lambda: acknowledging.send(reach.connection, said, force=force))
    echo(f"{status}: {action_id}")


@click.command()
@reaches_kafka
@click.option("--url", required=True, help="https://host/path; http on loopback, or to a host that is allowed.")
@ALLOW_HOST
@click.option("--secret-env", help="The variable that holds the secret of the signature.")
@click.option("--secret-file", type=FILE, help="Or the file.")
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
    reach: Reach,
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
    log_to_stderr()
    config, to = reach.plan.config, reach.connection
    key = webhooks.key_of(secret({"--secret-env": secret_env, "--secret-file": secret_file}))
    most = tries if tries is not None else TRIES_BEFORE_PARKING if park else 0
    target = webhooks.Webhook(check_address(url, hosts), key, timeout_s, most)
    web = web_options(config, listen) if listen else None
    pages = (web.host, web.port, web.token) if web else None
    if park:
        _check_is_not_read(config, park)
    parked_in = to.topic(park) if park else None
    run_async(lambda: delivery.run(to, to.topic(group), target, instance, park=parked_in, pages=pages))


def _check_is_not_read(config: Config, park: str) -> None:
    if park in (*OWN_TOPICS, *(getattr(config.kafka, key) for key in SOURCES)):
        expected = "a topic of its own: what is parked in one that is read would come back"
        raise ConfigError(place="--park", seen=repr(park), expected=expected, mend="name another topic")


@click.command()
@reaches_kafka
@click.option("--url", required=True, help="Where Alertmanager is, as http://127.0.0.1:9093.")
@ALLOW_HOST
def alertmanager(reach: Reach, url: str, hosts: tuple[str, ...]) -> None:
    """Show every open incident as an alert of Prometheus Alertmanager, until it is stopped."""
    log_to_stderr()
    to, address = reach.connection, check_address(url, hosts)
    run_async(lambda: alerting.run(to, address, reach.plan.config.models))
