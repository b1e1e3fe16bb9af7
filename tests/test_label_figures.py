"""The statistics of a labelled set: the same numbers in table, caption and alt text, and nothing made of nothing."""

import json
import warnings
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from cbtlib import CbtError, corpus, generate, label_figures
from cbtlib.corpus import TYPES, Label, Record


@pytest.fixture(scope="module")
def posts():
    return label_figures.of_records(corpus.load_split("dev"))


def test_every_figure_of_the_corpus_has_numbers_alt_text_and_caption(posts):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # a missing glyph is one
        drawn = dict(label_figures.draw(posts))
        for name, one in drawn.items():
            one.figure.canvas.draw()
            if name in ("shares", "pairs", "sets", "order"):
                assert _lowest_gap(one.figure.axes[-1 if name == "sets" else 0]) >= 0, f"names overlap in {name}"
            assert any(char.isdigit() for char in one.alt) and any(char.isdigit() for char in one.caption)
            assert len(one.data)
            plt.close(one.figure)
    assert set(drawn) == {"shares", "pairs", "sets", "topics", "lengths", "order"}
    share = drawn["shares"].data.loc["any", "share"]
    assert f"{share:.0%}" in drawn["shares"].caption
    assert drawn["sets"].data["count"].sum() == posts.labels.any(1).sum()
    assert drawn["topics"].data["n"].sum() == len(posts.labels)


def _lowest_gap(axis):
    """Pixels between the names of an axis where they come nearest to each other."""
    boxes = [label.get_window_extent() for label in axis.get_yticklabels()]
    boxes = sorted((box for box in boxes if box.height > 1), key=lambda box: box.y0)
    assert len(boxes) >= len(TYPES) and min(box.x0 for box in boxes) >= 0
    return min(upper.y0 - lower.y1 for lower, upper in pairwise(boxes))


def test_order_is_the_place_of_the_first_mention():
    labels = (Label("labelling", 8, 9), Label("labelling", 0, 1), Label("mind_reading", 5, 6))
    records = [Record(str(k), "test", "work", "q", "0123456789", labels, {}) for k in range(4)]
    found = label_figures.of_records(records)
    assert found.places[0] == [("labelling", 0.0), ("mind_reading", 0.5)]
    table = label_figures.order(found).data
    plt.close("all")
    assert table.loc["labelling", "position"] == 0 and table.loc["labelling", "first"] == 4
    assert table.loc["mind_reading", "position"] == 0.5 and table.loc["mind_reading", "first"] == 0


def plain_order(found):
    """The table of `order`, label by label and text by text."""
    rows = {}
    for kind in found.types:
        places = [place for row in found.places for name, place in row if name == kind]
        if len(places) < label_figures.LEAST:
            continue
        several = [[name for name, _ in row] for row in found.places if len(row) >= 2]
        held = [names for names in several if kind in names]
        mean = float(np.mean(places))
        low, high = stats.ttest_1samp(places, 0).confidence_interval() if len(set(places)) > 1 else (mean, mean)
        first = sum(names[0] == kind for names in held)
        rows[kind] = (len(places), mean, max(low, 0), min(high, 1), first, len(held))
    return rows


@settings(max_examples=40)
@given(st.data())
def test_order_is_that_of_a_plain_loop(data):
    place = st.tuples(st.sampled_from("abcd"), st.integers(0, 99).map(lambda k: k / 100))
    texts = st.lists(place, max_size=4, unique_by=lambda one: one[0])
    rows = [sorted(row, key=lambda one: one[1]) for row in data.draw(st.lists(texts, min_size=6, max_size=40))]
    labels = np.array([[kind in dict(row) for kind in "abcd"] for row in rows])
    n = len(rows)
    found = label_figures.Labelled("texts", tuple("abcd"), labels, np.ones(n, int), [""] * n, rows, {"ok": n})
    wanted = plain_order(found)
    assume(wanted)
    table = label_figures.order(found).data
    plt.close("all")
    assert table["position"].is_monotonic_increasing and set(table.index) == set(wanted)
    for kind, row in wanted.items():
        assert tuple(table.loc[kind, ["n", "position", "low", "high", "first", "of"]]) == pytest.approx(row)


