"""Reading the corpus: what is right is kept whole, what is wrong is named by file, line and field, nothing vanishes."""

import csv
import json
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from cbtlib import ROOT, CbtError, corpus, reading
from cbtlib.cli import app

GOOD = {
    "id": "t-1",
    "split": "train",
    "topic": "work",
    "question": "汇报念错一个数字",
    "description": "念错一个数字，全场都觉得我不行。",
    "distortions": [{"type": "mind_reading", "start": 7, "end": 15, "note": "no one said so"}],
    "answer": {part: f"{part} 的一段话？" for part in corpus.PARTS},
    "crisis": False,
    "gloss": {"question": "One wrong figure", "key_thought": "All think I am no good."},
}


def write(path: Path, *items: object) -> Path:
    path.write_text("".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items), encoding="utf-8")
    return path


def changed(**fields: object) -> dict[str, object]:
    return {**GOOD, **fields}


def test_a_good_record_keeps_every_field(tmp_path):
    second = dict.fromkeys(corpus.PARTS, "另一封信")
    (record,) = corpus.load(write(tmp_path / "a.jsonl", changed(second_answer=second)))
    assert record.post == "汇报念错一个数字\n念错一个数字，全场都觉得我不行。"
    assert record.quote(record.distortions[0]) == "全场都觉得我不行"
    assert record.answer_text.split("\n")[1] == "key_thought 的一段话？"
    assert record.second_answer_text.count("另一封信") == 5
    assert record.types == {"mind_reading"}


def test_writing_and_reading_again_changes_nothing(tmp_path):
    records = corpus.load(write(tmp_path / "a.jsonl", GOOD, changed(id="t-2", distortions=[])))
    corpus.dump(records, tmp_path / "b.jsonl")
    assert corpus.load(tmp_path / "b.jsonl") == records


def test_the_parts_are_put_in_order(tmp_path):
    answer = dict(reversed(GOOD["answer"].items()))
    (record,) = corpus.load(write(tmp_path / "a.jsonl", changed(answer=answer)))
    assert tuple(record.answer) == corpus.PARTS


def test_a_crisis_record_holds_a_referral_and_no_cbt_letter(tmp_path):
    good = changed(split="crisis", crisis=True, answer={"referral": "请先联系身边的人。"}, distortions=[])
    assert corpus.load(write(tmp_path / "a.jsonl", good))[0].answer_text == "请先联系身边的人。"
    with pytest.raises(CbtError, match=r"answer\.referral: is missing"):
        corpus.load(write(tmp_path / "b.jsonl", changed(crisis=True)))


@pytest.mark.parametrize(
    ("bad", "field", "words"),
    [
        ({k: v for k, v in GOOD.items() if k != "answer"}, "answer", "is missing"),
        (changed(question=7), "question", "must be text, not a int"),
        (changed(description="  ", distortions=[]), "description", "is empty"),
        (changed(description=None), "description", "not null"),
        (changed(topic="wrok"), "topic", "'wrok'"),
        (changed(split="valid"), "split", "train, dev, test, crisis"),
        (changed(crisis="no"), "crisis", "true or false"),
        (changed(second_answr={}), "second_answr", "is not a field"),
        (changed(answer={**GOOD["answer"], "strategy": ""}), "answer.strategy", "is empty"),
        (changed(answer={**GOOD["answer"], "sixth": "x"}), "answer.sixth", "unknown"),
        (changed(answer="one long letter"), "answer", "must be an object"),
        (changed(gloss={"question": None}), "gloss.question", "must be text"),
        (changed(distortions={}), "distortions", "must be a list"),
        (changed(distortions=[{"type": "worry", "start": 0, "end": 2}]), "distortions[0].type", "'worry'"),
        (changed(distortions=[{"type": "labelling", "start": 0, "end": 99}]), "distortions[0]", "outside"),
        (changed(distortions=[{"type": "labelling", "start": 3, "end": 3}]), "distortions[0]", "outside"),
        (changed(distortions=[{"type": "labelling", "start": -2, "end": 3}]), "distortions[0]", "outside"),
        (changed(distortions=[{"type": "labelling", "start": "0", "end": 3}]), "distortions[0]", "whole numbers"),
        (changed(distortions=[{"type": "labelling", "start": False, "end": True}]), "distortions[0]", "whole numbers"),
        (
            changed(distortions=[{"type": "labelling", "start": 0, "end": 4, "quote": "我不行"}]),
            "distortions[0]",
            "not '我不行'",
        ),
        (changed(distortions=GOOD["distortions"] * 2), "distortions", "twice"),
    ],
)
def test_a_defect_is_named_by_line_and_field(tmp_path, bad, field, words):
    path = write(tmp_path / "a.jsonl", GOOD, bad | {"id": "t-2"})
    with pytest.raises(corpus.CorpusError) as caught:
        corpus.load(path)
    (problem,) = caught.value.problems
    assert (problem.line, problem.field) == (2, field)
    assert words in problem.what
    assert str(path) in str(caught.value) and f"line 2, field {field}" in str(caught.value)


