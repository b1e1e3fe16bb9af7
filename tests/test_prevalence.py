"""Shares and their corrections: closed forms, worked examples, coverage, and a sentence where there is no number."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import optimize, stats
from sklearn.datasets import load_breast_cancer
from statsmodels.stats.proportion import proportion_confint

from cbtlib import CbtError
from cbtlib import prevalence as pv


@settings(max_examples=60)
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


def test_ppi_without_a_detection_elsewhere_is_the_gold_mean_with_its_interval():
    gold = counts(5, 40)
    estimate = pv.ppi(np.zeros(1000), gold, gold)  # right on each gold row: no variance is left
    low, high = pv.wilson(5, 40)
    assert (estimate.value, estimate.low, estimate.high) == (5 / 40, float(low), float(high))


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


def tumours() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every fifth tumour of the Wisconsin set has a gold label (malignant); the detector says a mean radius above 15.

    Returns detections without gold labels, gold labels, and detections beside those.
    """
    data = load_breast_cancer()
    gold, seen = data.target == 0, data.data[:, 0] > 15
    rows = np.arange(len(gold)) % 5 == 0
    return seen[~rows].astype(float), gold[rows].astype(float), seen[rows].astype(float)


def test_ppi_agrees_with_the_authors_package_on_a_public_data_set():
    """ppi-python 0.2.3, ppi_mean_ci(Y, Yhat, Yhat_unlabeled, alpha=0.05) says 0.38545 (0.31701, 0.45389).

    It divides by m where we divide by m - 1 (114 rows here), and its interval is not Wilson's.
    """
    estimate = pv.ppi(*tumours())
    assert estimate.value == pytest.approx(0.38545, abs=4e-4)
    assert (estimate.low, estimate.high) == pytest.approx((0.31701, 0.45389), abs=4e-3)
    assert estimate.high - estimate.low == pytest.approx(0.45389 - 0.31701, rel=0.01)


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.integers(20, 200), st.integers(20, 400), st.floats(0.55, 0.95))
def test_ppi_is_the_regression_estimator_of_least_variance(seed, m, n, accuracy):
    """Its closed form from two other sides: the regression estimator of two-phase sampling (Cochran 1977, section
    12.6), a line through the gold rows read at the mean of all rows; and the minimum of the variance over lambda."""
    rng = np.random.default_rng(seed)
    truth = rng.random(m + n) < 0.4
    seen = np.where(rng.random(m + n) < accuracy, truth, ~truth).astype(float)
    gold, on_gold, rest = truth[:m].astype(float), seen[:m], seen[m:]
    assume(0 < gold.mean() < 1 and seen.std() > 0)
    covariance, spread = ((gold - gold.mean()) * on_gold).sum() / (m - 1), seen.var(ddof=1)
    line = np.poly1d([covariance / spread, gold.mean() - covariance / spread * on_gold.mean()])
    assume(covariance >= 0 and covariance / spread / (1 + m / n) <= 1)
    estimate = pv.ppi(rest, gold, on_gold)
    assert estimate.value == pytest.approx(np.clip(line(seen.mean()), estimate.low, estimate.high))

    def variance(weight):
        return (gold.var(ddof=1) - 2 * weight * covariance + weight**2 * spread) / m + weight**2 * spread / n

    least = optimize.minimize_scalar(variance, bounds=(0, 1), method="bounded", options={"xatol": 1e-9}).x
    assert estimate.value == pytest.approx(gold.mean() + least * (rest.mean() - on_gold.mean()), abs=1e-4)


def test_ppi_at_its_two_ends_is_the_classical_and_the_pooled_interval():
    gold, against = np.tile([1, 0, 0], 100), np.tile([0, 1, 1], 100)
    ends = pv.ppi(against[:150], gold, against)  # a detector that is always wrong has lambda 0
    low, high = pv.wilson(299 / 3, 299)  # the variance divides by m - 1, so the rows are one fewer
    assert (ends.value, ends.low, ends.high) == pytest.approx((1 / 3, float(low), float(high)))
    ends = pv.ppi(np.tile([1, 0, 0], 400), gold, gold)  # and one that is always right turns all rows into gold rows
    low, high = pv.wilson(500, 1500)
    assert (ends.value, ends.low, ends.high) == pytest.approx((1 / 3, float(low), float(high)), abs=1e-4)


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


@pytest.mark.parametrize(
    ("positive", "tested", "true_positive", "diseased", "true_negative", "healthy", "low", "high"),
    [
        (4060, 11284, 178, 179, 358, 359, 0.349, 0.372),
        (51, 2971, 32, 33, 20, 20, 0, 0.053),
        (712, 11862, 8, 10, 12, 12, 0, 0.147),
        (259, 509, 84, 127, 96, 109, 0.58, 0.87),
        (51, 509, 23, 41, 187, 195, 0.037, 0.195),
    ],
)
def test_rogan_gladen_gives_the_published_examples_of_lang_and_reiczigel(
    positive, tested, true_positive, diseased, true_negative, healthy, low, high
):
    """Lang and Reiczigel 2014 (Preventive Veterinary Medicine 113, 13), examples 1 to 4, as R's asht::prevSeSp quotes
    them: the test on animals or people of unknown state, on diseased ones, and on healthy ones."""
    rows = gold_rows(true_positive, diseased - true_positive, healthy - true_negative, true_negative)
    estimate = pv.rogan_gladen(counts(positive, tested), *rows)
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=0.005 if low == 0.58 else 5e-4)
    assert estimate.low <= estimate.value <= estimate.high


def test_rogan_gladen_with_a_known_test_gives_the_documented_example():
    """20 of 120 positive, sensitivity 0.9, specificity 0.99 known: 0.17603 (0.1130 to 0.2623) by Wilson's interval in
    R's RSurveillance::tp. Ours is Agresti and Coull's with as many gold rows as here, a little wider."""
    estimate = pv.rogan_gladen(counts(20, 120), *gold_rows(90_000, 10_000, 1_000, 99_000))
    assert estimate.value == pytest.approx(0.17603, abs=5e-6)
    assert (estimate.low, estimate.high) == pytest.approx((0.1129887, 0.2623065), abs=1e-3)


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
        (lambda: pv.rogan_gladen(counts(0, 2000), *gold_rows(80, 20, 20, 80)), "0.00 detections fits no detector"),
        (lambda: pv.rogan_gladen(counts(24, 136), *gold_rows(10, 0, 0, 1)), "10 positive, 1 negative"),
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


@settings(max_examples=60)
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
        assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1 and estimate.low < estimate.high
