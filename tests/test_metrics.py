"""Metrics: equal to sacrebleu and to METEOR's published formula, honest about what is empty, missing or leaked."""

import csv
import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version

import numpy as np
import pandas as pd
import pytest
import sacrebleu
import scipy.stats
from hypothesis import assume, example, given
from hypothesis import strategies as st
from nltk.translate.meteor_score import single_meteor_score
from sacrebleu.metrics import BLEU, CHRF
from typer.testing import CliRunner

from cbtlib import (
    ROOT,
    CbtError,
    bertscore,
    corpus,
    exports,
    metrics,
    overlap,
    pairing,
    prevalence,
    questions,
    ratings,
    resampling,
    surface,
)
from cbtlib.cli import app
from cbtlib.resampling import Statistics
from cbtlib.surface import Texts

# Chinese with everything that has upset a tokeniser: digits, Latin words, full-width forms, spaces, odd planes.
TEXT = st.text(
    st.sampled_from("我你的不好。，？！“”…—ＡＢ１　 \n\tab Z0.5,-%'$𠮷㐀é한あ\u200b\u2028\u3000"), max_size=30
)
LETTER = st.text(st.sampled_from("我你的是不好累。，ab "), min_size=1, max_size=40).filter(str.strip)


@given(TEXT)
@example(".5")
@example("好.5，a-b 3-4 ...")
@example("\u3000.，")
def test_tokens_are_sacrebleus(text):
    assert surface.zh_tokens(text) == BLEU(tokenize="zh").tokenizer(text).split()


@given(st.lists(st.tuples(TEXT, TEXT, st.none() | TEXT), min_size=1, max_size=5))
def test_statistics_of_every_item_are_sacrebleus(rows):
    hypotheses, first, second = (list(column) for column in zip(*rows, strict=True))
    texts = Texts(hypotheses, [first, second])
    ours = surface.bleu(texts)
    theirs = BLEU(tokenize="zh", force=True)._extract_corpus_statistics(hypotheses, [first, second])
    assert ours.rows.tolist() == theirs
    assert ours.value == pytest.approx(
        BLEU(tokenize="zh", force=True).corpus_score(hypotheses, [first, second]).score, 1e-12
    )
    ours = surface.chrf(texts)
    theirs = np.array(CHRF(word_order=0)._extract_corpus_statistics(hypotheses, [first, second]))
    assert ours.rows.tolist() == np.hstack([theirs[:, 0::3], theirs[:, 1::3], theirs[:, 2::3]]).tolist()
    assert ours.value == pytest.approx(CHRF(word_order=0).corpus_score(hypotheses, [first, second]).score, rel=1e-12)


def test_bleu_and_chrf_print_what_sacrebleus_command_prints(tmp_path):
    hypotheses = ["我今天很累，但是还好。", "你说“我总是失败”，真的总是吗？", "", "3.5 分也是分 OK"]
    references = ["我今天有点累，不过还好。", "你说你总是失败，这是真的吗？", "慢慢来。", "3.5分也算分，OK。"]
    for name, lines in {"hyp": hypotheses, "ref": references}.items():
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "sacrebleu", str(tmp_path / "ref"), "-i", str(tmp_path / "hyp"), "-w", "12"]
    command += ["-m", "bleu", "chrf", "-tok", "zh", "--chrf-word-order", "0", "-f", "json"]
    printed = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    scores = metrics.score(hypotheses, [references], metrics=["bleu", "chrf"])
    assert [f"{score.value:.12f}" for score in scores] == [f"{one['score']:.12f}" for one in printed]
    assert "tok:zh" in scores[0].signature and f"sacrebleu:{sacrebleu.__version__}" in scores[0].signature
    assert "nw:0" in scores[1].signature


class NoStems:
    """A stemmer for a language without stems."""

    def stem(self, word):
        return word


class EmptyWordNet:
    """nltk's METEOR wants its WordNet data; for Chinese it holds nothing."""

    def synsets(self, word):
        return []


def nltks_meteor(hypothesis, reference):
    return single_meteor_score(reference, hypothesis, preprocess=str, stemmer=NoStems(), wordnet=EmptyWordNet())


@given(st.lists(st.tuples(TEXT, LETTER, LETTER), min_size=1, max_size=5))
def test_meteor_is_nltks_with_an_empty_wordnet(rows):
    hypotheses, first, second = (list(column) for column in zip(*rows, strict=True))
    for unit, cut in (("character", lambda text: list("".join(text.split()))), ("word", surface.words)):
        ours = surface.meteor(Texts(hypotheses, [first, second]), unit).items
        theirs = [max(nltks_meteor(cut(h.lower()), cut(r.lower())) for r in refs) for h, *refs in rows]
        assert ours == pytest.approx(theirs, abs=1e-12)


REPEATS = st.text("甲乙丙𠮷", max_size=60)


