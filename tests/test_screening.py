"""Gates behind generation: each stops the defect it is named for, and none stops a letter that its limits come from."""

import json
from dataclasses import astuple

import pandas as pd
import pytest

from cbtlib import CbtError, answers, corpus, faults, generate, prompts, safety
from cbtlib.questions import Question
from cbtlib.screening import GATES, Limits, counts, screen, screen_run

TRAIN = corpus.load_split("train")
LIMITS = Limits.measure(TRAIN)
RECORD = next(record for record in corpus.load_split("test") if safety.triage(record.post).level == "none")
GOOD = RECORD.answer_text


def stops(text: str, post: str = RECORD.post, example: str = "") -> set[str]:
    (row,) = screen([text], [post], LIMITS, example).to_dict("records")
    return {gate for gate, stopped in row.items() if stopped}


def test_a_good_letter_passes_every_gate():
    assert stops(GOOD) == set()


@pytest.mark.parametrize(
    ("gate", "text"),
    [
        ("language", faults.ENGLISH),
        ("language", ""),
        ("length", GOOD[:60]),
        ("length", GOOD * 4),
        ("parts", "\n".join(text for part, text in RECORD.answer.items() if part != "strategy")),
        ("loop", GOOD + "慢慢来，一步一步地走，总会好起来的。" * 5),
        ("copied", RECORD.post + GOOD),
        ("english", GOOD + "Try the worksheet and keep going tonight."),
        ("diagnosis", GOOD + "你这是抑郁症。"),
        ("diagnosis", GOOD + "建议你服用褪黑素。"),
        ("diagnosis", GOOD + "舍曲林很有用。"),
        ("promise", GOOD + "你一定会痊愈。"),
        ("promise", GOOD + "我保证，从此不再失眠。"),
    ],
)
def test_each_gate_stops_its_defect(gate, text):
    assert gate in stops(text)


def test_a_letter_to_a_worrying_post_needs_a_referral_and_any_other_does_not():
    post = "以前有过不想活的念头，早就过去了。"
    assert safety.triage(post).level == "concern"
    assert "referral" in stops(GOOD, post)
    assert "referral" not in stops(f"{GOOD}\n{safety.REFERRAL}", post)
    assert "referral" not in stops(GOOD)


class Worried:
    """A classifier that sees a concern in posts where no rule does."""

    version = "worried"

    def look(self, posts, found):
        return [safety.Triage("concern") if "第1个" in post else rule for post, rule in zip(posts, found, strict=True)]


def test_a_concern_that_only_the_classifier_saw_needs_a_referral_too(tmp_path):
    asked = [Question(f"q{i}", f"第{i}个问题", RECORD.description) for i in range(3)]
    with faults.serve() as server:
        for folder, journal in (("run", None), ("run", None), ("replay", tmp_path / "run" / "journal.sqlite")):
            out = tmp_path / folder
            found = generate.run(
                asked, prompts.get("five_parts_json"), server, out, classifier=Worried(), replay=journal
            )
            assert [answer.triage for answer in found] == ["none", "concern", "none"]
            assert screen_run(asked, out)["referral"].to_dict() == {"q0": False, "q1": True, "q2": False}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    asked = [Question(f"q{i}", f"第{i}个问题", RECORD.description) for i in range(3)]
    out = tmp_path_factory.mktemp("finished")
    with faults.serve() as server:
        generate.run(asked, prompts.get("five_parts_json"), server, out)
    return asked, out


def _folder_with(finished, tmp_path, line, manifest):
    """A copy of a finished run with `line` for its third answer, and with `manifest`; None: as they were."""
    lines = (finished / "answers.jsonl").read_text("utf-8").splitlines()
    given = json.loads(lines[2]) | line if isinstance(line, dict) else line
    lines[2] = json.dumps({k: v for k, v in given.items() if v != "GONE"}) if isinstance(given, dict) else given
    (tmp_path / "answers.jsonl").write_text("".join(f"{row}\n" for row in lines if row is not None), "utf-8")
    text = (finished / "manifest.json").read_text("utf-8") if manifest is None else manifest
    (tmp_path / "manifest.json").write_text(text, "utf-8")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"id": "q2", bad', "line 3: is no JSON object"),
        ({"detail": "GONE"}, "line 3, field detail: is missing"),
        ({"triage": "GONE"}, "line 3, field triage: is missing"),
        ({"score": 1}, "line 3, field score: is no field of an answer"),
        ({"id": 7}, "line 3, field id: 7 names nothing"),
        ({"id": "q1"}, "line 3, field id: 'q1' stands on line 2 already"),
        ({"outcome": "OK!"}, "line 3, field outcome: 'OK!' is none of ok, refused"),
        ({"text": None}, "line 3, field text: None is no text"),
        ({"text": " "}, "line 3, field text: ' ' is no text, and the outcome is ok"),
        ({"parts": ["甲"]}, "line 3, field parts: is not validation"),
        ({"parts": dict.fromkeys(corpus.PARTS, 1)}, "line 3, field parts.validation: is no text"),
        ({"triage": "fine"}, "line 3, field triage: 'fine' is none of none, concern, crisis"),
        (None, "holds 2 answers, and manifest.json counts 3"),
    ],
)
def test_a_line_that_no_run_wrote_is_named_with_its_field_and_makes_no_data_set(finished, tmp_path, line, said):
    asked, out = finished
    _folder_with(out, tmp_path, line, None)
    for read in (screen_run, answers.export):
        with pytest.raises(CbtError, match=f"answers.jsonl,? {said}.*`cbt generate`"):
            read(asked, tmp_path)
    assert not (tmp_path / "dataset" / "README.md").exists()