def test_every_mistake_of_a_file_is_listed_and_the_rest_is_kept(tmp_path):
    path = tmp_path / "a.jsonl"
    lines = [
        json.dumps(GOOD),
        "{not json",
        "[1, 2]",
        json.dumps(changed(id="t-2", topic="x", split="y")),
        json.dumps(GOOD),
        "",
        '{"id": "a", "id": "b"}',
        '{"id": NaN}',
        json.dumps(changed(id="t-3")),
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    records, problems = corpus.read(path)
    assert [record.id for record in records] == ["t-1", "t-3"]
    assert [problem.line for problem in problems] == [2, 3, 4, 4, 5, 7, 8]
    assert "already the id of line 1" in problems[4].what
    assert "'id' stands twice" in problems[5].what
    assert "NaN" in problems[6].what
    with pytest.raises(CbtError, match="7 problems") as caught:
        corpus.load(path)
    assert str(caught.value).count("\n") == 7


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_byte_order_mark_gbk_and_windows_line_ends_change_nothing(tmp_path, encoding, end):
    path = tmp_path / "a.jsonl"
    path.write_bytes(end.join(json.dumps(changed(id=i), ensure_ascii=False) for i in "ab").encode(encoding))
    assert [record.question for record in corpus.load(path)] == [GOOD["question"]] * 2


def test_what_is_no_text_file_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(CbtError, match="is a directory"):
        corpus.load(tmp_path)
    with pytest.raises(CbtError, match="does not exist"):
        corpus.load(tmp_path / "none.jsonl")
    with zipfile.ZipFile(tmp_path / "zip.json", "w") as archive:
        archive.writestr("a.jsonl", json.dumps(GOOD))
    with pytest.raises(CbtError, match="zip, gzip or parquet"):
        corpus.load(tmp_path / "zip.json")
    (tmp_path / "utf16.json").write_bytes(json.dumps(GOOD).encode("utf-16"))
    with pytest.raises(CbtError, match=r"UTF-8|zero bytes"):
        corpus.load(tmp_path / "utf16.json")
    for text in ("", "\n \n"):
        (tmp_path / "empty.jsonl").write_text(text)
        with pytest.raises(CbtError, match="it is empty"):
            corpus.load(tmp_path / "empty.jsonl")


def test_an_endless_line_is_one_problem_and_the_next_line_is_read(tmp_path):
    path = tmp_path / "a.jsonl"
    with path.open("wb") as file:
        file.write(b'{"id": "' + b"x" * (2 * reading.MAX_LINE) + b'"}\n')
        file.write(json.dumps(GOOD).encode())
    records, problems = corpus.read(path)
    assert [(p.line, p.what) for p in problems] == [(1, "longer than 4 MB, so it is no record")]
    assert len(records) == 1


@settings(max_examples=60)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_any_json_is_a_record_or_a_named_problem(value):
    for field in GOOD:
        record, problems = corpus.parse({**GOOD, field: value}, 3)
        assert (record is None) == bool(problems)
        assert all(problem.line == 3 and problem.what for problem in problems)


@settings(max_examples=60)
@given(st.lists(st.booleans(), max_size=30))
def test_lines_in_are_records_kept_plus_lines_named(tmp_path_factory, lines):
    path = tmp_path_factory.mktemp("c") / "a.jsonl"
    write(path, *(changed(id=str(i)) if good else {"id": str(i)} for i, good in enumerate(lines)))
    records, problems = corpus.read(path)
    assert len(records) + len({problem.line for problem in problems if problem.line}) == len(lines)


@pytest.mark.parametrize("command", ["export", "quality"])
def test_no_command_takes_a_record_of_two_files_twice(tmp_path, command):
    one, two = write(tmp_path / "one.jsonl", GOOD), write(tmp_path / "two.jsonl", GOOD | {"id": "t-2"}, GOOD)
    out = ["--out", str(tmp_path / "out")] if command == "export" else []
    for second in (one, two):
        error = CliRunner().invoke(app, ["corpus", command, str(one), str(second), *out]).exception
        assert isinstance(error, CbtError) and f"{second}, field id: 't-1' is an id of {one} too" in str(error)
    assert not (tmp_path / "out").exists()
    write(two, GOOD | {"id": "t-2"})
    assert [record.id for record in corpus.load_all([one, two])] == ["t-1", "t-2"]


def test_the_books_own_splits_load_and_stay_apart():
    splits = {name: corpus.load_split(name) for name in ("train", "dev", "test")}
    ids = [record.id for records in splits.values() for record in records]
    assert len(ids) == len(set(ids)) >= 60
    questions = [record.question for records in splits.values() for record in records]
    assert len(questions) == len(set(questions))
    assert {kind for record in splits["test"] for kind in record.types} == set(corpus.TYPES)
    with pytest.raises(CbtError, match="no split 'valid'"):
        corpus.load_split("valid")


def test_the_taxonomy_has_the_types_in_order():
    with (ROOT / "data" / "taxonomy.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(row["id"] for row in rows) == corpus.TYPES
    needed = [name for name in rows[0] if name not in ("socialcd3k", "cbt_bench", "c2d2")]
    assert all(row[name].strip() for row in rows for name in needed)
    counts = {
        name: len([x for row in rows for x in row[name].split("|") if x])
        for name in ("socialcd3k", "cbt_bench", "c2d2")
    }
    assert counts == {"socialcd3k": 12, "cbt_bench": 10, "c2d2": 7}
