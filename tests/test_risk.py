"""The classifier of triage: what is in the repository is made of what it says, and it only ever raises a level."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbtlib import CbtError, cache, corpus, risk, safety
from cbtlib.risk import Classifier
from cbtlib.safety import LEVELS, Triage

CLASSIFIER = Classifier(9, (0.0,) * 1280, 0.0, -1.0, 1.0, "")


def test_the_weights_are_those_of_the_posts_in_the_repository():
    found = risk.load()
    assert found.posts_sha256 == cache.sha256(risk.POSTS), "run: cbt safety fit"
    assert len(found.weights) == 1280 and np.isfinite(found.weights).all() and found.concern < found.crisis


def test_held_out_posts_are_no_training_posts_and_no_posts_of_the_corpus():
    train, held_out = (set(risk.posts(split)[0]) for split in ("train", "heldout"))
    own = {record.post for path in corpus.own_files() for record in corpus.load(path)}
    assert not train & held_out and not (train | held_out) & own
    for split in ("train", "heldout"):
        labels = risk.posts(split)[1]
        assert 0.4 <= sum(labels) / len(labels) <= 0.6
    with pytest.raises(CbtError, match="no posts of the split"):
        risk.posts("dev")


def test_a_damaged_line_is_an_error_and_not_one_post_less(tmp_path):
    path = tmp_path / "posts.jsonl"
    good = '{"split": "train", "text": "甲", "crisis": true}\n'
    path.write_text(good + '{"split": "train", "text": "乙"\n' + good, encoding="utf-8")
    with pytest.raises(CbtError, match=r"posts\.jsonl: 1 problem.*\n  line 2: is no JSON object"):
        risk.posts("train", path)


@given(st.lists(st.tuples(st.sampled_from(LEVELS), st.floats(-5, 5)), max_size=8))
def test_a_level_is_raised_and_never_lowered(rows):
    scores = np.array([score for _, score in rows])
    found = [Triage(level, ("a rule",)) for level, _ in rows]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classifier, "scores", lambda self, posts: scores)
        looked = CLASSIFIER.look([""] * len(rows), found)
    for (level, score), triage in zip(rows, looked, strict=True):
        own = "crisis" if score >= 1 else "concern" if score >= -1 else "none"
        assert triage.level == max(level, own, key=LEVELS.index)
        assert triage.reasons == (("a rule",) if triage.level == level else ("classifier",))


def test_a_long_post_is_looked_at_from_both_ends_and_the_question_stays_whole(monkeypatch):
    seen = []

    def states(texts, units, model, layers):
        seen.extend(zip(texts, units, strict=True))
        return np.zeros((2 * len(texts), 640))

    monkeypatch.setattr(risk.detectors, "hidden_states", states)
    posts = ["", "短", "头" * 5000 + "尾" * 5000]
    assert CLASSIFIER.scores(posts).tolist() == [0.0, 0.0, 0.0] and CLASSIFIER.scores([]).shape == (0,)
    for text, (post, tail) in seen[:3]:
        assert text.endswith(risk.ASKED) and tail == (len(text) - risk.TAIL, len(text)) and post[1] <= risk.LONGEST + 1
    assert "头" in seen[2][0] and "尾" in seen[2][0]


def test_a_classifier_is_saved_and_read_as_it_was_and_named_by_its_numbers(tmp_path):
    path = tmp_path / "c.json"
    risk.save(CLASSIFIER, path)
    assert risk.load(path) == CLASSIFIER and risk.load(path).version == CLASSIFIER.version
    assert Classifier(9, (0.0,) * 1280, 0.1, -1.0, 1.0, "").version != CLASSIFIER.version
    path.write_text(json.dumps({"layer": 9}), encoding="utf-8")
    with pytest.raises(CbtError, match="cbt safety fit"):
        risk.load(path)


def test_fitting_separates_what_can_be_separated_and_sets_thresholds_for_recall(monkeypatch):
    train = risk.posts("train")[0] + [record.post for record in corpus.load_split("train")]
    danger = np.array(risk.posts("train")[1] + [False] * len(corpus.load_split("train")))
    noise = np.random.default_rng(0).normal(size=(len(train), 1280))
    noise[:, :40] += 2 * danger[:, None]
    monkeypatch.setattr(risk, "features", lambda posts, layer: noise)
    found = risk.fit()
    scores = noise @ np.array(found.weights) + found.bias
    assert (scores[danger] >= found.crisis).mean() >= risk.RECALL - 0.03
    assert found.concern <= found.crisis and (scores[~danger] >= found.crisis).mean() < 0.1


def test_held_out_veiled_posts_are_found_by_the_real_classifier():
    """The figures of the chapter, on posts that neither rules nor classifier are made of."""
    texts, labels = risk.posts("heldout")
    rules = [safety.triage(text) for text in texts]
    row = safety.evaluate(risk.load().look(texts, rules), labels).set_index("alarm").loc["crisis"]
    assert row["recall"] >= 0.9 and row["precision"] >= 0.55
    assert safety.evaluate(rules, labels).iloc[0]["recall"] < 0.3, "a list of words alone does not find them"


def test_posts_that_the_classifier_learnt_from_are_seen_and_others_are_not():
    train, ordinary = risk.posts("train")[0], [record.post for record in corpus.load_split("train")]
    changed = [f"{train[3][:-1]}！！ ", train[9].translate({ord("，"): " "}), ordinary[7][:-3]]
    assert risk.seen(train + ordinary + changed).all()
    unseen = [record.post for split in ("dev", "test", "crisis") for record in corpus.load_split(split)]
    assert not risk.seen(risk.posts("heldout")[0] + unseen).any()
