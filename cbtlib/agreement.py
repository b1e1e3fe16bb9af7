"""Do raters agree? Krippendorff's alpha, Cohen's and Fleiss' kappa, Gwet's AC, each as a formula over items.

Ratings are a matrix (items, raters) of category numbers 0..q-1 with NaN where a rating is missing. Every coefficient is
a formula over sums of per-item statistics (`resampling.Statistics`), so its interval is a bootstrap over items.

Notable choices
- Missing is missing: a rating that is not there is never filled in, and items with one rating hold no agreement.
- Ratings that are all the same leave alpha and kappa undefined: NaN, not 1 and not 0. Gwet's AC is 1 there.
- Scores are ordered, so alpha takes the ordinal distance and AC2 and weighted kappa quadratic weights by default.
- Numbers agree with the published worked examples (Krippendorff 2011; Fleiss 1971; Gwet 2014), which the tests hold.
"""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from cbtlib import CbtError
from cbtlib.resampling import Floats, Statistics

Level = Literal["nominal", "ordinal", "interval"]
Weights = Literal["none", "quadratic"]


def krippendorff_alpha(ratings: ArrayLike, categories: int, level: Level = "ordinal") -> Statistics:
    """Krippendorff's alpha (Krippendorff 2011) of (items, raters) ratings, any number of raters, missing allowed."""
    counts = _counts(ratings, categories)
    given = counts.sum(axis=1)
    pairs = counts[:, :, None] * counts[:, None, :] - counts[:, :, None] * np.eye(categories)
    coincidences = pairs / np.maximum(given - 1, 1)[:, None, None]

    def formula(sums: Floats) -> Floats:
        observed = sums.reshape(*sums.shape[:-1], categories, categories)
        margin = observed.sum(axis=-1)
        distance = _distance(margin, level)
        disagreement = (observed * distance).sum(axis=(-2, -1))
        expected = (margin[..., :, None] * margin[..., None, :] * distance).sum(axis=(-2, -1))
        return 1 - _divide((margin.sum(axis=-1) - 1) * disagreement, expected)

    return Statistics(coincidences.reshape(len(counts), -1), formula)


def cohen_kappa(one: ArrayLike, two: ArrayLike, categories: int, weights: Weights = "quadratic") -> Statistics:
    """Cohen's kappa (1960; weighted 1968) of two raters (items,), over the items that both rated."""
    given = np.asarray(one, float), np.asarray(two, float)
    if given[0].shape != given[1].shape:
        raise CbtError(f"one rater has {given[0].size} scores, the other {given[1].size}: both need one of each item")
    first, second = _checked(np.stack(given, axis=1), categories).T
    both = ~(np.isnan(first) | np.isnan(second))
    table = np.zeros((len(first), categories, categories))
    table[np.flatnonzero(both), first[both].astype(int), second[both].astype(int)] = 1
    credit = _credit(categories, weights)

    def formula(sums: Floats) -> Floats:
        joint = sums.reshape(*sums.shape[:-1], categories, categories)
        joint = _divide(joint, joint.sum(axis=(-2, -1), keepdims=True))
        expected = joint.sum(axis=-1)[..., :, None] * joint.sum(axis=-2)[..., None, :]
        return _chance_corrected((joint * credit).sum(axis=(-2, -1)), (expected * credit).sum(axis=(-2, -1)))

    return Statistics(table.reshape(len(first), -1), formula)


def fleiss_kappa(ratings: ArrayLike, categories: int) -> Statistics:
    """Fleiss' kappa (1971) with Gwet's rule for missing ratings (2014, ch. 2)."""
    return _panel(ratings, categories, np.eye(categories), lambda share: (share**2).sum(axis=-1))


def gwet_ac(ratings: ArrayLike, categories: int, weights: Weights = "quadratic") -> Statistics:
    """Gwet's AC1 (weights "none") or AC2 (Gwet 2008, 2014): agreement by chance is rare where one score is common."""
    credit = _credit(categories, weights)
    scale = credit.sum() / (categories * (categories - 1))
    return _panel(ratings, categories, credit, lambda share: scale * (share * (1 - share)).sum(axis=-1))


def _panel(ratings: ArrayLike, categories: int, credit: Floats, chance) -> Statistics:
    """A chance-corrected coefficient of any number of raters: observed pairwise agreement against `chance(shares)`."""
    counts = _counts(ratings, categories)
    given = counts.sum(axis=1)
    near = (counts * (counts @ credit - 1)).sum(axis=1)
    agreement = np.where(given > 1, near / np.maximum(given * (given - 1), 1), 0)
    shares = counts / np.maximum(given, 1)[:, None]
    rows = np.column_stack([agreement, given > 1, shares, given > 0]).astype(np.float64)

    def formula(sums: Floats) -> Floats:
        share = _divide(sums[..., 2:-1], sums[..., -1:])
        return _chance_corrected(_divide(sums[..., 0], sums[..., 1]), chance(share))

    return Statistics(rows, formula)


def _checked(ratings: ArrayLike, categories: int) -> Floats:
    matrix = np.asarray(ratings, np.float64)
    if matrix.ndim != 2:
        raise CbtError(f"ratings must be a matrix of items by raters; this one has {matrix.ndim} dimensions")
    if not len(matrix):
        raise CbtError("there is no item in these ratings, so there is no agreement to measure")
    wrong = ~np.isnan(matrix) & ~np.isin(matrix, np.arange(categories))
    if wrong.any():
        item, rater = np.argwhere(wrong)[0]
        raise CbtError(
            f"rating {matrix[item, rater]:g} of item {item + 1} by rater {rater + 1} is not one of "
            f"0..{categories - 1}; mend it, or leave it empty when it is missing"
        )
    return matrix


def _counts(ratings: ArrayLike, categories: int) -> Floats:
    """(items, categories): how many raters chose each category."""
    matrix = _checked(ratings, categories)
    return (matrix[:, :, None] == np.arange(categories)).sum(axis=1).astype(np.float64)


def _distance(margin: Floats, level: Level) -> Floats:
    """(..., q, q) squared distance between categories; the ordinal one depends on how often each is used."""
    size = margin.shape[-1]
    if level == "nominal":
        return np.broadcast_to(1 - np.eye(size), (*margin.shape, size))
    if level == "interval":
        return np.broadcast_to((np.arange(size)[:, None] - np.arange(size)) ** 2.0, (*margin.shape, size))
    middle = np.cumsum(margin, axis=-1) - margin / 2
    return (middle[..., :, None] - middle[..., None, :]) ** 2


def _credit(categories: int, weights: Weights) -> Floats:
    """(q, q) credit for a pair of scores: 1 for equal ones, less the farther they are apart."""
    if weights == "none":
        return np.eye(categories)
    return 1 - ((np.arange(categories)[:, None] - np.arange(categories)) / (categories - 1)) ** 2.0


def _chance_corrected(observed: Floats, expected: Floats) -> Floats:
    return _divide(observed - expected, 1 - expected)


def _divide(above: Floats, below: Floats) -> Floats:
    """Quotient, NaN where the denominator is 0 (up to rounding)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.abs(below) < 1e-12, np.nan, above / below)