@given(st.lists(st.tuples(REPEATS, REPEATS, REPEATS), min_size=1, max_size=6), st.sampled_from([9, overlap.BATCH]))
@example([("甲", "", ""), ("甲", "甲", "甲"), ("甲", "", ""), ("", "甲", "甲")], overlap.BATCH)
def test_meteor_is_nltks_where_tokens_repeat(rows, batch):
    hypotheses, first, second = (list(column) for column in zip(*rows, strict=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overlap, "BATCH", batch)
        ours = surface.meteor(Texts(hypotheses, [first, second]), "character").items
    theirs = [max(nltks_meteor(list(h), list(r)) for r in refs) for h, *refs in rows]
    assert ours == pytest.approx(theirs, abs=1e-12)


def test_meteor_is_nltks_where_keys_need_more_than_32_bits():
    generator = np.random.default_rng(0)
    letters = ["甲", "乙", "丙", chr(ord("甲") + 2 * 2**16)]  # the last has the first's lower 16 bits
    one, two = ("".join(generator.choice(letters, 10_000)) for _ in range(2))
    ours = surface.meteor(Texts([one, "甲"], [[two, "甲"]]), "character").items
    assert ours == pytest.approx([nltks_meteor(list(one), list(two)), 0.5], abs=1e-12)


@given(st.lists(st.text(max_size=20) | TEXT | st.text("ΑΣςσİiI \u3000\x00\x1c\ud800"), max_size=5), st.booleans())
@example(["ΟΔΟΣ ΟΔΟΣ", "İ", "", "Σ"], True)
def test_characters_are_those_of_the_text_without_white_space(texts, lower):
    found = overlap.characters(texts, lower)
    expected = ["".join((text.lower() if lower else text).split()) for text in texts]
    assert found.ids.tolist() == [ord(character) for text in expected for character in text]
    assert found.lengths.tolist() == [len(text) for text in expected]


def test_more_texts_than_are_looked_at_together_keep_their_own_characters():
    texts = ["好 坏" * (number % 7) for number in range(3 * overlap.TOGETHER + 5)]
    assert overlap.characters(texts).lengths.tolist() == [2 * (number % 7) for number in range(len(texts))]
    assert overlap.occurrences(texts, "坏 ").tolist() == [2 * (number % 7) for number in range(len(texts))]


def test_counting_in_many_batches_changes_nothing(monkeypatch):
    texts = Texts(["我很累", "好的好的", "不是这样", ""] * 5, [["我累了", "好", "这样不是的", "空"] * 5])
    whole = [surface.bleu(texts).rows, surface.chrf(texts).rows, surface.meteor(texts, "character").rows]
    monkeypatch.setattr(overlap, "BATCH", 7)
    cut = [surface.bleu(texts).rows, surface.chrf(texts).rows, surface.meteor(texts, "character").rows]
    assert all((one == two).all() for one, two in zip(whole, cut, strict=True))


@given(st.lists(TEXT, min_size=1, max_size=6))
def test_distinct_is_distinct_over_total(texts):
    grams = [text[i : i + 2] for text in ("".join(t.split()) for t in texts) for i in range(len(text) - 1)]
    value = surface.distinct(Texts(texts, []), 2).value
    assert value == pytest.approx(len(set(grams)) / len(grams)) if grams else np.isnan(value)


def test_the_interval_of_distinct_n_is_as_wide_as_its_spread_over_other_letters():
    records = [record for split in ("train", "dev", "test") for record in corpus.load_split(split)]
    letters, generator = [record.answer_text for record in records], np.random.default_rng(0)
    drawn = [generator.choice(letters, 40, replace=False).tolist() for _ in range(100)]
    statistics = [surface.distinct(Texts(texts, []), 2) for texts in drawn]
    spread = np.std([one.value for one in statistics])
    width = np.mean([high - low for low, high in (resampling.intervals([one])[0] for one in statistics)])
    assert 0.9 < width / (2 * 1.96 * spread) < 1.3


def test_answer_load_counts_what_is_asked_and_what_is_suggested():
    texts = ["真的每次都是吗？那一次呢？", "今晚先写一页。", "", "能做到吗？"]
    measured = metrics.measure(texts, metrics=["requests", "suggestions"])
    assert measured["requests"][0].items.tolist() == [2, 0, 0, 1]
    assert measured["suggestions"][0].items[2] == 0
    records = corpus.load_split("test")
    parts = {part: [r.answer[part] for r in records] for part in ("strategy", "validation")}
    per = {part: metrics.measure(t, metrics=["suggestions"])["suggestions"][0].value for part, t in parts.items()}
    assert per["strategy"] > 1.5 and per["validation"] < 0.3


def test_descriptive_measures_on_known_texts():
    texts = Texts(["一二三四一二三四", "甲乙 丙丁", ""], [], ["一二三四五", "子丑寅卯", "甲"])
    assert surface.length(texts).items.tolist() == [8, 4, 0]
    assert surface.repetition(texts).items.tolist() == [1 - 4 / 5, 0, 0]
    assert surface.repeated("一二三四五六七八\n" * 3) == 1 - 8 / 17 and surface.repeated("一二三四五六七") == 0
    assert surface.copied(texts).items.tolist() == [2 / 5, 0, 0]


def test_an_empty_hypothesis_scores_zero_everywhere_and_is_counted():
    letter = "我很好，你呢？"
    full = metrics.score([letter, letter], [[letter, letter]])
    half = metrics.score([letter, " \n"], [[letter, letter]])
    for one, two in zip(full, half, strict=True):
        assert two.value < one.value and "empties:0" in one.signature and "empties:1" in two.signature
    assert [score.value for score in metrics.score(["", ""], [["好", "好"]])] == [0, 0, 0, 0]


@pytest.mark.parametrize("blank", [" ", "\n\t", "\u3000", "\u2028 \xa0"])
def test_a_blank_hypothesis_is_an_empty_one_in_every_metric(blank, monkeypatch):
    monkeypatch.setattr(metrics, "METRICS", dict(metrics.METRICS))
    metrics.METRICS["bertscore"] = bertscore.metric(bertscore.encoder("smoke"))
    letter = "我总是搞砸事情，你能帮帮我吗？试着写下一件做成的事。"
    given = {"references": [[letter, letter]], "sources": [letter, letter], "metrics": list(metrics.METRICS)}
    for two, one in zip(metrics.score([letter, blank], **given), metrics.score([letter, ""], **given), strict=True):
        assert replace(two, low=0, high=0) == replace(one, low=0, high=0) and "|empties:1|" in two.signature
        assert (two.low, two.high) == pytest.approx((one.low, one.high), nan_ok=True)


@pytest.mark.parametrize(
    ("hypotheses", "references", "message"),
    [
        (["好", None], [["好", "好"]], "hypothesis of item 2 is missing"),
        (["好", 3.0], [["好", "好"]], "hypothesis of item 2 is a float"),
        (["好"], [["好", "好"]], "1 hypotheses, but 2 of reference 1"),
        (["好", "好"], [["好", " "]], "reference 1 of item 2 is empty"),
        (["好", "好"], [["好", None], ["好", None]], "item 2 has no reference"),
        ([], [[]], "nothing to score"),
        ("好", ["好"], "a single text was given"),
        (["好"], [], "needs references"),
        (["好", "天\ud83d"], [["好", "好"]], "hypothesis of item 2 holds half a character"),
    ],
)
def test_bad_input_is_named(hypotheses, references, message):
    with pytest.raises(CbtError, match=message):
        metrics.score(hypotheses, references)


@pytest.mark.parametrize(
    ("training", "sources", "message"),
    [
        (["好", None], (), "training text 2 is missing"),
        (["天\ud83d"], (), "training text 1 holds half a character"),
        ("好", (), "a single text was given"),
        (["好"], [5], "test text 1 is a int"),
    ],
)
def test_the_gate_names_bad_input_too(training, sources, message):
    with pytest.raises(CbtError, match=message):
        metrics.score(["好"], [["好"]], sources=sources, training=training)


def test_one_item_has_a_value_and_no_interval():
    (score,) = metrics.score(["我很好"], [["我很好"]], metrics=["chrf"])
    assert score.value == 100 and np.isnan(score.low) and np.isnan(score.high) and score.n == 1
    assert score.signature.endswith("|ci:none")


def test_full_width_and_traditional_forms_are_folded_when_asked_and_the_signature_says_so():
    hypotheses, references = ["ＡＢ１２，說過"], [["AB12，说过"]]
    plain = metrics.score(hypotheses, references, metrics=["chrf"])[0]
    folded = metrics.score(hypotheses, references, metrics=["chrf"], normalise=["width", "simplified"])[0]
    assert plain.value < 20 and folded.value == 100
    assert "width:as-is|script:as-is|traditional:1+0" in plain.signature
    assert "width:half|script:simplified|traditional:0+0" in folded.signature
    with pytest.raises(CbtError, match="no form 'NFKC' to normalise to"):
        metrics.score(hypotheses, references, normalise=["NFKC"])


def test_a_signature_tells_two_settings_apart():
    texts = ["我很好", "不太好", "还行", "有点累", "想睡"]
    signatures = {metrics.score(texts, [texts], metrics=["bleu"], seed=seed)[0].signature for seed in (0, 1)}
    assert len(signatures) == 2
    said = r"nrefs:1\|width:as-is\|script:as-is\|traditional:0\+0\|empty:0\|empties:0\|.*ci:0.95-bca-1000"
    assert all(re.search(said, s) for s in signatures)


def test_a_measure_of_our_own_is_signed_with_our_version():
    texts = ["我很好。", "不太好。"]
    own = [name for name, one in metrics.METRICS.items() if "sacrebleu:" not in one.signature]
    assert {"meteor_char", "meteor_word", "parts", "distinct_2", "bertscore"} <= set(own)
    assert all(re.search(r"(^|\|)cbtlib:\d+\.\d+", metrics.METRICS[name].signature) for name in own)
    (score,) = metrics.score(texts, [texts], metrics=["meteor_char"])
    assert f"|cbtlib:{version('cbtlib')}|" in score.signature


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resamples": 0}, "resamples is 0: give a whole number of at least 1"),
        ({"resamples": -3}, "resamples is -3: give"),
        ({"resamples": 10.5}, "resamples is 10.5: give"),
        ({"confidence": 95}, "confidence is 95: give a share between 0 and 1"),
        ({"confidence": 0}, "confidence is 0: give"),
        ({"confidence": float("nan")}, "confidence is nan: give"),
    ],
)
def test_settings_of_an_interval_that_are_none_get_one_sentence_everywhere(settings, message):
    texts, table = ["我很好", "不太好"], pd.DataFrame([("a", "1", "s", "c", 1)], columns=ratings.COLUMNS)
    calls = [
        lambda **given: metrics.score(texts, [texts], **given),
        lambda **given: metrics.score(texts[:1], [texts[:1]], **given),
        lambda **given: metrics.compare({"a": texts, "b": texts}, [texts], **given),
        lambda **given: ratings.analyse(table, **given),
        lambda **given: resampling.intervals([Statistics.mean([1.0])], **given),
    ]
    if "confidence" in settings:
        calls.append(lambda **given: prevalence.wilson(1, 2, **given))
    for call in calls:
        with pytest.raises(CbtError, match=message):
            call(**settings)


