"""Reading the five parts: right on letters it was not fitted to, silent on what is no letter, never moved by layout."""

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cbtlib import CbtError, corpus, structure, structure_accuracy
from cbtlib.corpus import PARTS
from cbtlib.structure import analyse, coverage, sentences

TEST = corpus.load_split("test")
NOTHING = dict.fromkeys(PARTS, False)
DEBRIS = '{"validation": "", "key_thought": null, "challenge": []}'
ENGLISH = "I hear how hard this is. What is the evidence? Try writing it down tonight. You have come far."


@pytest.fixture(scope="module")
def measured():
    return structure_accuracy.evaluate(TEST)


def test_parts_of_unseen_letters_are_read_right(measured):
    assert measured.loc[("whole", "macro-F1"), "value"] >= 0.85
    assert measured.loc[("whole", "coverage"), "value"] >= 0.95
    assert measured.loc[("two letters glued", "macro-F1"), "value"] >= 0.8


def test_coverage_notices_a_part_that_was_left_out(measured):
    assert measured.loc[("one part left out", "coverage"), "value"] >= 0.9
    assert measured.loc[("one part left out", "coverage invented"), "value"] <= 0.2


def test_a_post_and_shuffled_characters_are_no_answer(measured):
    for case in ("the post", "characters shuffled"):
        assert measured.loc[(case, "coverage invented"), "value"] <= 0.15
        assert measured.loc[(case, "recall none"), "value"] >= 0.85


def test_every_measure_has_an_interval_around_it(measured):
    assert (measured.low <= measured.value).all() and (measured.value <= measured.high).all()
    assert (measured.n > 0).all()


def test_letters_glued_to_each_other_are_no_more_letters(measured):
    wide = (measured.high - measured.low).filter(like="F1").groupby("case").mean()
    assert wide["two letters glued"] >= wide["whole"]
    with pytest.raises(CbtError, match="at least two records"):
        structure_accuracy.evaluate(TEST[:1])


def test_letters_of_the_train_split_are_refused():
    with pytest.raises(CbtError, match="train split"):
        structure_accuracy.evaluate([*TEST[:2], corpus.load_split("train")[0]])


def test_agreement_falls_when_labels_are_wrong():
    answers = [structure.labelled(record.answer) for record in TEST[:10]]
    wrong = [[(sentence, PARTS[PARTS.index(part) - 1]) for sentence, part in answer] for answer in answers]
    assert structure_accuracy.agreement(answers).value["macro-F1"] > 0.7
    assert structure_accuracy.agreement(wrong).value["macro-F1"] < 0.3
    with pytest.raises(CbtError, match="labelled answer 1 is not cut"):
        structure_accuracy.agreement([[("你很难过。你想想看？", "validation")]])


def test_model_answers_are_with_labels_as_they_are_cut(tmp_path):
    path = tmp_path / "labels.jsonl"
    path.write_text(json.dumps({"source": "m", "id": "x", "sentences": [["好。", "strateggy"]]}), encoding="utf-8")
    with pytest.raises(CbtError, match="line 1: 'strateggy' is no part"):
        structure_accuracy.labelled_answers(path)


def test_line_breaks_change_nothing():
    letters = [record for record in TEST if all(text.endswith(("。", "？")) for text in record.answer.values())]
    assert len(letters) > len(TEST) / 2
    for record in letters:
        found = analyse(record.answer_text)
        assert analyse("".join(record.answer.values())) == found
        assert analyse("\n\n".join(sentence for sentence, _ in found.sentences)) == found


def test_noise_around_and_between_sentences_changes_nothing_else():
    for record in TEST[:10]:
        found = analyse(record.answer_text)
        first, *rest = [sentence for sentence, _ in found.sentences]
        noisy = analyse("\n".join([DEBRIS, first, "123", "哈" * 60, *rest, ENGLISH, "——"]))
        kept = [pair for pair in noisy.sentences if pair in found.sentences]
        assert kept == found.sentences
        assert (noisy.coverage, noisy.order) == (found.coverage, found.order)


