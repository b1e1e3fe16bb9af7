"""Shares and their corrections: closed forms, worked examples, coverage, and a sentence where there is no number."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from cbtlib import CbtError
from cbtlib import prevalence as pv


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 5000), st.floats(0, 1), st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_is_that_of_statsmodels(n, fraction, confidence):
    k = round(n * fraction)
    low, high = pv.wilson(k, n, confidence)
    assert (low, high) == pytest.approx(proportion_confint(k, n, 1 - confidence, "wilson"), abs=1e-9)


def test_shares_count_each_type_and_any():
    labels = np.array([[1, 0], [1, 1], [0, 0], [0, 0]])
    table = pv.shares(labels, ("a", "b"))
    assert table["count"].to_dict() == {"a": 2, "b": 1, "any": 2}
    assert table["share"].to_dict() == {"a": 0.5, "b": 0.25, "any": 0.5}
    assert ((table["low"] < table["share"]) & (table["share"] < table["high"])).all()


def test_the_pattern_bootstrap_has_the_spread_of_the_plain_one():
    rng = np.random.default_rng(1)
    labels = rng.random((300, 3)) < (0.1, 0.4, 0.7)
    fast = pv.bootstrap_shares(labels, 4000)
    plain = np.array([labels[rng.integers(0, 300, 300)].mean(0) for _ in range(4000)])
    assert fast[:, :3].mean(0) == pytest.approx(labels.mean(0), abs=0.005)
    assert fast[:, :3].std(0) == pytest.approx(plain.std(0), rel=0.08)
    assert fast[:, 3].mean() == pytest.approx(labels.any(1).mean(), abs=0.005)
    assert fast[:, 4].mean() == pytest.approx(labels.sum(1).mean(), abs=0.01)


def test_cooccurrence_agrees_with_fisher_and_orders_by_false_discovery():
    rng = np.random.default_rng(0)
    a = rng.random(400) < 0.3
    labels = np.column_stack([a, a ^ (rng.random(400) < 0.1), rng.random(400) < 0.2])
    table = pv.cooccurrence(labels, ("a", "b", "c")).set_index(["a", "b"])
    row = table.loc[("a", "b")]
    one, two = labels[:, 0], labels[:, 1]
    cells = [[int(((one == u) & (two == v)).sum()) for v in (1, 0)] for u in (1, 0)]
    assert row["both"] == cells[0][0]
    assert row["p"] == pytest.approx(stats.fisher_exact(cells).pvalue)
    assert row["q"] < 0.01 < table.loc[("b", "c"), "q"]
    assert (table["q"] >= table["p"]).all() and np.isfinite(table["log_odds"]).all()


def test_a_label_that_never_occurs_has_finite_odds_and_no_finding():
    table = pv.cooccurrence(np.array([[1, 0], [1, 0], [0, 0]]), ("a", "b"))
    assert np.isfinite(table["log_odds"]).all() and table["q"].tolist() == [1.0]


# ------------------------------------------------------------------ corrections


def counts(k: int, n: int) -> np.ndarray:
    return np.arange(n) < k


def gold_rows(tp: int, fn: int, fp: int, tn: int) -> tuple[np.ndarray, np.ndarray]:
    gold = np.repeat([1, 1, 0, 0], [tp, fn, fp, tn])
    seen = np.repeat([1, 0, 1, 0], [tp, fn, fp, tn])
    return gold, seen


def test_rogan_gladen_undoes_the_errors_exactly():
    gold, seen = gold_rows(80, 20, 10, 90)  # se 0.8, sp 0.9: 24 % seen where 20 % are
    estimate = pv.rogan_gladen(counts(240, 1000), gold, seen)
    assert estimate.value == pytest.approx((0.24 + 0.9 - 1) / (0.8 + 0.9 - 1)) == pytest.approx(0.2)
    assert estimate.low < 0.2 < estimate.high
    assert (estimate.n, estimate.gold) == (1000, 200)


def test_rogan_gladen_with_a_perfect_detector_is_the_naive_share():
    gold, seen = gold_rows(5000, 0, 0, 5000)
    estimate, plain = pv.rogan_gladen(counts(300, 1000), gold, seen), pv.naive(counts(300, 1000))
    assert estimate.value == pytest.approx(plain.value) == pytest.approx(0.3)
    assert (estimate.low, estimate.high) == pytest.approx((plain.low, plain.high), abs=1e-3)


def test_ppi_without_use_of_the_detector_is_the_gold_mean():
    rng = np.random.default_rng(0)
    gold = rng.random(400) < 0.3
    estimate = pv.ppi(np.zeros(1000), gold, np.zeros(400))
    assert estimate.value == pytest.approx(gold.mean())
    half = stats.norm.ppf(0.975) * gold.std(ddof=1) / 20
    assert (estimate.low, estimate.high) == pytest.approx((gold.mean() - half, gold.mean() + half))


def test_ppi_with_a_perfect_detector_narrows_to_the_large_sample():
    rng = np.random.default_rng(0)
    gold, many = rng.random(100) < 0.3, rng.random(100_000) < 0.3
    estimate = pv.ppi(many, gold, gold)
    assert estimate.value == pytest.approx(many.mean(), abs=0.01)
    assert estimate.low < many.mean() < estimate.high and estimate.high - estimate.low < 0.03


@pytest.mark.parametrize(("share", "se", "sp"), [(0.2, 0.8, 0.9), (0.3, 0.7, 0.75), (0.05, 0.75, 0.92)])
def test_the_corrections_cover_the_truth_and_the_naive_share_does_not(share, se, sp):
    rng = np.random.default_rng(0)
    runs, hits = 2000, {"naive": 0, "rogan-gladen": 0, "ppi++": 0}
    for _ in range(runs):
        truth = rng.random(2200) < share
        seen = np.where(truth, rng.random(2200) < se, rng.random(2200) > sp)
        rest, gold, on_gold = seen[200:], truth[:200], seen[:200]
        for estimate in (pv.naive(rest), pv.rogan_gladen(rest, gold, on_gold), pv.ppi(rest, gold, on_gold)):
            hits[estimate.method] += estimate.low <= share <= estimate.high
    assert hits["rogan-gladen"] / runs >= 0.93 and hits["ppi++"] / runs >= 0.92
    assert hits["naive"] / runs < 0.7


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: pv.rogan_gladen([1, 0], *gold_rows(3, 7, 4, 6)), "is not above 1"),
        (lambda: pv.rogan_gladen([1, 0], *gold_rows(5, 0, 0, 0)), "no negative row"),
        (lambda: pv.rogan_gladen([1, 0], *gold_rows(0, 0, 1, 5)), "no positive row"),
        (lambda: pv.rogan_gladen([1, 0], [], []), "there are no gold labels"),
        (lambda: pv.ppi([0.5], [], []), "there are no gold labels"),
        (lambda: pv.ppi([0.5], [1], [1]), "1 gold row"),
        (lambda: pv.ppi([0.5, np.nan], [1, 0], [1, 0]), "must lie within 0 and 1; there is nan"),
        (lambda: pv.ppi([1.2], [1, 0], [1, 0]), "there is 1.2"),
        (lambda: pv.ppi([0.2], [1, 0], [1]), "do not pair up"),
        (lambda: pv.naive([]), "there are no detections"),
        (lambda: pv.naive([0.5]), "must be 0 or 1"),
        (lambda: pv.naive([None, 1]), "within 0 and 1"),
        (lambda: pv.naive(["none", 1]), "must be numbers"),
        (lambda: pv.wilson(1, 0), "nothing to divide by"),
        (lambda: pv.wilson(3, 2), "0 <= count <= total"),
        (lambda: pv.shares(np.zeros((0, 11))), "at least one row"),
        (lambda: pv.shares(np.zeros((2, 3))), "3 columns"),
        (lambda: pv.shares(np.full((2, 11), 2)), "must be 0 or 1"),
    ],
)
def test_where_there_is_no_number_there_is_a_sentence(call, words):
    with pytest.raises(CbtError, match=words):
        call()


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 50),
    st.integers(0, 50),
    st.integers(0, 50),
    st.integers(0, 50),
    st.integers(0, 60),
    st.integers(1, 60),
)
def test_a_correction_is_a_share_with_its_interval_or_an_error(tp, fn, fp, tn, k, more):
    gold, seen = gold_rows(tp, fn, fp, tn)
    for method in (pv.rogan_gladen, pv.ppi):
        try:
            estimate = method(counts(k, k + more), gold, seen)
        except CbtError:
            continue
        assert 0 <= estimate.low <= estimate.high <= 1 and 0 <= estimate.value <= 1
