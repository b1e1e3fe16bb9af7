"""A detector learns which sentence shows a type, is calibrated, can be saved, and is scored against closed forms."""

import dataclasses
import json
import shutil
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from sklearn.metrics import f1_score, roc_auc_score
from statsmodels.stats.proportion import proportion_confint
from typer.testing import CliRunner

from cbtlib import (
    ROOT,
    CbtError,
    cache,
    commands,
    corpus,
    detection,
    detectors,
    distortions,
    embedded,
    faults,
    label_figures,
    labelling,
    llm_labels,
    lora_labels,
    models,
    safety,
)
from cbtlib.answers import OUTCOMES
from cbtlib.cli import app
from cbtlib.detectors import Post

PLAIN = [
    "地铁上人很多。",
    "我妈做了一锅汤。",
    "周报改了三遍。",
    "孩子睡着了。",
    "雨下到半夜。",
    "工资晚了两天。",
    "猫又打翻了水。",
]
OTHER = ["".join(chr(0x5000 + 61 * (7 * k + i) % 3000) for i in range(6)) + "。" for k in range(60)]
"""Sentences of a test file: with those of PLAIN its posts would be near copies of training posts."""
SHOWS = {
    "labelling": ["我就是个废物。", "他纯属骗子。", "我这种人叫窝囊废。"],
    "mind_reading": ["他们肯定嫌我。", "她心里准在笑我。", "领导一定烦我。"],
}


def posts(count: int, seed: int = 0, plain: Sequence[str] = PLAIN) -> list[Post]:
    """Posts of five plain sentences; two of five hold a sentence of one type, and the span tells which."""
    rng = np.random.default_rng(seed)
    out = []
    for index in range(count):
        pieces = list(rng.choice(plain, 5))
        kind = [None, "labelling", "mind_reading", None, None][index % 5]
        spans = ()
        if kind:
            at = int(rng.integers(0, 5))
            pieces[at] = str(rng.choice(SHOWS[kind]))
            start = sum(map(len, pieces[:at]))
            spans = ((kind, start, start + len(pieces[at]) - 1),)
        out.append(Post("".join(pieces), frozenset(s[0] for s in spans), spans))
    return out


TYPES = ("labelling", "mind_reading")


@pytest.fixture(scope="module")
def fitted():
    return detectors.train(posts(120), "characters", types=TYPES)


def test_it_finds_in_new_posts_what_the_spans_taught(fitted):
    fresh = posts(60, seed=9)
    gold = np.array([[name in post.types for name in TYPES] for post in fresh])
    found = fitted.labels([post.text for post in fresh])
    assert fitted.columns == (*TYPES, "any")
    assert (found[:, :2] == gold).mean() > 0.95 and (found[:, 2] == gold.any(1)).mean() > 0.95


def test_scores_are_probabilities_and_do_not_depend_on_company(fitted):
    texts = [post.text for post in posts(12, seed=5)]
    scores = fitted.scores(texts)
    assert scores.shape == (12, 3) and ((scores >= 0) & (scores <= 1)).all()
    assert np.allclose(fitted.scores(texts[3:4]), scores[3:4])
    assert fitted.scores([]).shape == (0, 3)
    assert np.isfinite(fitted.scores(["", "。", "😀"])).all()


def test_a_saved_detector_scores_the_same(fitted, tmp_path):
    fitted.save(tmp_path / "d")
    texts = [post.text for post in posts(10, seed=3)]
    again = detectors.Detector.load(tmp_path / "d")
    assert np.array_equal(again.scores(texts), fitted.scores(texts))
    assert np.array_equal(again.labels(texts), fitted.labels(texts))
    card = (tmp_path / "d" / "README.md").read_text(encoding="utf-8")
    assert "120 posts" in card and "Limits" in card and all(f"| {name} |" in card for name in fitted.columns)
    with pytest.raises(CbtError, match="holds no detector"):
        detectors.Detector.load(tmp_path)


def test_a_detector_that_is_damaged_or_of_another_version_is_refused(fitted, tmp_path):
    def broken(change):
        fitted.save(tmp_path / "d")
        facts = json.loads((tmp_path / "d/detector.json").read_text(encoding="utf-8"))
        change(facts)
        (tmp_path / "d/detector.json").write_text(json.dumps(facts), encoding="utf-8")

    for change, words in (
        (lambda facts: facts.update(form=1), "too old for this version .form 1.*: make it anew with"),
        (lambda facts: facts.pop("form"), "too old"),
        (lambda facts: facts.update(form=99), "too new"),
        (lambda facts: facts.update(kind="guess"), "no detector: 'guess'"),
        (lambda facts: facts.update(kind="probe"), "no detector: 'mean'"),
        (lambda facts: facts["vocabulary"].pop(), "has shape"),
        (lambda facts: facts.update(thresholds=[0.5]), "thresholds has shape"),
        (lambda facts: facts.update(thresholds=[float("nan")] * 3), "no number"),
    ):
        broken(change)
        with pytest.raises(CbtError, match=words):
            detectors.Detector.load(tmp_path / "d")
    fitted.save(tmp_path / "d")
    whole = (tmp_path / "d/detector.npz").read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 30):
        (tmp_path / "d/detector.npz").write_bytes(whole[:size])
        with pytest.raises(CbtError, match="holds no detector"):
            detectors.Detector.load(tmp_path / "d")
    (tmp_path / "d/detector.json").write_text("[1]")
    with pytest.raises(CbtError, match="holds no detector"):
        detectors.Detector.load(tmp_path / "d")


def test_a_score_that_is_no_number_is_never_no_distortion(fitted):
    arrays = fitted.arrays | {"combination": fitted.arrays["combination"] * np.nan}
    with pytest.raises(CbtError, match="no numbers"):
        dataclasses.replace(fitted, arrays=arrays).labels(["我就是个废物。"])


def test_training_twice_gives_the_same_detector(fitted):
    again = detectors.train(posts(120), "characters", types=TYPES)
    assert np.array_equal(again.thresholds, fitted.thresholds)
    assert np.array_equal(again.arrays["characters.weights"], fitted.arrays["characters.weights"])


@pytest.mark.parametrize(
    ("given_posts", "types", "words"),
    [
        (posts(120), ("labelling", "magnification"), "type 'magnification' stands in 0 of 120"),
        ([Post("他是骗子", frozenset({"labelling"}))] * 9, ("labelling",), "stands in 9 of 9"),
        ([], ("labelling",), "stands in 0 of 0"),
    ],
)
def test_an_empty_class_and_one_class_only_are_refused(given_posts, types, words):
    with pytest.raises(CbtError, match=words):
        detectors.train(given_posts, "characters", types=types)


