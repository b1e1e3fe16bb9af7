"""The front door: what the README promises is there."""

import re
import shlex

import pytest
import typer

from cbtlib import ROOT
from cbtlib.cli import app

README = (ROOT / "README.md").read_text("utf-8")


def test_every_make_target_it_names_exists():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, flags=re.M))
    named = set(re.findall(r"`?make ([a-z]+)", README))
    assert named <= targets and {"book", "test", "serve", "clean", "help"} <= targets


def test_every_command_it_names_exists():
    commands = typer.main.get_command(app).commands
    assert {"run", "book", "generate", "doctor", *re.findall(r"bin/cbt ([a-z]+)", README)} <= commands.keys()


@pytest.mark.parametrize(
    "place", ["README.md", "Snakefile", "workflow/slurm/config.yaml", "notebooks/04_lora_training.py"]
)
def test_every_snakemake_command_is_read_as_it_is_meant(place, monkeypatch):
    """`--config` swallows a target behind it, and without our profile SLURM gets no memory, no minutes and no GPU."""
    from snakemake.cli import parse_args

    monkeypatch.chdir(ROOT)
    commands = re.findall(r"snakemake (--.*?)(?:  .*)?$", (ROOT / place).read_text("utf-8"), flags=re.MULTILINE)
    assert commands
    for command in commands:
        _, given = parse_args(shlex.split(command))
        assert all("=" in item for item in given.config or ()) and set(given.targets) <= {"pages"}, command
        if "slurm" in command:
            assert given.executor == "slurm" and given.default_resources.args, command


def test_every_file_it_links_or_shows_exists():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_package_lists_its_own_modules():
    import cbtlib

    modules = {path.stem for path in (ROOT / "cbtlib").glob("[a-z]*.py")} | {"prompts"}
    listed = set(re.findall(r"^    (\w+) {2,}", cbtlib.__doc__ or "", flags=re.M))
    assert listed == modules