def test_no_order_is_drawn_where_each_label_stands_in_too_few_texts():
    rows = [[("a", 0.1), ("b", 0.2)], [("c", 0.3), ("d", 0.4)], [("e", 0.5), ("f", 0.6)]]
    labels = np.array([[kind in dict(row) for kind in "abcdef"] for row in rows])
    found = label_figures.Labelled("texts", tuple("abcdef"), labels, np.ones(3, int), [""] * 3, rows, {"ok": 3})
    assert "order" not in dict(label_figures.draw(found))
    plt.close("all")


def test_resamples_of_pairs_have_the_correlations_of_resampled_rows():
    generator = np.random.default_rng(0)
    one = generator.integers(0, 4, 150)
    two = 10 * one + generator.integers(0, 60, 150)
    fast = label_figures.spearman_draws(one, two, 4000)
    rows = [generator.integers(0, 150, 150) for _ in range(2000)]
    plain = [stats.spearmanr(one[drawn], two[drawn]).statistic for drawn in rows]
    assert (fast.mean(), fast.std()) == pytest.approx((np.mean(plain), np.std(plain)), abs=0.005)
    same = label_figures.spearman_draws([0, 1, 2, 3] * 20, [5, 6, 7, 8] * 20, 50)
    assert same == pytest.approx(1)
    many = label_figures.spearman_draws(generator.integers(0, 5, 500_000), generator.integers(50, 800, 500_000), 300)
    assert len(many) == 300 and abs(many).max() < 0.01


def counted(counts, lengths, topics=None):
    """Texts with so many labels, of such lengths."""
    labels, n = np.array(counts)[:, None] > np.arange(len(TYPES)), len(counts)
    return label_figures.Labelled("posts", TYPES, labels, np.array(lengths), topics or [""] * n, [[]] * n, {"ok": n})


def test_topics_of_single_posts_do_not_differ_by_themselves():
    generator, topics, wrong = np.random.default_rng(0), ["big"] * 200 + [f"small {k}" for k in range(20)], 0
    for _ in range(60):
        drawn = label_figures.topics(counted(generator.random(220) < 0.05, [100] * 220, topics))
        wrong += drawn.data["p"].iloc[0] < 0.05
        plt.close("all")
    assert wrong <= 6  # chi-squared's own distribution: 14
    apart = label_figures.topics(counted([1] * 20 + [0] * 20, [100] * 40, ["work"] * 20 + ["home"] * 20))
    assert apart.data["p"].iloc[0] < 0.01 and "p < 0.01" in apart.caption


@pytest.mark.parametrize("counts", [[0, 1, 2, 3], [0, 1] * 5, [0, 1, 2, 3] * 5])
def test_length_gets_no_verdict_where_no_resample_could_say_otherwise(counts):
    drawn = label_figures.lengths(counted(counts, [100 + 10 * count for count in counts]))
    title = drawn.figure.axes[0].get_title(loc="left") + drawn.figure.axes[0].get_title()
    plt.close("all")
    assert drawn.data["rho"].eq(1).all() and drawn.data[["low", "high"]].isna().all(axis=None)
    for told in (title, drawn.caption, drawn.alt):
        assert "ρ = 1.00, no interval" in told and "nan" not in told and "longer" not in told


def test_labels_of_posts_in_a_crisis_are_counted_beside_and_missing_ones_refused(tmp_path):
    rows = [
        {"id": str(k), "labels": ["a"] * (k % 2), "triage": "none", "characters": 9, "scores": {"a": 0.5, "any": 0.5}}
        for k in range(4)
    ]
    rows[3]["triage"] = "crisis"
    path = tmp_path / "labels.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = label_figures.read(path)
    assert found.outcomes == {"ok": 3, "crisis": 1} and found.labels[:, 0].tolist() == [False, True, False]
    assert "3 ok, 1 crisis" in label_figures.write(found, tmp_path / "out")[0]
    rows[0].pop("labels"), rows.reverse()
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(CbtError, match="1 of 3 items have no labels"):
        label_figures.read(path)
    rows[1].pop("characters")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(CbtError, match="line 2, field characters: is no number of characters; label the posts anew"):
        label_figures.read(path)