def test_texts_without_spans_are_read_whole():
    whole = [Post(post.text, post.types) for post in posts(120)]
    detector = detectors.train(whole, "characters", types=TYPES)
    assert not detector.by_sentence


@pytest.mark.parametrize("kind", ["probe", "lora"])
def test_detectors_that_read_with_a_model_learn_save_and_score_the_same(kind, tmp_path):
    detector = detectors.train(posts(40), kind, TYPES, model="smoke", layers=(1, 2), epochs=1, members=2)
    detector.save(tmp_path)
    texts = [post.text for post in posts(5, seed=3)]
    scores = detector.scores(texts)
    assert ((scores > 0) & (scores < 1)).all()
    assert np.allclose(detectors.Detector.load(tmp_path).scores(texts), scores, atol=1e-6)
    assert np.allclose(detector.scores(texts[:2]), scores[:2], atol=0.02)  # company only changes rounding


@pytest.mark.parametrize("change", ["weights", "vocabulary"])
def test_a_detector_is_refused_over_another_model_of_the_same_shape(change, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(embedded.model_dir("smoke"), model)
    detector = detectors.train(posts(40), "probe", TYPES, model=str(model), layers=(1,))
    detector.save(tmp_path / "d")
    texts = [post.text for post in posts(3, seed=3)]
    assert np.array_equal(detectors.Detector.load(tmp_path / "d").scores(texts), detector.scores(texts))
    if change == "weights":
        weights = load_file(model / "model.safetensors")
        weights["model.norm.weight"] += 1
        save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    else:
        told = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
        ids = told["model"]["vocab"]
        ids["猫"], ids["雨"] = ids["雨"], ids["猫"]
        (model / "tokenizer.json").write_text(json.dumps(told), encoding="utf-8")
    with pytest.raises(CbtError, match=r"made over other weights or another vocabulary .* make the detector anew"):
        detectors.Detector.load(tmp_path / "d")


def test_the_checksum_of_a_model_that_is_not_there_is_a_sentence(tmp_path):
    for model in (tmp_path, tmp_path / "missing"):
        with pytest.raises(CbtError, match="cannot load the model"):
            models.checksum(str(model))


def test_texts_are_read_once_by_all_folds_and_say_the_same(monkeypatch):
    texts = ["我就是个废物。今天下雨。", "好"]
    units = detectors.cut(texts, by_sentence=True)
    plain = detectors._states(texts, units, "smoke", [2])
    with detectors.reading_once():
        assert np.array_equal(detectors._states(texts, units, "smoke", [2]), plain)
        monkeypatch.setattr(detectors, "hidden_states", None)  # from here on reading would fail
        assert np.array_equal(detectors._states(texts[::-1], units[::-1], "smoke", [2]), plain[[2, 0, 1]])
        with detectors.reading_once():
            assert np.array_equal(detectors._states(texts, units, "smoke", [2]), plain)
        assert np.array_equal(detectors._states(texts, units, "smoke", [2]), plain)


def test_a_sentence_far_into_a_long_text_is_read_and_a_text_without_end_is_refused(monkeypatch):
    text = "".join(f"今天是第{n}天，下雨。" for n in range(300))
    (units,) = detectors.cut([text], by_sentence=True)
    for read in (
        detectors.hidden_states([text], [units], "smoke", [2]),
        lora_labels.logits([text], [units], [lora_labels.fit(["a", "b"], [[(0, 1)]] * 2, ONE, "smoke", 1, 0)], "smoke"),
    ):
        assert len(np.unique(read, axis=0)) > 290, "each sentence has a state of its own"
    monkeypatch.setattr(models, "LONGEST", 1000)
    with pytest.raises(CbtError, match=r"text 2 of 2 has .* tokens, and at most 1,000 are read: cut it into posts"):
        detectors.hidden_states(["短", text], [[(0, 1)], units], "smoke", [2])


@pytest.mark.parametrize("seed", range(6))
def test_every_part_that_is_fitted_on_has_each_label_however_rare(seed):
    gold = np.zeros((60, 3), bool)
    gold[:5, 0], gold[5:60, 1], gold[::2, 2] = True, True, True
    fold = detectors._folds([f"第{k}天" for k in range(60)], gold, 2, seed)
    assert sorted(np.bincount(fold)) == [12] * 5
    for part in (fold < 2, *(fold != k for k in range(5))):
        assert gold[part].any(0).all() and not gold[part].all(0).any()


def test_labels_that_no_folds_can_spread_are_a_sentence():
    gold = np.zeros((60, 1), bool)
    gold[0] = True
    with pytest.raises(CbtError, match="60 posts are too few to see each label"):
        detectors._folds([f"第{k}天" for k in range(60)], gold, 2, 0)
    gold = np.arange(60)[:, None] % 12 == 0  # five posts, and one post five times
    with pytest.raises(CbtError, match=r"60 posts .12 without copies. are too few to see each label"):
        detectors._folds([f"第{k % 12}天" for k in range(60)], gold, 2, 0)
    with pytest.raises(CbtError, match=r"60 posts .4 without copies. are too few"):
        detectors._folds([f"第{k % 4}天" for k in range(60)], np.arange(60)[:, None] % 4 < 2, 2, 0)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("calibrated", [2, 5])
def test_copies_of_a_post_share_a_fold_and_without_copies_nothing_moves(calibrated, seed):
    records = corpus.load_split("train")
    texts, gold = [record.description for record in records], distortions.of_records(records)
    plain = detectors._folds(texts, gold, calibrated, seed)
    draw = np.random.default_rng(seed)  # as it was before copies were looked for
    while True:
        fold = draw.permutation(np.arange(len(gold)) % 5)
        parts = [gold[part] for part in (fold < calibrated, *(fold != k for k in range(5)))]
        if all(part.any(0).all() and not part.all(0).any() for part in parts):
            break
    assert np.array_equal(plain, fold)
    for copied in (lambda text: text, lambda text: f" {text.replace('，', ' ')}！", lambda text: text.upper() + "…"):
        twice = detectors._folds([*texts, *map(copied, texts)], np.tile(gold, (2, 1)), calibrated, seed)
        assert np.array_equal(twice[: len(texts)], twice[len(texts) :]), "a copy is where its twin is"
    one_copy = detectors._folds([*texts[:-1], texts[0]], np.vstack([gold[:-1], gold[:1]]), calibrated, seed)
    assert (one_copy != plain).sum() <= 1, "and no other post moves"


def test_heads_are_calibrated_on_posts_that_they_have_not_seen_however_often_a_post_is_copied(monkeypatch):
    tasks = []
    plain = detectors._Task
    monkeypatch.setattr(detectors, "_Task", lambda *given: tasks.append(plain(*given)) or tasks[-1])
    rows = posts(60)
    detectors.train([*rows, *rows, *rows], "characters", TYPES)
    folds = {text: set() for text in tasks[0].texts}
    for text, fold in zip(tasks[0].texts, tasks[0].fold.tolist(), strict=True):
        folds[text].add(fold)
    assert {len(found) for found in folds.values()} == {1} and len(set.union(*folds.values())) == 5


ONE = np.array([[True], [False]])


def test_lora_learns_what_the_units_show():
    texts = ["aaaa", "bbbb"] * 16
    target = np.array([[text == "aaaa"] for text in texts])
    units = detectors.cut(texts, by_sentence=False)
    member = lora_labels.fit(texts, units, target, "smoke", epochs=12, seed=0)
    found = lora_labels.logits(texts[:2], units[:2], [member], "smoke")[:, 0]
    assert found[0] > found[1]
    with pytest.raises(CbtError, match="does not fit the model"):
        lora_labels.logits(texts[:2], units[:2], [{"head.bias": member["head.bias"]}], "smoke")


def test_thresholds_serve_the_average_that_was_asked_for():
    rows = posts(120)
    macro, micro = (detectors.train(rows, "characters", TYPES, average=name) for name in ("macro", "micro"))
    assert len(set(micro.thresholds[:2])) == 1 and micro.thresholds[2] == macro.thresholds[2]
    with pytest.raises(CbtError, match="choose macro or micro"):
        detectors.train(rows, "characters", TYPES, average="best")
    with pytest.raises(CbtError, match="can be trained"):
        detectors.train(rows, "guess", TYPES)


def test_hidden_states_average_the_tokens_of_each_unit():
    texts = ["我就是个废物。今天下雨。", "好"]
    units = [detectors.sentences(text) for text in texts]
    both = detectors.hidden_states(texts, units, "smoke", [2])
    assert both.shape[0] == 3
    alone = detectors.hidden_states(texts[1:], units[1:], "smoke", [2])
    assert np.allclose(alone[0], both[2], atol=2e-2)  # padding beside a longer text changes nothing but rounding
    assert np.allclose(detectors.hidden_states(texts[:1], [[(0, 7)]], "smoke", [2])[0], both[0], atol=2e-2)
    with pytest.raises(CbtError, match="layers 1 to"):
        detectors.hidden_states(texts[1:], units[1:], "smoke", [99])


@settings(max_examples=60)
@given(st.data())
def test_the_threshold_is_the_best_there_is(data):
    n = data.draw(st.integers(2, 25))
    gold = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))[:, None]
    scores = np.array(data.draw(st.lists(st.sampled_from(np.linspace(0, 1, 9)), min_size=n, max_size=n)))[:, None]
    chosen = detectors.best_thresholds(gold, scores)[0]
    best = max(f1_score(gold[:, 0], scores[:, 0] >= t, zero_division=0) for t in np.unique(scores))
    assert f1_score(gold[:, 0], scores[:, 0] >= chosen, zero_division=0) == pytest.approx(best)