def test_traditional_characters_are_counted():
    (score,) = metrics.score(["我們說過這個問題", "我很好"], [["我们说过这个问题", "我很好"]], metrics=["bleu"])
    assert "traditional:1+0" in score.signature and score.value < 60
    assert surface.traditional(["你好，今天怎么样？", "臺灣", "", None, "abc", "他说：“發”"]) == 2


def test_samples_of_one_system_are_averaged_within_their_item():
    references = [[f"第{i}封信，说第{i}件事。" for i in range(8)]]
    one, two = ([f"第{i}封信{mark * (i % 3)}。" for i in range(8)] for mark in ("，说", "件事"))
    both = metrics.measure(list(zip(one, two, strict=True)), references)
    for name, (statistics, signature) in both.items():
        apart = [metrics.measure(texts, references)[name][0].rows for texts in (one, two)]
        assert statistics.rows == pytest.approx(np.mean(apart, axis=0)) and "samples:2-2" in signature
    same = metrics.score([(text, text) for text in one], references)
    plain = metrics.score(one, references)
    for twice, once in zip(same, plain, strict=True):
        assert (twice.value, twice.low, twice.high) == pytest.approx((once.value, once.low, once.high))
        assert twice.n == once.n == 8
    with pytest.raises(CbtError, match="item 2 has no sample"):
        metrics.score([["好"], []], [["好", "好"]])


ALIKE_LONG = st.integers(4, 12).flatmap(
    lambda length: st.lists(st.text("甲乙丙丁戊", min_size=length, max_size=length), min_size=2, max_size=4)
)


@given(st.text("甲乙丙丁", min_size=4, max_size=14), ALIKE_LONG)
@example("甲乙丙丁戊己庚辛壬癸子丑", ["甲乙丙一丁戊己二庚辛壬三癸子丑"] * 2 + ["甲乙丙丁一戊己二庚辛壬三癸子丑"])
def test_samples_of_which_each_matches_no_less_than_the_one_before_have_a_bleu_between_theirs(reference, samples):
    """At one length. Of one with more words right and one with more order, the mean may lie above both."""
    apart = [metrics.measure([text], [[reference]], metrics=["bleu"])["bleu"][0] for text in samples]
    matches = np.array(sorted(one.rows[0, 2:6].tolist() for one in apart))
    assume((np.diff(matches, axis=0) >= 0).all())
    together = metrics.measure([samples], [[reference]], metrics=["bleu"])["bleu"][0].value
    values = [one.value for one in apart]
    assert min(values) - 1e-9 <= together <= max(values) + 1e-9


def test_differences_reported_together_are_one_family():
    references = [f"第{i}封信，写给第{i}个人。" for i in range(12)]
    generator = np.random.default_rng(0)
    systems = {name: ["".join(generator.permutation(list(text))) for text in references] for name in "abcd"}
    rows = metrics.compare(systems, [references], metrics=["chrf", "meteor_char"], resamples=100)
    assert len(rows) == 12
    assert [row.p_holm for row in rows] == pytest.approx(resampling.holm([row.p for row in rows]))
    more = metrics.family([*rows, *rows])
    assert all(two.p_holm >= one.p_holm for one, two in zip(rows, more, strict=False))
    assert all("|leak:unchecked|paired|" in row.signature for row in rows)
    leaked = {"training": references, "metrics": ["chrf"], "resamples": 50}
    with pytest.raises(metrics.LeakError):
        metrics.compare(systems, [references], **leaked)
    row, *_ = metrics.compare(systems, [references], **leaked, allow_leak=True)
    assert row.signature.startswith("chrf|") and "|leak:ALLOWED-12-of-12|" in row.signature
    nothing = metrics.family([replace(rows[0], p=float("nan")), rows[1]])
    assert np.isnan(nothing[0].p_holm) and nothing[1].p_holm == rows[1].p


def test_bootstrap_equals_resampling_the_texts_themselves():
    generator = np.random.default_rng(1)
    statistics = Statistics(generator.integers(1, 9, (6, 10)).astype(float), surface.bleu_formula)
    drawn = np.random.default_rng(0).integers(0, 6, (20, 6))
    slow = [float(surface.bleu_formula(statistics.rows[rows].sum(axis=0))) for rows in drawn]
    assert resampling.bootstrap([statistics], 20, seed=0)[:, 0] == pytest.approx(slow)


@pytest.mark.parametrize("seed", range(4))
def test_intervals_of_many_items_are_scipys_bca(seed):
    values = np.random.default_rng(seed).gamma(0.5, size=400)
    theirs = scipy.stats.bootstrap((values,), np.mean, method="BCa", rng=np.random.default_rng(0)).confidence_interval
    ((low, high),) = resampling.intervals([Statistics.mean(values)], 9999)
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.1 * np.std(values) / 20)


