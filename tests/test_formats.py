"""Other people's files: tiny fixtures in each form, read whole or refused in a sentence with its place."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cbtlib import CbtError, corpus, exports, formats, label_figures, pairing, tables
from cbtlib.answers import OUTCOMES

PSYQA = [
    {
        "question": "下雨没带伞",
        "description": "鞋湿了一天",
        "keywords": "情绪",
        "questionID": 7,
        "answers": [
            {
                "answer_text": "先换双鞋。",
                "has_label": "True",
                "labels_sequence": "[{'start': 0, 'end': 4, 'type': 'X'}]",
            },
            {"answer_text": "明天带伞。", "has_label": "False", "labels_sequence": ""},
        ],
    }
]
CBT_BENCH = [
    {"id": "9", "situation": "It rained.", "thoughts": "It always rains.", "distortions": ["Overgeneralization "]}
]
SMILE = [{"role": "client", "content": "下雨了"}, {"role": "counselor", "content": "带伞了吗？"}]
EMOLLM = [
    {
        "conversation": [
            {"system": "你是咨询师", "input": "下雨了", "output": "带伞了吗？"},
            {"input": "没有", "output": "嗯。"},
        ]
    }
]
SHAREGPT = [
    {
        "id": "s-1",
        "conversations": [
            {"from": "system", "value": "你是咨询师"},
            {"from": "human", "value": "下雨了"},
            {"from": "gpt", "value": "带伞了吗？"},
        ],
    }
]
SFT = [{"instruction": "没有", "input": "", "output": "嗯。", "history": [["下雨了", "带伞了吗？"]]}]
LOST = [outcome for outcome in OUTCOMES if outcome not in ("ok", "crisis")]


def put(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


def one(path, format="auto"):
    samples, problems = formats.read(path, format)
    assert problems == []
    return samples[0]


@pytest.mark.parametrize(
    ("name", "content", "text", "labels"),
    [
        ("cogdis", "下雨天，我，全, 完, 了\t1\n今天下雨\t0\n", "下雨天，我，全, 完, 了", {"distorted"}),
        ("csv", '"id","内容","标签"\n1,下雨天全完了,Labeling\n', "下雨天全完了", {"Labeling"}),
        ("cogdis", "下雨天全完了\t1\n今天下雨\t0\n", "下雨天全完了", {"distorted"}),
        ("socialcd3k", "非此即彼\t放大\t读心术\t内容\n0\t1\t1\t下雨天全完了\n", "下雨天全完了", {"放大", "读心术"}),
        ("cbt-bench", CBT_BENCH, "It rained.\nIt always rains.", {"overgeneralization"}),
        ("csv", "text,label\n下雨天全完了,Labeling|Mind reading\n", "下雨天全完了", {"Labeling", "Mind reading"}),
        ("csv", 'question,description,answer\n雨,"鞋湿了，冷",换鞋。\n', "雨\n鞋湿了，冷", None),
    ],
)
def test_labelled_sets_are_recognised_and_read(tmp_path, name, content, text, labels):
    path = put(tmp_path / "a.txt", content)
    assert formats.detect(path) == name
    sample = one(path)
    assert (sample.text, sample.labels) == (text, labels)


def test_a_table_may_be_json_and_an_empty_label_is_a_missing_one(tmp_path):
    rows = [{"Text": "雨", "labels": ["A"]}, {"Text": "风", "labels": "none"}, {"Text": "雪", "labels": None}]
    path = put(tmp_path / "a.jsonl", "\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    assert formats.detect(path) == "csv"
    samples, problems = formats.read(path)
    assert [(x.id, x.text, x.labels) for x in samples] == [("1", "雨", {"A"}), ("2", "风", set()), ("3", "雪", None)]
    assert not problems
    path = put(tmp_path / "b.jsonl", '{"text": "雨", "label": 3}\n{"text": 4}\n{"label": "A"}\n')
    assert [problem.line for problem in formats.read(path)[1]] == [1, 2, 3]
    (sample,), _ = formats.read(put(tmp_path / "a.csv", "text,label\n雨,\n"))
    assert sample.labels is None  # not "no distortion"


@pytest.mark.parametrize("form", ["csv", "json", "jsonl"])
def test_a_row_that_says_it_failed_has_no_labels_wherever_it_stands(tmp_path, form):
    rows = [{"text": "雨", "label": "A", "outcome": ""}, {"text": "风", "label": "none", "outcome": "failed"}]
    lines = {"csv": "text,label,outcome\n雨,A,\n风,none,failed\n", "json": json.dumps(rows)}
    rows[0].pop("outcome")
    lines["jsonl"] = "\n".join(map(json.dumps, rows))
    path = put(tmp_path / f"a.{form}", lines[form])
    samples, problems = formats.read(path, "csv")
    assert [(x.labels, x.outcome) for x in samples] == [({"A"}, "ok"), (None, "failed")] and not problems
    put(path, lines[form].replace("failed", "OK!"))
    (problem,) = formats.read(path, "csv")[1]
    assert problem.field == "outcome" and problem.what.startswith("'OK!' is none of ok, refused")


@pytest.mark.parametrize("form", ["csv", "json"])
@pytest.mark.parametrize(
    ("field", "value", "outcome"),
    [
        ("finish_reason", "length", "truncated"),
        ("finish_reason", "stop", "ok"),
        ("finish_reason", "nan", "ok"),
        ("finish_reason", "STOP", "ok"),  # Gemini, in the words of its package too
        ("finish_reason", "FinishReason.STOP", "ok"),
        ("finishReason", "MAX_TOKENS", "truncated"),
        ("finish_reason", "COMPLETE", "ok"),  # Cohere
        ("stop_reason", "max_tokens", "truncated"),  # Anthropic
        ("stop_reason", "refusal", "refused"),
        ("done_reason", "length", "truncated"),  # Ollama
        ("status", "incomplete", "failed"),  # OpenAI's responses
        ("status", "HTTP 429", "failed"),
        ("status", "失败", "failed"),
        ("status", "ReadTimeout", "failed"),
        ("error_message", "ReadTimeout", "failed"),
        ("error", "no error", "ok"),
        ("error", "0.12", "ok"),  # of a measure
        ("errors", "3", "ok"),  # of spelling
        ("error", "503", "failed"),
        ("is_error", "true", "failed"),
        ("Error", "ReadTimeout", "failed"),
        ("error", "none", "ok"),
        ("status", "failed", "failed"),
        ("status", "Timed out", "failed"),
        ("status", "unparsed", "unparsed"),
        ("status", "429", "failed"),
        ("status_code", "503", "failed"),
        ("status", "200", "ok"),
        ("status", "married", "ok"),  # of the writer
        ("success", "false", "failed"),
        ("success", "true", "ok"),
    ],
)
def test_a_row_that_tells_of_a_failure_in_other_words_has_no_labels_either(tmp_path, form, field, value, outcome):
    content = f"text,label,{field}\n雨,none,{value}\n" if form == "csv" else [{"text": "雨", "label": [], field: value}]
    sample = one(put(tmp_path / f"a.{form}", content))
    assert (sample.outcome, sample.labels) == (outcome, set() if outcome == "ok" else None)


@pytest.mark.parametrize(
    ("field", "value", "outcome"),
    [
        ("error", {"code": 429}, "failed"),
        ("error", None, "ok"),
        ("error", {}, "ok"),
        ("error", {"code": 0, "message": ""}, "ok"),
        ("error", False, "ok"),
        ("status", 500, "failed"),
        ("status", 200, "ok"),
        ("success", False, "failed"),
        ("success", None, "ok"),
    ],
)
def test_a_row_of_json_tells_so_in_its_own_types(tmp_path, field, value, outcome):
    assert one(put(tmp_path / "a.json", [{"text": "雨", field: value}])).outcome == outcome


def test_where_a_row_contradicts_itself_it_has_failed(tmp_path):
    rows = [{"text": "雨", "label": [], "outcome": "ok", "finish_reason": "length"}]
    assert one(put(tmp_path / "a.json", rows)).outcome == "truncated"


@pytest.mark.parametrize(
    "talk",
    [
        {
            "conversations": [
                {"from": "human", "value": "雨"},
                {"from": "gpt", "value": "带", "finish_reason": "length"},
            ]
        },
        [{"role": "client", "content": "雨"}, {"role": "counselor", "content": "带", "finish_reason": "length"}],
        {"conversation": [{"input": "雨", "output": "带", "finish_reason": "length"}]},
    ],
)
def test_a_turn_that_was_cut_is_no_answer_of_a_dialogue(tmp_path, talk):
    assert one(put(tmp_path / "a.json", [talk])).outcome == "truncated"


@pytest.mark.parametrize(
    "name", ["Black vs. white thinking", "fortune_teller_error", "Fortune-teller error", "无罪推定"]
)
def test_names_that_are_names_stay_labels(tmp_path, name):
    assert one(put(tmp_path / "a.json", [{"text": "雨", "label": [name]}])).labels == {name}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("text,label,outcome,outcome\n雨,A,failed,ok\n", "line 1: the column 'outcome' stands twice; rename one"),
        ("text,Label,label\n雨,A,none\n", "line 1: the column 'label' stands twice"),
        ('[{"text": "雨", "label": "A", "outcome": "failed", "outcome": "ok"}]', "the key 'outcome' stands twice"),
    ],
)
def test_the_last_of_two_outcomes_or_labels_does_not_win(tmp_path, content, said):
    with pytest.raises(CbtError, match=said):
        formats.read(put(tmp_path / "a", content), "csv")


def test_a_tuning_set_may_say_that_an_answer_failed(tmp_path):
    rows = [
        {"instruction": "雨", "output": "带伞。"},
        {"instruction": "风", "output": "Error 500", "outcome": "failed"},
    ]
    samples, problems = formats.read(put(tmp_path / "a.json", rows))
    assert [x.outcome for x in samples] == ["ok", "failed"] and not problems


ROWS = {  # each form whose items are JSON objects, as an item with a post and an answer
    "records": lambda: corpus.to_dict(corpus.load_split("dev")[0]),
    "psyqa": lambda: PSYQA[0],
    "cbt-bench": lambda: CBT_BENCH[0],
    "c2d2": lambda: {"text": "下雨了", "label": "A", "answer": "带伞了吗？"},
    "cpsycoun": lambda: SFT[0],
    "smile": lambda: {"messages": SMILE},
    "emollm": lambda: EMOLLM[0],
    "alpaca": lambda: SFT[0],
    "sharegpt": lambda: SHAREGPT[0],
    "csv": lambda: {"text": "下雨了", "label": "A", "answer": "带伞了吗？"},
}


@pytest.mark.parametrize("form", [form for form in formats.FORMATS if form not in ("cogdis", "socialcd3k")])
@pytest.mark.parametrize("outcome", LOST)
def test_an_item_that_says_it_failed_is_no_data_in_any_form(tmp_path, form, outcome):
    path = put(tmp_path / "a.jsonl", "\n".join(json.dumps({**ROWS[form](), "outcome": x}) for x in ("ok", outcome)))
    samples, problems = formats.read(path, form)
    if form == "records":  # have no such field
        assert not samples and {(x.line, x.field) for x in problems} >= {(1, "outcome"), (2, "outcome")}
        return
    assert problems == [] and {(x.line, x.outcome) for x in samples} == {(1, "ok"), (2, outcome)}
    assert all(x.labels is None for x in samples if x.line == 2)
    path = put(path, json.dumps({**ROWS[form](), "outcome": "OK!"}) + "\n")
    assert {x.field for x in formats.read(path, form)[1]} == {"outcome"}


def test_a_question_of_psyqa_that_failed_takes_its_answers_with_it(tmp_path):
    answers = [{"answer_text": "带伞。"}, {"answer_text": "雨", "outcome": "refused"}]
    rows = [{"question": "雨", "questionID": 1, "answers": answers, "outcome": "failed"}]
    rows += [{"question": "风", "questionID": 2, "answers": [], "outcome": "failed"}]
    rows += [{"question": "雪", "questionID": 3, "answers": answers}]
    samples = formats.load(put(tmp_path / "a.json", rows))
    assert [x.outcome for x in samples] == ["failed", "refused", "failed", "ok", "refused"]


@pytest.mark.parametrize("name", [True, ["a"], {"a": 1}, 1.5, " "])
def test_an_id_that_names_nothing_is_a_problem_and_an_absent_one_is_the_line(tmp_path, name):
    rows = [{"id": None, "text": "雨"}, {"id": "", "text": "风"}, {"id": name, "text": "雪"}]
    path = put(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    samples, problems = formats.read(path)
    assert [x.id for x in samples] == ["1", "2"]
    assert [(problem.line, problem.field) for problem in problems] == [(3, "id")]


def test_what_programs_write_for_a_missing_label_is_no_label(tmp_path):
    given = [["A", ""], [], [""], "nan", "N/A", None, "A|", ["none"]]
    path = put(tmp_path / "a.json", [{"text": "雨", "label": label} for label in given])
    labels = [sample.labels for sample in formats.load(path)]
    assert labels == [{"A"}, frozenset(), None, None, None, None, {"A"}, frozenset()]


@settings(max_examples=60)
@given(st.sampled_from(["nan", "None", "NULL", "N/A", "undefined", "-", "……", " "]), st.sampled_from(["", " ", "\t"]))
def test_what_programs_write_for_a_missing_answer_is_no_answer_in_any_form(tmp_path_factory, word, blank):
    word, folder = blank + word + blank, tmp_path_factory.mktemp("f")
    for form, row in SAYS.items():
        path = put(folder / f"{form}.json", [row("天", word), row("天", f"好{word}")])
        assert [not x.answer for x in formats.load(path, form)] == [True, False], form
        told = pairing.read(path).texts
        assert [outcome for outcome, _ in told.values()] == ["failed", "ok"], form
    path = put(folder / "a.csv", f'question,answer\n天,"{word}"\n天,好\n')
    table = tables.read(path, {"question": "question", "answer": "answer"})
    assert tables.outcomes(table, "answer") == ["failed", "ok"]


def test_a_column_of_0_and_1_says_whether_there_is_a_distortion(tmp_path):
    said = {"1": {formats.DISTORTED}, "0": set(), "1.0": {formats.DISTORTED}, "0.0": set(), "nan": None}
    said |= {"没有": set(), "-": set(), "灾难化|读心术": {"灾难化", "读心术"}}
    path = put(tmp_path / "a.csv", "text,label\n" + "".join(f"雨,{cell}\n" for cell in said))
    assert [sample.labels for sample in formats.load(path)] == list(said.values())


def test_how_programs_and_people_say_yes_no_and_nothing_makes_no_type(tmp_path):
    said = {"True": {formats.DISTORTED}, "no": set(), "False": set(), "是": {formats.DISTORTED}, "否": set()}
    said |= {"unknown": None, "Labelling": {"Labelling"}, "LABELLING ": {"Labelling"}}
    path = put(tmp_path / "a.csv", "text,label\n" + "".join(f"雨,{cell}\n" for cell in said))
    assert [sample.labels for sample in formats.load(path)] == list(said.values())
    for cell in ("[]", "['labelling']", "#N/A", "ERROR: HTTP 429 too many requests", '{"a": 1}'):
        path = put(tmp_path / "b.tsv", f"text\tlabel\n雨\ta\n雪\t{cell}\n")
        samples, problems = formats.read(path)
        assert len(samples) == 1 and [(x.line, x.field) for x in problems] == [(3, "label")], cell


LABELLED = {  # each form that names labels, as the text of a file of (text, label)
    "csv": lambda rows: "text,label\n" + "".join(f"{text},{label}\n" for text, label in rows),
    "c2d2": lambda rows: json.dumps([{"text": text, "label": [label]} for text, label in rows]),
    "cbt-bench": lambda rows: json.dumps([{"thoughts": text, "distortions": [label]} for text, label in rows]),
}


@pytest.mark.parametrize("form", LABELLED)
@pytest.mark.parametrize("word", [*LOST, "?", "？"])
def test_an_outcome_in_place_of_a_label_is_a_missing_label_and_never_a_type(tmp_path, form, word):
    rows = [(f"雨{k}", [word, "labeling", word.upper(), "none"][k % 4]) for k in range(20)]
    path = put(tmp_path / "a.txt", LABELLED[form](rows))
    assert {(x.labels, x.outcome) for x in formats.load(path, form)[::2]} == {(None, "ok")}
    found = label_figures.read(path, form)
    assert (found.types, found.outcomes) == (("labeling",), {"ok": 10, "unparsed": 10})
    assert found.labels.sum() == 5


@pytest.mark.parametrize("form", LABELLED)
@pytest.mark.parametrize(
    "word",
    [
        *("error", "HTTP 500", "http_429", "timeout", "Timed out", "<html>", "Traceback (most recent call last):"),
        *(
            "I cannot help with that",
            "抱歉我无法回答这个问题",
            "这段话体现了灾难化。它也说了别的",
            "系统繁忙请稍后再试",
            "This is labelling. It also predicts",
            "The text shows labelling.",
            "ReadTimeout",
        ),
    ],
)
def test_the_text_of_an_error_in_place_of_a_label_is_a_problem_and_never_a_type(tmp_path, form, word):
    samples, problems = formats.read(put(tmp_path / "a.txt", LABELLED[form]([("雨", "labeling"), ("风", word)])), form)
    assert [x.labels for x in samples] == [{"labeling"}]
    assert [x.field for x in problems] == ["distortions" if form == "cbt-bench" else "label"]
    assert word[:20].lower() in problems[0].what.lower() and "is no label: leave the cell empty" in problems[0].what


def test_where_one_label_of_several_is_lost_nobody_knows_the_others(tmp_path):
    path = put(tmp_path / "a.csv", "text,label\n雨,none|unparsed\n风,labeling|failed\n雪,labeling\n")
    assert [x.labels for x in formats.load(path)] == [None, None, {"labeling"}]


def test_names_of_cbt_bench_say_no_yes_and_nothing_as_those_of_a_table(tmp_path):
    given = [["None"], [], [""], ["nan"], ["1"], ["Labeling", ""]]
    path = put(tmp_path / "a.json", [{"thoughts": "雨", "distortions": names} for names in given])
    labels = [x.labels for x in formats.load(path, "cbt-bench")]
    assert labels == [set(), set(), None, None, {formats.DISTORTED}, {"labeling"}]


NAMES = st.text("灾难化读心术", min_size=2, max_size=4)


@settings(max_examples=60)
@given(
    st.lists(NAMES, min_size=2, max_size=4, unique=True),
    st.sampled_from(";,；，、｜"),
    st.integers(2) | st.floats(0.01, 0.99),
)
def test_a_label_that_nobody_can_split_or_name_becomes_no_type(tmp_path_factory, names, mark, number):
    cells = ["|".join(names), mark.join(names), str(number), f"{names[0]}|{number}"]
    path = put(tmp_path_factory.mktemp("f") / "a.csv", "text,label\n" + "".join(f'雨,"{cell}"\n' for cell in cells))
    samples, problems = formats.read(path)
    assert [sample.labels for sample in samples] == [set(names)]
    assert [(x.line, x.field) for x in problems] == [(3, "label"), (4, "label"), (5, "label")]
    assert "split several labels by |" in problems[0].what and "is a number" in problems[1].what


def test_a_table_without_distortion_is_an_empty_set_and_not_missing(tmp_path):
    path = put(tmp_path / "a.tsv", "thought\tdistortion\n下雨天全完了\tFortune-telling\n今天下雨\tNon-distorted\n")
    samples, _ = formats.read(path, "c2d2")
    assert [sample.labels for sample in samples] == [{"Fortune-telling"}, frozenset()]


def test_psyqa_gives_a_sample_for_each_answer_with_its_spans(tmp_path):
    samples, problems = formats.read(put(tmp_path / "a.json", PSYQA))
    assert problems == [] and [sample.id for sample in samples] == ["7/0", "7/1"]
    assert samples[0].text == "下雨没带伞\n鞋湿了一天" and samples[1].answer == "明天带伞。"
    assert samples[0].spans == (("X", 0, 4, "先换双鞋。"),)


@pytest.mark.parametrize(
    ("content", "turns"),
    [
        (SMILE, 2),
        (EMOLLM, 4),
        (SFT, 4),
        (SHAREGPT, 2),
        (["求助者：下雨了", "支持者：带伞了吗？"], 2),
        ("来访者：下雨了\n\n心理咨询师：带伞了吗？\n\n来访者：没有\n", 3),
    ],
)
def test_dialogues_are_turns_of_client_and_counsellor(tmp_path, content, turns):
    sample = one(put(tmp_path / "a.json", content))
    assert sample.text == "下雨了" and "带伞了吗？" in sample.answer
    assert len(sample.turns) == turns and sample.turns[1] == ("counsellor", "带伞了吗？")


@pytest.mark.parametrize("to", ["alpaca", "sharegpt"])
def test_what_the_corpus_is_exported_to_is_read_back(tmp_path, to):
    records = corpus.load_split("test")[:5]
    samples = formats.load(exports.export(records, to, tmp_path)[0])
    assert [(x.text, x.answer) for x in samples] == [(x.post, x.answer_text) for x in records]
    if to == "sharegpt":
        assert [x.id for x in samples] == [x.id for x in records]


def test_a_folder_of_dialogues_is_read_file_by_file(tmp_path):
    put(tmp_path / "1.json", SMILE)
    put(tmp_path / "2.json", [{"role": "ghost", "content": "?"}])
    samples, problems = formats.read(tmp_path, "smile")
    assert [sample.line for sample in samples] == [1]
    assert [(problem.line, problem.field) for problem in problems] == [(2, "2.json role")]


def test_the_books_own_records_keep_labels_spans_and_split():
    path = corpus.own_files()[0]
    samples, problems = formats.read(path)
    records = corpus.load(path)
    assert problems == [] and len(samples) == len(records)
    for sample, record in zip(samples, records, strict=True):
        assert (sample.id, sample.text, sample.labels, sample.split) == (
            record.id,
            record.post,
            record.types,
            record.split,
        )
        assert [text[a:b] for _, a, b, text in sample.spans] == [record.quote(label) for label in record.distortions]


@pytest.mark.parametrize(
    ("format", "content", "line", "words"),
    [
        ("cogdis", "好\t0\n坏\t2\n", 2, "must be 0 or 1"),
        ("socialcd3k", "非此即彼\t放大\t内容\n0\t好\n", 2, "2 cells of 0 or 1"),
        ("cbt-bench", [{"thoughts": "x"}], 1, "missing or no list"),
        ("psyqa", [{"question": "x"}], 1, "missing or no list"),
        ("emollm", [{"talk": []}], 1, "missing or no list"),
        ("alpaca", [{"instruction": "x"}], 1, "missing or no text"),
        ("alpaca", [SFT[0], {**SFT[0], "history": [["x"]]}], 2, "no list of pairs"),
        ("sharegpt", [{"conversations": "x"}], 1, "no dialogue: a list of from and value"),
        ("sharegpt", [*SHAREGPT, {"conversations": [{"from": "ghost", "value": "x"}]}], 2, "is 'ghost'"),
        ("csv", "text,label\n好,a,b\n", 2, "another number of cells"),
        ("csv", "text,label\n,a\n", 2, "is empty"),
        ("cogdis", "", 0, "nothing in it"),
    ],
)
def test_what_does_not_fit_its_form_is_named_by_line(tmp_path, format, content, line, words):
    samples, problems = formats.read(put(tmp_path / "a", content), format)
    assert problems[-1].line == line and words in problems[-1].what
    assert not [sample for sample in samples if sample.line == line]


@pytest.mark.parametrize(
    ("format", "content", "words"),
    [
        ("auto", "随便一段话", "no form known"),
        ("auto", " \n", "is empty"),
        ("auto", '[{"a": 1}]', "no form known"),
        ("smile", "[1, 2", "is no JSON"),
        ("xml", "<a/>", "no format 'xml'"),
        ("csv", "a,b\n1,2\n", "line 2: has no field text or question; it has a, b"),
        ("socialcd3k", "0\t1\t好\n", "needs a header"),
    ],
)
def test_a_file_of_no_known_form_is_refused_in_a_sentence(tmp_path, format, content, words):
    with pytest.raises(CbtError, match=words):
        formats.read(put(tmp_path / "a", content), format)


FORMS = {
    "cogdis": "下雨天全完了\t1\n今天下雨\t0\n",
    "socialcd3k": "非此即彼\t放大\t读心术\t内容\n0\t1\t1\t下雨天全完了\n",
    "csv": 'question,description,answer\n雨,"鞋湿了，冷",换鞋。\n',
    "c2d2": "thought\tdistortion\n下雨天全完了\tFortune-telling\n",
    "cpsycoun": "来访者：下雨了\n\n心理咨询师：带伞了吗？\n",
    "psyqa": PSYQA,
    "cbt-bench": CBT_BENCH,
    "smile": SMILE,
    "emollm": EMOLLM,
    "alpaca": SFT,
    "sharegpt": SHAREGPT,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("encoding", ["gb18030", "utf-8-sig"])
def test_gbk_byte_order_marks_and_windows_ends_change_nothing_in_any_form(tmp_path, form, encoding):
    content = FORMS[form]
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False, indent=1)
    plain, strange = put(tmp_path / "a.txt", text), tmp_path / "b" / "a.txt"
    strange.parent.mkdir()
    strange.write_bytes(text.replace("\n", "\r\n").encode(encoding))
    expected = formats.read(plain, form)
    assert expected[0] and expected[1] == []
    assert formats.read(strange, form) == expected


SAMPLE = formats.Sample("a", 1, "考了９８分，ＯＫ！", "醫生說", spans=(("x", 2, 4, "考了９８分，ＯＫ！"),))


def test_normalising_is_asked_for_counted_and_keeps_offsets():
    (new,), changed = formats.normalise([SAMPLE], ["width"])
    assert (new.text, new.answer, changed) == ("考了98分，OK！", "醫生說", {"width": 4})
    (_, start, end, text) = new.spans[0]
    assert text[start:end] == "98"
    (both,), changed = formats.normalise([SAMPLE], ["width", "simplified"])
    assert (both.text, both.answer, changed) == ("考了98分，OK！", "医生说", {"width": 4, "simplified": 2})
    assert formats.normalise([SAMPLE], []) == ([SAMPLE], {})
    with pytest.raises(CbtError, match="choose of width, simplified"):
        formats.normalise([SAMPLE], ["pinyin"])


def test_half_a_character_is_marked_where_a_file_is_read_and_stops_no_conversion(tmp_path):
    (old,), problems = formats.read(put(tmp_path / "a.jsonl", '{"text": "\\ud83d醫生乾\\ud83d淨\\ud83d\\ude00"}'))
    assert (old.text, problems) == ("\ufffd醫生乾\ufffd淨😀", [])  # a whole one in two halves is whole
    (new,), changed = formats.normalise([replace(old, text="\ud83d醫生乾\ud83d淨😀")], formats.NORMAL_FORMS)
    assert (new.text, changed["simplified"]) == ("\ud83d医生干\ud83d净😀", 3)


@settings(max_examples=200)
@given(
    st.text(
        st.characters(min_codepoint=0x3400, max_codepoint=0x9FFF) | st.sampled_from("Ａ９，乾著發後台髮裡的"),
        min_size=1,
    )
)
def test_normalising_gives_one_character_for_one(text):
    (new,), _ = formats.normalise([formats.Sample("a", 1, text)], formats.NORMAL_FORMS)
    assert len(new.text) == len(text)


LEAF = st.none() | st.booleans() | st.integers(-5, 5) | st.text("天a\t1 \n", max_size=5)
KEYS = st.sampled_from(
    [
        *("question", "answers", "answer_text", "labels_sequence", "start", "end", "type", "thoughts", "distortions"),
        *("role", "content", "messages", "conversation", "input", "output", "instruction", "history", "id"),
        *("conversations", "from", "value"),
    ]
)
JSON = st.recursive(LEAF, lambda x: st.lists(x, max_size=3) | st.dictionaries(KEYS, x, max_size=6), max_leaves=12)


@pytest.mark.parametrize("form", ["psyqa", "cbt-bench", "cpsycoun", "smile", "emollm", "alpaca", "sharegpt"])
@settings(max_examples=100)
@given(items=st.lists(JSON, max_size=4), lines=st.booleans())
def test_whatever_json_holds_each_item_is_kept_or_named(tmp_path_factory, form, items, lines):
    text = "\n".join(map(json.dumps, items)) if lines else json.dumps(items)
    try:
        samples, problems = formats.read(put(tmp_path_factory.mktemp("f") / "a.json", text), form)
    except CbtError:
        return
    assert samples or problems
    if not lines and len({x.line for x in samples} | {x.line for x in problems}) > 1:  # a file may be one dialogue
        assert {x.line for x in samples} | {x.line for x in problems if x.line} == set(range(1, len(items) + 1))


def part(text):
    return {"type": "text", "text": text}


SAYS = {  # each form, with a place for what the client and what the counsellor says
    "sharegpt": lambda post, answer: {
        "conversations": [{"from": "human", "value": post}, {"from": "gpt", "value": answer}]
    },
    "smile": lambda post, answer: {
        "messages": [{"role": "user", "content": post}, {"role": "assistant", "content": answer}]
    },
    "emollm": lambda post, answer: {"conversation": [{"input": post, "output": answer}]},
    "psyqa": lambda post, answer: {"question": post, "description": None, "answers": [{"answer_text": answer}]},
    "csv": lambda post, answer: {"text": post, "answer": answer},
}
WORDS = st.text("天雨好a", min_size=1, max_size=5)
NO_WORDS = st.integers() | st.booleans() | st.dictionaries(WORDS, WORDS) | st.lists(WORDS | st.integers(), min_size=1)
NO_WORDS |= st.just([part("好"), {"type": "image_url", "image_url": {"url": "a.png"}}]) | st.just([part(3)])


@pytest.mark.parametrize("form", SAYS)
@settings(max_examples=40)
@given(post=st.lists(WORDS, min_size=1, max_size=3), answer=st.lists(WORDS, max_size=3), strange=NO_WORDS)
def test_null_is_silence_parts_are_joined_and_anything_else_is_named(tmp_path_factory, form, post, answer, strange):
    rows = [SAYS[form](list(map(part, post)), list(map(part, answer))), SAYS[form]("天", None)]
    rows += [SAYS[form]("天", strange), SAYS[form](strange, "好")]
    path = put(tmp_path_factory.mktemp("f") / "a.jsonl", "\n".join(map(json.dumps, rows)))
    samples, problems = formats.read(path, form)
    assert [(x.text, x.answer) for x in samples] == [("".join(post), "".join(answer)), ("天", "")]
    assert [x.line for x in problems] == [3, 4]
    assert all(x.field in json.dumps(rows[0]) and x.what.startswith("is no text: ") for x in problems)


def test_a_label_that_is_null_is_no_label_of_that_name(tmp_path):
    path = put(tmp_path / "a.json", [{**CBT_BENCH[0], "distortions": [None]}])
    assert [str(problem) for problem in formats.read(path)[1]] == [
        "line 1, field distortions: is missing or no list of names"
    ]


def test_silence_of_a_client_is_not_filled_with_the_answer(tmp_path):
    silent = SAYS["sharegpt"](None, "好")
    silent["conversations"] += [{"from": "human", "value": "下雨了"}, {"from": "gpt", "value": None}]
    samples, problems = formats.read(put(tmp_path / "a.json", [silent, SAYS["sharegpt"](None, "好")]))
    assert [(x.text, x.answer) for x in samples] == [("下雨了", "好")]
    assert [str(problem) for problem in problems] == ["line 2, field text: is empty"]


def test_a_line_that_is_no_json_is_named_as_such_in_dialogues_too(tmp_path):
    forms = {"smile": {"messages": SMILE}, "cpsycoun": SFT[0], "emollm": EMOLLM[0], "sharegpt": SHAREGPT[0]}
    for form, good in forms.items():
        path = put(tmp_path / "a.jsonl", json.dumps(good) + "\n{broken\n" + json.dumps(good) + "\n")
        samples, problems = formats.read(path, form)
        assert [sample.line for sample in samples] == [1, 3]
        assert [(x.line, x.what.startswith("is no JSON object")) for x in problems] == [(2, True)]


def test_words_of_no_role_are_a_problem_and_not_lost(tmp_path):
    path = put(tmp_path / "a.txt", "第三次会谈\n来访者：下雨了\n心理咨询师：带伞了吗？\n")
    assert [problem.line for problem in formats.read(path, "cpsycoun")[1]] == [1]


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Zl", "Zp", "Cs"))), st.sampled_from("012x")
        )
    )
)
def test_lines_in_are_samples_plus_problems(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("f") / "a.txt"
    path.write_text("".join(f"字{text}\t{label}\n" for text, label in rows), encoding="utf-8")
    samples, problems = formats.read(path, "cogdis")
    assert len(samples) + len([problem for problem in problems if problem.line]) == len(rows)


def test_a_row_that_ends_within_quotation_marks_is_named_by_its_line(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text('id,question\n1,睡不着怎么办\n2,"没有写完\n', "utf-8")
    samples, problems = formats.read(path, "csv")
    assert [one.id for one in samples] == ["1"]
    assert [(one.line, "no table row" in one.what) for one in problems] == [(3, True)]