# ------------------------------------------------------------------ scores


def tables(seed: int = 0, n: int = 60):
    rng = np.random.default_rng(seed)
    gold = rng.random((n, 2)) < 0.4
    scores = np.clip(np.column_stack([gold, gold.any(1)]) * 0.4 + rng.random((n, 3)) * 0.6, 0, 1)
    return gold, scores[:, :2] >= 0.5, scores


def test_scores_are_those_of_scikit_learn():
    gold, found, scores = tables()
    table = detection.evaluate(gold, found, TYPES, scores).table
    for j, name in enumerate(TYPES):
        assert table.loc[name, "f1"] == pytest.approx(f1_score(gold[:, j], found[:, j]))
        assert table.loc[name, "auc"] == pytest.approx(roc_auc_score(gold[:, j], scores[:, j]))
    for average in ("micro", "macro", "weighted"):
        assert table.loc[average, "f1"] == pytest.approx(f1_score(gold, found, average=average))
    assert table.loc["any", "f1"] == pytest.approx(f1_score(gold.any(1), found.any(1)))
    assert ((table["low"] <= table["f1"]) & (table["f1"] <= table["high"])).all()


def test_a_rare_type_is_listed_and_both_averages_are_shown():
    gold, found, _ = tables()
    gold[:, 1] = False
    gold[:3, 1] = True
    table = detection.evaluate(gold, found, TYPES, least=6).table
    assert table.loc["mind_reading", "support"] == 3
    assert table.loc["macro, supported", "f1"] == pytest.approx(table.loc["labelling", "f1"])
    assert table.loc["macro", "f1"] != table.loc["macro, supported", "f1"]
    enough = detection.evaluate(gold, found, TYPES, least=3).table.loc["macro, supported", "f1"]
    assert enough == table.loc["macro", "f1"]  # as many as are asked for are enough
    table = detection.evaluate(gold, found, TYPES, least=1000).table
    assert table.loc["macro, supported", ["f1", "low", "high"]].isna().all() and table.loc["macro", "f1"] > 0


def test_a_type_that_no_post_has_is_no_zero_and_no_labels_at_all_is_a_sentence():
    gold, found, scores = tables()
    gold[:, 1] = False
    table = detection.evaluate(gold, found, TYPES, scores).table
    assert table.loc["mind_reading", ["f1", "low", "high", "recall", "auc"]].isna().all()
    assert table.loc["macro", "f1"] == pytest.approx(table.loc["labelling", "f1"])
    with pytest.raises(CbtError, match="no post has a gold label"):
        detection.evaluate(gold & False, found, TYPES)


def test_eight_right_calls_of_eight_are_no_certainty_and_eight_wrong_ones_neither():
    gold = np.zeros((60, 2), bool)
    gold[:8] = True
    found = gold.copy()
    found[:8, 1] = False
    table = detection.evaluate(gold, found, TYPES).table
    low, high = (2 * h / (1 + h) for h in proportion_confint(8, 8, method="wilson"))
    assert (table.loc["labelling", "low"], table.loc["labelling", "high"]) == (pytest.approx(low), 1.0)
    low, high = (2 * h / (1 + h) for h in proportion_confint(0, 8, method="wilson"))
    assert (table.loc["mind_reading", "low"], table.loc["mind_reading", "high"]) == (0.0, pytest.approx(high))


def test_precision_and_recall_have_wilsons_bounds_and_none_where_they_are_undefined():
    gold, found, _ = tables()
    found[:, 1] = False
    table = detection.evaluate(gold, found, TYPES).table
    for name, total in (("precision", found[:, 0].sum()), ("recall", gold[:, 0].sum())):
        bounds = proportion_confint((gold & found)[:, 0].sum(), total, method="wilson")
        assert tuple(table.loc["labelling", [f"{name}_low", f"{name}_high"]]) == pytest.approx(bounds)
    assert table.loc["mind_reading", ["precision", "precision_low", "precision_high"]].isna().all()
    assert table.loc["mind_reading", "recall_low"] == 0 < table.loc["mind_reading", "recall_high"] < 0.2
    gold[:, 1] = False
    table = detection.evaluate(gold, found, TYPES).table
    assert table.loc["mind_reading", ["recall", "recall_low", "recall_high"]].isna().all()