def test_five_items_bear_no_confidence_of_999_in_1000():
    """The correction for skewness would turn round, to an interval that leaves its value out."""
    ((low, high),) = resampling.intervals([Statistics.mean([0, 0, 0, 0, 1.5])], 1000, 0.999)
    assert np.isnan([low, high]).all()
    ((low, high),) = resampling.intervals([Statistics.mean([0, 0, 0, 0, 1.5])], 1000, 0.95)
    assert low <= 0.3 <= high


@pytest.mark.parametrize("items", [1, 2, 3, 4, 5])
def test_fewer_than_five_items_have_no_interval_unless_it_is_a_shares(items):
    """Of four items all are too high, or all too low, once in eight times: no resample of them then holds the truth."""
    one, two = np.random.default_rng(0).normal(size=(2, items))
    pairs = [tuple(map(Statistics.mean, (one, two))), tuple(map(Statistics.share_of, (one > 0, two > 0)))]
    for pair, needed in zip(pairs, (5, 2), strict=True):
        bounds = [*resampling.intervals(pair, 200), resampling.difference(*pair, resampling.bootstrap(pair, 200))]
        assert (np.isfinite(bounds) == (items >= needed)).all()


def test_intervals_of_twelve_items_still_cover():
    generator = np.random.default_rng(0)
    held = 0
    for trial in range(400):
        ((low, high),) = resampling.intervals([Statistics.mean(generator.normal(size=12))], 1000, seed=trial)
        held += low <= 0 <= high
    assert 0.92 <= held / 400 <= 0.98


def test_few_items_that_hold_most_of_the_spread_make_an_interval_wider():
    """As of letters of which two in a hundred share a whole sentence; with n - 1 degrees 89.8% of these are held."""
    generator, held = np.random.default_rng(0), 0
    for trial in range(600):
        values = generator.normal(size=100) + (generator.random(100) < 0.01) * generator.exponential(8, 100)
        ((low, high),) = resampling.intervals([Statistics.mean(values)], 1000, seed=trial)
        held += low <= 0.08 <= high
    assert held / 600 > 0.915


def test_a_share_that_never_varies_is_not_certain():
    """Of sixteen letters none names a distortion: that does not say that no letter would."""
    letters = ["你已经很努力了，今晚先睡一觉。"] * 16
    (score,) = metrics.score(letters, metrics=["named"])
    assert (score.value, score.low) == (0, 0) and 0.1 < score.high < 0.3 and score.signature.endswith("ci:0.95-wilson")
    several = metrics.score([[text] * 3 for text in [*letters[:-1], "这是读心术。"]], metrics=["named"])[0]
    assert several.low < 1 / 16 < several.high and "wilson" in several.signature


def test_intervals_of_a_rare_share_hold_it_as_often_as_they_say():
    draws = np.random.default_rng(0).random((1000, 100)) < 0.06
    bounds = [resampling.intervals([Statistics.share_of(draw)], 1)[0] for draw in draws]
    assert 0.93 <= np.mean([low <= 0.06 <= high for low, high in bounds]) <= 0.97


def test_a_difference_on_which_every_item_agrees_is_not_certain():
    """Of twelve letters each of one system names a distortion and none of the other: another pair may be otherwise."""
    named, plain = ["这是读心术。"] * 12, ["你已经很努力了。"] * 12
    rows = metrics.compare({"a": named, "b": plain, "c": list(plain)}, base="b", metrics=["named"])
    for row, value in zip(rows, (1, 0), strict=True):
        assert row.value == value and row.high - row.low > 0.15 and row.low <= value <= row.high
        assert "|ci:0.95-agresti-min|p:" in row.signature
    assert rows[0].low > 0.5 and rows[1].low < 0 < rows[1].high


def test_the_interval_of_two_shares_is_agresti_and_mins():
    one, two = np.repeat([1, 1, 0, 0], [7, 21, 9, 3]), np.repeat([1, 0, 1, 0], [7, 21, 9, 3])
    gained, lost = 21.5 / 42, 9.5 / 42
    half = 1.959963985 * np.sqrt((gained + lost - (gained - lost) ** 2) / 42)
    found = resampling.difference(Statistics.share_of(one), Statistics.share_of(two), np.zeros((1, 2)))
    assert found == pytest.approx((gained - lost - half, gained - lost + half))


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=60))
def test_the_difference_of_two_shares_lies_in_its_interval(rows):
    one, two = (Statistics.share_of(side) for side in zip(*rows, strict=True))
    low, high = resampling.difference(one, two, np.zeros((1, 2)))
    assert -1 <= low <= one.value - two.value <= high <= 1 and high > low


def test_intervals_of_differences_of_shares_hold_them_as_often_as_they_say():
    for both, first, second in ((0.3, 0.1, 0.05), (0.02, 0.03, 0.01), (0.5, 0.25, 0.05), (0.02, 0.06, 0.02)):
        kinds = np.random.default_rng(0).choice(4, (2000, 100), p=[both, first, second, 1 - both - first - second])
        held = 0
        for kind in kinds:
            one, two = Statistics.share_of(kind <= 1), Statistics.share_of((kind == 0) | (kind == 2))
            low, high = resampling.difference(one, two, np.zeros((1, 2)))
            held += low <= first - second <= high
        assert 0.93 <= held / len(kinds) <= 0.97


def test_values_that_never_vary_have_an_interval_without_width():
    assert resampling.intervals([Statistics.mean([3.0] * 5)]) == [(3, 3)]


def test_systems_that_answer_alike_do_not_differ_and_a_better_one_does():
    references = [f"第{i}封信，写给第{i}个人，说第{i}件事。" for i in range(40)]
    worse = ["这封信写给一个人。"] * 40
    rows = metrics.compare(
        {"a": worse, "same": list(worse), "copy": references}, [references], base="a", metrics=["chrf"]
    )
    same, copy = rows
    assert (same.value, same.low, same.high, same.p) == (0, 0, 0, 1)
    assert copy.low > 0 and copy.p_holm < 0.05 and copy.p_holm >= copy.p


def test_approximate_randomisation_equals_the_exact_permutation_test():
    one, two = np.array([3.0, 1, 4, 1, 5, 9]), np.array([2.0, 1, 1, 0, 3, 3])
    signs = np.array(np.meshgrid(*[[-1, 1]] * 6)).reshape(6, -1).T
    exact = np.mean(np.abs(signs @ (one - two)) >= abs((one - two).sum()) - 1e-9)
    assert resampling.randomisation(Statistics.mean(one), Statistics.mean(two), 20_000) == pytest.approx(
        exact, abs=0.01
    )


def test_a_value_that_is_undefined_has_no_p_value():
    one = metrics.compare({"a": ["", ""], "b": ["好人", "坏人"]}, metrics=["distinct_2"], resamples=50)[0]
    assert np.isnan([one.value, one.low, one.high, one.p, one.p_holm]).all()


def test_no_p_value_is_smaller_than_its_trials_allow():
    statistics = Statistics.mean(np.zeros(50)), Statistics.mean(np.ones(50))
    assert resampling.randomisation(*statistics, trials=99) == pytest.approx(1 / 100)