@pytest.mark.parametrize(
    "text", ["", " \n ", DEBRIS, ENGLISH, "？！。。。", "哈哈" * 500, "<unused1>[PAD] 12 34", "\x00\x1b[0m"]
)
def test_what_is_no_chinese_covers_nothing(text):
    found = analyse(text)
    assert found.coverage == NOTHING and found.order == []
    assert all(part is None for _, part in found.sentences)


def test_a_sentence_said_again_serves_nothing_again():
    step = "今晚睡前把这周做完的三件事写在便签上，贴在门后，周五数一数。"
    found = analyse(step * 40)
    assert [sentence for sentence, _ in found.sentences] == [step] * 40
    assert all(part is None for _, part in found.sentences[1:])
    assert found.coverage == analyse(step).coverage


def test_order_tells_which_part_follows_which():
    right = [analyse(record.answer_text).order == list(PARTS) for record in TEST]
    assert sum(right) > len(right) / 2
    repeats = analyse(TEST[0].answer_text + "\n" + TEST[1].answer_text).order
    assert repeats.count("challenge") == 2


def test_many_answers_are_read_as_each_alone():
    texts = [record.answer_text for record in TEST[:6]] + ["", DEBRIS, TEST[0].post]
    random.Random(0).shuffle(texts)
    table = coverage(texts)
    assert list(table.columns) == list(PARTS)
    assert table.to_dict("records") == [analyse(text).coverage for text in texts]
    assert coverage([]).shape == (0, len(PARTS))


@pytest.mark.parametrize("missing", [None, 7, b"abc"])
def test_an_answer_that_is_no_text_is_named_and_never_read_as_without_parts(missing):
    with pytest.raises(CbtError, match="answer 2 is"):
        coverage(["你好。", missing])


def test_one_text_in_place_of_a_list_is_refused():
    with pytest.raises(CbtError, match="list of answers"):
        coverage("你好。")


@given(st.text(alphabet="你我他好难过。，？！“”…\n abc1{}", max_size=300))
def test_cutting_loses_only_blanks_and_is_stable(text):
    cut = sentences(text)
    assert "".join("".join(cut).split()) == "".join(text.split())
    assert sentences("\n".join(cut)) == cut


def test_speech_in_quotation_marks_is_not_cut():
    assert sentences("你可以说：“我怕。你呢？”说完停一停。好吗？") == ["你可以说：“我怕。你呢？”说完停一停。", "好吗？"]


@settings(max_examples=60)
@given(st.lists(st.sampled_from([s for r in TEST[:5] for s in sentences(r.post + r.answer_text)]) | st.text()))
def test_any_text_has_a_reading_that_agrees_with_itself(pieces):
    text = "\n".join(pieces)
    found = analyse(text)
    assert [sentence for sentence, _ in found.sentences] == sentences(text)
    named = {part for _, part in found.sentences if part}
    assert {part for part, there in found.coverage.items() if there} <= named == set(found.order)


def test_a_huge_answer_is_read():
    found = analyse("好" * 100_000 + "。" + "你今天真的很难过，也很累了" * 5000 + "\n" + TEST[0].answer_text)
    assert found.sentences[-1][1] is not None


def test_the_gain_of_a_prompt_is_paired_by_post_and_needs_five_of_them():
    letters = [(record.id, record.answer["validation"], record.answer_text) for record in TEST[:12]]
    value, low, high = structure.gain(letters)
    assert low <= value <= high and low > 1
    swapped = structure.gain([(post, second, first) for post, first, second in letters])
    assert swapped[0] == -value
    assert structure.gain(letters[:4] * 3) is None, "more answers to the same posts are not more posts"
    assert structure.gain([]) is None


def test_model_answers_with_labels_are_enough_and_read_as_the_chapter_says():
    answers = [answer for found in structure_accuracy.labelled_answers().values() for answer in found]
    assert len(answers) >= 60
    measured = structure_accuracy.agreement(answers).value
    assert measured["macro-F1"] >= 0.85 and measured["coverage"] >= 0.95
