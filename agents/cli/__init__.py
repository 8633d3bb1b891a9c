"""The command `foreshock`: arguments → one call of the part that does it; errors → one line and an exit code."""

from agents.cli.main import cli, main

__all__ = ["cli", "main"]
