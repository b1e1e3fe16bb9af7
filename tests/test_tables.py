"""A reader's own file: read in the forms people have, refused with the line or the two nearest names."""

import json

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cbtlib import CbtError, answers, corpus, formats, pairing, questions, reading, report, safety, tables

PAIR = {"question": "question", "answer": "answer"}
ROWS = [{"question": "睡不着怎么办？", "answer": "先别看钟。\n再说别的。"}, {"question": "他没回我", "answer": ""}]


def written(path, rows, kind, encoding):
    if kind == "jsonl":
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    elif kind == "json":
        text = json.dumps(rows, ensure_ascii=False)
    else:
        mark = {"csv": ",", "tsv": "\t", "semicolon": ";"}[kind]
        quoted = [[f'"{value.replace(chr(34), chr(34) * 2)}"' for value in row.values()] for row in rows]
        text = "\n".join(mark.join(cells) for cells in [list(rows[0]), *quoted]) + "\n"
    path.write_text(text, encoding)
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gbk"])
@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv", "semicolon"])
def test_every_form_and_encoding_gives_the_same_table(tmp_path, kind, encoding):
    table = tables.read(written(tmp_path / "mine", ROWS, kind, encoding), PAIR, optional=["id", "outcome"])
    assert table[["question", "answer"]].to_dict("records") == ROWS
    assert table["id"].is_unique and "outcome" not in table


@given(st.lists(st.tuples(*[st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1)] * 2), min_size=1))
def test_what_was_written_is_what_is_read(tmp_path_factory, pairs):
    path = tmp_path_factory.mktemp("table") / "t.csv"
    rows = [{"question": question, "answer": answer} for question, answer in pairs]
    assert tables.read(written(path, rows, "csv", "utf-8"), PAIR).to_dict("records") == rows


NAMES = ("questionID", "question", "description", "answer", "outcome", "label")


@settings(max_examples=60)
@given(
    st.lists(st.sampled_from([str.lower, str.upper, str.title, lambda name: name]), min_size=6, max_size=6),
    st.sampled_from(["", " "]),
    st.sampled_from(["", '"']),
    st.sampled_from(",\t;"),
    st.sampled_from(["utf-8", "utf-8-sig", "gbk"]),
)
def test_every_command_reads_the_header_that_r_or_a_spreadsheet_writes(
    tmp_path_factory, cases, blank, quote, mark, encoding
):
    folder = tmp_path_factory.mktemp("f")
    names = [case(name) for case, name in zip(cases, NAMES, strict=True)]
    cells = [["7", "睡不着", "三天了", "先别看钟。", "ok", "0"], ["8", "想死", "", "", "failed", "1"]]
    text = "\n".join(mark.join(f"{quote}{cell}{quote}" for cell in row) for row in cells)
    head = mark.join(f"{quote}{blank}{name}{blank}{quote}" for name in names)
    path = folder / "mine.csv"
    path.write_text(f"{head}\n{text}\n", encoding)
    assert [(one.id, one.question, one.description) for one in questions.read_questions(path)] == [
        ("7", "睡不着", "三天了"), ("8", "想死", ""),
    ]  # fmt: skip
    table = tables.read(path, PAIR, optional=["id", "description", "outcome"])
    assert table["id"].tolist() == ["7", "8"] and tables.posts(table).tolist() == ["睡不着\n三天了", "想死"]
    assert tables.outcomes(table, "answer") == ["ok", "failed"]
    assert [(x.id, x.text, x.outcome) for x in formats.load(path)] == [
        ("7", "睡不着\n三天了", "ok"), ("8", "想死", "failed"),
    ]  # fmt: skip
    assert pairing.read(path).texts == {"7": ("ok", "先别看钟。"), "8": ("failed", "")}
    for text, label in ((None, None), (names[1], names[5]), ("question", "label")):
        posts, crisis = safety.read_labelled(path, text, label)
        assert [post[:2] for post in posts] == ["睡不", "想死"] and crisis == [False, True]


