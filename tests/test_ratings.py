"""Ratings: coefficients equal to published examples, forms that stay blind, missing ratings that stay missing."""

import base64
import errno
import html
import io
import itertools
import json
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fontTools.ttLib import TTFont
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score
from typer.testing import CliRunner

from cbtlib import ROOT, CbtError, agreement, corpus, forms, ratings, resampling, widgets
from cbtlib.cli import app

_ = np.nan
KRIPPENDORFF = (  # Krippendorff 2011: four observers, twelve units, scores 1..5
    np.array(
        [
            [1, 2, 3, 3, 2, 1, 4, 1, 2, _, _, _],
            [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, _, 3],
            [_, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, _],
            [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, _],
        ]
    ).T
    - 1
)
FLEISS = [  # ten subjects, fourteen raters, five categories: how many raters chose each
    [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
    [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
]  # fmt: skip


@pytest.mark.parametrize(("level", "published"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_alpha_is_krippendorffs_own_example(level, published):
    assert agreement.krippendorff_alpha(KRIPPENDORFF, 5, level).value == pytest.approx(published, abs=5e-4)


def test_kappa_and_ac1_are_the_published_examples():
    ratings = np.array([np.repeat(np.arange(5), row) for row in FLEISS])
    assert agreement.fleiss_kappa(ratings, 5).value == pytest.approx(0.210, abs=5e-4)
    assert agreement.fleiss_kappa(KRIPPENDORFF, 5).value == pytest.approx(0.76117, abs=5e-6)
    assert agreement.gwet_ac(KRIPPENDORFF, 5, "none").value == pytest.approx(0.77544, abs=5e-6)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=3, max_size=30))
def test_cohens_kappa_is_scikit_learns(pairs):
    one, two = np.array(pairs, float).T
    for weights, name in (("none", None), ("quadratic", "quadratic")):
        ours = agreement.cohen_kappa(one, two, 3, weights).value
        if len(set(one)) == 1 and set(one) == set(two):
            assert np.isnan(ours)
        else:
            theirs = cohen_kappa_score(one, two, labels=[0, 1, 2], weights=name)
            assert ours == pytest.approx(theirs)


def test_ratings_that_never_vary_have_no_alpha():
    ratings = np.ones((6, 3))
    assert np.isnan(agreement.krippendorff_alpha(ratings, 3).value)
    assert np.isnan(agreement.fleiss_kappa(ratings, 3).value)
    assert agreement.gwet_ac(ratings, 3).value == 1


def test_a_rating_out_of_range_is_named():
    with pytest.raises(CbtError, match=r"rating 3 of item 2 by rater 1 is not one of 0\.\.2"):
        agreement.krippendorff_alpha([[0, 1], [3, 1]], 3)


@pytest.mark.parametrize("measure", [agreement.gwet_ac, agreement.fleiss_kappa])
def test_an_item_that_nobody_rated_changes_no_coefficient(measure):
    rated = [[0, 0], [1, 2], [2, 2], [1, 1]]
    assert measure([*rated, [np.nan, np.nan]], 3).value == pytest.approx(measure(rated, 3).value)


def test_ratings_that_make_no_matrix_are_named():
    with pytest.raises(CbtError, match="no item in these ratings"):
        agreement.krippendorff_alpha(np.zeros((0, 2)), 3)
    with pytest.raises(CbtError, match="one rater has 2 scores, the other 1"):
        agreement.cohen_kappa([0, 1], [0], 3)


def test_an_item_rated_once_adds_nothing_to_alpha():
    with_one = np.vstack([KRIPPENDORFF, [[0, _, _, _]]])
    alpha, more = (agreement.krippendorff_alpha(matrix, 5) for matrix in (KRIPPENDORFF, with_one))
    assert alpha.value == more.value


# --- forms -------------------------------------------------------------------------------------------------------

POSTS = {f"q{i}": f"第{i}封来信：=我总是搞砸</script>" for i in range(6)}
ANSWERS = {
    system: {
        item: ("refused" if (system, item) == ("Tuned-LoRA", "q5") else "ok", f"{word}<b>{item}</b>") for item in POSTS
    }
    for system, word in (("BASE-270M", "慢慢来"), ("Tuned-LoRA", "你说"))
}


@pytest.fixture
def sheet(tmp_path):
    return forms.make(POSTS, ANSWERS, ["ann", "bo"], tmp_path, seed=3), tmp_path


def test_the_form_on_a_page_brings_the_glyphs_that_it_shows(sheet):
    """A frame that sees nothing of the page has none of its fonts, and not every reader has Chinese ones."""
    _, folder = sheet
    shown = html.unescape(widgets.rating_form(folder / "form_ann.html").data)
    font = base64.b64decode(re.search(r"data:font/woff;base64,([^)]+)", shown)[1])
    assert {ord(sign) for sign in shown if "一" <= sign <= "鿿"} <= TTFont(io.BytesIO(font)).getBestCmap().keys()


def filled(folder, rater, score, suffix=".csv"):
    """The rater's CSV with a score in every field, as the form would save it."""
    rows = pd.read_csv(folder / f"form_{rater}.csv", dtype=str, keep_default_na=False)
    for criterion in forms.CRITERIA:
        rows[criterion.id] = [str(score(row)) for row in rows.to_dict("records")]
    path = folder / f"back_{rater}{suffix}"
    rows.to_csv(path, index=False) if suffix == ".csv" else rows.to_json(path, orient="records", force_ascii=False)
    return path


def test_a_form_tells_a_rater_nothing_about_systems_and_needs_nothing_from_outside(sheet):
    _, folder = sheet
    for path in filter(Path.is_file, folder.rglob("*")):
        text = path.read_text("utf-8")
        assert (path.name == "key.json") == any(system in text for system in ANSWERS), path
        assert not re.search(r"(src|href)\s*=|https?://|@import", text), path
    assert json.loads((folder / "key.json").read_text("utf-8"))["outcomes"]["Tuned-LoRA"] == {"ok": 5, "refused": 1}
    assert os.name == "nt" or not (folder / "key.json").stat().st_mode & 0o077, "raters may share the machine"


def test_each_rater_sees_every_ok_reply_once_in_an_own_order(sheet):
    key, folder = sheet
    orders = []
    for rater in ("ann", "bo"):
        text = (folder / f"form_{rater}.html").read_text("utf-8")
        embedded = re.search(r'<script id="sheet" type="application/json">(.*?)</script>', text, re.S)[1]
        items = json.loads(embedded)["items"]
        assert sorted(item["code"] for item in items) == sorted(key["codes"])
        for item in items:
            place = key["codes"][item["code"]]
            assert item["post"] == POSTS[place["item"]]
            assert item["answer"] == ANSWERS[place["system"]][place["item"]][1]
        orders.append([item["code"] for item in items])
    assert len(key["codes"]) == 11 and orders[0] != orders[1]


def test_ratings_come_back_with_their_system_and_a_blank_stays_missing(sheet):
    key, folder = sheet
    blank = next(iter(key["codes"]))
    files = [
        filled(folder, "ann", lambda row: "" if row["code"] == blank else 2),
        filled(folder, "bo", lambda row: 1, ".json"),
    ]
    table = forms.read(files, key)
    assert len(table) == 3 * (11 + 11)
    missing = table[table["score"].isna()]
    assert set(table["score"].dropna()) == {1, 2} and set(table.loc[table["rater"] == "bo", "score"]) == {1}
    assert set(zip(missing["rater"], missing["item"], missing["system"], strict=True)) == {
        ("ann", key["codes"][blank]["item"], key["codes"][blank]["system"])
    }


@pytest.mark.parametrize("sent", [True, False])
def test_a_blank_sheet_is_missing_and_its_rater_is_named(sheet, sent):
    key, folder = sheet
    score = itertools.cycle([0, 1, 2, 2])
    files = [filled(folder, "ann", lambda row: next(score))] + [filled(folder, "bo", lambda row: "")] * sent
    analysis = ratings.analyse(forms.read(files, key), resamples=50)
    assert analysis.means.groupby("criterion")["missing"].sum().tolist() == [11, 11, 11]
    assert "relevance: 11 of 22 ratings are missing; they were left out, not filled in" in analysis.notes
    assert any(note.startswith("relevance: no rating came from bo") for note in analysis.notes)
    assert any(note.startswith("relevance: one rater") for note in analysis.notes)
    with pytest.raises(CbtError, match="not one rating"):
        ratings.analyse(forms.read([filled(folder, "ann", lambda row: "")], key))


@pytest.mark.parametrize("score", ["3", "1.5", "-1", "good", "２", "True", "1e0", "nan"])
def test_a_score_that_is_none_is_an_error_with_its_row(sheet, score):
    key, folder = sheet
    with pytest.raises(CbtError, match=rf"back_ann.csv, row 1, field relevance: '{score}' is not one of 0, 1, 2"):
        forms.read([filled(folder, "ann", lambda row: score)], key)


def test_blanks_around_a_score_are_no_part_of_it(sheet):
    key, folder = sheet
    assert set(forms.read([filled(folder, "ann", lambda row: " 2 ")], key)["score"].dropna()) == {2}


@pytest.mark.parametrize(
    "change",
    [lambda line: f"{line},1", lambda line: line.replace("慢慢来", "慢慢来,再说").replace("你说", "你说,再说")],
)
def test_a_row_with_more_cells_than_columns_is_an_error_and_no_score(sheet, change):
    key, folder = sheet
    back = filled(folder, "ann", lambda row: 1)
    head, first, second, *rest = back.read_text("utf-8").splitlines()
    back.write_text("\n".join([head, first, change(second), *rest]) + "\n", "utf-8")
    with pytest.raises(CbtError, match=r"back_ann.csv, row 2: has 10 cells under a header of 9; put a text"):
        forms.read([back], key)


def test_a_quotation_mark_that_is_not_closed_swallows_no_ratings(sheet):
    key, folder = sheet
    back = filled(folder, "ann", lambda row: 1)
    head, first, *rest = back.read_text("utf-8").splitlines()
    back.write_text("\n".join([head, f'{first}"x', f'"{rest[0]}', *rest[1:]]) + "\n", "utf-8")
    with pytest.raises(CbtError, match=r"back_ann\.csv"):
        forms.read([back], key)


def test_a_row_that_a_spreadsheet_cut_at_its_last_blanks_has_missing_scores(sheet):
    key, folder = sheet
    back = filled(folder, "ann", lambda row: 1)
    head, first, *rest = back.read_text("utf-8").splitlines()
    back.write_text("\n".join([head, first.rsplit(",", 2)[0], *rest]) + "\n", "utf-8")
    table = forms.read([back], key)
    assert table[table["rater"] == "ann"].groupby("criterion")["score"].count().to_dict() == {
        "helpfulness": 10, "relevance": 11, "structure": 11,
    }  # fmt: skip


def test_a_table_that_is_no_csv_is_an_error_in_a_sentence(sheet):
    key, folder = sheet
    back = filled(folder, "ann", lambda row: 1)
    back.write_text(back.read_text("utf-8") + "x" * 5_000_000 + "\n", "utf-8")
    with pytest.raises(CbtError, match=r"back_ann.csv cannot be read as \.csv: field larger"):
        forms.read([back], key)


@pytest.mark.parametrize("rater", [{"id": 3, "email": "ann@example.org"}, ["ann"], True, 1.5])
def test_a_rater_that_is_no_name_is_an_error(sheet, rater):
    key, folder = sheet
    code = next(iter(key["codes"]))
    (folder / "back.json").write_text(json.dumps([{"sheet": key["sheet"], "rater": rater, "code": code}]), "utf-8")
    with pytest.raises(CbtError, match=r"back.json, row 1: the rater is .*; give a name or a whole number"):
        forms.read([folder / "back.json"], key)
    with pytest.raises(CbtError, match=r"row 1: the rater is .*; give a name or a whole number"):
        table = simulated(items=2, raters=1)
        ratings.analyse(table.assign(rater=["r0", rater, *table["rater"][2:]]))
    (folder / "key.json").write_text(json.dumps(key | {"raters": [rater]}), "utf-8")
    with pytest.raises(CbtError, match="is not a key"):
        forms.read_key(folder / "key.json")


@pytest.mark.parametrize("codes", [["R0001"], {"R0001": "base"}, {"R0001": {"system": "base"}}, {"R0001": None}])
def test_a_key_whose_codes_say_no_system_and_item_is_an_error(sheet, codes):
    key, folder = sheet
    (folder / "key.json").write_text(json.dumps(key | {"codes": codes}), "utf-8")
    with pytest.raises(CbtError, match=r"key\.json is not a key"):
        forms.read_key(folder / "key.json")


def test_raters_and_posts_with_numbers_for_names_are_those_names():
    table = simulated(items=4, raters=3)
    numbers = table.assign(rater=table["rater"].str[1:].astype(int), item=table["item"].str[1:].astype(int))
    analysis = ratings.analyse(numbers, resamples=50)
    assert analysis.raters["rater"].tolist() == ["0", "1", "2"]
    assert analysis.differences["posts"].tolist() == [4]
    mixed = numbers.astype({"rater": object})
    mixed.loc[mixed["rater"] == 1, "rater"] = "0"
    with pytest.raises(CbtError, match="0 rated 0 of base twice"):
        ratings.analyse(mixed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("structure", "strcture"), "no column 'structure', only 'sheet, rater, code, "),
        (lambda text: text.replace(",", ":"), "no column 'sheet', only 'sheet:rater:code:"),
    ],
)
def test_a_column_that_is_not_there_is_an_error_and_no_missing_score(sheet, change, message):
    key, folder = sheet
    back = filled(folder, "ann", lambda row: 1)
    back.write_text(change(back.read_text("utf-8")), "utf-8")
    with pytest.raises(CbtError, match=f"back_ann.csv has {message}"):
        forms.read([back], key)


