"""How often a label occurs: shares with intervals, which labels meet, and shares corrected for detector errors.

A detector with sensitivity 0.8 and specificity 0.9 reports 24% where the truth is 20%, and no sample size mends that.
Two corrections need a sample with gold labels drawn from the same population:

    Rogan-Gladen   (p + sp - 1) / (se + sp - 1), interval of Lang and Reiczigel (2014): gold sample only for se and sp
    PPI++          gold mean + lambda (mean of all detections - mean of gold detections), Angelopoulos et al. (2023):
                   the gold sample must be drawn at random, and then the interval holds whatever the detector does

`corrected` gives all three for every type; `coverage` simulates how often each interval holds the truth.

Notable choices
- The interval of PPI++ is Wilson's, with as many rows as a plain sample of that variance would have. For many gold
  rows it is the published value +- z se; for a rare type the published one holds the truth 89% of the time, and this
  one 95% (`coverage`: share 0.02, 200 gold rows).
- Rows resample through their patterns: a bootstrap of n rows of 11 labels is one multinomial draw over the patterns
  that occur (at most 2,048), which is the same distribution and takes the same time for a thousand rows or a million.
- Where a correction is undefined (se + sp <= 1, no gold row, no gold positive or negative, an interval that would not
  hold its own estimate or lies outside 0 and 1) there is a CbtError, never a number.
- Tests of 55 pairs are corrected by Benjamini and Hochberg (1995): q is the share of false findings one accepts.
"""

import contextlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import special

from cbtlib import CbtError, resampling
from cbtlib.corpus import TYPES

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A share with its interval and what it rests on: `n` rows seen by the detector, `gold` rows with gold labels."""

    method: str
    value: float
    low: float
    high: float
    n: int
    gold: int = 0


# ------------------------------------------------------------------ shares


def wilson(k: ArrayLike, n: ArrayLike, confidence: float = 0.95) -> tuple[Floats, Floats]:
    """Wilson's (1927) interval of k out of n, elementwise; CbtError unless 0 <= k <= n and n > 0."""
    k, n = np.asarray(k, float), np.asarray(n, float)
    if (n <= 0).any() or (k < 0).any() or (k > n).any():
        raise CbtError("a share needs 0 <= count <= total and a total above 0; there is nothing to divide by")
    resampling.check(confidence=confidence)
    z = special.ndtri(0.5 + confidence / 2)
    middle = (k + z**2 / 2) / (n + z**2)
    half = z / (n + z**2) * np.sqrt(k * (n - k) / n + z**2 / 4)
    # the ends are exact, so that a count of 0 lies within its own interval in floating point too
    return np.where(k == 0, 0.0, middle - half), np.where(k == n, 1.0, middle + half)


def shares(labels: ArrayLike, types: Sequence[str] = TYPES, confidence: float = 0.95) -> pd.DataFrame:
    """Share of rows with each type, and with `any`: columns count, n, share, low, high (Wilson)."""
    found = _labels(labels, types)
    counts = np.append(found.sum(0), found.any(1).sum())
    low, high = wilson(counts, len(found), confidence)
    table = {"count": counts, "n": len(found), "share": counts / len(found), "low": low, "high": high}
    return pd.DataFrame(table, index=pd.Index([*types, "any"], name="type"))


def bootstrap_shares(labels: ArrayLike, resamples: int = 1000, seed: int = 0) -> Floats:
    """Shares of every type, of `any`, and the mean number of labels a row, by resample: (resamples, types + 2)."""
    resampling.check(resamples)
    found = _labels(labels, None)
    patterns, counts = _patterns(found)
    draws = np.random.default_rng(seed).multinomial(len(found), counts / len(found), size=resamples)
    columns = np.column_stack([patterns, patterns.any(1), patterns.sum(1)]).astype(float)
    return draws @ columns / len(found)


def cooccurrence(labels: ArrayLike, types: Sequence[str] = TYPES) -> pd.DataFrame:
    """Each pair of types: rows with both, rows expected if independent, log odds ratio, p (Fisher, two-sided), q.

    The log odds ratio adds 0.5 to each cell (Haldane 1940), so that it is finite; q is the Benjamini-Hochberg p value.
    """
    from scipy import stats  # slow to import, and every page imports this module

    found = _labels(labels, types).astype(np.int64)
    both = found.T @ found
    n, single = len(found), np.diagonal(both)
    rows = []
    for i, j in itertools.combinations(range(len(types)), 2):
        a = both[i, j]
        b, c = single[i] - a, single[j] - a
        cells = np.array([[a, b], [c, n - a - b - c]])
        odds = np.log((cells[0, 0] + 0.5) * (cells[1, 1] + 0.5) / ((cells[0, 1] + 0.5) * (cells[1, 0] + 0.5)))
        rows.append((types[i], types[j], int(a), single[i] * single[j] / n, odds, stats.fisher_exact(cells).pvalue))
    table = pd.DataFrame(rows, columns=["a", "b", "both", "expected", "log_odds", "p"])
    table["q"] = stats.false_discovery_control(table["p"])
    return table