@pytest.mark.parametrize("mark", [",", "\t", ";"])
def test_columns_at_the_end_without_a_name_or_a_cell_are_none(tmp_path, mark):
    path = tmp_path / "mine.csv"
    path.write_text("id,question,answer,,\n1,a,b,,\n2,c,d\n3,e,f, ,\n".replace(",", mark), "utf-8")
    assert [row for _, row in reading.rows(path)] == [
        {"id": "1", "question": "a", "answer": "b"},
        {"id": "2", "question": "c", "answer": "d"},
        {"id": "3", "question": "e", "answer": "f"},
    ]
    for text in (
        "id,question,answer,,\n1,a,b,,x\n",
        "id,question,answer,,\n1,a, and b,c,,\n",
        "question,answer\na, b,\n",
    ):
        path.write_text(text.replace(",", mark), "utf-8")
        with pytest.raises(CbtError, match="line 2: has another number of cells than the header's"):
            tables.read(path, PAIR)


def test_blank_lines_above_a_header_are_counted_and_no_header(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("\n\r\nquestion,answer\na,b\nc\n", "utf-8")
    (first, row), (line, problem) = reading.rows(path)
    assert (first, row) == (4, {"question": "a", "answer": "b"}) and line == 5 and "the header's 2" in problem.what


def test_an_outcome_counts_whatever_the_case_of_its_name_in_json(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"Question": "a", "Answer": "Error 500", "Outcome": "failed"}\n', "utf-8")
    assert tables.outcomes(tables.read(path, PAIR, optional=["outcome"]), "answer") == ["failed"]
    path.write_text('{"ID": "1", "Outcome": "failed", "Text": "Error 500"}\n', "utf-8")
    assert pairing.read(path).texts == {"1": ("failed", "")}


@pytest.mark.parametrize(
    "row",
    [
        {
            "messages": [{"role": "user", "content": "睡不着"}, {"role": "assistant", "content": "我在"}],
            "outcome": "truncated",
        },
        {"question": "睡不着", "description": "", "answers": [{"answer_text": "我在", "Outcome": "truncated"}]},
        {"instruction": "睡不着", "output": "我在", "Outcome": "truncated"},
    ],
)
def test_every_form_keeps_the_outcome_that_its_row_gives(tmp_path, row):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([row], ensure_ascii=False), "utf-8")
    assert [one.outcome for one in formats.load(path)] == ["truncated"]


def test_an_answer_without_its_question_is_named():
    asked = pd.DataFrame({"id": ["1"], "question": ["a"]})
    answered = pd.DataFrame({"id": ["1", "2"], "answer": ["A", "B"]})
    with pytest.raises(CbtError, match="1 of 2 ids have no question, '2' first"):
        tables.join(asked, answered)


def test_the_names_of_json_stay_as_they_are(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"Question": "a", "question": "b"}\n', "utf-8")
    assert list(reading.rows(path)) == [(1, {"Question": "a", "question": "b"})]