def test_a_file_of_another_sheet_or_sent_twice_is_refused(sheet, tmp_path):
    key, folder = sheet
    back = filled(folder, "ann", lambda row: 1)
    with pytest.raises(CbtError, match=r"ann rated R[0-9]+ already in .*keep one"):
        forms.read([back, back], key)
    other = forms.make(POSTS, ANSWERS, ["ann"], tmp_path / "other", seed=4)
    with pytest.raises(CbtError, match="belongs to sheet"):
        forms.read([back], other)


def test_what_argilla_and_label_studio_send_back_is_read_like_a_form(sheet):
    key, folder = sheet
    settings = json.loads((folder / "argilla/.argilla/settings.json").read_text("utf-8"))
    assert [q["name"] for q in settings["questions"]] == [c.id for c in forms.CRITERIA]
    assert all([o["value"] for o in q["settings"]["options"]] == ["0", "1", "2"] for q in settings["questions"])
    records = json.loads((folder / "argilla/records.json").read_text("utf-8"))
    assert {record["id"] for record in records} == set(key["codes"])
    for record in records:  # as dataset.records.to_json writes them: scores are labels, a user is an id
        users = [{"value": "2", "user_id": "user-1"}, {"value": "0", "user_id": "user-2"}]
        record |= {
            "responses": {"relevance": users, "helpfulness": users[:1]},
            "suggestions": {},
            "status": "completed",
        }
    (folder / "back.json").write_text(json.dumps(records), "utf-8")
    table = forms.read([folder / "back.json"], key)
    assert set(table["rater"]) == {"user-1", "user-2"} and len(table) == 2 * 3 * 11
    table = table.dropna()
    assert table.groupby(["rater", "criterion"])["score"].agg(["min", "max", "size"]).to_dict("index") == {
        ("user-1", "helpfulness"): {"min": 2, "max": 2, "size": 11},
        ("user-1", "relevance"): {"min": 2, "max": 2, "size": 11},
        ("user-2", "relevance"): {"min": 0, "max": 0, "size": 11},
    }
    tasks = json.loads((folder / "label_studio.json").read_text("utf-8"))
    minimal = [{**task["data"], "id": n, "annotator": 1, "structure": "1"} for n, task in enumerate(tasks, 1)]
    (folder / "min.json").write_text(json.dumps(minimal), "utf-8")
    table = forms.read([folder / "min.json"], key)
    analysis = ratings.analyse(table, resamples=20)
    assert set(analysis.means["criterion"]) == {"structure"}
    assert analysis.notes[0].startswith("relevance: there is not one rating")
    table = table.dropna()
    assert set(table["criterion"]) == {"structure"} and set(table["score"]) == {1} and len(table) == 11


