"""The recipes on a reader's own files, good and wrong, as the README says to run them."""

import csv
import json

import pandas as pd
import pytest

from cbtlib import ROOT

ROWS = [json.loads(line) for line in (ROOT / "data/samples/two_systems.jsonl").read_text("utf-8").splitlines()]
E429 = "Error code: 429 - {'error': {'message': 'Rate limit reached for gpt-4 in organization org-abc on tokens per min"
E429 += " (TPM): Limit 10000, Used 9500, Requested 1200.', 'type': 'tokens', 'code': 'rate_limit_exceeded'}}"


@pytest.fixture(scope="module")
def copy(copy_repository):
    return copy_repository()


def recipe(copy, name, **parameters):
    words = [word for key, value in parameters.items() for word in ("-p", f"{key}={value}")]
    return copy.cbt("run", f"notebooks/recipe_{name}.py", "--profile", "smoke", "--results", "results/mine", *words)


def table(path, rows, encoding="utf-8"):
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.parametrize(
    ("name", "missing"), [("inspect", "answer"), ("compare", "baseline"), ("tune", "answer")], ids=lambda value: value
)
def test_a_wrong_file_is_one_sentence_with_the_missing_column_and_two_names(copy, tmp_path, name, missing):
    path = table(tmp_path / "wrong.csv", [{"question": "a", "replies": "b", "baselin": "c", "topic": "d"}])
    done = recipe(copy, name, data=path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    said = done.stderr[done.stderr.index(f"cbt: recipe_{name}") :]
    assert f"column '{missing}' is missing; the nearest names are " in said and str(path) in said
    assert f"-p {missing}_column={'baselin' if missing == 'baseline' else 'replies'}" in said


def test_a_spreadsheet_in_gbk_with_names_of_its_own_is_inspected(copy, tmp_path):
    rows = [{"问题": row["question"] + row["description"], "回答": row["cbt"]} for row in ROWS]
    path = table(
        tmp_path / "mine.csv", [*rows, {"问题": "还有一个", "回答": ""}, {"问题": "再问一个", "回答": E429}], "gbk"
    )
    done = recipe(copy, "inspect", data=path, question_column="问题", answer_column="回答", resamples=50)
    assert done.returncode == 0, done.stderr[-2000:]
    folder = copy.root / "results/mine/smoke/recipe_inspect"
    content = json.loads((folder / "metrics.json").read_text("utf-8"))
    assert content["outcomes"]["the file"]["ok"] == len(ROWS) and content["outcomes"]["the file"]["failed"] == 2
    assert content["numbers"]["part_challenge"]["value"] > 0.9
    assert len(pd.read_csv(folder / "answers.csv")) == len(ROWS)


def test_two_files_of_answers_meet_their_questions_by_id(copy, tmp_path):
    for name in ("baseline", "cbt"):
        lines = [{"id": row["id"], "outcome": "ok", "text": row[name]} for row in ROWS]
        lines[0] |= {"outcome": "refused", "text": ""} if name == "cbt" else {}
        lines[1] |= {"text": E429} if name == "baseline" else {}
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in reversed(lines)))
    questions = table(tmp_path / "q.csv", [{"id": row["id"], "question": row["question"]} for row in ROWS])
    files = {f"{name}_file": tmp_path / f"{name}.jsonl" for name in ("baseline", "cbt")}
    done = recipe(copy, "compare", data=questions, answer_column="text", resamples=50, raters=1, **files)
    assert done.returncode == 0, done.stderr[-2000:]
    folder = copy.root / "results/mine/smoke/recipe_compare"
    content = json.loads((folder / "metrics.json").read_text("utf-8"))
    assert content["outcomes"]["cbt"]["refused"] == 1 and content["outcomes"]["baseline"]["failed"] == 1
    assert content["numbers"]["shared"]["value"] == len(ROWS) - 2, "compared is what both answered"
    form = (folder / "forms/form_rater-1.html").read_text("utf-8")
    assert "baseline" not in form and "R0001" in form