@pytest.mark.parametrize("positives", [6, 20])
def test_the_interval_of_auc_holds_the_truth_for_few_posts_too(positives):
    gold, generator, held = np.arange(60) < positives, np.random.default_rng(0), []
    truth, shift = 0.95, 2**0.5 * 1.6449  # the AUC of two normal distributions so far apart
    for _ in range(400):
        value, low, high = detection._area(gold, 1 / (1 + np.exp(-generator.normal(shift * gold))))
        assert 0 <= low <= value <= high <= 1
        held.append(low <= truth <= high)
    assert 0.93 <= np.mean(held) <= 0.99


def test_an_auc_of_one_from_eight_posts_is_no_certainty_and_of_one_class_there_is_none():
    gold = np.zeros((60, 2), bool)
    gold[:8, 0] = True
    scores = np.column_stack([gold, gold.any(1)]) * 0.8 + 0.1
    table = detection.evaluate(gold, gold, TYPES, scores).table
    assert table.loc["labelling", "auc"] == table.loc["labelling", "auc_high"] == 1
    # 0.857 solves (1 - t)² = z² t (1 - t) / (8 · 52) · (1 + 29 (t / (1 + t) + (1 - t) / (2 - t)))
    assert table.loc["labelling", "auc_low"] == pytest.approx(0.857, abs=5e-4)
    assert table.loc["mind_reading", ["auc", "auc_low", "auc_high"]].isna().all()


def test_a_type_that_was_never_learnt_has_no_calibration():
    gold, found, scores = tables()
    scores[:, 1] = 0
    for gone in (False, True):
        gold[:, 1] &= not gone
        found = detection.evaluate(gold, scores[:, :2] >= 0.5, TYPES, scores)
        assert np.isnan(found.ece["mind_reading"]) and np.isnan(found.table.loc["mind_reading", "auc"])
        assert found.ece["labelling"] > 0


def test_a_type_that_a_resample_does_not_draw_is_not_missed_there():
    types = [f"t{k}" for k in range(11)]
    gold = np.zeros((100, 11), bool)
    gold[np.arange(11), np.arange(11)] = True  # each type has one post
    found = gold.copy()
    averages = ["micro", "macro", "weighted"]
    perfect = detection.evaluate(gold, found, types).table.loc[averages]
    assert (perfect["f1"] == 1).all() and perfect[["low", "high"]].isna().all(axis=None), "no resample differs"
    found[0, 0] = False
    nearly = detection.evaluate(gold, found, types).table.loc[averages]
    assert (nearly["high"] == 1).all() and (nearly["low"] > 0.5).all()
    apart = detection.difference(gold, gold, found, types).loc["macro"]
    assert apart["low"] == 0 and 1 / 11 < apart["high"] < 0.5


@settings(max_examples=100)
@given(data=st.data(), posts=st.integers(1, 12), types=st.integers(1, 3))
def test_an_interval_of_f1_holds_its_estimate_or_is_none(data, posts, types):
    labels = st.lists(st.lists(st.booleans(), min_size=types, max_size=types), min_size=posts, max_size=posts)
    gold, found, other = (np.array(data.draw(labels)) for _ in range(3))
    gold[0, 0] = True
    names = [f"t{k}" for k in range(types)]
    table = detection.evaluate(gold, found, names, least=2, resamples=50).table
    apart = detection.difference(gold, found, other, names, resamples=50)
    for values, rows in ((table["f1"], table), (apart["difference"], apart)):
        assert (rows["low"].isna() | ((rows["low"] <= values) & (values <= rows["high"]))).all()
        assert (rows["low"].isna() == rows["high"].isna()).all()
    if posts < 5:
        assert apart.loc[apart["difference"] != 0, "low"].isna().all()


def test_a_seed_draws_the_same_posts_again_and_another_seed_others():
    gold, found, _ = tables()
    one, again, other = (detection.evaluate(gold, found, TYPES, seed=seed).table for seed in (1, 1, 2))
    assert one.equals(again) and not one["low"].equals(other["low"])


def test_the_paired_difference_of_a_detector_with_itself_is_nothing():
    gold, found, _ = tables()
    same = detection.difference(gold, found, found, TYPES)
    assert (same.to_numpy() == 0).all()
    better = detection.difference(gold, gold, found, TYPES)
    assert (better["low"] > 0).all()


def test_confusion_counts_what_is_taken_for_what():
    gold, found = np.array([[1, 0], [1, 0], [0, 1]]), np.array([[0, 1], [1, 0], [0, 1]])
    table = detection.confusion(gold, found, TYPES)
    assert table.loc["labelling", "mind_reading"] == 1 and table.to_numpy().sum() == 1


def test_calibration_error_is_nothing_when_scores_are_true_and_large_when_not():
    scores = np.repeat([0.05, 0.55, 0.95], [100, 100, 100])
    gold = np.concatenate([np.arange(100) < k for k in (5, 55, 95)])
    assert detection.calibration_error(gold, scores) == pytest.approx(0, abs=1e-9)
    assert detection.calibration_error(np.zeros(10), np.ones(10)) == 1
    assert np.isnan(detection.auc([1, 1], [0.2, 0.3])) and np.isnan(detection.auc([], []))
    assert detection.auc([0, 1, 0, 1], [0.1, 0.1, 0.3, 0.9]) == 0.625  # of four pairs two are right, one is a tie


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda g, f, s: (g, f[:-1], s), "must both be"),
        (lambda g, f, s: (g[:0], f[:0], None), "with posts"),
        (lambda g, f, s: (g, f * 2, None), "must be 0 or 1"),
        (lambda g, f, s: (g.astype(float) * np.nan, f, None), "must be 0 or 1"),
        (lambda g, f, s: (g, f, s * np.nan), "probabilities"),
        (lambda g, f, s: (g, f, s + 1), "probabilities"),
        (lambda g, f, s: (g, f, s[:, :2]), "shape"),
    ],
)
def test_what_is_no_label_and_no_probability_is_refused(change, words):
    with pytest.raises(CbtError, match=words):
        gold, found, scores = change(*tables())
        detection.evaluate(gold, found, TYPES, scores)


# ------------------------------------------------------------------ files in, tables out


def table_file(path, rows):
    path.write_text(
        "text,label\n" + "".join(f"{p.text},{'|'.join(p.types) or 'none'}\n" for p in rows), encoding="utf-8"
    )
    return path