def test_a_whole_number_written_as_a_table_program_does_is_that_number(sheet):
    key, folder = sheet
    assert set(forms.read([filled(folder, "ann", lambda row: "1.0")], key)["score"].dropna()) == {1}


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from(["", "0", "1", "2"]), min_size=11, max_size=11),
    st.sampled_from(["utf-8", "utf-8-sig", "gbk"]),
    st.sampled_from(",;\t"),
    st.sampled_from(["\n", "\r\n"]),
)
def test_a_form_that_a_chinese_or_european_spreadsheet_saved_holds_the_same_scores(sheet, scores, encoding, mark, end):
    key, folder = sheet
    told = dict(zip(key["codes"], scores, strict=True))
    plain = filled(folder, "ann", lambda row: told[row["code"]])
    expected = forms.read([plain], key)
    rows = pd.read_csv(plain, dtype=str, keep_default_na=False)
    text = rows.to_csv(sep=mark, index=False, lineterminator=end)
    plain.write_bytes(text.encode(encoding))
    pd.testing.assert_frame_equal(forms.read([plain], key), expected)
    assert expected["score"].notna().sum() == 3 * sum(score != "" for score in scores)


def test_label_studios_full_export_is_named_as_such(sheet):
    key, folder = sheet
    task = {"id": 1, "data": {"sheet": key["sheet"], "code": "R0001"}, "annotations": [{"completed_by": 1}]}
    (folder / "full.json").write_text(json.dumps([task]), "utf-8")
    with pytest.raises(
        CbtError, match=r"full\.json is Label Studio's full JSON; export the project again, as JSON-MIN"
    ):
        forms.read([folder / "full.json"], key)


