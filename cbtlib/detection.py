"""How good a detector is: precision, recall, F1 and AUC per type with intervals, averages, calibration, comparisons.

Notable choices
- F1 is a ratio of sums over posts (2 tp over 2 tp + fp + fn), so that one paired bootstrap over posts serves every
  type, every average and the difference of two detectors.
- A type with fewer than `least` positives is listed and left out of one of two macro averages; both are given, and the
  second is NaN where no type has as many.
- A type that no post has is listed without an F1 (NaN) and is in no macro average: there was nothing to find. What is
  called so falsely still counts in `micro`. Without any positive at all there is a CbtError.
- Precision and recall have Wilson's intervals and AUC has Newcombe's: a bootstrap, or DeLong's variance, gives no width
  where every post with the type scores above the others. Simulated with 3 to 15 such posts of 60, DeLong's interval
  covers 42-93% and Newcombe's 86-99%.
- A type whose scores are all 0 was never learnt, and so has no probabilities: its AUC and calibration error are NaN.
- Where each call of a type is right, or none, no resample differs: then its F1 has an interval made from Wilson's. An
  average or a difference has none then (NaN), and nothing that is resampled has one for fewer than `FEWEST` posts. Only
  of two detectors that call alike the difference is 0 to 0.
- A macro average of a resample is over the types that occur in it, as that of the posts is: a type that was not drawn
  would else count as missed, and a perfect detector of rare types would lie above its own interval.
- F1 of a type is 0 in a resample that leaves it undefined (no positive drawn, none predicted), as scikit-learn's
  zero_division says.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special

from cbtlib import CbtError
from cbtlib.prevalence import wilson
from cbtlib.resampling import FEWEST, Floats, Statistics, bootstrap, interval

Bools = NDArray[np.bool_]
LEAST = 6
"""Positives that a type needs to count in the average over supported types."""
BINS = 10
"""Into which the calibration error cuts the scores, all of one width."""
NO_GOLD = "no post has a gold label, so there is no F1: score on posts of which some are labelled"


@dataclass(frozen=True, slots=True)
class Result:
    """`table`: one row a type and an average; `ece` per type.

    Columns: f1 with low and high (NaN where there is none), support, precision, recall and auc, these three with bounds
    of 95% too (auc_low).
    """

    table: pd.DataFrame
    ece: pd.Series


def evaluate(
    gold: ArrayLike,
    predicted: ArrayLike,
    types: Sequence[str],
    scores: ArrayLike | None = None,
    least: int = LEAST,
    resamples: int = 1000,
    seed: int = 0,
) -> Result:
    """Score labels (posts, types) against gold; `scores`, when given, are probabilities and add AUC and ECE.

    Rows: the types, `any`, `micro`, `macro` (types that occur), `macro, supported` (those with >= `least` positives),
    `weighted`. CbtError for unequal shapes, no posts, no gold label, or scores that are no probabilities.
    """
    truth, found = _tables(gold, predicted, types)
    truth, found = _with_any(truth), _with_any(found)
    columns = [*types, "any"]
    support = truth.sum(0)
    if not support[-1]:
        raise CbtError(NO_GOLD)
    statistics = {name: _f1(truth[:, [j]], found[:, [j]]) for j, name in enumerate(columns)}
    statistics["micro"] = _f1(truth[:, :-1], found[:, :-1])
    kept = support[:-1] >= least
    statistics["macro"] = _macro(truth[:, :-1], found[:, :-1], lambda there: there > 0)
    statistics["macro, supported"] = _macro(truth[:, :-1], found[:, :-1], lambda there: kept & (there > 0))
    statistics["weighted"] = _macro(truth[:, :-1], found[:, :-1], lambda there: there)
    draws = bootstrap(list(statistics.values()), resamples, seed)
    hits, called, either = (truth & found).sum(0), found.sum(0), (truth | found).sum(0)
    rows = []
    for k, (name, statistic) in enumerate(statistics.items()):
        low, high = _bounds(draws[:, k], statistic.value, len(truth))
        row = {"type": name, "f1": statistic.value, "low": low, "high": high}
        if name in columns:
            j = columns.index(name)
            if np.isnan(low) and either[j] and hits[j] in (0, either[j]):
                row["low"], row["high"] = _sure(hits[j], either[j])
            row |= {"support": support[j]}
            row |= _part("precision", hits[j], called[j]) | _part("recall", hits[j], support[j])
        rows.append(row)
    table = pd.DataFrame(rows).set_index("type")
    table.loc[table["support"] == 0, ["f1", "low", "high", "recall"]] = np.nan
    if not kept.any():
        table.loc["macro, supported", ["f1", "low", "high"]] = np.nan
    ece = pd.Series(dtype=float)
    if scores is not None:
        values = _probabilities(scores, found.shape)
        pairs = {name: (truth[:, j], values[:, j]) for j, name in enumerate(columns) if values[:, j].any()}
        areas = {name: _area(*pair) for name, pair in pairs.items()}
        table[["auc", "auc_low", "auc_high"]] = pd.DataFrame(areas, index=range(3)).T.reindex(table.index)
        ece = pd.Series({name: calibration_error(*pair) for name, pair in pairs.items()}).reindex(columns)
    return Result(table, ece)


def difference(
    gold: ArrayLike, one: ArrayLike, two: ArrayLike, types: Sequence[str], resamples: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """F1 of detector `one` minus that of `two` on the same posts (any, micro, macro), with paired intervals.

    CbtError as for `evaluate`: without a gold label there is no F1, and no difference.
    """
    truth, first = _tables(gold, one, types)
    _, second = _tables(gold, two, types)
    if not truth.any():
        raise CbtError(NO_GOLD)
    rows = []
    for name, make in (
        ("any", lambda found: _f1(_with_any(truth)[:, -1:], _with_any(found)[:, -1:])),
        ("micro", lambda found: _f1(truth, found)),
        ("macro", lambda found: _macro(truth, found, lambda there: there > 0)),
    ):
        pair = [make(first), make(second)]
        draws = bootstrap(pair, resamples, seed)
        apart, drawn = pair[0].value - pair[1].value, draws[:, 0] - draws[:, 1]
        low, high = _bounds(drawn, apart, len(truth)) if apart or drawn.any() else (0.0, 0.0)
        rows.append({"average": name, "difference": apart, "low": low, "high": high})
    return pd.DataFrame(rows).set_index("average")


def confusion(gold: ArrayLike, predicted: ArrayLike, types: Sequence[str]) -> pd.DataFrame:
    """Posts in which gold type (row) was missed and type (column) called falsely: what is taken for what."""
    truth, found = _tables(gold, predicted, types)
    missed, false = (truth & ~found).astype(int), (found & ~truth).astype(int)
    return pd.DataFrame(missed.T @ false, index=pd.Index(types, name="missed"), columns=pd.Index(types, name="called"))


def auc(gold: ArrayLike, scores: ArrayLike) -> float:
    """Chance that a positive scores above a negative, ties half (Mann-Whitney); NaN when one class is empty.

    CbtError for scores that are no numbers within 0 and 1, or not one for each label.
    """
    from sklearn.metrics import roc_auc_score

    truth = np.asarray(gold, bool)
    values = _probabilities(scores, truth.shape)
    return float("nan") if truth.all() or not truth.any() else float(roc_auc_score(truth, values))


def calibration_error(gold: ArrayLike, scores: ArrayLike) -> float:
    """Expected calibration error: mean distance of score and share of positives over BINS bins, by size.

    An empty bin weighs nothing. CbtError as for `auc`, and without posts.
    """
    truth = np.asarray(gold, float)
    values = _probabilities(scores, truth.shape)
    if not len(truth):
        raise CbtError("there are no posts, so there is no calibration error")
    bin_ = np.minimum((values * BINS).astype(int), BINS - 1)
    gaps = np.abs(np.bincount(bin_, truth - values, BINS))
    return float(gaps.sum() / len(truth))


# ------------------------------------------------------------------ F1 as sums


def _f1(truth: Bools, found: Bools) -> Statistics:
    hits = 2.0 * (truth & found).sum(1)
    return Statistics(np.stack([hits, truth.sum(1) + found.sum(1)], 1).astype(float), _ratio)


def _sure(hits: int, either: int) -> tuple[float, float]:
    """Bounds of a type's F1 where each call is right, or none: eight right of eight are no certainty.

    F1 = 2h / (1 + h) for the share h of hits among the posts that have the type or are called it; h has Wilson's.
    """
    low, high = (float(2 * h / (1 + h)) for h in wilson(hits, either))
    return low, high


def _ratio(sums: Floats) -> Floats:
    return sums[..., 0] / np.maximum(sums[..., 1], 1)


def _macro(truth: Bools, found: Bools, weigh: Callable[[Floats], NDArray]) -> Statistics:
    """Mean F1 of the types; `weigh` makes their weights (..., types) of the posts that have each."""
    rows = np.concatenate([2.0 * (truth & found), truth.astype(float) + found, truth], 1)

    def formula(sums: Floats) -> Floats:
        hits, both, there = np.split(sums, 3, axis=-1)
        weights = weigh(there)
        return (hits / np.maximum(both, 1) * weights).sum(-1) / np.maximum(weights.sum(-1), 1)

    return Statistics(rows, formula)


def _part(name: str, count: int, total: int) -> dict[str, float]:
    """A share under its name, with Wilson's bounds; NaN of nothing, of which there is no share."""
    low, high = wilson(count, total) if total else (np.nan, np.nan)
    return {name: count / total if total else np.nan, f"{name}_low": float(low), f"{name}_high": float(high)}


