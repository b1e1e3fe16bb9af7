"""`make reproduce` compares a run with published numbers, and never writes them."""

import json

import pytest
from typer.testing import CliRunner

from cbtlib import ROOT, CbtError, cli, report, run


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "ROOT", tmp_path)
    (tmp_path / "results/reference").mkdir(parents=True)
    entry = {"value": 0.5, "tolerance": 0.1}
    (tmp_path / "results/reference/embedded.json").write_text(json.dumps({"numbers": {"05_evaluation::bleu": entry}}))
    return tmp_path


def write(value: float) -> None:
    page = report.Page("05_evaluation", "embedded")
    page.number("bleu", value, what="x")
    page.save()


def test_within_tolerance_holds_outside_does_not_and_missing_does_not(place):
    reference = (place / "results/reference/embedded.json").read_bytes()
    page = report.Page("06_human_evaluation", "embedded")
    page.number("other", 1, what="x")
    page.save()
    assert not report.reproduce("embedded")["holds"].any(), "a number that was not computed cannot hold"
    write(0.59)
    assert report.reproduce("embedded")["holds"].all()
    write(0.61)
    assert not report.reproduce("embedded")["holds"].any()
    assert (place / "results/reference/embedded.json").read_bytes() == reference


def test_no_reference_is_said(place):
    with pytest.raises(CbtError, match="nobody has published numbers for the profile 'gpu'"):
        report.reproduce("gpu")


@pytest.mark.parametrize("path", sorted((ROOT / "results/reference").glob("*.json")), ids=lambda path: path.stem)
def test_the_published_numbers_belong_to_pages_and_carry_tolerances(path):
    content = json.loads(path.read_text("utf-8"))
    assert content["profile"] == path.stem and content["commit"] and content["hardware"]
    for key, entry in content["numbers"].items():
        assert key.split("::")[0] in run.PAGES and entry["tolerance"] >= 0, key


def test_nothing_that_ran_is_said_and_so_is_a_profile_that_is_none(place):
    with pytest.raises(CbtError, match="no page of profile 'embedded' has run yet: run `cbt book"):
        report.reproduce("embedded")
    done = CliRunner().invoke(cli.app, ["claims", "--profile", "nosuch"])
    assert "there is no profile 'nosuch'" in str(done.exception) and not done.output


@pytest.mark.parametrize("text", ["", '{"numbers": {"bleu": {"val', "[]", "{}"])
def test_damaged_numbers_are_named_with_what_makes_them_anew(place, text):
    write(0.5)
    (place / "results/embedded/05_evaluation/metrics.json").write_text(text)
    message = (
        r"results/embedded/05_evaluation/metrics.json is damaged .*cbt run notebooks/05_evaluation.py --profile emb"
    )
    for read in (report.claims, report.reproduce):
        with pytest.raises(CbtError, match=message):
            read("embedded")


@pytest.mark.parametrize(
    ("profile", "pages", "commit", "message"),
    [
        ("embedded", ["05_evaluation"], "abc", "06_human_evaluation of profile 'embedded' did not run"),
        ("embedded", ["05_evaluation", "06_human_evaluation"], "abc+changes", "not committed"),
        ("smoke", ["05_evaluation", "06_human_evaluation"], "abc", "the numbers of a smoke run mean nothing"),
    ],
)
def test_what_is_no_whole_run_of_committed_sources_is_not_published(
    place, monkeypatch, profile, pages, commit, message
):
    monkeypatch.setattr(run, "PAGES", {"05_evaluation": {}, "06_human_evaluation": {}})
    for name in pages:
        page = report.Page(name, profile)
        page.number("bleu", 0.5, what="x")
        page.save()
        facts = {"page": name, "profile": profile, "commit": commit, "seconds": 1.0, "peak_memory_gb": 1.0}
        facts["parameters"] = {"profile": profile}
        (page.dir / "run.json").write_text(json.dumps(facts))
    (place / "requirements.lock").write_text("")
    (place / "data").mkdir()
    before = (place / "results/reference/embedded.json").read_bytes()
    with pytest.raises(CbtError, match=message):
        report.publish(profile)
    assert {path.name: path.read_bytes() for path in (place / "results/reference").iterdir()} == {
        "embedded.json": before
    }