@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=8))
def test_holm_controls_by_hand(p_values):
    order, running, expected = np.argsort(p_values), 0.0, np.empty(len(p_values))
    for step, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - step) * p_values[index]))
        expected[index] = running
    assert resampling.holm(p_values) == pytest.approx(expected)


def test_a_failed_answer_never_enters_a_comparison():
    answers = {
        "base": {"q1": ("ok", "好"), "q2": ("refused", "我不能"), "q3": ("ok", "好"), "q4": ("truncated", "好")},
        "tuned": {"q1": ("ok", "好"), "q2": ("ok", "好"), "q3": ("failed", "Error 500"), "q4": ("ok", "好")},
    }
    items, counts = metrics.outcomes(answers)
    assert items == ["q1"]
    assert counts["base"] == {"ok": 2, "refused": 1, "truncated": 1}
    assert counts["tuned"] == {"ok": 3, "failed": 1}


LETTERS = [
    "第三次月考以后，小林在操场的台阶上坐了很久，半杯豆浆一直放在脚边。",
    "体检那天，老周把那张没填完的表攥在手里，走廊的灯一盏一盏灭下去。",
    "末班公交车上只剩阿敏一个人，她摸了摸妈妈织的围巾，没有哭。",
]


TRADITIONAL = "體檢那天，老周把那張沒填完的表攥在手裏，走廊的燈一盞一盞滅下去。"


@pytest.mark.parametrize(
    "leaked", [LETTERS[1], f" {LETTERS[1]}\n", LETTERS[1].replace("攥在手里", "捏在手心"), TRADITIONAL]
)
def test_a_leaked_row_refuses_the_score_or_is_printed_into_its_signature(leaked):
    training = ["完全不同的一句话，说的是菜市场的价钱。", leaked]
    with pytest.raises(metrics.LeakError, match="1 of 3 test texts were trained on"):
        metrics.score(LETTERS, [LETTERS], training=training)
    for score in metrics.score(LETTERS, [LETTERS], training=training, allow_leak=True):
        assert "leak:ALLOWED-1-of-3" in score.signature


def test_a_copy_in_full_width_is_a_leak():
    (leak,) = metrics.leaks(["第１２周，ＡＢ组。"], ["第12周，AB组。"])
    assert metrics.leaks(["睡不着！", "我怕"], ["睡不着…", "我累"]) == [
        metrics.Leak(0, 0, 1.0)
    ]  # too short for n-grams
    assert leak.similarity == 1


def test_the_gate_looks_at_questions_and_at_every_reference_set():
    with pytest.raises(metrics.LeakError):
        metrics.score(["好"] * 3, [["好的"] * 3], sources=LETTERS, training=[LETTERS[2]])
    with pytest.raises(metrics.LeakError):
        metrics.score(["好"] * 3, [["好的"] * 3, [None, None, LETTERS[2]]], training=[LETTERS[2]])


def test_without_a_leak_the_signature_says_that_it_was_looked_for():
    scores = [metrics.score(LETTERS, [LETTERS], training=training)[0] for training in (None, ["别的话"])]
    assert ["leak:unchecked" in score.signature for score in scores] == [True, False]
    assert "leak:none" in scores[1].signature


# --- files and the command ---------------------------------------------------------------------------------------


def write_answers(path, rows):
    lines = [json.dumps({"id": i, "outcome": o, "text": t}, ensure_ascii=False) for i, o, t in rows]
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


@pytest.fixture
def files(tmp_path):
    records = corpus.load_split("test")[:6]
    gold = tmp_path / "gold.jsonl"
    corpus.dump(records, gold)
    good = [(r.id, "ok", r.answer_text) for r in records]
    return records, gold, write_answers(tmp_path / "good.jsonl", good), tmp_path


def run(*words):
    return CliRunner().invoke(app, ["score", *map(str, words)])


def test_the_command_writes_scores_outcomes_and_differences(files):
    records, gold, good, folder = files
    weak = [(r.id, "ok", "慢慢来，一切都会好的。") for r in records]
    weak[2] = (records[2].id, "failed", "Error 500")
    weak[4] = (records[4].id, "refused", "")
    base = write_answers(folder / "weak.jsonl", weak)
    out = folder / "out.json"
    other = write_answers(folder / "other.jsonl", [(r.id, "ok", r.answer_text[:50]) for r in records])
    result = run("--hyp", good, "--ref", gold, "--base", base, "--base", other, "--json", out, "--resamples", 200)
    assert result.exit_code == 0, result.output
    found = json.loads(out.read_text("utf-8"))
    outcomes = {str(good): {"ok": 6}, str(base): {"ok": 4, "failed": 1, "refused": 1}, str(other): {"ok": 6}}
    assert found["outcomes"] == outcomes
    scores = {row["name"]: row for row in found["scores"][str(good)]}
    assert scores["bleu"]["value"] == pytest.approx(100) and scores["bleu"]["n"] == 6
    assert set(scores) == set(metrics.METRICS) - {"bertscore"} and all(name in result.output for name in scores)
    assert {row["n"] for row in found["scores"][str(base)]} == {4}
    assert {(row["base"], row["n"]) for row in found["differences"]} == {(str(base), 4), (str(other), 6)}
    for row in (*found["scores"][str(base)], *found["differences"]):
        assert (row["low"] is None) == (row["n"] == 4 and row["name"] != "named"), (
            "of four only a share has an interval"
        )
    assert set(found["not_run"]) == {"bertscore", "bleurt"} and "bertscore not run: it loads" in result.output


def test_the_command_scores_on_an_encoder_of_the_readers_choice(files, monkeypatch):
    _, gold, good, _ = files
    monkeypatch.setattr(metrics, "METRICS", dict(metrics.METRICS))
    result = run("--hyp", good, "--ref", gold, "--metric", "bertscore", "--encoder", "smoke", "--layer", 2, "--idf")
    assert result.exit_code == 0, result.output
    assert re.search(r"bertscore\|model:smoke\|layer:2\|idf:yes", result.output)


def test_files_and_the_leak_gate_come_before_a_long_load(files):
    _, gold, good, folder = files
    asked = ("--ref", gold, "--metric", "bertscore", "--encoder", folder / "nowhere")
    for words, message in (
        (("--hyp", folder / "absent.jsonl"), "absent.jsonl does not exist, or is no file: check the path"),
        (("--hyp", good, "--train", gold), "leak"),
        (("--hyp", good), "cannot load the encoder"),
    ):
        assert message in str(run(*words, *asked).exception)


def test_an_empty_file_is_no_answer_and_an_empty_reference_is_named(tmp_path):
    for name, text in {"hyp": "好\n不好\n", "ref": "好\n\n", "none": ""}.items():
        (tmp_path / f"{name}.txt").write_text(text, "utf-8")
    hyp, ref, none = (tmp_path / f"{name}.txt" for name in ("hyp", "ref", "none"))
    with pytest.raises(CbtError, match=r"none.txt is empty"):
        pairing.score(none, [hyp])
    with pytest.raises(CbtError, match=r"ref.txt:2 \(reference of 2\) is empty: give its text"):
        pairing.score(hyp, [ref])


