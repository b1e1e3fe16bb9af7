"""What is not a number cannot be written as one; verdicts follow from rows and runs alone."""

import csv
import json
import math

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbtlib import ROOT, CbtError, report
from cbtlib.prevalence import wilson


@pytest.fixture
def page(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "ROOT", tmp_path)
    return report.Page("05_evaluation", "smoke")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_none_is_refused_and_named(page, value):
    with pytest.raises(CbtError, match="bleu"):
        page.number("bleu", value, what="x")
    page.save()
    assert json.loads((page.dir / "metrics.json").read_text())["numbers"] == {}


def test_an_interval_has_two_ends_and_holds_its_value(page):
    with pytest.raises(CbtError, match="both low and high"):
        page.number("a", 1.0, low=0.5, what="x")
    with pytest.raises(CbtError, match="outside its interval"):
        page.number("a", 1.0, low=2.0, high=3.0, what="x")
    with pytest.raises(CbtError, match="low of 'a'"):
        page.number("a", 1.0, low=math.nan, high=3.0, what="x")


def test_a_name_is_written_once(page):
    page.number("a", 1, what="x")
    with pytest.raises(CbtError, match="twice"):
        page.number("a", 2, what="x")


def test_a_table_has_the_same_bytes_on_every_system(page, monkeypatch):
    monkeypatch.setattr("os.linesep", "\r\n")  # as on Windows
    page.table("told", pd.DataFrame({"share": [1 / 3]}, index=["得"]), caption="x")
    assert (page.dir / "told.csv").read_bytes() == ",share\n得,0.3333333333\n".encode()


def test_an_unknown_outcome_cannot_hide(page):
    with pytest.raises(CbtError, match="okay"):
        page.outcomes("generation", {"okay": 3})
    table = page.outcomes("generation", {"ok": 3, "unparsed": 1})
    assert table.loc["generation"].to_dict() == {**dict.fromkeys(report.OUTCOMES, 0), "ok": 3, "unparsed": 1}


def test_a_missing_product_says_which_command_makes_it(page):
    with pytest.raises(CbtError, match=r"cbt run notebooks/02_generation.py --profile smoke"):
        page.product("02_generation", "answers.jsonl")


def test_the_same_numbers_are_the_same_bytes(page):
    page.number("share", 0.1 + 0.2, low=0.0, high=1.0, n=3, what="x")
    page.save()
    first = (page.dir / "metrics.json").read_bytes()
    again = report.Page("05_evaluation", "smoke")
    again.number("share", 0.3, low=0.0, high=1.0, n=3, what="x")
    again.save()
    assert (again.dir / "metrics.json").read_bytes() == first


def test_a_table_cannot_inject_markup(page):
    shown = page.table("t", pd.DataFrame({"<b>": ["<script>alert(1)</script>"]}), caption="c").to_html()
    assert "<script>" not in shown and "&lt;script&gt;" in shown


def test_claims_are_complete_and_nothing_is_guessed():
    with (ROOT / "data/paper/claims.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len({row["id"] for row in rows}) == len(rows)
    for row in rows:
        known = row["status"].startswith(("stated", "second-hand", "not transcribed"))
        assert known and row["source"], row["id"]
        if row["status"].startswith("not transcribed"):
            assert row["value"] == "", f"{row['id']} has a value that nobody transcribed"


def test_the_number_of_a_claim_is_one_that_its_page_writes():
    with (ROOT / "data/paper/claims.csv").open(encoding="utf-8", newline="") as file:
        named = [row["number"] for row in csv.DictReader(file) if row["number"]]
    assert len(named) >= 8
    for number in named:
        page, _, name = number.partition("::")
        source = (ROOT / "notebooks" / f"{page}.py").read_text("utf-8")
        assert f'"{name}"' in source, f"{page} writes no number {name!r}"


def test_backbones_have_blanks_for_the_paper_and_a_value_for_the_one_that_ran():
    with (ROOT / "data/paper/automatic.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * 5 and all(row["value"] == "" for row in rows if row["status"] == "not transcribed")
    assert {row["number"] for row in rows} == {"bleu", "meteor_char", "chrf", "bleurt", "bertscore"}
    table = report.backbones("baichuan-inc/Baichuan-7B", {"bleu": 12.5, "chrf": 20.0})
    assert table.loc[("Baichuan-7B", "this run"), "BLEU"] == 12.5
    assert table.loc[("Baichuan-7B", "this run")].isna().sum() == 3, "what was not run stays blank"
    assert table.drop(("Baichuan-7B", "this run")).isna().all(axis=None)
    assert report.backbones("embedded", {"bleu": 12.5}).isna().all(axis=None)


ROW = {"id": "C", "number": "", "value": "", "tolerance": "", "compare": "above:0"}


@given(st.floats(-1, 1), st.floats(0, 1))
def test_a_direction_needs_the_whole_interval_and_one_that_holds_zero_decides_nothing(value, half):
    verdict, why = report.verdict(ROW, {"value": value, "low": value - half, "high": value + half})
    low, high = value - half, value + half
    assert verdict == ("direction holds" if low > 0 else "differs" if high < 0 else "undecided")
    assert ("cannot tell" in why) == (low <= 0 <= high)


def test_a_number_without_an_interval_is_on_one_side():
    assert report.verdict(ROW, {"value": 0.1})[0] == "direction holds"
    assert report.verdict(ROW, {"value": -0.1})[0] == "differs"


def test_no_run_gives_no_verdict_and_a_blank_is_not_comparable():
    assert report.verdict(ROW, None)[0] == "not run"
    assert report.verdict({**ROW, "compare": "value"}, {"value": 1.0})[0] == "not comparable"
    assert report.verdict({**ROW, "compare": "none"}, {"value": 1.0})[0] == "not comparable"
    paper = {**ROW, "compare": "value", "value": "0.5", "tolerance": "0.1"}
    assert report.verdict(paper, {"value": 0.65, "low": 0.58, "high": 0.7})[0] == "reproduced"
    assert report.verdict(paper, {"value": 0.65, "low": 0.62, "high": 0.7})[0] == "differs"
    with pytest.raises(CbtError, match="claim C"):
        report.verdict({**ROW, "compare": "below"}, {"value": 1.0})


def test_a_count_of_sampled_items_has_the_interval_of_its_share(page):
    assert page.count("ok", 3, 9, what="answers") == 3
    low, high = (9 * float(end) for end in wilson(3, 9))
    page.save()
    found = json.loads((page.dir / "metrics.json").read_text())["numbers"]["ok"]
    assert found == {"value": 3, "low": pytest.approx(low), "high": pytest.approx(high), "n": 9, "what": "answers"}