@pytest.mark.parametrize(
    "content", ["[" * 20_000, '[{"responses": 3}]', '[{"responses": {"relevance": [{"value": 1}]}}]']
)
def test_a_file_that_is_no_export_is_an_error_in_a_sentence(sheet, content):
    key, folder = sheet
    (folder / "back.json").write_text(content, "utf-8")
    for path in (folder / "back.json", folder):
        with pytest.raises(
            CbtError, match=f"{re.escape(str(path))} (cannot be read|is not what Argilla|is a directory)"
        ):
            forms.read([path], key)
        with pytest.raises(CbtError, match="is not a key"):
            forms.read_key(path)


@pytest.mark.parametrize("rater", ["-ann", "a/b", "", "a" * 41])
def test_a_rater_whose_name_would_not_come_back_makes_no_form(tmp_path, rater):
    with pytest.raises(CbtError, match=r"is no name for a rater: use 1 to 40 letters"):
        forms.make(POSTS, ANSWERS, [rater], tmp_path)
    assert not list(tmp_path.iterdir())


def test_names_that_are_one_file_and_a_folder_that_is_a_file_make_no_form(tmp_path):
    with pytest.raises(CbtError, match="one name each"):  # on some disks
        forms.make(POSTS, ANSWERS, ["ann", "Ann"], tmp_path)
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(CbtError, match="cannot write the forms into"):
        forms.make(POSTS, ANSWERS, ["ann"], tmp_path / "taken")