def test_an_answer_that_failed_cannot_move_a_score(files):
    records, gold, _, folder = files
    rows = [(r.id, "ok", r.answer_text) for r in records]
    for outcome in ("refused", "unparsed", "truncated", "filtered", "failed", "crisis"):
        rows[0] = (records[0].id, outcome, "我不能回答这个问题。" * 50)
        broken = write_answers(folder / "broken.jsonl", rows)
        without = write_answers(folder / "without.jsonl", rows[1:])
        shorter = folder / "shorter.jsonl"
        corpus.dump(records[1:], shorter)
        one, two = (
            pairing.score(hyp, [ref], resamples=50)["scores"][str(hyp)]
            for hyp, ref in ((broken, gold), (without, shorter))
        )
        assert one == two


def test_an_outcome_counts_in_every_form_and_on_every_line(files):
    records, _, _, folder = files
    rows = [{"id": r.id, "question": "问", "answer": "Error 500", "outcome": "failed"} for r in records]
    rows[0] = {"id": records[0].id, "question": "问", "answer": "慢慢来。"}
    rows[2]["answer"] = None
    rows[5] = {"id": records[5].id, "question": "问", "answer": ""}
    table = io.StringIO()
    writer = csv.DictWriter(table, list(rows[1]), restval="")
    writer.writeheader(), writer.writerows(rows)
    lines = "\n".join(json.dumps(row) for row in rows)
    turned = "\n".join(json.dumps(row) for row in rows[::-1])
    given = {"table.csv": table.getvalue(), "list.json": json.dumps(rows), "a.jsonl": lines, "b.jsonl": turned}
    for name, text in given.items():
        (folder / name).write_text(text, "utf-8")
        told = {item: outcome for item, (outcome, _) in pairing.read(folder / name).texts.items()}
        assert told == {r.id: "failed" for r in records} | {records[0].id: "ok"}, name


def test_an_ok_answer_without_text_failed(files):
    records, gold, _, folder = files
    rows = [(r.id, "ok", r.answer_text if r is not records[1] else " ") for r in records]
    found = pairing.score(write_answers(folder / "one.jsonl", rows), [gold], names=["chrf"], resamples=20)
    assert found["outcomes"] == {str(folder / "one.jsonl"): {"ok": 5, "failed": 1}}


def test_a_lone_carriage_return_ends_no_line(tmp_path):
    (tmp_path / "a.txt").write_bytes("甲\r乙\r\n丙\n".encode())
    assert [text for _, text in pairing.read(tmp_path / "a.txt").texts.values()] == ["甲\r乙", "丙"]
    (tmp_path / "b.txt").write_text("甲。\n\nError code: 429 - {'error': 'slow down'}\n", "utf-8")
    assert [outcome for outcome, _ in pairing.read(tmp_path / "b.txt").texts.values()] == ["ok", "ok", "failed"]
    (tmp_path / "a.txt").write_bytes("\ufeff甲\r乙\n".encode() + b"\xff")
    with pytest.raises(CbtError, match=r"a\.txt is neither UTF-8 nor GBK"):
        pairing.read(tmp_path / "a.txt")


def test_an_answer_that_failed_is_no_reference(files):
    records, gold, good, folder = files
    rows = [(r.id, "ok", r.answer_text[:40]) for r in records]
    rows[0] = (records[0].id, "truncated", records[0].answer_text)
    rows[1] = (records[1].id, "failed", None)
    broken = write_answers(folder / "broken.jsonl", rows)
    with pytest.raises(CbtError, match=rf"2 items have no reference .*broken.jsonl:1 \(reference of {records[0].id}\)"):
        pairing.score(good, [broken])
    row = pairing.score(good, [broken, gold], names=["chrf"], resamples=50)["scores"][str(good)][0]
    assert row["value"] == 100 and "nrefs:var" in row["signature"]
    trained = pairing.score(good, [gold], training=[broken], names=["chrf"], allow_leak=True, resamples=50)
    assert "leak:ALLOWED-1-of-12" in trained["scores"][str(good)][0]["signature"]


def test_the_command_refuses_a_leak_and_prints_an_allowed_one(files):
    _, gold, good, _ = files
    refused = run("--hyp", good, "--ref", gold, "--train", gold)
    assert isinstance(refused.exception, metrics.LeakError)
    allowed = run("--hyp", good, "--ref", gold, "--train", gold, "--allow-leak", "--resamples", 50)
    assert allowed.exit_code == 0 and "leak:ALLOWED-12-of-12" in allowed.output
    clean = run("--hyp", good, "--ref", gold, "--train", ROOT / "data/corpus/train.jsonl", "--resamples", 50)
    assert clean.exit_code == 0 and "leak:none" in clean.output


def test_a_leak_is_named_by_file_and_line_on_both_sides_and_looked_for_once(files, monkeypatch):
    records, gold, good, folder = files
    trained = folder / "trained.jsonl"
    corpus.dump(corpus.load_split("train")[:3] + records[4:], trained)
    post, letter = rf"\(post of {records[4].id}\)", rf"\(answer of {records[4].id}\)"
    with pytest.raises(metrics.LeakError) as caught:
        pairing.score(good, [gold], training=[trained], names=["chrf"])
    said = str(caught.value)
    assert re.search(rf"4 of 12 test texts.*{gold}:5 {post} is 1.00 like {trained}:4 {post};", said)
    assert re.search(rf"{gold}:5 \(reference of .*\) is 1.00 like {trained}:4 {letter}; and 1 more\)", said)
    bases = [write_answers(folder / f"{n}.jsonl", [(r.id, "ok", "慢慢来。" * n) for r in records]) for n in (1, 2, 3)]
    looked = []
    repeated = metrics.gates.repeated
    monkeypatch.setattr(metrics.gates, "repeated", lambda *given: looked.append(1) or repeated(*given))
    metrics._leaks.cache_clear()
    pairing.score(good, [gold], bases=bases, training=[trained], allow_leak=True, names=["chrf"], resamples=20)
    assert len(looked) == 1


@pytest.mark.parametrize("to", ["alpaca", "sharegpt"])
def test_the_gate_reads_what_the_corpus_is_exported_to(files, to):
    records, gold, good, folder = files
    exported = exports.export(records, to, folder / "export")[0]
    with pytest.raises(metrics.LeakError, match=f"12 of 12 test texts.* like {exported}:1 "):
        pairing.score(good, [gold], training=[exported], names=["chrf"])
    if to == "sharegpt":  # it keeps ids, so it is a reference too
        row = pairing.score(good, [exported], names=["chrf"], resamples=20)["scores"][str(good)][0]
        assert row["value"] == 100


