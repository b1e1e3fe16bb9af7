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
    gold, seen = gold_rows(80, 20, 10, 90)  # se 0.8, sp 0.9: 24% seen where 20% are
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
    low, high = pv.wilson(gold.mean() * 399, 399)  # the variance divides by m - 1, so the rows are one fewer
    assert (estimate.low, estimate.high) == pytest.approx((float(low), float(high)))


def test_ppi_is_the_published_formula_for_many_gold_rows():
    rng = np.random.default_rng(0)
    truth = rng.random(60_000) < 0.3
    seen = np.where(truth, rng.random(60_000) < 0.8, rng.random(60_000) > 0.9).astype(float)
    gold, on_gold, rest = truth[:20_000].astype(float), seen[:20_000], seen[20_000:]
    estimate = pv.ppi(rest, gold, on_gold)
    n, m = len(rest), len(gold)
    weight = np.cov(gold, on_gold)[0, 1] / np.var(seen, ddof=1) / (1 + m / n)
    value = weight * rest.mean() + (gold - weight * on_gold).mean()
    se = np.sqrt(np.var(gold - weight * on_gold, ddof=1) / m + weight**2 * np.var(rest, ddof=1) / n)
    assert estimate.value == pytest.approx(value)
    bounds = value - 1.959964 * se, value + 1.959964 * se
    assert (estimate.low, estimate.high) == pytest.approx(bounds, abs=3e-5)


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_the_intervals_that_newcombe_published(k, n, low, high):
    """Newcombe 1998 (Statistics in Medicine 17, 857), table I, method 3."""
    assert pv.wilson(k, n) == pytest.approx((low, high), abs=5e-5)


def test_rogan_gladen_gives_the_worked_example_of_a_herd():
    """23 of 150 cows positive, sensitivity 0.96, specificity 0.89: 5.1 in 100 have brucellosis (epiR, epi.prev)."""
    gold, seen = gold_rows(960, 40, 110, 890)
    assert pv.rogan_gladen(counts(23, 150), gold, seen).value == pytest.approx(0.051, abs=5e-4)


def test_rogan_gladen_has_the_interval_of_lang_and_reiczigel():
    """Their equations 5 to 17, written out once more: 3 of 263 positive, se 88/89, sp 132/134."""
    z2 = 1.959964**2
    n, se, sp, p = 263 + z2, 89 / 91, 133 / 136, (3 + z2 / 2) / (263 + z2)
    value = (p + sp - 1) / (se + sp - 1)
    variance = p * (1 - p) / n + value**2 * se * (1 - se) / 91 + (1 - value) ** 2 * sp * (1 - sp) / 136
    shift = 2 * z2 * (value * se * (1 - se) / 91 - (1 - value) * sp * (1 - sp) / 136)
    high = value + shift + np.sqrt(z2 * variance) / (se + sp - 1)
    estimate = pv.rogan_gladen(counts(3, 263), *gold_rows(88, 1, 2, 132))
    assert (estimate.value, estimate.low) == (0, 0)  # fewer positives than false alarms alone would give
    assert estimate.high == pytest.approx(high, abs=1e-6)


def test_false_discoveries_are_those_of_benjamini_and_hochberg():
    """Their example (1995, section 3.3): four of fifteen p values stand at 0.05."""
    p = [1e-4, 4e-4, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.324, 0.4262, 0.5719, 0.6528, 0.759, 1.0]
    rng = np.random.default_rng(0)
    assert (stats.false_discovery_control(p) <= 0.05).sum() == 4
    table = pv.cooccurrence(rng.random((300, 6)) < 0.3, tuple("abcdef"))
    assert table["q"].to_numpy() == pytest.approx(stats.false_discovery_control(table["p"]))


def test_every_type_is_corrected_or_says_why_not():
    rng = np.random.default_rng(0)
    truth = rng.random((2200, 2)) < (0.3, 0.0)
    seen = np.where(rng.random((2200, 2)) < 0.1, ~truth, truth)
    table = pv.corrected(seen[200:], truth[:200], seen[:200], ("a", "b")).set_index(["type", "method"])
    assert table.loc[("a", "ppi++"), "low"] < 0.3 < table.loc[("a", "ppi++"), "high"]
    assert abs(table.loc[("a", "rogan-gladen"), "share"] - 0.3) < abs(table.loc[("a", "naive"), "share"] - 0.3)
    assert np.isnan(table.loc[("b", "rogan-gladen"), "share"])
    assert "no positive row" in table.loc[("b", "rogan-gladen"), "undefined"]


def test_ppi_with_a_perfect_detector_narrows_to_the_large_sample():
    rng = np.random.default_rng(0)
    gold, many = rng.random(100) < 0.3, rng.random(100_000) < 0.3
    estimate = pv.ppi(many, gold, gold)
    assert estimate.value == pytest.approx(many.mean(), abs=0.01)
    assert estimate.low < many.mean() < estimate.high and estimate.high - estimate.low < 0.03


@pytest.mark.parametrize(("share", "se", "sp"), [(0.2, 0.8, 0.9), (0.3, 0.7, 0.75), (0.05, 0.75, 0.92)])
def test_the_corrections_cover_the_truth_and_the_naive_share_does_not(share, se, sp):
    table = pv.coverage(share, se, sp, simulations=2000)
    assert table.loc["rogan-gladen", "coverage"] >= 0.93 and table.loc["ppi++", "coverage"] >= 0.93
    assert table.loc["naive", "coverage"] < 0.7
    assert (table["width"] > 0).all() and (table["held"] <= table["defined"]).all()


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