def test_a_header_that_is_never_closed_is_no_table(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text('"question,answer\na,b\n', "utf-8")
    for read in (tables.read_rows, questions.read_questions, lambda file: formats.read(file, "csv")):
        with pytest.raises(CbtError, match=r"mine\.csv, line 1: is no header of a table: unexpected end of data"):
            read(path)


def test_a_missing_column_is_named_with_the_two_nearest(tmp_path):
    path = written(tmp_path / "mine.csv", [{"nr": "1", "Question ": "a", "anwser": "b", "topic": "c"}], "csv", "utf-8")
    with pytest.raises(CbtError) as error:
        tables.read(path, PAIR)
    assert "mine.csv: column 'answer' is missing; the nearest names are 'anwser' and " in str(error.value)
    assert "-p answer_column=anwser" in str(error.value) and "'question' is missing" not in str(error.value)
    assert tables.read(path, PAIR | {"answer": "anwser"})["answer"].tolist() == ["b"]


def test_what_others_call_a_column_is_suggested_and_never_taken(tmp_path):
    path = written(tmp_path / "mine.csv", [{"nr": "1", "问题": "a", "response": "b"}], "csv", "utf-8")
    with pytest.raises(CbtError) as error:
        tables.read(path, PAIR)
    assert "-p question_column=问题" in str(error.value) and "-p answer_column=response" in str(error.value)
    one = written(tmp_path / "one.jsonl", [{"content": "a"}], "jsonl", "utf-8")
    with pytest.raises(CbtError, match="its only column is 'content'"):
        tables.read(one, {"question": "question"})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "holds no rows"),
        ("question,answer\n", "holds no rows"),
        ("question,answer\na,b\nc\n", "line 3: has another number of cells than the header's 2"),
        ("question,answer\na,b,c\n", "line 2: has another number of cells than the header's 2"),
        ('question,answer\na,"b\nc,d\n', "line 3: is no table row: unexpected end of data"),
        ("question,answer\na," + "b" * 5_000_000 + "\n", "line 2: is no table row: field larger"),
        ("question,question\na,b\n", "'question' stands twice"),
        ("question,answer\n,b\n", "line 2, column question: is empty"),
        ("id,question,answer\n7,a,b\n7,c,d\n", "line 3, column id: '7' stands on line 2 already"),
        ('{"question": "a", "answer": ["b"]}\n', "line 1, column answer: is list, not text"),
        ('{"question": "a", "answer": "b"\n', "line 1: is no JSON object"),
        ('["a"]', "line 1: is JSON, but a str in place of an object"),
        ("[", "is no JSON: "),
        ("[" * 100_000, "is no JSON: "),
        ('[{"question": "a", "answer": "b", "answer": "c"}]', "the key 'answer' stands twice"),
        ('[{"question": "a", "answer": NaN}]', "NaN is no JSON value"),
        ("PK\x03\x04", "zip"),
    ],
)
def test_what_is_no_table_is_refused_with_its_place(tmp_path, content, said):
    path = tmp_path / "mine.csv"
    path.write_text(content, "utf-8")
    with pytest.raises(CbtError) as error:
        tables.read(path, PAIR, optional=["id"])
    assert said in str(error.value) and "mine.csv" in str(error.value)


