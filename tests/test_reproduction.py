"""`make reproduce` compares a run with published numbers, and never writes them."""

import json

import pytest

from cbtlib import ROOT, CbtError, report, run


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


def test_uncommitted_sources_are_not_published(place):
    write(0.5)
    facts = {"page": "05_evaluation", "commit": "abc+changes", "seconds": 1.0, "peak_memory_gb": 1.0}
    (place / "results/embedded/05_evaluation/run.json").write_text(json.dumps(facts))
    (place / "requirements.lock").write_text("")
    (place / "data").mkdir()
    before = (place / "results/reference/embedded.json").read_bytes()
    with pytest.raises(CbtError, match="not committed"):
        report.publish("embedded")
    assert (place / "results/reference/embedded.json").read_bytes() == before