# ------------------------------------------------------------------ corrected shares


def naive(detected: ArrayLike, confidence: float = 0.95) -> Estimate:
    """The share of detections as it stands, with Wilson's interval: right only for a detector without errors."""
    found = _binary(detected, "detections")
    low, high = wilson(found.sum(), len(found), confidence)
    return Estimate("naive", float(found.mean()), float(low), float(high), len(found))


def rogan_gladen(detected: ArrayLike, gold: ArrayLike, gold_detected: ArrayLike, confidence: float = 0.95) -> Estimate:
    """Share corrected by the sensitivity and specificity seen on the gold rows (Rogan and Gladen 1978).

    `detected` (n,) on the rows to estimate; `gold` and `gold_detected` (m,) on other rows. The interval is Lang and
    Reiczigel's (2014, eq. 5), which holds for small gold samples. CbtError when se + sp <= 1, a class is empty, or the
    interval does not meet [0, 1] or does not hold the estimate.
    """
    resampling.check(confidence=confidence)
    found = _binary(detected, "detections")
    truth, seen = _pair(gold, gold_detected)
    positives, negatives = int(truth.sum()), int((~truth).sum())
    if not positives or not negatives:
        lacking = "positive" if not positives else "negative"
        raise CbtError(f"the gold sample has no {lacking} row, so the detector's errors on them are unknown; add some")
    sensitivity, specificity = seen[truth].mean(), 1 - seen[~truth].mean()
    if sensitivity + specificity <= 1:
        raise CbtError(
            f"sensitivity {sensitivity:.2f} + specificity {specificity:.2f} is not above 1: the detector tells "
            "nothing, and Rogan-Gladen is undefined"
        )
    n, share, z = len(found), found.mean(), special.ndtri(0.5 + confidence / 2)
    value = (share + specificity - 1) / (sensitivity + specificity - 1)
    p = (n * share + z**2 / 2) / (n + z**2)
    se = (positives * sensitivity + 1) / (positives + 2)
    sp = (negatives * specificity + 1) / (negatives + 2)
    youden = se + sp - 1
    if youden <= 0:
        raise CbtError("sensitivity and specificity rest on too few gold rows to be told from guessing; add gold rows")
    middle = (p + sp - 1) / youden
    se_var, sp_var = se * (1 - se) / (positives + 2), sp * (1 - sp) / (negatives + 2)
    shift = 2 * z**2 * (middle * se_var - (1 - middle) * sp_var)
    half = z / youden * np.sqrt(p * (1 - p) / (n + z**2) + middle**2 * se_var + (1 - middle) ** 2 * sp_var)
    low, value, high = (float(x) for x in np.clip([middle + shift - half, value, middle + shift + half], 0, 1))
    if not (low <= value <= high and low < high):
        raise CbtError(
            f"a share of {share:.2f} detections fits no detector with sensitivity {sensitivity:.2f} and specificity "
            f"{specificity:.2f}, or the gold rows ({positives} positive, {negatives} negative) are too few to say: "
            "Rogan-Gladen is undefined; add gold rows that are like the others"
        )
    return Estimate("rogan-gladen", value, low, high, n, len(truth))


def ppi(detected: ArrayLike, gold: ArrayLike, gold_detected: ArrayLike, confidence: float = 0.95) -> Estimate:
    """Prediction-powered share (PPI++, Angelopoulos, Duchi and Zrnic 2023, section 6, for a mean).

    `detected` (n,): detections, or probabilities, on rows without gold labels; `gold` and `gold_detected` (m,) on a
    random sample of the same population. The weight lambda is the one of least variance, within [0, 1]; where no
    variance is left (all gold rows alike, or a detector right on each that calls all others alike), it is 0.
    """
    found = _scores(detected, "detections")
    truth, seen = _pair(gold, gold_detected, scores=True)
    n, m = len(found), len(truth)
    if m < 2:
        raise CbtError(f"{m} gold row gives no interval; PPI++ needs at least two, and some dozens to be of use")
    spread = np.var(np.concatenate([found, seen]), ddof=1)
    weight = 0.0 if spread == 0 else float(np.clip(np.cov(truth, seen)[0, 1] / spread / (1 + m / n), 0, 1))
    value = truth.mean() + weight * (found.mean() - seen.mean())
    variance = np.var(truth - weight * seen, ddof=1) / m + weight**2 * np.var(found, ddof=1 if n > 1 else 0) / n
    if variance == 0:  # no sample is that certain: the gold rows say no more than their number
        value = truth.mean()
        low, high = (float(x) for x in wilson(truth.sum(), m, confidence))
    else:
        inside = np.clip(value, 0.5 / m, 1 - 0.5 / m)  # a corrected share may leave [0, 1]
        rows = inside * (1 - inside) / variance
        low, high = (float(x) for x in wilson(inside * rows, rows, confidence))
        value = np.clip(value, low, high)
    return Estimate("ppi++", float(np.clip(value, 0, 1)), float(low), float(high), n, m)


