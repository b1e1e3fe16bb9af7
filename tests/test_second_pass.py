"""Agreement of two labelling passes: closed forms, and no number from a line that does not fit."""

import json

import pytest
from sklearn.metrics import cohen_kappa_score

from cbtlib import ROOT, CbtError, corpus, second_pass
from cbtlib.corpus import Label, Record


def record(index: int, *kinds: str) -> Record:
    return Record(f"r-{index}", "train", "work", "q", "一段足够长的话", tuple(Label(kind, 0, 3) for kind in kinds), {})


FIRST = [record(0, "labelling"), record(1), record(2, "labelling", "magnification"), record(3), record(4, "labelling")]
SECOND = [["labelling"], [], ["labelling"], ["labelling"], []]


def put(tmp_path, rows):
    path = tmp_path / "second.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def line(index: int, kinds: list[str]) -> dict[str, object]:
    return {"id": f"r-{index}", "distortions": [{"type": kind, "start": 0, "end": 3} for kind in kinds]}


def test_kappa_is_that_of_scikit_learn_and_counts_are_shown(tmp_path):
    labels = second_pass.read(put(tmp_path, [line(i, kinds) for i, kinds in enumerate(SECOND)]), FIRST)
    table = second_pass.compare(FIRST, labels, resamples=100)
    row = table.loc["labelling"]
    assert (row["first"], row["second"], row["both"]) == (3, 3, 2)
    assert row["kappa"] == pytest.approx(cohen_kappa_score([1, 0, 1, 0, 1], [1, 0, 1, 1, 0]))
    assert row["f1"] == pytest.approx(2 / 3)
    assert table.loc["magnification", "both"] == 0


def test_posts_of_the_second_pass_only_are_compared(tmp_path):
    labels = second_pass.read(put(tmp_path, [line(0, ["labelling"]), line(1, [])]), FIRST)
    table = second_pass.compare(FIRST, labels, resamples=50)
    assert table.loc["any", "first"] == 1 and table.loc["any", "kappa"] == 1


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([line(0, []), line(9, [])], "line 2, field id: 'r-9' is no record"),
        ([line(0, []), line(0, [])], "is there twice"),
        ([line(0, ["worry"]), line(1, [])], "known types"),
        ([{"id": "r-0"}], "must be a list"),
        ([line(0, []) | {"outcome": "failed"}, line(1, [])], "line 1, field outcome: says that it is no data"),
        ([line(0, [])], "at least two"),
        (
            [{"id": "r-0", "distortions": [{"type": "labelling", "start": 3, "end": 70}]}, line(1, [])],
            "line 1, field distortions: holds a span",
        ),
        ([{"id": "r-0", "distortions": [{"type": "labelling", "start": "0", "end": 2}]}], "holds a span"),
    ],
)
def test_a_line_that_does_not_fit_is_an_error(tmp_path, rows, words):
    with pytest.raises(CbtError, match=words):
        second_pass.read(put(tmp_path, rows), FIRST)


def test_spans_are_compared_character_by_character_where_both_see_the_type(tmp_path):
    rows = [line(0, ["labelling"]), line(2, ["labelling"]), line(4, []), line(3, ["labelling"])]
    rows[0]["distortions"][0] |= {"start": 1, "end": 5}
    table = second_pass.spans(FIRST, second_pass.read(put(tmp_path, rows), FIRST))
    assert list(table.index) == [("r-0", "labelling"), ("r-2", "labelling")]
    assert table.loc[("r-0", "labelling")].tolist() == [3, 4, 2, pytest.approx(2 / 5)]
    assert table.loc[("r-2", "labelling"), "jaccard"] == 1


def test_the_books_second_pass_covers_at_least_120_posts():
    records = [record for split in ("train", "dev", "test") for record in corpus.load_split(split)]
    assert len(second_pass.read(ROOT / "data" / "second_labels.jsonl", records)) >= 120
