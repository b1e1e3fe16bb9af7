"""The smoke book: every page run with the smoke profile and built strictly, once for the whole suite, in a copy."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import source_from_cache
from pathlib import Path

import hypothesis
import pytest

from cbtlib import ROOT

# No test is about time: an example may meet a busy machine.
hypothesis.settings.register_profile("cbt", hypothesis.settings(), deadline=None)
hypothesis.settings.load_profile("cbt")

WATCH = """
def _watch():
    import os, sys
    log = open(os.path.join(os.environ["IPYTHONDIR"], f"{os.getpid()}.opened"), "w", 1, "utf-8")

    def note(event, args):
        if event == "open" and not isinstance(args[0], int):
            print(os.path.abspath(os.fsdecode(args[0])), file=log)

    sys.addaudithook(note)

_watch()
del _watch
"""
"""What a kernel of a copy runs first: it writes down every file that it opens."""


@dataclass
class Copy:
    """A copy of the repository in which tests may run and change things."""

    root: Path

    def opened(self, page: str) -> set[Path]:
        """The files of the copy that a page's kernel opened: the kernel that wrote its metrics.json."""
        logs = [log.read_text("utf-8").splitlines() for log in (self.root / ".ipython").glob("*.opened")]
        lines = next(lines for lines in logs if str(self.root / "results/smoke" / page / "metrics.json.part") in lines)
        found = [Path(line) for line in lines if line.startswith(f"{self.root}{os.sep}")]
        found = [Path(source_from_cache(path)) if path.suffix == ".pyc" else path for path in found]
        return {path.relative_to(self.root) for path in found if path.is_file()}

    def cbt(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `cbt …` with the copy's own cbtlib."""
        startup = self.root / ".ipython/profile_default/startup/watch.py"
        startup.parent.mkdir(parents=True, exist_ok=True)
        startup.write_text(WATCH, "utf-8")
        environment = {**os.environ, "PYTHONPATH": str(self.root), "IPYTHONDIR": str(self.root / ".ipython")}
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