def test_a_letter_that_is_one_turn_of_a_long_dialogue_is_a_leak(files):
    records, gold, good, folder = files
    turns = [("user", "今天聊什么？"), ("assistant", "先说说这一周。" * 60), ("user", "我在听。" * 80)]
    turns += [("assistant", records[2].answer_text), ("user", "谢谢。"), ("assistant", "下周见，慢慢来。" * 80)]
    dialogue = [{"conversations": [{"from": who, "value": text} for who, text in turns]}]
    (folder / "long.json").write_text(json.dumps(dialogue, ensure_ascii=False), "utf-8")
    with pytest.raises(metrics.LeakError, match=r"1 of 12 .* like .*long.json:1 \(turn 4 of 1\)"):
        pairing.score(good, [gold], training=[folder / "long.json"], names=["chrf"])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (lambda good: good[1:], "items of .*gold.jsonl are not in .*bad.jsonl"),
        (lambda good: [*good, ("stranger", "ok", "好")], "'stranger'"),
        (lambda good: [*good, good[0]], "bad.jsonl:7, field id: .* stands here twice"),
        (lambda good: [("x", "great", "好")], "bad.jsonl:1, field outcome: 'great' is none of ok"),
        (lambda good: [("x", "ok", None)], "bad.jsonl:1, field text: None is no text"),
        (lambda good: [("x", "failed", 503)], "bad.jsonl:1, field text: 503 is no text"),
        (lambda good: [(i, "failed", "") for i, _, _ in good], "no answer with outcome ok"),
    ],
)
def test_files_that_do_not_fit_are_named(files, rows, message):
    records, gold, _, folder = files
    bad = write_answers(folder / "bad.jsonl", rows([(r.id, "ok", r.answer_text) for r in records]))
    with pytest.raises(CbtError, match=message):
        pairing.score(bad, [gold])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "x", "text": ' + "[" * 20_000, "bad.jsonl:1 is no JSON object"),
        ('{"id": "x", "text": "好", "text": "坏"}', "bad.jsonl:1 .* the key 'text' stands twice"),
        ('{"id": null, "text": "好"}', "bad.jsonl:1, field id: None names nothing"),
        ('{"id": " ", "text": "好"}', "bad.jsonl:1, field id: ' ' names nothing"),
        ('{"id": {"a": 1}, "text": "好"}', "bad.jsonl:1, field id: {'a': 1} names nothing"),
        ('{"id": "x", "outcome": "failed"}', "bad.jsonl:1 is no answer with id, outcome and text: it has no text"),
    ],
)
def test_a_line_that_is_no_answer_is_named(files, line, message):
    _, gold, _, folder = files
    (folder / "bad.jsonl").write_text(line + "\n", "utf-8")
    with pytest.raises(CbtError, match=message):
        pairing.score(folder / "bad.jsonl", [gold])


def test_a_base_with_other_items_is_named_and_a_repeat_among_references_too(files):
    records, gold, good, folder = files
    rows = [(r.id, "ok", r.answer_text) for r in records]
    for changed in (rows[1:], [*rows[1:], ("stranger", "ok", "好")]):
        base = write_answers(folder / "base.jsonl", changed)
        with pytest.raises(CbtError, match=rf"1 of 6 items of .*gold.jsonl are not in .*base.jsonl .*{records[0].id}"):
            pairing.score(good, [gold], bases=[base])
    twice = write_answers(folder / "twice.jsonl", [*rows, rows[2]])
    for place in ({"bases": [twice]}, {"references": [gold, twice]}, {"hypotheses": twice}):
        with pytest.raises(CbtError, match=r"twice.jsonl:7, field id: .* stands here twice"):
            pairing.score(**{"hypotheses": good, "references": [gold]} | place)
    with pytest.raises(CbtError, match=r"gold.jsonl is given twice as --ref"):
        pairing.score(good, [gold, folder / ".." / folder.name / gold.name])


def test_a_training_file_without_text_is_no_proof_that_nothing_leaked(files):
    _, gold, good, folder = files
    (folder / "empty.txt").write_text("\n", "utf-8")
    with pytest.raises(CbtError, match="holds no text, so the leak gate would look at nothing"):
        pairing.score(good, [gold], training=[folder / "empty.txt"])


def test_a_file_is_no_base_of_itself_by_another_path_and_a_folder_is_no_output(files):
    _, gold, good, folder = files
    with pytest.raises(CbtError, match="cannot be compared with itself"):
        pairing.score(good, [gold], bases=[folder / ".." / folder.name / good.name])
    for place in (folder, good / "x.json"):
        done = run("--hyp", good, "--ref", gold, "--metric", "chrf", "--resamples", 20, "--json", place)
        assert isinstance(done.exception, CbtError) and f"cannot write {place}" in str(done.exception)


def test_what_was_not_run_has_a_row_that_says_why(files):
    records, _, _, folder = files
    plain = folder / "gold.txt"
    plain.write_text("".join(r.answer_text.replace("\n", "") + "\n" for r in records), "utf-8")
    halves = [
        write_answers(
            folder / f"{word}.jsonl", [(str(i), "ok" if (i > 3) is late else "failed", "好") for i in range(1, 7)]
        )
        for word, late in (("early", False), ("late", True))
    ]
    result = run("--hyp", halves[0], "--ref", plain, "--base", halves[1], "--resamples", 20)
    assert f"minus {halves[1]} not run: no item has an ok answer of both" in result.output
    assert "copied not run: needs the posts" in result.output
    with pytest.raises(CbtError, match="bleurt was not run: needs a CHECKPOINT"):
        pairing.score(halves[0], [plain], names=["bleurt"])


def test_one_item_is_printed_with_dashes_for_its_interval(tmp_path):
    for name in ("hyp", "ref"):
        (tmp_path / f"{name}.txt").write_text("今天很好\n", "utf-8")
    printed = run("--hyp", tmp_path / "hyp.txt", "--ref", tmp_path / "ref.txt", "--metric", "chrf").output
    assert re.search(r"chrf +100 +- +- +1\n", printed)


def test_plain_lines_and_two_reference_files(tmp_path):
    for name, lines in {
        "hyp": "今天很好\n明天也好\n",
        "one": "今天不错\n明天也好\n",
        "two": "今天很好\n后天再说\n",
    }.items():
        (tmp_path / f"{name}.txt").write_text(lines, "utf-8")
    found = pairing.score(tmp_path / "hyp.txt", [tmp_path / "one.txt", tmp_path / "two.txt"], names=["chrf"])
    ((row,),) = found["scores"].values()
    assert row["value"] == 100 and "nrefs:2" in row["signature"]


def test_a_line_ends_at_a_line_feed_and_a_file_is_utf8_or_gbk(tmp_path):
    (tmp_path / "one.txt").write_bytes("一行\u2028还是这行\r\n\n第三行".encode())
    assert [text for _, text in pairing.read(tmp_path / "one.txt").texts.values()] == [
        "一行\u2028还是这行",
        "",
        "第三行",
    ]
    (tmp_path / "two.txt").write_bytes("好\r还是这行\n你好".encode("gbk"))
    assert [text for _, text in pairing.read(tmp_path / "two.txt").texts.values()] == ["好\r还是这行", "你好"]
    (tmp_path / "two.txt").write_bytes(b"\xff\xff")
    with pytest.raises(CbtError, match=r"two\.txt is neither UTF-8 nor GBK text: convert it"):
        pairing.read(tmp_path / "two.txt")
    (tmp_path / "three.jsonl").write_text('{"id": "1", "reply": "好"}\n', "utf-8")
    with pytest.raises(CbtError, match=r"three\.jsonl holds neither answers \(JSON Lines of id, outcome and text\)"):
        pairing.read(tmp_path / "three.jsonl")
    with pytest.raises(CbtError, match="cannot be compared with itself"):
        pairing.score(tmp_path / "one.txt", [tmp_path / "one.txt"], bases=[tmp_path / "one.txt"])