def _area(truth: Bools, scores: Floats) -> tuple[float, float, float]:
    """AUC, and its bounds by Newcombe's method 5 (2006, Statistics in Medicine 25: 559-573); NaN as `auc`.

    A bound lies where the value is as far from it as z standard errors that Hanley and McNeil's variance gives there.
    """
    value, m, n, z = auc(truth, scores), truth.sum(), (~truth).sum(), special.ndtri(0.975)

    def low(value: float) -> float:
        def beyond(t: float) -> float:
            spread = t * (1 - t) * (1 + ((m + n) / 2 - 1) * (t / (1 + t) + (1 - t) / (2 - t))) / (m * n)
            return (value - t) ** 2 - z**2 * spread

        return optimize.brentq(beyond, 0, value * (1 - 1e-9)) if value else 0.0  # just below: at 1 is a root too

    return (value, value, value) if np.isnan(value) else (value, low(value), 1 - low(1 - value))


def _bounds(values: Floats, estimate: float, posts: int) -> tuple[float, float]:
    """Percentile interval of `values` (resamples,), the estimate in it; NaN where none differs or posts are few."""
    low, high = interval(values)
    return (min(low, estimate), max(high, estimate)) if low < high and posts >= FEWEST else (np.nan, np.nan)


def _with_any(labels: Bools) -> Bools:
    return np.column_stack([labels, labels.any(1)])


def _tables(gold: ArrayLike, predicted: ArrayLike, types: Sequence[str]) -> tuple[Bools, Bools]:
    truth, found = np.asarray(gold), np.asarray(predicted)
    if truth.shape != found.shape or truth.ndim != 2 or truth.shape[1] != len(types) or not len(truth):
        raise CbtError(f"gold {truth.shape} and predicted {found.shape} must both be (posts, {len(types)}), with posts")
    for name, table in (("gold", truth), ("predicted", found)):
        if not np.isin(table, (0, 1)).all():
            raise CbtError(f"{name} labels must be 0 or 1; leave posts without labels out and print their number")
    return truth.astype(bool), found.astype(bool)


def _probabilities(scores: ArrayLike, shape: tuple[int, ...]) -> Floats:
    values = np.asarray(scores, float)
    if values.shape != shape:
        raise CbtError(f"scores have shape {values.shape}, and the labels {shape}: there must be one for each")
    if not ((values >= 0) & (values <= 1)).all():  # a NaN fails this too
        raise CbtError("scores must be probabilities within 0 and 1, none of them missing")
    return values