def run(train, test, out, *kinds, **options):
    return labelling.benchmark(train, test, out, "auto", kinds or ("characters",), resamples=100, **options)


def test_benchmark_writes_tables_and_a_detector_that_labels(tmp_path):
    train, test = table_file(tmp_path / "a.csv", posts(120)), table_file(tmp_path / "b.csv", posts(40, 4, OTHER))
    table = run(train, test, tmp_path / "out").tables["characters"]
    folder = tmp_path / "out" / "characters"
    facts = json.loads((folder / "metrics.json").read_text())
    assert facts["train"] == 120 and facts["test"] == 40 and facts["outcomes"] == {"ok": 40}
    assert facts["f1"]["micro"] == pytest.approx(table.loc["micro", "f1"], abs=1e-5)
    for name in ("f1", "precision", "recall", "auc"):
        low, value, high = (facts[f"{name}{end}"]["labelling"] for end in ("_low", "", "_high"))
        assert low <= value <= high and low < high
    bounds = {f"{name}_{end}" for name in ("precision", "recall", "auc") for end in ("low", "high")}
    assert bounds < set((folder / "scores.csv").read_text().split("\n")[0].split(","))
    (tmp_path / "new.txt").write_text("我就是个废物。\n\n雨下到半夜。\n我不想活了。\n", encoding="utf-8")
    levels = labelling.label(tmp_path / "new.txt", tmp_path / "l.jsonl", folder / "detector")
    assert levels.total() == 3 and levels["crisis"] == 1
    first, second, third = (json.loads(x) for x in (tmp_path / "l.jsonl").read_text(encoding="utf-8").splitlines())
    assert (first["id"], second["id"], third["triage"]) == ("1", "3", "crisis")
    assert set(first["scores"]) == {"labelling", "mind_reading", "any"} and first["labels"] == ["labelling"]


def test_a_test_file_that_overlaps_the_training_file_is_scored_twice(tmp_path):
    train = posts(120)
    test = posts(40, 4, OTHER)
    table_file(tmp_path / "a.csv", train)
    table_file(tmp_path / "b.csv", [*test, *train[:5]])
    found = run(tmp_path / "a.csv", tmp_path / "b.csv", tmp_path / "out")
    assert found.copies >= 5 and found.without["characters"] is not None
    assert found.without["characters"].loc["any", "support"] < found.tables["characters"].loc["any", "support"]
    assert (tmp_path / "out" / "characters" / "without_copies.csv").exists()


