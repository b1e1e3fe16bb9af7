"""A detector learns which sentence shows a type, is calibrated, can be saved, and is scored against closed forms."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, roc_auc_score

from cbtlib import CbtError, corpus, detection, detectors, labelling
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
SHOWS = {
    "labelling": ["我就是个废物。", "他纯属骗子。", "我这种人叫窝囊废。"],
    "mind_reading": ["他们肯定嫌我。", "她心里准在笑我。", "领导一定烦我。"],
}


def posts(count: int, seed: int = 0) -> list[Post]:
    """Posts of five plain sentences; two of five hold a sentence of one type, and the span tells which."""
    rng = np.random.default_rng(seed)
    out = []
    for index in range(count):
        pieces = list(rng.choice(PLAIN, 5))
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
    return detectors.train(posts(120), types=TYPES)


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
    with pytest.raises(CbtError, match="holds no detector"):
        detectors.Detector.load(tmp_path)


def test_training_twice_gives_the_same_detector(fitted):
    again = detectors.train(posts(120), types=TYPES)
    assert np.array_equal(again.thresholds, fitted.thresholds)
    assert np.array_equal(again.arrays["weights"], fitted.arrays["weights"])


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
        detectors.train(given_posts, types=types)


def test_texts_without_spans_are_read_whole():
    whole = [Post(post.text, post.types) for post in posts(120)]
    detector = detectors.train(whole, types=TYPES)
    assert not detector.by_sentence


def test_hidden_states_average_the_tokens_of_each_unit():
    texts = ["我就是个废物。今天下雨。", "好"]
    units = [detectors.sentences(text) for text in texts]
    both = detectors.hidden_states(texts, units, "smoke", 2)
    assert both.shape[0] == 3
    alone = detectors.hidden_states(texts[1:], units[1:], "smoke", 2)
    assert np.allclose(alone[0], both[2], atol=2e-2)  # padding beside a longer text changes nothing but rounding
    assert np.allclose(detectors.hidden_states(texts[:1], [[(0, 7)]], "smoke", 2)[0], both[0], atol=2e-2)
    with pytest.raises(CbtError, match="layers 1 to"):
        detectors.hidden_states(texts[1:], units[1:], "smoke", 99)


@settings(deadline=None, max_examples=60)
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
    assert np.isnan(detection.auc([1, 1], [0.2, 0.3]))


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


def test_benchmark_writes_tables_and_a_detector_that_labels(tmp_path):
    train, test = table_file(tmp_path / "a.csv", posts(120)), table_file(tmp_path / "b.csv", posts(40, seed=4))
    table = labelling.benchmark(train, test, tmp_path / "out")
    facts = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert facts["train"] == 120 and facts["test"] == 40
    assert facts["f1"]["micro"] == pytest.approx(table.loc["micro", "f1"], abs=1e-5)
    (tmp_path / "new.txt").write_text("我就是个废物。\n\n雨下到半夜。\n", encoding="utf-8")
    assert labelling.label(tmp_path / "new.txt", tmp_path / "out" / "detector", tmp_path / "l.jsonl") == 2
    first, second = (json.loads(line) for line in (tmp_path / "l.jsonl").read_text(encoding="utf-8").splitlines())
    assert (first["id"], second["id"]) == ("1", "3") and set(first["scores"]) >= set(corpus.TYPES[:0]) | {"labelling"}


def test_a_test_file_that_overlaps_the_training_file_is_scored_twice(tmp_path):
    train = posts(120)
    test = posts(40, seed=4)
    table_file(tmp_path / "a.csv", train)
    table_file(tmp_path / "b.csv", [*test, *train[:5]])
    labelling.benchmark(tmp_path / "a.csv", tmp_path / "b.csv", tmp_path / "out")
    facts = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert facts["copies"] >= 5
    assert (tmp_path / "out" / "without_copies.csv").exists()


def test_benchmark_refuses_unlabelled_and_unknown_labels(tmp_path):
    train = table_file(tmp_path / "a.csv", posts(40))
    (tmp_path / "b.csv").write_text("text\n下雨了\n", encoding="utf-8")
    with pytest.raises(CbtError, match="1 of 1 items have no gold labels"):
        labelling.benchmark(train, tmp_path / "b.csv", tmp_path / "out")
    (tmp_path / "c.csv").write_text("text,label\n下雨了,worry\n", encoding="utf-8")
    with pytest.raises(CbtError, match=r"labels that .* has not: worry"):
        labelling.benchmark(train, tmp_path / "c.csv", tmp_path / "out")
    with pytest.raises(CbtError, match="no detector 'guess'"):
        labelling.benchmark(train, None, tmp_path / "out", detector="guess")
    with pytest.raises(CbtError, match="reads labels off answers"):
        labelling.benchmark(train, None, tmp_path / "out", detector="extract")
