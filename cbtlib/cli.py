"""The `cbt` command: every subcommand is a thin call into the module of the same name.

Heavy imports stand inside the functions, so that `cbt --help` answers at once.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from cbtlib import CbtError

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="CBT-LLM, reproduced."
)

corpus_app = typer.Typer(no_args_is_help=True, help="Check, describe and export the corpus or your own file.")
distortions_app = typer.Typer(no_args_is_help=True, help="Detect and count cognitive distortions.")
ratings_app = typer.Typer(no_args_is_help=True, help="Make and analyse human rating sheets.")
safety_app = typer.Typer(no_args_is_help=True, help="Crisis triage and its measured recall.")
app.add_typer(corpus_app, name="corpus")
app.add_typer(distortions_app, name="distortions")
app.add_typer(ratings_app, name="ratings")
app.add_typer(safety_app, name="safety")


@app.command()
def run(
    notebook: Annotated[Path, typer.Argument(help="notebooks/03_distortion_statistics.py, say")],
    profile: Annotated[str, typer.Option(help="a file of notebooks/profiles, without .yml")] = "embedded",
    parameter: Annotated[list[str] | None, typer.Option("-p", help="name=value, over the profile's")] = None,
    results: Annotated[str, typer.Option(help="folder for products, relative to the repository")] = "results",
) -> None:
    """Run one chapter with a profile; its products land in results/<profile>/<chapter>/."""
    import yaml

    from cbtlib import run as runner

    given = {}
    for text in parameter or []:
        name, equals, value = text.partition("=")
        if not equals:
            raise CbtError(f"-p {text}: write name=value")
        given[name] = yaml.safe_load(value)
    print(runner.run(notebook, profile, given, results))


@app.command()
def book(
    profile: Annotated[str, typer.Option(help="a file of notebooks/profiles, without .yml")] = "embedded",
    results: Annotated[str, typer.Option(help="folder for products, relative to the repository")] = "results",
) -> None:
    """Run every chapter whose inputs changed, then build the book (what `make book` does)."""
    from cbtlib import book as builder

    builder.make_book(profile, results)


@app.command()
def serve(port: Annotated[int, typer.Option(help="port on this machine")] = 8000) -> None:
    """Serve the built book on this machine."""
    from cbtlib import book as builder

    builder.serve(port)


@app.command()
def doctor() -> None:
    """Check Python, pins, memory, disk, the embedded model and fonts; say what to do about each failure."""
    from cbtlib import doctor as checks

    raise typer.Exit(0 if checks.doctor() else 1)


@app.command()
def claims(
    profile: Annotated[str, typer.Option(help="whose run to compare")] = "embedded",
    reproduce: Annotated[bool, typer.Option("--reproduce", help="against results/reference, not the paper")] = False,
) -> None:
    """Print the paper's claims against a run, or a run against the published numbers; writes nothing."""
    from cbtlib import report

    table = report.reproduce(profile) if reproduce else report.claims(profile)
    print(table.to_string(max_colwidth=60))
    if reproduce and not table["holds"].all():
        raise CbtError(f"{(~table['holds']).sum()} of {len(table)} numbers lie outside their tolerance")


def main() -> None:
    """Run the command line; a reader's mistake becomes one sentence and exit code 1."""
    try:
        app()
    except CbtError as error:
        print(f"cbt: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