@pytest.mark.parametrize(
    "change",
    [{"labels": x} for x in ("", False, 0, {}, {"a": False}, [["a"]], "a")]
    + [{"characters": x} for x in (True, -1, 10**30, "9")]
    + [{"id": None}],
)
def test_what_only_looks_like_labels_is_none_and_not_no_distortion(tmp_path, change):
    rows = [{"id": str(k), "labels": ["a"], "characters": 9, "scores": {"a": 0.5, "any": 0.5}} for k in range(3)]
    rows[1] |= change
    if change == {"id": None}:
        del rows[1]["id"]
    path = tmp_path / "labels.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    with pytest.raises(CbtError, match=f"line 2, field {next(iter(change))}: is .*label the posts anew"):
        label_figures.read(path)


def test_a_row_that_failed_is_counted_beside_the_labels_in_every_form(tmp_path):
    gold = tmp_path / "gold.jsonl"
    rows = [{"text": "甲", "label": "labelling", "outcome": "ok"}, {"text": "乙", "label": "none", "outcome": "failed"}]
    rows += [{"text": "丙", "label": "none"}, {"text": "丁"}]
    table = tmp_path / "gold.csv"
    table.write_text("text,label,outcome\n甲,labelling,ok\n乙,none,failed\n丙,none,\n丁,,\n", "utf-8")
    for order in (rows, rows[::-1]):
        gold.write_text("".join(json.dumps(row) + "\n" for row in order), "utf-8")
        for path in (gold, table):
            found = label_figures.read(path)
            assert len(found.labels) == 2 and found.outcomes == {"ok": 2, "failed": 1, "unparsed": 1}
    rows = [{"id": str(k), "labels": ["a"], "characters": 9, "scores": {"a": 0.5, "any": 0.5}} for k in range(3)]
    rows[1]["outcome"] = "failed"
    gold.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    found = label_figures.read(gold)
    assert len(found.labels) == 2 and found.outcomes == {"ok": 2, "failed": 1}
    rows[2]["id"] = "0"
    gold.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    with pytest.raises(CbtError, match="line 3, field id: '0' stands on line 1 already"):
        label_figures.read(gold)


def test_generated_answers_are_counted_when_they_are_answers(tmp_path):
    def answer(name, outcome, text):
        return generate.Answer(name, outcome, text, None, None, None, None, None, "", "none", "")

    answers = [
        answer("a", "ok", "这是读心术，也有贴标签。"),
        answer("b", "ok", "今天下雨。"),
        answer("c", "failed", ""),
        answer("d", "unparsed", ""),
    ]
    found = label_figures.of_answers(answers)
    assert found.labels.any(1).tolist() == [True, False]
    assert found.outcomes == {"ok": 2, "failed": 1, "unparsed": 1}
    path = tmp_path / "answers.jsonl"
    fields = generate.Answer.__dataclass_fields__
    rows = [json.dumps({name: getattr(one, name) for name in fields}) for one in answers]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    lines = label_figures.write(label_figures.read(path), tmp_path / "out", "zh")
    assert lines[0].startswith("50.0%") and "1 failed" in lines[0]
    facts = json.loads((tmp_path / "out" / "statistics.json").read_text(encoding="utf-8"))
    assert facts["n"] == 2 and facts["outcomes"]["unparsed"] == 1
    path.write_text("\n".join(rows[2:]) + "\n", encoding="utf-8")
    with pytest.raises(CbtError, match=r"no item of it has labels \(1 failed, 1 unparsed\)"):
        label_figures.read(path)


def test_sets_with_labels_of_their_own_are_drawn_too(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\n下雨了,worry\n天晴了,none\n刮风了,worry|fear\n", encoding="utf-8")
    found = label_figures.read(tmp_path / "a.csv")
    assert found.types == ("fear", "worry") and np.array_equal(found.labels.sum(0), [1, 2])
    assert len(label_figures.write(found, tmp_path / "out")) >= 4
    with pytest.raises(CbtError, match="choose en, zh or both"):
        label_figures.names(TYPES, "fr")
