"""Gates behind generation: each stops the defect it is named for, and none stops a letter that its limits come from."""

from dataclasses import astuple

import pandas as pd
import pytest

from cbtlib import CbtError, corpus, faults, generate, prompts, safety
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
            answers = generate.run(
                asked, prompts.get("five_parts_json"), server, out, classifier=Worried(), replay=journal
            )
            assert [answer.triage for answer in answers] == ["none", "concern", "none"]
            assert screen_run(asked, out)["referral"].to_dict() == {"q0": False, "q1": True, "q2": False}
    lines = (tmp_path / "run" / "answers.jsonl").read_text("utf-8")
    (tmp_path / "run" / "answers.jsonl").write_text(lines.replace(', "triage": "concern"', ""), "utf-8")
    with pytest.raises(CbtError, match="does not say what triage found"):
        screen_run(asked, tmp_path / "run")


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