@pytest.mark.parametrize("order", [(1, 0, 2), (0, 2, 1)])
def test_an_answer_meets_no_other_post_because_a_file_was_sorted(finished, tmp_path, order):
    """Without ids in the file a question is called by its line."""
    asked, out = finished
    _folder_with(out, tmp_path, {}, None)
    swapped = [Question(f"q{i}", asked[j].question, asked[j].description) for i, j in enumerate(order)]
    for read in (screen_run, answers.export):
        with pytest.raises(CbtError, match=r"answers another post under the id q\d: give the very file"):
            read(swapped, tmp_path)
    assert not (tmp_path / "dataset" / "README.md").exists()


def test_only_answers_are_screened(finished, tmp_path):
    asked, out = finished
    _folder_with(out, tmp_path, {"outcome": "refused", "text": "我不能回答这个问题。", "parts": None}, None)
    assert list(screen_run(asked, tmp_path).index) == ["q0", "q1"]


def test_an_empty_or_missing_file_of_answers_is_none_and_a_byte_order_mark_is_no_text(finished, tmp_path):
    asked, out = finished
    _folder_with(out, tmp_path, {}, None)
    whole = (tmp_path / "answers.jsonl").read_text("utf-8")
    (tmp_path / "answers.jsonl").write_text(whole, "utf-8-sig")
    assert len(screen_run(asked, tmp_path)) == 3
    (tmp_path / "answers.jsonl").write_text("", "utf-8")
    with pytest.raises(CbtError, match=r"holds 0 answers, and manifest\.json counts 3"):
        screen_run(asked, tmp_path)
    (tmp_path / "answers.jsonl").unlink()
    with pytest.raises(CbtError, match=r"answers\.jsonl does not exist"):
        screen_run(asked, tmp_path)


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        ("{}", "is no object with a field triage"),
        ("[]", "is no object with a field triage"),
        ('{"triage": "1", "prompt": {"name": "five_parts_json"}}', "field prompt: is no object with name, sha256"),
    ],
)
def test_a_manifest_that_no_run_wrote_is_refused(finished, tmp_path, manifest, said):
    _folder_with(finished[1], tmp_path, {}, manifest)
    for read in (screen_run, answers.export):
        with pytest.raises(CbtError, match=f"holds no finished run .*{said}"):
            read(finished[0], tmp_path)


def test_the_prompts_own_example_is_a_copy_and_words_of_the_post_are_no_leak():
    prompt = prompts.get("few_shot").text
    example = prompt.split("【回信】")[1].split("【完】")[0]
    assert "copied" in stops(example, example=prompt) and "copied" not in stops(GOOD, example=prompt)
    words = "deadline, meeting, offer"
    assert "english" in stops(GOOD + words) and "english" not in stops(GOOD + words, f"{RECORD.post}{words}")


def test_limits_are_as_wide_as_the_letters_of_the_train_split_need_and_no_wider():
    table = screen([record.answer_text for record in TRAIN], [record.post for record in TRAIN], LIMITS)
    numeric = ["language", "length", "loop", "copied", "english"]
    assert not table[numeric].any().any()
    each = [astuple(Limits.measure([record] * 20)) for record in TRAIN]
    low, high = pd.DataFrame(each).min(), pd.DataFrame(each).max()
    assert astuple(LIMITS) == (low[0], low[1], *high[2:])
    with pytest.raises(CbtError, match="at least 20"):
        Limits.measure(TRAIN[:19])


def test_counts_say_who_stops_alone_and_how_many_pass():
    table = screen([GOOD, faults.ENGLISH, GOOD + "你一定会痊愈。"], [RECORD.post] * 3, LIMITS)
    found = counts(table).set_index("gate")
    assert list(found.index) == [*GATES, "none"] and found.loc["none", "answers"] == 1
    assert found.loc["promise", ["answers", "by this gate alone"]].tolist() == [1, 1]
    assert found.loc["language", ["answers", "by this gate alone"]].tolist() == [1, 0]
    assert counts(screen([], [], LIMITS))["answers"].sum() == 0
    with pytest.raises(CbtError, match="each answer needs the post"):
        screen([GOOD], [], LIMITS)
