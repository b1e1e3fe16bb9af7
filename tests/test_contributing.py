"""The how-tos of CONTRIBUTING.md, done as written in a copy of the repository: a how-to that is wrong fails here."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cbtlib import ROOT

TEXT = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
HOW_TOS = ["Add a chapter", "Add a metric", "Add a backbone", "Add a dataset format"]
# What to do with a block stands in the words before it: a file to write, or a place in one.
STEP = re.compile(
    r"(?:(?P<verb>Write|end of) `(?P<whole>[^`]+)`"
    r"|In `(?P<file>[^`]+)`, (?P<side>after|before) the line `(?P<line>[^`]+)`, add):?\s*\Z"
)
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", flags=re.M | re.S)


def steps(how_to: str) -> list[tuple[str, str, str]]:
    """(words before, language, content) of each block of a how-to."""
    section = TEXT.partition(f"## {how_to}\n")[2].partition("\n## ")[0]
    found, end = [], 0
    for block in BLOCK.finditer(section):
        found.append((section[end : block.start()].replace("\n", " ").rstrip(), block[1], block[2]))
        end = block.end()
    return found


def do(root: Path, before: str, language: str, content: str) -> Path | None:
    """One step of a how-to; returns the file it wrote."""
    if language == "sh":
        if os.name == "nt":
            pytest.skip("these lines are for a shell of Unix")
        environment = {**os.environ, "PYTHONPATH": str(root)}
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
        for line in content.replace("\\\n", " ").splitlines():
            done = subprocess.run(
                line, shell=True, cwd=root, env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        return None
    step = STEP.search(before)
    assert step, f"what should be done with this block? {before[-120:]!r}"
    path = root / (step["whole"] or step["file"])
    if step["verb"] == "Write":
        assert not path.exists(), f"{path.name} is there already"
        path.write_text(content, "utf-8")
    elif step["verb"]:
        path.write_text(path.read_text("utf-8") + content, "utf-8")
    else:
        lines = path.read_text("utf-8").splitlines(keepends=True)
        places = [number for number, line in enumerate(lines) if step["line"] in line]
        assert len(places) == 1, f"{len(places)} lines of {path.name} hold {step['line']!r}"
        at = places[0] + (step["side"] == "after")
        path.write_text("".join([*lines[:at], content, *lines[at:]]), "utf-8")
    return path


@pytest.mark.parametrize("how_to", HOW_TOS)
def test_a_how_to_works_as_written(copy_repository, how_to):
    copy = copy_repository()
    found = steps(how_to)
    assert any(language == "sh" for _, language, _ in found), f"{how_to}: no command shows that it worked"
    written = {path for step in found if (path := do(copy.root, *step)) and path.suffix == ".py"}
    for words in (["check"], ["format", "--check", "--diff", "-q"]):
        command = [sys.executable, "-m", "ruff", *words, *written]
        done = subprocess.run(command, cwd=copy.root, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:]