def test_a_folder_that_holds_another_sheet_keeps_its_key(sheet):
    _, folder = sheet
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(CbtError, match=r"holds the key of sheet [0-9a-f]{10}, .*name another folder"):
        forms.make(POSTS, ANSWERS, ["ann", "bo"], folder, seed=4)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    forms.make(POSTS, ANSWERS, ["ann", "bo"], folder, seed=3)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_sheet_for_more_raters_does_not_forget_those_who_have_it(sheet):
    _, folder = sheet
    assert forms.make(POSTS, ANSWERS, ["carl"], folder, seed=3)["raters"] == ["ann", "bo", "carl"]
    assert forms.read_key(folder / "key.json")["raters"] == ["ann", "bo", "carl"]


def test_a_disk_that_is_full_leaves_the_key_of_the_forms_that_are_out(sheet, monkeypatch):
    _, folder = sheet
    before = (folder / "key.json").read_bytes()

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CbtError, match="No space left"):
        forms.make(POSTS, ANSWERS, ["carl"], folder, seed=3)
    assert (folder / "key.json").read_bytes() == before


def test_no_form_is_written_without_its_key(tmp_path):
    (tmp_path / "key.json").mkdir()
    with pytest.raises(CbtError, match=r"cannot write the forms into .*: Is a directory"):
        forms.make(POSTS, ANSWERS, ["ann"], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["key.json"]


def test_no_ok_answer_makes_no_form(tmp_path):
    with pytest.raises(CbtError, match="no answer has outcome ok"):
        forms.make(POSTS, {"base": {"q1": ("failed", "Error 500")}}, ["ann"], tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_spreadsheet_does_not_run_a_reply_as_a_formula(tmp_path):
    forms.make({"q": "=1+1"}, {"base": {"q": ("ok", "@SUM(A1)")}}, ["ann"], tmp_path)
    row = pd.read_csv(tmp_path / "form_ann.csv").iloc[0]
    assert row["post"].startswith("'=") and row["answer"].startswith("'@")


# --- analysis ----------------------------------------------------------------------------------------------------


def simulated(items=40, raters=3, shift=0.5, seed=0, systems=("base", "tuned")):
    generator = np.random.default_rng(seed)
    post, severity = generator.normal(1, 0.5, items), generator.normal(0, 0.2, raters)
    rows = [
        (
            f"r{r}",
            f"q{i}",
            system,
            "helpfulness",
            int(np.clip(round(post[i] + severity[r] + shift * (system == "tuned") + generator.normal(0, 0.4)), 0, 2)),
        )
        for i in range(items)
        for r in range(raters)
        for system in systems
    ]
    return pd.DataFrame(rows, columns=ratings.COLUMNS)


def test_a_real_difference_is_found_and_none_is_not_invented():
    found = ratings.analyse(simulated(shift=0.6), resamples=500).differences.iloc[0]
    assert (found["system"], found["base"]) == ("tuned", "base")
    assert found["low"] > 0 and found["p_holm"] < 0.05
    copy = simulated()
    copy = pd.concat([copy[copy["system"] == "base"], copy[copy["system"] == "base"].assign(system="same")])
    nothing = ratings.analyse(copy, resamples=500).differences.iloc[0]
    assert (nothing["value"], nothing["p"]) == (0, 1)


@pytest.mark.parametrize(("raters", "least"), [(2, 0.86), (3, 0.88), (6, 0.92)])
def test_intervals_of_means_cover_what_other_posts_and_other_raters_would_have_said(raters, least):
    generator, held, trials = np.random.default_rng(0), 0, 500
    for _ in range(trials):
        severity, ease = generator.normal(0, 0.25, (1, raters)), generator.normal(0, 0.5, (60, 1))
        scores = np.clip(np.rint(1 + severity + ease + generator.normal(0, 0.4, (60, raters))), 0, 2)
        scores[generator.random(scores.shape) < 0.05] = np.nan
        low, high, _ = ratings._clustered(scores, 0.95, 0)
        held += low <= 1 <= high
    assert least <= held / trials <= 0.98


@pytest.mark.parametrize(
    ("raters", "liking", "least"), [(2, 0.25, 0.86), (3, 0.25, 0.89), (5, 0.25, 0.91), (3, 0, 0.93)]
)
def test_a_difference_holds_for_other_raters_who_may_like_a_system_better(raters, liking, least):
    generator, held, trials = np.random.default_rng(0), 0, 500
    for _ in range(trials):
        taste, ease = generator.normal(0, liking, (1, raters)), generator.normal(0, 0.35, (100, 1))
        one, two = (
            1 + ease + side * taste + generator.normal(0, 0.6, (100, 1)) + generator.normal(0, 0.4, (100, raters))
            for side in (0.5, -0.5)
        )
        difference = np.clip(np.rint(one), 0, 2) - np.clip(np.rint(two), 0, 2)
        low, high, p = ratings._clustered(difference, 0.95, -2)
        assert (p < 0.05) == (not low <= 0 <= high)
        held += low <= 0 <= high
    assert least <= held / trials <= 0.985


def test_a_difference_that_never_varies_is_no_certain_one():
    table = simulated()
    table["score"] = (table["system"] == "tuned").astype(int)
    (row,) = ratings.analyse(table, resamples=50).differences.to_dict("records")
    assert row["value"] == 1 and np.isnan([row["low"], row["high"], row["p"], row["p_holm"]]).all()


def test_differences_of_all_criteria_are_corrected_together():
    table = pd.concat([simulated(seed=seed, shift=0.2).assign(criterion=f"c{seed}") for seed in range(3)])
    same = table[table["criterion"] == "c0"].assign(criterion="same", score=lambda rows: rows["system"].eq("tuned") * 1)
    found = ratings.analyse(pd.concat([table, same]), resamples=50).differences
    assert found["p"].isna().tolist() == found["p_holm"].isna().tolist() == [False, False, False, True]
    assert found["p_holm"].head(3).tolist() == pytest.approx(resampling.holm(found["p"].head(3)))
    assert (found["p_holm"].head(3) > found["p"].head(3)).any()


def test_notes_name_the_systems_and_pairs_that_one_rater_or_none_scored():
    table = simulated(raters=3, systems=("a", "b", "c"))
    raters = {"a": ["r0"], "b": ["r1", "r2"], "c": ["r1", "r2"]}
    table = table[[row.rater in raters[row.system] for row in table.itertuples()]]
    table = pd.concat([table, table[(table["system"] == "b") & (table["rater"] == "r1")].assign(rater="r0")])
    notes = ratings.analyse(table, resamples=50).notes
    assert sum("one rater" in note for note in notes) == 2
    assert any("b and a: one rater scored both" in note for note in notes)
    assert any("a: one rater scored it" in note for note in notes)
    assert sum("no rater" in note for note in notes) == 1 and any("c and a: no rater" in note for note in notes)
    assert any("only 2 raters of a system" in note for note in notes)
    analysis = ratings.analyse(table[table["system"].eq("a") | (table["system"].eq("c") & table["rater"].eq("r1"))])
    assert analysis.differences.empty and not any("hardly known" in note for note in analysis.notes)


def test_a_missing_rating_is_left_out_and_counted():
    table = simulated()
    gone = table["rater"].eq("r1") & table["item"].isin(["q1", "q2"]) & table["system"].eq("tuned")
    analysis = ratings.analyse(table.assign(score=table["score"].astype(float).mask(gone)), resamples=200)
    row = analysis.means.set_index("system").loc["tuned"]
    assert row["missing"] == 2 and row["mean"] == table[table["system"].eq("tuned") & ~gone]["score"].mean()
    assert any("2 of 240 ratings are missing" in note for note in analysis.notes)
    absent = ratings.analyse(table[~gone], resamples=200).means  # nobody asked for these
    assert (absent["missing"] == 0).all()
    pd.testing.assert_frame_equal(absent.drop(columns="missing"), analysis.means.drop(columns="missing"))


def test_raters_who_share_out_the_posts_miss_nothing():
    table = simulated()
    shared = table[table["rater"].isin(["r1", "r2"]) & (table["rater"].eq("r1") == table["item"].isin(["q1", "q2"]))]
    assert (ratings.analyse(shared, resamples=50).means["missing"] == 0).all()


def test_raters_who_contradict_each_other_on_every_post_have_no_certain_mean():
    rows = [("r1", "q1", 0), ("r1", "q2", 2), ("r2", "q1", 2), ("r2", "q2", 0)]
    table = pd.DataFrame(rows, columns=["rater", "item", "score"]).assign(system="tuned", criterion="relevance")
    (mean,) = ratings.analyse(table, resamples=50).means.to_dict("records")
    assert mean["mean"] == 1 and np.isnan([mean["low"], mean["high"]]).all()


def test_a_post_that_one_system_did_not_answer_costs_it_no_interval():
    table = simulated(items=4)
    table = table[~(table["item"].eq("q0") & table["system"].eq("base"))]
    analysis = ratings.analyse(table, resamples=500)
    assert analysis.means[["low", "high"]].notna().all(axis=None) and (analysis.means["missing"] == 0).all()
    assert not any("missing" in note for note in analysis.notes)


def test_a_harsh_rater_is_seen_as_harsh():
    table = simulated(shift=0)
    table["score"] = table["score"].where(table["rater"] != "r2", (table["score"] - 1).clip(0))
    bias = ratings.analyse(table, resamples=200).raters.set_index("rater")["bias"]
    assert bias["r2"] < -0.3 and bias["r2"] == bias.min()


def test_ratings_that_are_all_the_same_have_means_no_alpha_and_no_difference():
    analysis = ratings.analyse(simulated().assign(score=1), resamples=50)
    assert (analysis.means["mean"] == 1).all() and analysis.means[["low", "high"]].isna().all(axis=None)
    values = analysis.agreement.set_index("coefficient")["value"]
    assert values["Gwet's AC2 (quadratic)"] == 1 and values.drop("Gwet's AC2 (quadratic)").isna().all()
    (row,) = analysis.differences.to_dict("records")
    assert (row["value"], row["p_holm"]) == (0, 1) and np.isnan([row["low"], row["high"]]).all()
    assert any("the scores never vary" in note for note in analysis.notes)


def test_four_posts_have_no_interval_that_resamples_them():
    analysis = ratings.analyse(simulated(items=4), resamples=200)
    for table in (analysis.means, analysis.differences):
        assert table[["low", "high"]].notna().all(axis=None), "a t interval knows how few they are"
    for table, value in ((analysis.agreement, "value"), (analysis.raters, "bias")):
        assert table[value].notna().all() and table[["low", "high"]].isna().all(axis=None)


def test_one_rater_has_means_but_no_agreement_and_the_notes_say_so():
    analysis = ratings.analyse(simulated(raters=1), resamples=200)
    assert analysis.means[["low", "high"]].notna().all(axis=None)
    assert analysis.agreement["value"].isna().all()
    assert "one rater" in analysis.notes[0]


def test_ratings_that_agree_by_chance_come_with_a_warning():
    table = simulated()
    table["score"] = np.random.default_rng(0).integers(0, 3, len(table))
    assert any("too low to conclude" in note for note in ratings.analyse(table, resamples=200).notes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.assign(score=7), "7 for helpfulness, not 0, 1 or 2"),
        (lambda table: table.assign(score=1.5), "1.5 for helpfulness, not 0, 1 or 2"),
        (lambda table: table.assign(score="2 "), "'2 ' for helpfulness, not 0, 1 or 2"),
        (lambda table: table.assign(score="２"), "'２' for helpfulness, not 0, 1 or 2"),
        (lambda table: table.assign(score=True), "True for helpfulness, not 0, 1 or 2"),
        (lambda table: table.assign(score=np.inf), "inf for helpfulness, not 0, 1 or 2"),
        (lambda table: table.assign(item=" "), "row 0 has no item"),
        (lambda table: pd.concat([table, table.head(1)]), "twice for helpfulness"),
        (lambda table: table.drop(columns="rater"), "no column 'rater'"),
        (lambda table: table.assign(score=np.nan), "not one rating"),
        (lambda table: table.assign(rater=[None, *table["rater"][1:]]), "row 0 has no rater"),
    ],
)
def test_bad_ratings_are_named(change, message):
    with pytest.raises(CbtError, match=message):
        ratings.analyse(change(simulated()))


