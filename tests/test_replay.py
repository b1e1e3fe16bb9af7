"""A chapter made again from its recorded journals, offline: the same numbers, and nobody is asked."""

import pytest


@pytest.mark.parametrize("page", ["01_prompt_design", "02_generation"])
def test_a_chapter_is_made_again_from_its_journals(smoke_book, page):
    recorded, again = (smoke_book.root / results / "smoke" / page for results in ("results", "results/replayed"))
    words = ["--profile", "smoke", "--results", "results/replayed", "-p", f"replay=results/smoke/{page}/runs"]
    done = smoke_book.cbt("run", f"notebooks/{page}.py", *words)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (again / "metrics.json").read_bytes() == (recorded / "metrics.json").read_bytes()
    assert list((recorded / "runs").rglob("journal.sqlite")) and not list((again / "runs").rglob("journal.sqlite"))
