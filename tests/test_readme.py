"""The front door: what the README promises is there."""

import re
import subprocess
import sys

from cbtlib import ROOT

README = (ROOT / "README.md").read_text("utf-8")


def test_every_make_target_it_names_exists():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, flags=re.M))
    named = set(re.findall(r"`?make ([a-z]+)", README))
    assert named <= targets and {"book", "test", "serve", "clean", "help"} <= targets


def test_every_command_it_names_exists():
    done = subprocess.run([sys.executable, "-m", "cbtlib", "--help"], capture_output=True, text=True, check=True)
    for name in {"run", "book", "generate", "doctor", *re.findall(r"bin/cbt ([a-z]+)", README)}:
        assert re.search(rf"\b{name}\b", done.stdout), name


def test_every_file_it_links_or_shows_exists():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_package_lists_its_own_modules():
    import cbtlib

    modules = {path.stem for path in (ROOT / "cbtlib").glob("[a-z]*.py")} | {"prompts"}
    listed = set(re.findall(r"^    (\w+) {2,}", cbtlib.__doc__ or "", flags=re.M))
    assert listed == modules
