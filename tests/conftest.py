"""The smoke book: every page run with the smoke profile and built strictly, once for the whole suite, in a copy."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from cbtlib import ROOT


@dataclass
class Copy:
    """A copy of the repository in which tests may run and change things."""

    root: Path

    def cbt(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `cbt …` with the copy's own cbtlib."""
        environment = {**os.environ, "PYTHONPATH": str(self.root)}
        for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY"):
            environment.pop(name, None)
        command = [sys.executable, "-m", "cbtlib", *words]
        return subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True, check=False)

    @property
    def html(self) -> Path:
        return self.root / "_build/html"


@pytest.fixture(scope="session")
def copy_repository(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Copy]:
    """Makes a copy of the sources, without what is built."""

    def make() -> Copy:
        root = tmp_path_factory.mktemp("book")
        listing = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, capture_output=True, text=True, check=True,
        )  # fmt: skip
        for name in filter(None, listing.stdout.split("\0")):
            if (ROOT / name).is_file():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / name, root / name)
        return Copy(root)

    return make


@pytest.fixture(scope="session")
def smoke_book(copy_repository: Callable[[], Copy]) -> Copy:
    copy = copy_repository()
    done = copy.cbt("book", "--profile", "smoke")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return copy