def test_a_third_in_common_is_a_leak():
    one = "地铁上忘了带伞走到公司裤脚全湿开会时一直觉得大家在看我的鞋晚上回家又想了很久才睡"
    two = one[:22] + "儿子转学第三周作业本老师写两个字翻来"
    assert [leak.similarity for leak in metrics.leaks([one], [two])] == [pytest.approx(1 / 3)]


# --- what the gate of `cbt score` asks about, and where it looks ---------------------------------------------------


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def test_a_reference_under_any_name_of_a_training_file_is_a_leak(files):
    records, gold, good, folder = files
    other = corpus.load_split("train")[: len(records)]
    pairs = [(one.post, record.answer_text) for one, record in zip(other, records, strict=True)]
    with (folder / "pairs.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("question", "Reply"), *pairs])
    both = [{"id": n, "question": post, "response": letter, "n": 7} for n, (post, letter) in enumerate(pairs)]
    first = [{"id": n, "text": post, "response": letter, "at": None} for n, (post, letter) in enumerate(pairs)]
    several = [{"question": post, "replies": ["好。", letter], "tags": [{"a": 1}]} for post, letter in pairs]
    second = [corpus.to_dict(one) | {"second_answer": two.answer} for one, two in zip(other, records, strict=True)]
    for path, field in (
        (folder / "pairs.csv", "reply"),
        (write_rows(folder / "both.jsonl", both), "response"),
        (write_rows(folder / "first.jsonl", first), "response"),
        (write_rows(folder / "several.jsonl", several), "replies"),
        (write_rows(folder / "second.jsonl", second), "second_answer"),
    ):
        with pytest.raises(metrics.LeakError, match=rf"6 of 12 .* is 1.00 like {path}:\d+ \({field}\)"):
            pairing.score(good, [gold], training=[path], names=["chrf"])


def test_names_labels_and_a_few_letters_of_a_training_file_are_no_texts(tmp_path):
    row = {"id": "letter-0001", "question": "孩子不肯上学怎么办", "answer": "先问问他。", "label": "fortune_telling"}
    path = write_rows(tmp_path / "train.jsonl", [row | {"mood": "难过", "more": {"a": None}, "n": 12345}])
    assert {text for _, text in pairing.learnt(path)} == {"孩子不肯上学怎么办", "先问问他。"}


def test_posts_of_any_file_are_asked_about(files):
    records, _, good, folder = files
    other = corpus.load_split("train")[: len(records)]
    plain = write_answers(folder / "plain.jsonl", [(r.id, "ok", r.answer_text) for r in records])
    asked = [
        {"id": r.id, "question": r.question, "description": r.description, "answer": "慢慢来，会好的。"}
        for r in records
    ]
    beside = [{"id": r.id, "text": "慢慢来，会好的。", "question": r.post} for r in records]
    asked, beside = write_rows(folder / "asked.jsonl", asked), write_rows(folder / "beside.jsonl", beside)
    rows = [{"instruction": r.post, "output": o.answer_text} for r, o in zip(records, other, strict=True)]
    (folder / "alpaca.json").write_text(json.dumps(rows, ensure_ascii=False), "utf-8")
    for hyp, refs, bases in (
        (good, [plain, asked], []),
        (good, [asked, plain], []),
        (good, [beside], []),
        (asked, [plain], []),
        (good, [plain], [beside]),
    ):
        given = {"bases": bases, "training": [folder / "alpaca.json"], "names": ["chrf"], "resamples": 20}
        with pytest.raises(metrics.LeakError, match=r"6 of (12|18) test texts .*\(post of "):
            pairing.score(hyp, refs, **given)
        found = pairing.score(hyp, refs, allow_leak=True, **given)
        signed = [row["signature"] for rows in (*found["scores"].values(), found["differences"]) for row in rows]
        assert all("|leak:ALLOWED-6-of-" in signature for signature in signed)
    found = pairing.score(good, [plain, asked], resamples=20)
    assert "copied" in [row["name"] for row in found["scores"][str(good)]], "one reference file with posts is enough"


def test_an_answer_to_another_post_than_the_references_is_named(files):
    records, _, _, folder = files
    posts = [{"id": n, "question": f" {r.question}", "description": ""} for n, r in enumerate(records)]
    gold = write_rows(folder / "asked.jsonl", [row | {"answer": "慢慢来，会好的。"} for row in posts])
    digests = [one.digest for one in questions.read_questions(write_rows(folder / "questions.jsonl", posts))]
    rows = [{"id": str(n), "outcome": "ok", "text": "先歇一会儿。", "post": one} for n, one in enumerate(digests)]
    hyp = write_rows(folder / "hyp.jsonl", rows)
    assert pairing.score(hyp, [gold], names=["chrf"], resamples=20)["outcomes"][str(hyp)] == {"ok": 6}
    rows[1]["post"], rows[2]["post"] = rows[2]["post"], rows[1]["post"]
    turned = write_rows(folder / "turned.jsonl", rows)
    for sides in ({"hypotheses": turned}, {"hypotheses": hyp, "bases": [turned]}):
        with pytest.raises(CbtError, match=r"turned\.jsonl answers another post under the id 1"):
            pairing.score(references=[gold], names=["chrf"], **sides)


def test_a_reply_that_was_cut_is_no_answer_though_its_row_names_no_outcome(files):
    records, gold, _, folder = files
    ends = ["stop", "length", "content_filter", None, "", "error"]
    told = ["ok", "truncated", "filtered", "ok", "ok", "failed"]
    rows = [{"id": r.id, "text": r.answer_text, "finish_reason": end} for r, end in zip(records, ends, strict=True)]
    table = [
        {"id": row["id"], "question": "问", "answer": row["text"], "finish_reason": row["finish_reason"]}
        for row in rows
    ]
    with (folder / "hyp.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader(), writer.writerows(table)
    for path in (write_rows(folder / "hyp.jsonl", rows), folder / "hyp.csv"):
        assert [outcome for outcome, _ in pairing.read(path).texts.values()] == told
        count = pairing.score(path, [gold], names=["chrf"], resamples=20)["outcomes"][str(path)]
        assert count == {"ok": 3, "truncated": 1, "filtered": 1, "failed": 1}
    rows = [row | {"outcome": "ok"} for row in rows]  # and where it names one that its other fields contradict
    assert [said for said, _ in pairing.read(write_rows(folder / "said.jsonl", rows)).texts.values()] == told