def test_power_grows_with_items_raters_and_difference():
    table = ratings.power(simulated(), "tuned", "base", "helpfulness", items=(25, 400))
    assert (table["400"] >= table["25"]).all()
    by = table.set_index(["difference", "raters"])["25"]
    assert by[0.3, 5] > by[0.3, 1] > by[0.1, 1]
    needed = table["80%"].iloc[0]
    there = ratings.power(simulated(), "tuned", "base", "helpfulness", differences=(0.1,), items=(needed - 1, needed))
    assert there.iloc[0][str(needed - 1)] < 0.8 <= there.iloc[0][str(needed)]


def test_an_analysis_foresees_power_for_the_two_systems_rated_together_most():
    table = simulated()
    third = table[table["system"] == "base"].head(9).assign(system="third")
    analysis = ratings.analyse(pd.concat([table, third]), resamples=200)
    assert {(row.system, row.base) for row in analysis.power.itertuples()} == {("tuned", "base")}
    alone = analysis.power.drop(columns=["criterion", "system", "base"])
    pd.testing.assert_frame_equal(alone, ratings.power(table, "tuned", "base", "helpfulness"))
    for few in (simulated(raters=1), table[table["system"] == "base"], table.assign(score=1)):
        analysis = ratings.analyse(few, resamples=200)
        assert analysis.power.empty and "power" in analysis.notes[-1]