def corrected(
    detected: ArrayLike, gold: ArrayLike, gold_detected: ArrayLike, types: Sequence[str] = TYPES
) -> pd.DataFrame:
    """Every type's share, and that of `any`, by all three methods; arguments are tables (rows, types).

    Columns type, method, share, low, high and `undefined`: where a method has no number, its sentence stands there.
    """
    tables = [_labels(table, types) for table in (detected, gold, gold_detected)]
    found, truth, seen = (np.column_stack([table, table.any(1)]) for table in tables)
    rows = []
    for j, name in enumerate((*types, "any")):
        for label, method in METHODS.items():
            try:
                one = method(found[:, j], truth[:, j], seen[:, j])
                rows.append((name, label, one.value, one.low, one.high, ""))
            except CbtError as error:
                rows.append((name, label, np.nan, np.nan, np.nan, str(error)))
    return pd.DataFrame(rows, columns=["type", "method", "share", "low", "high", "undefined"])


METHODS: dict[str, Callable[..., Estimate]] = {
    "naive": lambda detected, gold, gold_detected: naive(detected),
    "rogan-gladen": rogan_gladen,
    "ppi++": ppi,
}


def coverage(
    share: float,
    sensitivity: float,
    specificity: float,
    gold: int = 200,
    rows: int = 2000,
    simulations: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """How often each method's 95% interval holds a known share, over simulated detectors and gold samples.

    One row a method: `held` of `defined` simulations, their ratio `coverage` with Wilson's low and high, the mean
    `width`. A simulation in which a method is undefined is no miss and no hit: it is not in `defined`.
    """
    generator = np.random.default_rng(seed)
    held, defined, width = (dict.fromkeys(METHODS, 0.0) for _ in range(3))
    for _ in range(simulations):
        truth = generator.random(rows + gold) < share
        seen = np.where(truth, generator.random(rows + gold) < sensitivity, generator.random(rows + gold) > specificity)
        for name, method in METHODS.items():
            with contextlib.suppress(CbtError):
                one = method(seen[gold:], truth[:gold], seen[:gold])
                defined[name] += 1
                held[name] += one.low <= share <= one.high
                width[name] += one.high - one.low
    kept = [name for name in METHODS if defined[name]]
    table = pd.DataFrame({"held": held, "defined": defined, "width": width}).loc[kept]
    table["coverage"], table["width"] = table["held"] / table["defined"], table["width"] / table["defined"]
    table["low"], table["high"] = wilson(table["held"], table["defined"])
    return table.rename_axis("method")


# ------------------------------------------------------------------ checks


def _patterns(found: Bools) -> tuple[Bools, NDArray[np.int64]]:
    """The rows that occur (k, types), and how often each."""
    codes = found @ (1 << np.arange(found.shape[1], dtype=np.int64))
    kept, counts = np.unique(codes, return_counts=True)
    return (kept[:, None] >> np.arange(found.shape[1]) & 1).astype(bool), counts


def _labels(labels: ArrayLike, types: Sequence[str] | None) -> Bools:
    found = np.asarray(labels)
    if found.ndim != 2 or not len(found):
        raise CbtError(
            f"labels must be a table of rows and types with at least one row; these have shape {found.shape}"
        )
    if types is not None and found.shape[1] != len(types):
        raise CbtError(f"labels have {found.shape[1]} columns, and there are {len(types)} types")
    return _zero_or_one(found, "labels")


def _binary(values: ArrayLike, what: str) -> Bools:
    return _zero_or_one(_scores(values, what), what)


def _zero_or_one(values: NDArray, what: str) -> Bools:
    if not ((values == 0) | (values == 1)).all():
        raise CbtError(f"{what} must be 0 or 1, and a missing one left out; there is {_first_other(values)}")
    return values.astype(bool)


def _first_other(values: NDArray) -> object:
    return values[~np.isin(values, (0, 1))].flat[0]


def _scores(values: ArrayLike, what: str) -> Floats:
    try:
        array = np.asarray(values, float).ravel()
    except (TypeError, ValueError):
        raise CbtError(f"{what} must be numbers from 0 to 1; a missing one is to be left out and counted") from None
    if not len(array):
        raise CbtError(f"there are no {what}: a share of nothing is no number")
    if not ((array >= 0) & (array <= 1)).all():  # a NaN fails this too
        raise CbtError(f"{what} must lie within 0 and 1; there is {array[~((array >= 0) & (array <= 1))][0]}")
    return array


def _pair(gold: ArrayLike, seen: ArrayLike, scores: bool = False) -> tuple[NDArray, NDArray]:
    truth = _binary(gold, "gold labels")
    found = _scores(seen, "detections on gold rows") if scores else _binary(seen, "detections on gold rows")
    if len(truth) != len(found):
        raise CbtError(f"{len(truth)} gold labels and {len(found)} detections on gold rows do not pair up")
    return truth.astype(float) if scores else truth, found
