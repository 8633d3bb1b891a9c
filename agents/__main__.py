"""`python -m agents` is the command `foreshock`."""

from agents import ending


def main() -> None:
    """Runs the command; SIGTERM ends it with exit code 0 from here on, imports included."""
    ending.install()
    from agents.cli import main as command

    command()


if __name__ == "__main__":
    main()