# --- the command -------------------------------------------------------------------------------------------------


def test_the_commands_make_forms_and_analyse_what_comes_back(tmp_path):
    records = corpus.load_split("test")[:6]
    for system in ("base", "tuned"):
        rows = [{"id": r.id, "outcome": "ok", "text": f"{r.answer_text[:60]}{len(system)}"} for r in records]
        rows[0] |= {"outcome": "truncated"} if system == "base" else {}
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (tmp_path / f"{system}.jsonl").write_text(lines, "utf-8")
    words = ["ratings", "sheet", f"base={tmp_path}/base.jsonl", f"tuned={tmp_path}/tuned.jsonl"]
    words += [
        "--posts",
        str(ROOT / "data/corpus/test.jsonl"),
        "--rater",
        "ann",
        "--rater",
        "bo",
        "--out",
        str(tmp_path / "s"),
    ]
    made = CliRunner().invoke(app, words)
    assert made.exit_code == 0 and "11 replies for each of 2 raters" in made.output and "1 truncated" in made.output
    score = itertools.cycle([0, 1, 2, 2])
    back = [str(filled(tmp_path / "s", rater, lambda row: next(score))) for rater in ("ann", "bo")]
    out = tmp_path / "ratings.json"
    done = CliRunner().invoke(
        app, ["ratings", "analyse", *back, "--key", str(tmp_path / "s/key.json"), "--json", str(out)]
    )
    assert done.exit_code == 0, done.output
    found = json.loads(out.read_text("utf-8"))
    assert {row["system"] for row in found["means"]} == {"base", "tuned"}
    assert {row["criterion"] for row in found["differences"]} == {criterion.id for criterion in forms.CRITERIA}
    assert len(found["power"]) == 3 * 12 and "80%" in done.output
    assert all(row["posts"] == 5 for row in found["differences"]), "a truncated reply has no rating to compare"


