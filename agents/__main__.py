"""`python -m agents` is the command `foreshock`."""

from agents.cli import main

main()