def test_where_every_labelled_post_is_a_copy_nothing_is_trained_and_nothing_written(tmp_path, monkeypatch):
    monkeypatch.setattr(detectors, "train", lambda *_, **__: pytest.fail("nothing can come of it"))
    train = table_file(tmp_path / "a.csv", posts(120))
    with pytest.raises(CbtError, match=r"a.csv: all its 48 labelled posts copy.* posts of .*a.csv.* --test"):
        run(train, train, tmp_path / "out")
    twice = table_file(tmp_path / "b.csv", posts(20) * 5)
    with pytest.raises(CbtError, match=r"b.csv: all its 40 labelled posts copy.* posts of another of its five parts"):
        run(twice, None, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_copy_in_other_characters_is_a_copy():
    train = ["他们肯定嫌我123", "我就是个废物。"]
    for text in ("他们 肯定嫌我\u3000１２３", "他們肯定嫌我123！", "我就是个，废物"):
        assert labelling.copies([*train, text, "下雨\ud83d了"], np.array([0, 0, 1, 1])).tolist()[2:] == [True, False]
    assert not labelling.copies(["好的", "好的"], np.array([0, 0])).any()  # one part alone has no copies of another


def test_posts_that_stand_twice_in_a_file_cut_into_parts_are_found(tmp_path):
    rows = [Post(f"{post.text}{chr(0x4E00 + 97 * k)}{k}", post.types) for k, post in enumerate(posts(60))]
    found = run(table_file(tmp_path / "a.csv", [*rows, *rows[:20]]), None, tmp_path / "out")
    assert found.copies > 20 and json.loads((tmp_path / "out/characters/metrics.json").read_text())["copies"] > 20


def test_no_probability_and_no_gold_label_give_no_number_anywhere():
    for call in (detection.auc, detection.calibration_error):
        for scores in ([0.2, np.nan], [0.2, 1.2], [0.2, -0.1], [0.2]):
            with pytest.raises(CbtError, match=r"probabilities|one for each"):
                call([0, 1], scores)
    with pytest.raises(CbtError, match="no posts"):
        detection.calibration_error([], [])
    nothing = np.zeros((3, 2), bool)
    with pytest.raises(CbtError, match="no post has a gold label"):
        detection.difference(nothing, nothing, ~nothing, TYPES)


def test_an_answer_without_text_has_a_missing_label_and_not_none(tmp_path):
    named, rows = {"labelling": "贴标签", "mind_reading": "读心术"}, ["text,label,answer"]
    for index, post in enumerate(posts(60)):
        kind = next(iter(post.types), "none")
        answer = ("nan" if index % 2 else "") if index % 10 < 2 else f"这里有{named.get(kind, '一点难过')}。"
        rows.append(f"{post.text},{kind},{answer}")
    (tmp_path / "a.csv").write_text("\n".join(rows) + "\n", "utf-8")
    found = run(tmp_path / "a.csv", None, tmp_path / "out", "extract")
    assert found.outcomes["extract"] == {"ok": 48, "failed": 12}
    assert found.tables["extract"].loc["micro", ["precision", "recall"]].dropna().eq(1).all()


def test_a_crisis_of_the_corpus_is_no_post_of_a_benchmark(tmp_path):
    """It has no label because nobody labels it: that is not "no distortion"."""
    crises, others = ((ROOT / f"data/corpus/{one}.jsonl").read_text("utf-8").splitlines() for one in ("crisis", "dev"))
    path = tmp_path / "mixed.jsonl"
    path.write_text("\n".join([*crises[:2], *others[:3]]) + "\n", "utf-8")
    assert [item.id for item in labelling.read(path)] == [json.loads(line)["id"] for line in others[:3]]


def test_benchmark_refuses_unlabelled_and_unknown_labels(tmp_path):
    train = table_file(tmp_path / "a.csv", posts(40))
    (tmp_path / "b.csv").write_text("text\n下雨了\n", encoding="utf-8")
    with pytest.raises(CbtError, match="1 of 1 items have no gold labels"):
        run(train, tmp_path / "b.csv", tmp_path / "out")
    (tmp_path / "c.csv").write_text("text,label\n下雨了,none\n下雪了,worry\n", encoding="utf-8")
    with pytest.raises(CbtError, match=r"c.csv, line 3: .*a.csv has no label 'worry'; write"):
        run(train, tmp_path / "c.csv", tmp_path / "out")
    (tmp_path / "e.csv").write_text("text,label\n下雨了,labeling\n", encoding="utf-8")
    with pytest.raises(CbtError, match=r"e.csv, line 2: .*a.csv has no label 'labeling' .is it 'labelling'\?"):
        run(train, tmp_path / "e.csv", tmp_path / "out")
    with pytest.raises(CbtError, match="maps to no type: worry"):
        run(train, tmp_path / "c.csv", tmp_path / "out", book_types=True)
    with pytest.raises(CbtError, match="no detector 'guess'"):
        run(train, None, tmp_path / "out", "guess")
    with pytest.raises(CbtError, match="reads labels off answers"):
        run(train, None, tmp_path / "out", "extract")
    with pytest.raises(CbtError, match="needs an endpoint"):
        run(train, None, tmp_path / "out", "llm")
    (tmp_path / "d.csv").write_text("text,label\n" + "下雨了,none\n" * 20, encoding="utf-8")
    for files in ((tmp_path / "d.csv", None), (train, tmp_path / "d.csv")):
        with pytest.raises(CbtError, match=r"d.csv: no post has a gold label"):
            run(*files, tmp_path / "before")
    (tmp_path / "f.csv").write_text("text,label\n" + "下雨了,labelling\n" * 20, encoding="utf-8")
    with pytest.raises(CbtError, match=r"f.csv: no label has 5 training posts with it and 5 without: .* add posts"):
        run(tmp_path / "f.csv", train, tmp_path / "before")
    few = table_file(tmp_path / "g.csv", posts(14))  # three posts of each type
    with pytest.raises(CbtError, match=r"g.csv: no label has .* when one of its five parts is left out"):
        run(few, None, tmp_path / "before")
    (tmp_path / "zero.csv").write_text("")
    with pytest.raises(CbtError, match=r"zero.csv is empty: write posts into it"):
        run(train, tmp_path / "zero.csv", tmp_path / "before")
    assert not (tmp_path / "before").exists()


def test_a_post_is_labelled_once_however_many_answers_it_has_and_no_dialogue_is_dropped(tmp_path, fitted):
    fitted.save(tmp_path / "d")
    answers = [{"answer_text": "一封信。"}, {"answer_text": "另一封。"}]
    rows = [{"question": f"第{k}问", "description": "", "questionID": k, "answers": answers[:k]} for k in (1, 2)]
    (tmp_path / "psyqa.json").write_text(json.dumps(rows), encoding="utf-8")
    (tmp_path / "talks").mkdir()
    talks = [["求助者：我睡不着", "支持者：多久了？"], ["求助者：我很累", "支持者：怎么了？"]]
    (tmp_path / "talks/a.json").write_text(json.dumps(talks), encoding="utf-8")
    for path, form in ((tmp_path / "psyqa.json", "psyqa"), (tmp_path / "talks", "cpsycoun")):
        assert labelling.label(path, tmp_path / f"{form}.jsonl", tmp_path / "d", form).total() == 2


def test_a_labelled_set_has_the_lengths_and_topics_that_its_statistics_draw(tmp_path, fitted):
    fitted.save(tmp_path / "d")
    file = tmp_path / "a.jsonl"
    rows = [{"text": post.text, "topic": ["work", "family"][k % 2]} for k, post in enumerate(posts(40))]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    labelling.label(file, tmp_path / "l.jsonl", tmp_path / "d")
    found = label_figures.read(tmp_path / "l.jsonl")
    assert found.lengths.tolist() == [len(row["text"]) for row in rows]
    assert found.topics == [row["topic"] for row in rows]
    label_figures.write(found, tmp_path / "out")
    assert (tmp_path / "out/topics.csv").exists() and (tmp_path / "out/lengths.csv").exists()


@pytest.mark.parametrize("outcome", [outcome for outcome in OUTCOMES if outcome != "ok"])
def test_a_row_that_is_no_data_is_labelled_by_nobody_and_counted(tmp_path, fitted, outcome):
    fitted.save(tmp_path / "d")
    said = [outcome, "ok"] * 10  # the first line of the labels has none either
    rows = [{"id": k, "text": p.text, "outcome": x} for k, (p, x) in enumerate(zip(posts(20), said, strict=True))]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    labels = [
        "distortions",
        "label",
        f"{tmp_path}/a.jsonl",
        "--out",
        f"{tmp_path}/l.jsonl",
        "--detector",
        f"{tmp_path}/d",
    ]
    done = CliRunner().invoke(app, [*labels, "--out", f"{tmp_path}/l.jsonl"])
    assert done.output.startswith("10 posts labelled; ") and "\n10 rows say that they are no data" in done.output
    lines = [json.loads(line) for line in (tmp_path / "l.jsonl").read_text(encoding="utf-8").splitlines()]
    assert lines[::2] == [{"id": str(k), "outcome": outcome} for k in range(0, 20, 2)]
    texts = [row["text"] for row in rows[1::2]]
    called = [[name for name, yes in zip(TYPES, row, strict=False) if yes] for row in fitted.labels(texts)]
    assert [(line["id"], line["labels"]) for line in lines[1::2]] == [
        (str(k), names) for k, names in zip(range(1, 20, 2), called, strict=True)
    ]
    found = label_figures.read(tmp_path / "l.jsonl")
    assert found.outcomes == {"ok": 10, outcome: 10} and len(found.labels) == 10 and found.types == TYPES
    (tmp_path / "b.csv").write_text(f"text,outcome\n雨,{outcome}\n风,{outcome}\n", encoding="utf-8")
    with pytest.raises(CbtError, match=r"b.csv: none of its 2 posts has the outcome ok: there is nothing to label"):
        labelling.label(tmp_path / "b.csv", tmp_path / "m.jsonl", tmp_path / "d")
    assert not (tmp_path / "m.jsonl").exists()


def test_an_answer_that_failed_does_not_undo_its_post_and_a_question_that_failed_does(tmp_path, fitted):
    fitted.save(tmp_path / "d")
    answers = [{"answer_text": "x", "outcome": "failed"}, {"answer_text": "一封信。"}]
    rows = [{"question": "雨", "questionID": 1, "answers": answers, "outcome": "failed"}]
    rows += [{"question": "风", "questionID": 2, "answers": answers}]
    (tmp_path / "a.json").write_text(json.dumps(rows), encoding="utf-8")
    counts = labelling.label(tmp_path / "a.json", tmp_path / "l.jsonl", tmp_path / "d")
    assert counts == {"none": 1, labelling.NO_DATA: 1}
    first, second = (json.loads(line) for line in (tmp_path / "l.jsonl").read_text(encoding="utf-8").splitlines())
    assert first["outcome"] == "failed" and (second["id"], "labels" in second) == ("2/1", True)


def test_labelling_goes_on_behind_rows_without_labels_and_begins_anew_when_an_outcome_has_changed(
    tmp_path, fitted, monkeypatch
):
    monkeypatch.setattr(labelling, "BLOCK", 2)
    fitted.save(tmp_path / "d")
    file, out = tmp_path / "a.jsonl", tmp_path / "l.jsonl"
    plain, calls = labelling._lines, []

    def stops(detector, rows):
        calls.append([row[0] for row in rows])
        if len(calls) in (2, 3):
            raise KeyboardInterrupt
        return plain(detector, rows)

    def write(outcomes):
        given = enumerate(zip(posts(5), outcomes, strict=True))
        rows = [{"id": str(k), "text": post.text, "outcome": outcome} for k, (post, outcome) in given]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    monkeypatch.setattr(labelling, "_lines", stops)
    for outcomes in (["failed", "failed", "ok", "ok", "refused"], ["failed", "ok", "ok", "ok", "refused"]):
        write(outcomes)
        with pytest.raises(KeyboardInterrupt):
            labelling.label(file, out, tmp_path / "d")
    assert calls == [["0", "1"], ["2", "3"], ["0", "1"]], "what was labelled of other outcomes is not gone on with"
    write(["failed", "failed", "ok", "ok", "refused"])
    counts = labelling.label(file, out, tmp_path / "d")
    assert counts == {"none": 2, labelling.NO_DATA: 3} and calls[3:] == [["2", "3"], ["4"]]
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [line.get("outcome", "ok") for line in lines] == ["failed", "failed", "ok", "ok", "refused"]
    assert [line["id"] for line in lines] == list("01234")


def test_labelling_goes_on_where_it_stopped_and_leaves_nothing_half_written(tmp_path, fitted, monkeypatch):
    monkeypatch.setattr(labelling, "BLOCK", 2)
    fitted.save(tmp_path / "d")
    file, out = tmp_path / "a.jsonl", tmp_path / "l.jsonl"
    file.write_text("".join(json.dumps({"id": k, "text": p.text}) + "\n" for k, p in enumerate(posts(5))))
    plain, asked, kept = labelling._lines, [], []

    def stops(detector, pairs):
        asked.append(len(pairs))
        kept.extend(part.read_bytes().count(b"\n") for part in tmp_path.glob("*.part"))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return plain(detector, pairs)

    monkeypatch.setattr(labelling, "_lines", stops)
    with pytest.raises(KeyboardInterrupt):
        labelling.label(file, out, tmp_path / "d")
    assert not out.exists() and len(list(tmp_path.glob("*.part"))) == 1
    with next(tmp_path.glob("*.part")).open("a") as part:
        part.write('{"id": "2", "lab')
    assert labelling.label(file, out, tmp_path / "d").total() == 5 and asked == [2, 2, 2, 1]
    assert kept == [0, 2, 2, 4], "kill -9 while a block is made costs that block alone"
    assert [json.loads(line)["id"] for line in out.read_text(encoding="utf-8").splitlines()] == list("01234")
    assert not list(tmp_path.glob("*.part"))
    for bad in (file / "x.jsonl", tmp_path):
        with pytest.raises(CbtError, match="cannot write"):
            labelling.label(file, bad, tmp_path / "d")
    with pytest.raises(CbtError, match="cannot make the folder"):
        run(table_file(tmp_path / "a.csv", posts(40)), None, file)


def test_two_that_label_into_one_file_are_refused(tmp_path, fitted):
    fitted.save(tmp_path / "d")
    file, out = table_file(tmp_path / "a.csv", posts(5)), tmp_path / "l.jsonl"
    with cache.alone(tmp_path / "l.jsonl.lock", ""), pytest.raises(CbtError, match="another process is labelling"):
        labelling.label(file, out, tmp_path / "d")
    assert not out.exists()


def test_labelling_begins_anew_when_the_crisis_rules_have_changed(tmp_path, fitted, monkeypatch):
    monkeypatch.setattr(labelling, "BLOCK", 2)
    fitted.save(tmp_path / "d")
    file, out = table_file(tmp_path / "a.csv", posts(5)), tmp_path / "l.jsonl"
    first_block = iter([safety.Triage("none")] * 2)
    monkeypatch.setattr(safety, "triage", lambda text: next(first_block))
    with pytest.raises(StopIteration):
        labelling.label(file, out, tmp_path / "d")
    monkeypatch.setattr(safety, "triage", lambda text: safety.Triage("concern"))
    monkeypatch.setattr(safety, "version", lambda: "other rules")
    assert labelling.label(file, out, tmp_path / "d") == {"concern": 5}


@pytest.mark.parametrize(("name", "text"), [("nosuch", None), ("blank.txt", "\n"), ("cut.jsonl", "{")])
def test_a_file_that_cannot_be_labelled_is_named_before_the_books_own_detector_is_made(
    tmp_path, monkeypatch, name, text
):
    monkeypatch.setattr(labelling, "own", lambda: pytest.fail("the file comes first"))
    if text is not None:
        (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(CbtError, match=name):
        labelling.label(tmp_path / name, tmp_path / "l.jsonl")


def test_without_a_detector_the_books_own_is_made_once_and_used(tmp_path, monkeypatch):
    monkeypatch.setenv("CBT_CACHE", str(tmp_path / "cache"))
    made = []
    plain = detectors.train
    monkeypatch.setattr(detectors, "train", lambda rows, kind: made.append(kind) or plain(rows, "characters"))
    (tmp_path / "new.csv").write_text("text\n我就是个废物。\n", encoding="utf-8")
    for _ in range(2):
        assert labelling.label(tmp_path / "new.csv", tmp_path / "l.jsonl") == {"none": 1}
    assert made == ["probe"]
    statistics = label_figures.read(tmp_path / "l.jsonl")
    assert statistics.types == corpus.TYPES and len(statistics.labels) == 1


def test_a_type_with_too_few_training_posts_is_named(tmp_path, capsys):
    rare = [Post(f"钱都没了{k}", frozenset({"worry"})) for k in range(3)]
    train = table_file(tmp_path / "a.csv", [*posts(60), *rare])
    commands.benchmark(train, None, tmp_path / "out", "auto", ["characters"], None, None, {"resamples": 20})
    told = capsys.readouterr().out
    assert "never called, for want of training posts (or of posts without it): worry" in told
    assert "scores.csv bounds precision, recall and AUC too" in told
    assert json.loads((tmp_path / "out/characters/metrics.json").read_text())["unlearnt"] == ["worry"]


def test_two_detectors_are_compared_on_the_same_posts(tmp_path):
    rows = posts(120)
    found = run(table_file(tmp_path / "a.csv", rows), None, tmp_path / "out", "characters", "llm", ask=oracle(rows))
    row = found.differences.set_index("average").loc["micro"]
    assert (row["detector"], row["minus"], row["n"]) == ("characters", "llm", 96)
    assert row["low"] <= row["difference"] <= row["high"]
    assert (tmp_path / "out" / "differences.csv").exists()
    run(tmp_path / "a.csv", None, tmp_path / "out", "characters")
    assert not (tmp_path / "out" / "differences.csv").exists(), "what no longer is of this call is gone"


def test_sets_with_other_labels_are_compared_only_when_asked(tmp_path):
    train = table_file(tmp_path / "a.csv", posts(120))
    (tmp_path / "b.tsv").write_text("乱贴标签\t读心术\t内容\n", encoding="utf-8")
    with (tmp_path / "b.tsv").open("a", encoding="utf-8") as file:
        for post in posts(30, 4, OTHER):
            file.write(f"{int('labelling' in post.types)}\t{int('mind_reading' in post.types)}\t{post.text}\n")
    with pytest.raises(CbtError, match="--book-types"):
        run(train, tmp_path / "b.tsv", tmp_path / "o", test_format="socialcd3k")
    mapped = {"book_types": True, "test_format": "socialcd3k"}
    found = run(train, tmp_path / "b.tsv", tmp_path / "o", **mapped).tables["characters"]
    assert found.loc["labelling", "f1"] > 0.9 and found.loc["mind_reading", "f1"] > 0.9
    flat = "".join(f"{post.text}\t{int(bool(post.types))}\n" for post in posts(30, 4, OTHER))
    (tmp_path / "c.txt").write_text(flat, encoding="utf-8")
    binary = run(train, tmp_path / "c.txt", tmp_path / "o", book_types=True, test_format="cogdis")
    assert binary.tables["characters"].loc["any", "f1"] > 0.9


def test_examples_of_errors_never_show_a_crisis():
    items = [labelling.Item("a", Post("我不想活了，他们肯定嫌我。", frozenset({"mind_reading"})), None)]
    items.append(labelling.Item("b", Post("他们肯定嫌我。", frozenset({"mind_reading"})), None))
    gold = np.array([[0, 1], [0, 1]], bool)
    shown = labelling.errors(items, gold, ~gold, TYPES)
    assert shown["id"].tolist() == ["b"] and shown.loc[0, "missed"] == "mind_reading"


# ------------------------------------------------------------------ a language model asked


def oracle(rows, failed_every: int = 5):
    """A model that knows the gold labels, and whose every fifth reply cannot be read."""
    gold = {post.text: post.types for post in rows}

    def ask(texts, types):
        told = []
        for number, text in enumerate(texts):
            bad = number % failed_every == 0
            told.append(llm_labels.Labelled(str(number), "unparsed" if bad else "ok", None if bad else gold[text]))
        return told

    return ask


def test_an_unparsed_label_is_a_missing_label_and_never_no_distortion(tmp_path):
    rows = posts(120)
    file = table_file(tmp_path / "a.csv", rows)
    found = run(file, None, tmp_path / "out", "llm", ask=oracle(rows))
    assert found.outcomes["llm"] == {"ok": 96, "unparsed": 24}
    assert (
        found.tables["llm"].loc["micro", "f1"] == 1
    )  # the 24 are in no figure: as "no distortion" they would lower it
    nothing = [llm_labels.Labelled("0", "failed", None)]
    with pytest.raises(CbtError, match="none of 96 training posts got a label"):
        run(file, None, tmp_path / "out", "llm", ask=lambda texts, types: nothing * len(texts))
    plain = oracle(rows, 1000)
    test = table_file(tmp_path / "b.csv", posts(40, 4, OTHER))
    with pytest.raises(CbtError, match="nothing to score"):  # only the training posts were answered
        run(file, test, tmp_path / "out", "llm", ask=lambda texts, types: plain(texts[:120], types) + nothing * 40)


@pytest.mark.parametrize(
    ("reply", "labels"),
    [
        ('{"labels": ["labelling"]}', {"labelling"}),
        ('```json\n{"labels": []}\n```', set()),
        ('{"labels": ["worry"]}', None),
        ('{"labels": "labelling"}', None),
        ('{"labels": [null]}', None),
        ('{"labels": [{"type": "labelling"}]}', None),
        ('{"labels": ["labelling", "labelling"]}', {"labelling"}),
        ('{"labels": ["labelling"], "labels": []}', None),
        ('{"labels": []} 没有扭曲。', None),
        ('{"labels": ["labelling"', None),
        ('{"labels": null}', None),
        ("null", None),
        ("[" * 100_000, None),
        ('{"labels": [], "note": 1}', None),
        ('["labelling"]', None),
        ("没有扭曲", None),
        ("", None),
    ],
)
def test_a_reply_is_read_as_labels_or_not_at_all(reply, labels):
    if labels is None:
        with pytest.raises(ValueError, match=r"not JSON|not of the form|not offered"):
            llm_labels.parse(reply, TYPES)
    else:
        assert llm_labels.parse(reply, TYPES) == labels


def test_posts_are_asked_about_once_and_every_outcome_is_typed(tmp_path):
    texts = ["我就是个废物。", "我不想活了，想去死。", "他们肯定嫌我。"]
    with faults.serve(lambda digest, attempt: "not_schema") as server:
        told = llm_labels.label(texts, corpus.TYPES, server, tmp_path)
        sent = server.requests
        again = llm_labels.label(texts, corpus.TYPES, server, tmp_path)
        assert server.requests == sent == 2  # the crisis is not sent, and nothing is asked twice
    assert [one.outcome for one in told] == ["unparsed", "crisis", "unparsed"] == [one.outcome for one in again]
    assert all(one.types is None for one in told)


def test_calls_become_the_share_of_gold_labels_among_posts_called_so():
    called, gold = np.array([[1], [1], [1], [0], [0]], bool), np.array([[1], [1], [0], [0], [0]], bool)
    scores = llm_labels.calibrated(np.array([[True], [False]]), called, gold)
    assert scores[:, 0].tolist() == [3 / 5, 1 / 4]


def test_a_post_that_got_no_label_is_in_no_file_of_a_benchmark(tmp_path):
    rows = [*posts(120), *posts(10)]
    found = run(table_file(tmp_path / "a.csv", rows), None, tmp_path / "out", "llm", ask=oracle(rows, 3))
    assert found.copies and found.without["llm"].loc["micro", "f1"] == 1
    assert pd.read_csv(tmp_path / "out/llm/errors.csv").empty


def test_two_detectors_are_compared_where_both_have_labels_whichever_comes_first(tmp_path):
    rows = posts(120)
    found = run(table_file(tmp_path / "a.csv", rows), None, tmp_path / "out", "llm", "characters", ask=oracle(rows))
    assert set(found.differences["n"]) == {96}