def test_a_name_or_an_id_that_stands_for_two_things_is_refused(tmp_path):
    records = corpus.load_split("test")[:2]
    corpus.dump(records, tmp_path / "posts.jsonl")
    corpus.dump([replace(records[0], question="另一封信")], tmp_path / "others.jsonl")
    rows = [{"id": r.id, "text": "慢慢来"} for r in records]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    words = ["ratings", "sheet", f"a={tmp_path}/a.jsonl", "--rater", "ann", "--out", f"{tmp_path}/s", "--posts"]
    twice = CliRunner().invoke(app, [*words, f"{tmp_path}/posts.jsonl", f"a={tmp_path}/b.jsonl"])
    assert re.search(r"a stands for .*a\.jsonl already", str(twice.exception))
    both = CliRunner().invoke(app, [*words, f"{tmp_path}/posts.jsonl", "--posts", f"{tmp_path}/others.jsonl"])
    assert f"id {records[0].id!r} is that of another post" in str(both.exception)
    assert CliRunner().invoke(app, [*words, f"{tmp_path}/posts.jsonl"]).exit_code == 0


def test_an_answer_to_a_crisis_post_is_counted_and_shown_to_no_rater(tmp_path):
    danger = next(record for record in corpus.load_split("crisis") if record.crisis)
    records = [corpus.load_split("test")[0], danger]
    corpus.dump(records, tmp_path / "posts.jsonl")
    rows = "".join(json.dumps({"id": r.id, "outcome": "ok", "text": "慢慢来"}) + "\n" for r in records)
    (tmp_path / "a.jsonl").write_text(rows, "utf-8")
    words = ["ratings", "sheet", f"a={tmp_path}/a.jsonl", "--rater", "ann", "--out", f"{tmp_path}/s", "--posts"]
    made = CliRunner().invoke(app, [*words, f"{tmp_path}/posts.jsonl"])
    assert made.exit_code == 0 and "1 replies for each of 1 raters" in made.output and "1 crisis" in made.output
    made = [path for path in (tmp_path / "s").rglob("*") if path.is_file()]
    assert made and not [path for path in made if danger.question in path.read_text("utf-8")]


def test_ones_own_questions_and_their_answers_make_a_sheet(tmp_path):
    (tmp_path / "q.csv").write_text("question,description\n睡不好,总想着工作\n吵架了,和室友\n", "utf-8")
    rows = "".join(json.dumps({"id": str(line), "outcome": "ok", "text": "慢慢来"}) + "\n" for line in (2, 3))
    (tmp_path / "a.jsonl").write_text(rows, "utf-8")
    words = ["ratings", "sheet", f"a={tmp_path}/a.jsonl", "--rater", "ann", "--out", f"{tmp_path}/s", "--posts"]
    made = CliRunner().invoke(app, [*words, f"{tmp_path}/q.csv"])
    assert made.exit_code == 0 and "2 replies for each of 1 raters" in made.output
    assert "总想着工作" in (tmp_path / "s/form_ann.csv").read_text("utf-8-sig")


def test_a_product_never_takes_the_place_of_what_it_is_made_from(tmp_path):
    for name in ("own.jsonl", "key.json", "back.csv"):
        (tmp_path / name).write_text("kept", "utf-8")
    own, key, back = (str(tmp_path / name) for name in ("own.jsonl", "key.json", "back.csv"))
    for words in (
        ["distortions", "label", own, "--out", own],
        ["score", "--hyp", own, "--ref", key, "--json", str(tmp_path / "." / "own.jsonl")],
        ["ratings", "analyse", back, "--key", key, "--json", key],
    ):
        done = CliRunner().invoke(app, words)
        assert isinstance(done.exception, CbtError) and "is what is read: name another file" in str(done.exception)
    assert {path.read_text("utf-8") for path in tmp_path.iterdir()} == {"kept"}


def test_a_form_of_a_text_with_zero_bytes_can_be_read_when_it_comes_back(tmp_path):
    forms.make({"1": "睡\0不着"}, {"a": {"1": ("ok", "先别\0看钟。")}}, ["ann"], tmp_path)
    found = forms.read([tmp_path / "form_ann.csv"], forms.read_key(tmp_path / "key.json"))
    assert found["score"].isna().all() and "睡不着" in (tmp_path / "form_ann.csv").read_text("utf-8")
