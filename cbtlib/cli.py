"""The `cbt` command: every subcommand is a thin call into the module of the same name.

Heavy imports stand inside the functions, so that `cbt --help` answers at once.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from cbtlib import CbtError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="CBT-LLM, reproduced.")

corpus_app = typer.Typer(no_args_is_help=True, help="Check, describe and export the corpus or your own file.")
distortions_app = typer.Typer(no_args_is_help=True, help="Detect and count cognitive distortions.")
ratings_app = typer.Typer(no_args_is_help=True, help="Make and analyse human rating sheets.")
safety_app = typer.Typer(no_args_is_help=True, help="Crisis triage and its measured recall.")
app.add_typer(corpus_app, name="corpus")
app.add_typer(distortions_app, name="distortions")
app.add_typer(ratings_app, name="ratings")
app.add_typer(safety_app, name="safety")


def main() -> None:
    """Run the command line; a reader's mistake becomes one sentence and exit code 1."""
    try:
        app()
    except CbtError as error:
        print(f"cbt: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
