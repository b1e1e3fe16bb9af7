"""`python -m cbtlib …` is `cbt …`, for shells where the command is not on the path."""

from cbtlib.cli import main

main()