def test_a_thousand_bad_rows_do_not_flood_the_screen(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("question,answer\n" + ",b\n" * 1000, "utf-8")
    with pytest.raises(CbtError, match="1000 rows cannot be used") as error:
        tables.read(path, PAIR)
    assert str(error.value).count("\n") == tables.SHOWN + 1 and "990 more" in str(error.value)


def test_an_empty_answer_failed_and_an_unknown_outcome_is_refused(tmp_path):
    rows = [{"question": "a", "answer": text, "outcome": outcome} for text, outcome in
            [("b", "ok"), (" ", "ok"), ("b", ""), ("", "refused"), ("half", "truncated")]]  # fmt: skip
    table = tables.read(written(tmp_path / "m.csv", rows, "csv", "utf-8"), PAIR, optional=["outcome"])
    assert tables.outcomes(table, "answer") == ["ok", "failed", "ok", "refused", "truncated"]
    table.loc[table.index[0], "outcome"] = "fine"
    with pytest.raises(CbtError, match=f"line 2, column outcome: 'fine' is none of {report.OUTCOMES[0]}"):
        tables.outcomes(table, "answer")


E429 = "Error code: 429 - {'error': {'message': 'Rate limit reached for gpt-4 in organization org-abc on tokens per min"
E429 += " (TPM): Limit 10000, Used 9500, Requested 1200.', 'type': 'tokens', 'code': 'rate_limit_exceeded'}}"


def test_an_error_message_or_a_refusal_is_no_answer_whatever_its_row_says():
    assert answers.outcome_of(E429, "ok") == "failed" and answers.outcome_of("服务繁忙，请稍后重试", "ok") == "failed"
    assert answers.outcome_of("抱歉，我无法回答这个问题。", "ok") == "refused"
    assert answers.outcome_of(E429, "truncated") == "truncated" and answers.outcome_of(None, "ok") == "failed"
    letters = [record.answer_text for record in corpus.load_split("test")]
    assert {answers.outcome_of(text, "ok") for text in letters} == {"ok"}


@pytest.mark.parametrize("outcome", ["ok", "", None])
def test_error_messages_in_half_of_a_baseline_are_counted_as_failed(tmp_path, outcome):
    given = {} if outcome is None else {"outcome": outcome}
    rows = [{"id": str(i), "question": "睡不着", "answer": ("先别看钟。", E429)[i % 2]} | given for i in range(6)]
    table = tables.read(written(tmp_path / "m.csv", rows, "csv", "utf-8"), PAIR, optional=["id", "outcome"])
    assert tables.outcomes(table, "answer") == ["ok", "failed"] * 3
    if outcome != "":
        assert [found for found, _ in pairing.read(tmp_path / "m.csv").texts.values()] == ["ok", "failed"] * 3
        lines = [{"id": row["id"], "text": row["answer"]} | given for row in rows]
        path = written(tmp_path / "m.jsonl", lines, "jsonl", "utf-8")
        assert [found for found, _ in pairing.read(path).texts.values()] == ["ok", "failed"] * 3


def test_the_last_of_two_outcomes_in_a_json_list_does_not_win(tmp_path):
    path = tmp_path / "m.json"
    path.write_text('[{"question": "a", "answer": "b", "outcome": "failed", "outcome": "ok"}]', "utf-8")
    with pytest.raises(CbtError, match="the key 'outcome' stands twice"):
        tables.read(path, PAIR, optional=["outcome"])


def test_questions_and_answers_meet_by_id(tmp_path):
    questions = tables.read(
        written(tmp_path / "q.csv", [{"id": "1", "question": "a"}, {"id": "2", "question": "b"}], "csv", "utf-8"),
        {"question": "question"},
        optional=["id"],
    )
    both = [{"id": 2, "text": "B"}, {"id": 1, "text": "A"}]
    answers = tables.read(written(tmp_path / "a.jsonl", both, "jsonl", "utf-8"), {"answer": "text"}, optional=["id"])
    assert tables.join(questions, answers)["answer"].tolist() == ["A", "B"]
    with pytest.raises(CbtError, match="1 of 2 ids have no answer, '1' first"):
        tables.join(questions, answers[answers["id"] == "2"])


@pytest.mark.parametrize("nothing", ["nan", "N/A", "None"])
def test_a_question_that_says_nothing_is_none(tmp_path, nothing):
    path = tmp_path / "q.csv"
    path.write_text(f"question,description\n睡不着,{nothing}\n{nothing},{nothing}\n", "utf-8")
    with pytest.raises(CbtError, match="line 3: no question and no description"):
        questions.read_questions(path)
    path.write_text(f"text,label\n睡不着,none\n{nothing},none\n", "utf-8")
    samples, problems = formats.read(path)
    assert [one.text for one in samples] == ["睡不着"] and [one.line for one in problems] == [3]


def test_a_row_of_a_recipe_that_tells_of_a_failure_has_failed(tmp_path):
    path = tmp_path / "mine.jsonl"
    rows = [{"id": k, "question": "睡不着", "answer": "先别看钟。"} for k in range(3)]
    rows[1]["finish_reason"], rows[2]["error"] = "length", "ReadTimeout"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    table = tables.read(path, PAIR, optional=["id", "outcome"])
    assert tables.outcomes(table, "answer") == ["ok", "truncated", "failed"]


def test_in_a_table_of_two_systems_each_has_failures_of_its_own(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("question,a,b,b_finish_reason,a_error\n问,甲,乙,length,\n问题,甲乙,乙甲,stop,Timeout\n", "utf-8")
    table = tables.read(path, {"question": "question", "a": "a", "b": "b"}, ["id", "a_outcome", "b_outcome"])
    assert tables.outcomes(table, "a", "a_outcome") == ["ok", "failed"]
    assert tables.outcomes(table, "b", "b_outcome") == ["truncated", "ok"]
