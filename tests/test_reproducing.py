"""The reproducing page: a row for each figure and headline number, with nothing in it that no file holds."""

import collections
import json
import re

import numpy as np
import pytest
from bs4 import BeautifulSoup
from typer.testing import CliRunner

from cbtlib import ROOT, CbtError, report, reproducing, writing
from cbtlib.cli import app
from cbtlib.prevalence import wilson

CAPTION = "Share of posts | with a label, *95%* intervals: (2)."


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A repository with one page that ran: one figure, one number its summary cites, one that nobody cites."""
    for module in (report, reproducing):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    for place in ("cbtlib.run.PAGES", "cbtlib.reproducing.PAGES"):
        monkeypatch.setattr(place, {"07_words": {}})
    folder = tmp_path / "results/embedded/07_words"
    for place in (folder, *(tmp_path / name for name in ("notebooks", "book/executed", "data/paper"))):
        place.mkdir(parents=True)
    (tmp_path / "data/paper/claims.csv").write_text("id,number\nx,\n")
    (tmp_path / "requirements.lock").write_text("")
    (tmp_path / "notebooks/07_words.py").write_text(
        "# {glue:text}`nobody`\n# ## Summary\n# {glue:text}`share_low:.0%`\n# ## Next\n# {glue:text}`later`\n"
    )
    numbers = {
        "share": {"value": 0.25, "low": 0.2, "high": 0.3, "what": "share of words"},
        "nobody": {"value": 3, "what": "cited by nobody"},
    }
    writing.write_json(folder / "metrics.json", {"page": "07_words", "numbers": numbers, "outcomes": {}})
    facts = {"page": "07_words", "profile": "embedded", "parameters": {"profile": "embedded", "results": "results"}}
    writing.write_json(folder / "run.json", facts | {"seconds": 90, "peak_memory_gb": 1.5, "commit": "abc"})
    escaped = re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", CAPTION)  # as `figures.show` writes it
    dress = {"mystnb": {"figure": {"caption": escaped, "name": "fig-07-words-the-shares"}}}
    cells = [{"metadata": {}, "source": ["# Words\n", "more"]}, {"metadata": dress, "source": []}]
    writing.write_json(folder / "07_words.ipynb", {"cells": cells})
    for kind in ("svg", "png"):
        (folder / f"the_shares.{kind}").write_text("")
    (folder / "the_shares.csv").write_text("kind,share,n\na,0.25,3\nb,0.75,1\n")
    return tmp_path


def publish(root, value, tolerance):
    (root / "results/reference").mkdir(exist_ok=True)
    numbers = {"07_words::share": {"value": value, "tolerance": tolerance, "what": "x"}}
    writing.write_json(root / "results/reference/embedded.json", {"numbers": numbers})


def test_a_figure_and_a_cited_number_have_a_row_and_nothing_else_does(run):
    table = reproducing.rows("embedded")
    assert table["kind"].tolist() == ["figure", "number"]
    assert table["claim"].tolist() == [CAPTION, "share of words"]
    assert set(table["command"]) == {"cbt run notebooks/07_words.py --profile embedded"}
    assert table["product"].tolist() == ["07_words/the_shares.svg", "07_words/metrics.json"]
    assert set(table["minutes"]) == {1.5} and set(table["memory (GB)"]) == {1.5}
    assert table["this run"].tolist() == ["share 0.25", "0.25"]


def test_without_a_reference_nothing_is_expected_and_the_page_says_so(run):
    text = reproducing.write("embedded").read_text("utf-8")
    assert "No reference is published" in text and not re.search(r"± \d", text)
    assert set(reproducing.rows("embedded")["holds"]) == {""}


@pytest.mark.parametrize(("value", "holds"), [(0.26, "yes"), (0.4, "no")])
def test_a_run_is_held_against_what_was_published(run, value, holds):
    publish(run, value, 0.05)
    table = reproducing.rows("embedded")
    assert table["holds"].tolist() == [holds, holds]
    assert table["expected"].tolist() == [f"share {value} ± 0.05", f"{value} ± 0.05"]
    text = reproducing.write("embedded").read_text("utf-8")
    assert ("(outside)" in text) is (holds == "no") and "No reference" not in text
    done = CliRunner().invoke(app, ["claims", "--reproduce"])
    assert (done.exit_code == 0) is (holds == "yes")
    assert holds == "yes" or "1 of 1 numbers lie outside their tolerance" in str(done.exception)


@pytest.mark.parametrize(
    ("value", "shown"), [(22327, "22,327"), (0.31416, "0.3142"), (148.06, "148.1"), (5e-6, "5e-06")]
)
def test_numbers_are_written_as_people_write_them(value, shown):
    assert reproducing._shown(value) == shown


def test_a_rerun_that_only_draws_other_letters_holds_and_a_defect_does_not(run, monkeypatch):
    """100 shares of 40 sampled letters each, published, then drawn anew; then with good and bad letters exchanged."""
    place, dice = run / "results/embedded/07_words/metrics.json", np.random.default_rng(0)
    facts = {"page": "07_words", "profile": "embedded", "parameters": {}, "commit": "abc"}
    for slow in ("footprint", "manifest"):
        monkeypatch.setattr(report, slow, lambda *_: collections.defaultdict(dict, pages={"07_words": facts}))
    truth = dice.uniform(0.2, 0.8, 100)

    def draw(shares):
        k = dice.binomial(40, shares)
        rows = zip(k / 40, *wilson(k, 40), strict=True)
        numbers = {f"share_{i}": {"value": v, "low": a, "high": b, "what": "x"} for i, (v, a, b) in enumerate(rows)}
        writing.write_json(place, {"page": "07_words", "numbers": numbers, "outcomes": {}})

    held = []
    for _ in range(30):
        draw(truth)
        report.publish("embedded")
        draw(truth)
        held.append(report.reproduce("embedded")["holds"].all())
    assert sum(held) >= 24
    draw(1 - truth)
    assert not report.reproduce("embedded")["holds"].all()


def test_what_is_published_is_a_run_of_committed_sources_and_holds_against_itself(run):
    path = report.publish("embedded")
    content = json.loads(path.read_text("utf-8"))
    numbers = content["numbers"]  # of two numbers: z(1 - 0.025 / 2) = 2.2414
    assert numbers["07_words::share"]["tolerance"] == pytest.approx(0.05 * 2**0.5 * 2.2414 / 1.96, abs=1e-5)
    assert numbers["07_words::nobody"]["tolerance"] == pytest.approx(0.3), "10% where there is no interval"
    assert content["minutes"] == 1.5 and content["peak_memory_gb"] == 1.5 and content["disk_gb"] >= 0
    assert set(reproducing.rows("embedded")["holds"]) == {"yes"}
    facts = run / "results/embedded/07_words/run.json"
    good, before = json.loads(facts.read_text("utf-8")), path.read_bytes()
    changes = {"commit": "abc+changes"}, {"parameters": good["parameters"] | {"items": 3}}
    messages = "07_words ran from sources that are not committed", "07_words ran with {'items': 3}, not as the profile"
    for change, message in zip(changes, messages, strict=True):
        writing.write_json(facts, good | change)
        with pytest.raises(CbtError, match=message):
            report.publish("embedded")
        assert path.read_bytes() == before


def test_a_caption_cannot_break_the_table_and_is_escaped_once(run):
    line = next(
        line for line in reproducing.write("embedded").read_text("utf-8").splitlines() if "Share of posts" in line
    )
    assert len(re.findall(r"(?<!\\)\|", line)) == 5 and r"\*95%\*" in line
    assert r"Share of posts \| with a label, \*95%\* intervals: (2)." in line


def test_the_readme_says_what_was_published_and_nothing_else():
    text = (ROOT / "README.md").read_text("utf-8")
    for said in (reproducing.caption, reproducing.measured):
        start, stop = (mark.format(said.__name__) for mark in reproducing.README_MARKS)
        assert text.partition(start)[2].partition(stop)[0].strip() == said()


def test_the_readme_takes_its_numbers_from_the_published_run(run):
    readme = run / "README.md"
    start, stop = reproducing.README_MARKS
    places = "\n".join(f"{start}\nold\n{stop}".format(name, name) for name in ("caption", "measured"))
    readme.write_text(f"before\n{places}\nafter\n")
    shown = {"chrf_zero_shot": 2.06, "chrf_tuned": 9, "chrf_shuffled": 8, "chrf_ceiling": 16, "posts": 12}
    numbers = {f"05_evaluation::{name}": {"value": value} for name, value in shown.items()}
    content = {"hardware": {"accelerator": None, "processor": "A chip", "cores": 2}, "minutes": 11.25,
               "peak_memory_gb": 3.14, "disk_gb": 4.2, "numbers": numbers}  # fmt: skip
    (run / "results/reference").mkdir()
    writing.write_json(run / "results/reference/embedded.json", content)
    for place in ("results/embedded/05_evaluation", "book/_static"):
        (run / place).mkdir(parents=True, exist_ok=True)
    (run / "results/embedded/05_evaluation/forest.png").write_bytes(b"a picture of this run")
    text = reproducing.renew_readme().read_text("utf-8")
    assert (run / "book/_static/readme.png").read_bytes() == b"a picture of this run"
    assert "A chip, 2 cores" in text and "11.2 minutes" in text and "3.1 GB" in text and "old" not in text
    assert "2.1 for the base" in text and "over 12 posts" in text
    assert text.startswith("before") and text.endswith("after\n")
    readme.write_text("no marks")
    with pytest.raises(CbtError, match="has no place"):
        reproducing.renew_readme()


def test_the_built_page_has_a_row_for_every_figure_of_the_run(smoke_book):
    root = smoke_book.root / "results/smoke"
    drawn = {f"{path.parent.name}/{path.name}" for path in root.glob("*/*.svg")}
    html = (smoke_book.html / "book/reproducing.html").read_text("utf-8")
    page = BeautifulSoup(html, "html.parser").get_text()
    assert drawn and not {name for name in drawn if name not in page}
    manifest = json.loads((root / "manifest.json").read_text("utf-8"))
    assert all(f"notebooks/{name}.py --profile smoke" in page for name in manifest["pages"] if name != "claims")
