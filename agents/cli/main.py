"""The entry point: the group of commands, and errors → one line and an exit code."""

from __future__ import annotations

import io
import logging
import sys
from importlib import import_module
from typing import TYPE_CHECKING, TypeGuard

import click

from agents import ending, logs
from streams.errors import BrokerError, ConfigError, DataError, ForeshockError

if TYPE_CHECKING:
    from aiokafka.errors import KafkaError

MODULE_OF = {
    "init": "learn",
    "check": "learn",
    "backtest": "backtest",
    "worker": "worker",
    "produce": "worker",
    "demo": "worker",
    "actions": "actions",
    "ack": "actions",
    "webhook": "actions",
    "alertmanager": "actions",
    "ledger": "reports",
    "report": "reports",
}
"""By command, the module of this package that has it."""


class _Commands(click.Group):
    """Imports a command when it is asked for: `--version` waits for no library of statistics."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(MODULE_OF)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = MODULE_OF.get(cmd_name)
        return getattr(import_module(f"{__package__}.{module}"), cmd_name) if module else None


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
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


def main() -> None:
    """Exit codes: 0 done or ended by SIGTERM, 1 failed, 2 unusable arguments or configuration, 130 Ctrl-C."""
    ending.install()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names may have characters that its code page has not
    try:
        cli(standalone_mode=False)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.ClickException as error:
        _say_usage(error)
        sys.exit(2)
    except ForeshockError as error:
        _say(str(error), error.code)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:  # of a file that we write: the disk is full, say
        _say(f"{error.filename or 'writing'}: {error.strerror or error}", DataError.code)
        sys.exit(1)
    except Exception as error:
        if not _is_of_kafka(error):
            raise
        _say_kafka(error)
        sys.exit(1)


def _say(line: str, code: str) -> None:
    logs.say(f"foreshock: {line}", code=code, level=logging.CRITICAL)


def _say_usage(error: click.ClickException) -> None:
    context = getattr(error, "ctx", None)
    if context is None or isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):
        error.show()
        return
    line = " ".join(error.format_message().split())
    _say(f"{line.removesuffix('.')}; see '{context.command_path} -h'", ConfigError.code)


def _is_of_kafka(error: Exception) -> TypeGuard[KafkaError]:
    """Whether the client of Kafka raised it; where nothing has imported the client, it did not."""
    errors = sys.modules.get("aiokafka.errors")
    return errors is not None and isinstance(error, errors.KafkaError)


def _say_kafka(error: KafkaError) -> None:
    from agents.refusals import refusal  # here, for it imports the client

    _say(f"Kafka: {'; '.join(refusal(error, 'READ'))}", BrokerError.code)
