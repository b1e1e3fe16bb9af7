"""Intervals and tests by resampling sums: every metric here is a formula over per-item sums.

BLEU, chrF and any mean are functions of column sums of a matrix with one row for each item. A bootstrap resample is
then one row of counts times that matrix, so that a thousand resamples of all metrics are a few matrix products.

Notable choices:
- All statistics passed together see the same resamples: differences between systems are paired by item.
- Intervals are bias-corrected and accelerated (BCa, Efron 1987; its jackknife is one subtraction of rows from sums) and
  expanded (Hesterberg 2015, sec. 4.4.2): percentiles cover too little at n = 100, far too little at 12. The expansion
  is Student's quantile over the normal one, with the degrees of freedom that the spread of these items is worth
  (Satterthwaite 1946): few where few items hold most of it, so that there, and only there, intervals are wider.
- Where they fall short: of letters put together from shared sentences, one pair in a hundred holds 60% of the variance
  of BLEU and chrF. A sample of 100 has about one such pair: 96 and 94% are covered, 92 and 91% with n - 1 degrees.
  A sample of 12 mostly has none, and does not know of them: 63 and 78%.
- A share has Wilson's interval (1927): where no item of the sample has it, or each, no resample differs, and a
  bootstrap interval would have no width. Of a share of 6% it covers 95% at n = 100, BCa 98%. The difference of two
  shares of the same items has Agresti and Min's (2005, Statistics in Medicine 24) for the same reason.
- Where values are symmetric, all n items lie on one side of the truth in 2^(1-n) of the samples, and so does then what
  is resampled from them: an interval of two items covers at most 50%, of four 88%, of five 94%. Fewer than `FEWEST`
  have none (NaN). Those of shares resample nothing, and need two items.
- A value that some resample leaves undefined has no interval and no p value: NaN, no guess.
- p values add one to count and trials (Davison and Hinkley 1997, eq. 4.11), so none is ever zero.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri, stdtrit

from cbtlib import CbtError

Floats = NDArray[np.float64]
Formula = Callable[[Floats], Floats]

BLOCK = 4_000_000  # entries of a weight matrix held at once
FEWEST = 5  # items that a resampled interval needs


def ratio(sums: Floats) -> Floats:
    """(..., 2) sums of numerator and denominator to their quotient; NaN where the denominator is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(sums[..., 1] == 0, np.nan, sums[..., 0] / sums[..., 1])


@dataclass(frozen=True)
class Statistics:
    """`rows` (n, k), one row of sufficient statistics for each item, and the `formula` from their sums to a value.

    `note` is what the signature must say of how these texts were measured, beyond the metric's settings. `share`: the
    value is a share of items that have something.
    """

    rows: Floats
    formula: Formula = ratio
    note: str = ""
    share: bool = False

    @classmethod
    def mean(cls, values: ArrayLike) -> "Statistics":
        """The plain mean of one value for each item (n,)."""
        values = np.asarray(values, np.float64)
        return cls(np.stack([values, np.ones_like(values)], axis=1))

    @classmethod
    def share_of(cls, has: ArrayLike) -> "Statistics":
        """The share of items that have something (n,), True or False each."""
        return replace(cls.mean(has), share=True)

    @property
    def method(self) -> str:
        """How `intervals` makes its interval: "wilson" for a share of whole items, else "bca"."""
        return "wilson" if self.share and np.isin(self.rows[:, 0], (0, 1)).all() else "bca"

    @property
    def value(self) -> float:
        """The value over all items."""
        return float(self.formula(self.rows.sum(axis=0)))

    @property
    def jackknife(self) -> Floats:
        """The value over all items but one, for each item (n,)."""
        return self.formula(self.rows.sum(axis=0) - self.rows)

    @property
    def items(self) -> Floats:
        """The value of every item alone (n,)."""
        return self.formula(self.rows)


def check(resamples: int = 1, confidence: float = 0.95) -> None:
    """CbtError for a number of resamples or trials below 1, or a confidence that is not between 0 and 1."""
    if not isinstance(resamples, int | np.integer) or resamples < 1:
        raise CbtError(f"resamples is {resamples!r}: give a whole number of at least 1; 1000 is usual")
    if not 0 < confidence < 1:
        raise CbtError(f"confidence is {confidence!r}: give a share between 0 and 1; 0.95 is usual")


def bootstrap(statistics: Sequence[Statistics], resamples: int = 1000, seed: int = 0) -> Floats:
    """Values of all statistics on the same resamples of the items: (resamples, len(statistics)).

    Raises CbtError when the statistics do not describe the same number of items, or for resamples below 1.
    """
    check(resamples)
    items = _items(statistics)
    generator = np.random.default_rng(seed)
    values = []
    for size in _blocks(resamples, items):
        drawn = generator.integers(0, items, (size, items)) + np.arange(size)[:, None] * items
        weights = np.bincount(drawn.ravel(), minlength=size * items).reshape(size, items).astype(np.float64)
        values.append(np.stack([s.formula(weights @ s.rows) for s in statistics], axis=1))
    return np.concatenate(values)


def interval(values: Floats, confidence: float = 0.95) -> tuple[float, float]:
    """Percentile interval of bootstrap values (resamples,)."""
    check(confidence=confidence)
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def bca(values: Floats, estimate: float, jackknife: Floats, confidence: float = 0.95) -> tuple[float, float]:
    """Expanded BCa interval from bootstrap values (resamples,), the estimate, and leave-one-out values (n,).

    (NaN, NaN) for n below `FEWEST`, and where a value is undefined.
    """
    check(confidence=confidence)
    if len(jackknife) < FEWEST or not np.isfinite(np.concatenate([values, jackknife, [estimate]])).all():
        return np.nan, np.nan
    slack = 1e-12 * max(1.0, abs(estimate))
    below = np.mean(values < estimate - slack) + np.mean(np.abs(values - estimate) <= slack) / 2
    # an estimate outside all its resamples would shift the interval by infinity
    bias = ndtri(np.clip(below, 1 / (len(values) + 1), 1 - 1 / (len(values) + 1)))
    influence = jackknife.mean() - jackknife
    spread = (influence**2).sum() ** 1.5
    acceleration = (influence**3).sum() / (6 * spread) if spread > 0 else 0.0
    n = len(jackknife)
    # a resample's spread is too small by (n - 1) / n, and its quantiles are the normal's where Student's are due
    tails = np.array([(1 - confidence) / 2, (1 + confidence) / 2])
    reach = stdtrit(_freedom(influence), tails) * np.sqrt(n / (n - 1))
    shift = bias + reach
    if (acceleration * shift >= 1).any():  # there the correction turns round: so few items bear no such confidence
        return np.nan, np.nan
    low, high = np.quantile(values, ndtr(bias + shift / (1 - acceleration * shift)))
    return float(low), float(high)


def _freedom(values: Floats) -> float:
    """Degrees of freedom of the variance of (n,) values around 0 (Satterthwaite 1946), by their kurtosis; <= n - 1."""
    n, spread = len(values), np.sqrt(np.mean(values**2))
    if spread == 0:
        return n - 1
    raw = np.mean((values / spread) ** 4) - 3
    excess = (n - 1) / ((n - 2) * (n - 3)) * ((n + 1) * raw + 6)  # 0 for normal values on average, whatever n
    return 2 / (2 / (n - 1) + max(0.0, excess) / n)


def intervals(
    statistics: Sequence[Statistics], resamples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> list[tuple[float, float]]:
    """An interval for each of the statistics; (NaN, NaN) for fewer than `FEWEST` items, for a share when there is one.

    Expanded BCa; Wilson's for a share. Raises CbtError for settings that are none, and for statistics of different
    numbers of items.
    """
    from cbtlib.prevalence import wilson  # it imports this module

    check(resamples, confidence)
    if (items := _items(statistics)) < 2:
        return [(np.nan, np.nan)] * len(statistics)
    values = bootstrap(statistics, resamples, seed).T
    found = []
    for column, one in zip(values, statistics, strict=True):
        if one.method == "wilson":
            low, high = wilson(one.rows[:, 0].sum(), items, confidence)
            found.append((float(low), float(high)))
        else:
            found.append(bca(column, one.value, one.jackknife, confidence))
    return found


def span(low: float, high: float, form: str = ".2f") -> str:
    """An interval in words, ` [low, high]`, or nothing where there is none."""
    return f" [{low:{form}}, {high:{form}}]" if np.isfinite(low) else ""


def difference(one: Statistics, two: Statistics, drawn: Floats, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of `one`'s value minus `two`'s on the same items, from `drawn` (resamples, 2), the `bootstrap` of both.

    Expanded BCa; Agresti and Min's for two shares. (NaN, NaN) as for `intervals`.
    """
    check(confidence=confidence)
    if _items([one, two]) < 2:
        return np.nan, np.nan
    if paired_shares(one, two):
        return share_difference(one, two, confidence)
    return bca(drawn[:, 0] - drawn[:, 1], one.value - two.value, one.jackknife - two.jackknife, confidence)


def paired_shares(one: Statistics, two: Statistics) -> bool:
    """Whether `difference` has two shares of whole items to compare."""
    return one.method == two.method == "wilson"


def share_difference(one: Statistics, two: Statistics, confidence: float = 0.95) -> tuple[float, float]:
    """Agresti and Min's interval of the difference of two shares of the same items; nothing is resampled."""
    items = _items([one, two])
    # half an item more of each kind: what both have, neither, only `one`, only `two`
    gained, lost = ((a.rows[:, 0] > b.rows[:, 0]).sum() + 0.5 for a, b in ((one, two), (two, one)))
    middle, spread = (gained - lost) / (items + 2), (gained + lost) / (items + 2)
    half = ndtri(0.5 + confidence / 2) * np.sqrt((spread - middle**2) / (items + 2))
    return float(max(-1.0, middle - half)), float(min(1.0, middle + half))


def randomisation(one: Statistics, two: Statistics, trials: int = 1000, seed: int = 0) -> float:
    """Two-sided p value of approximate randomisation (Noreen 1989): swap the two systems' rows item by item.

    Systems with equal values on every item give 1; a value that is undefined, as given or swapped, gives NaN.
    """
    check(trials)
    items = _items([one, two])
    observed = abs(one.value - two.value)
    total, difference = one.rows.sum(axis=0) + two.rows.sum(axis=0), one.rows - two.rows
    generator = np.random.default_rng(seed)
    extreme = 0
    for size in _blocks(trials, items):
        swapped = generator.integers(0, 2, (size, items)).astype(np.float64)
        first = one.rows.sum(axis=0) - swapped @ difference
        apart = np.abs(one.formula(first) - one.formula(total - first))
        if not np.isfinite([observed, *apart]).all():
            return np.nan
        extreme += int((apart >= observed - 1e-12 * max(1.0, observed)).sum())
    return (extreme + 1) / (trials + 1)


def holm(p_values: ArrayLike) -> Floats:
    """Holm's step-down adjustment (1979) of one family of p values, in the order given."""
    p_values = np.asarray(p_values, np.float64)
    order = np.argsort(p_values)
    steps = np.minimum((len(order) - np.arange(len(order))) * p_values[order], 1.0)
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.maximum.accumulate(steps)
    return adjusted


def _items(statistics: Sequence[Statistics]) -> int:
    sizes = {len(s.rows) for s in statistics}
    if len(sizes) != 1 or 0 in sizes:
        raise CbtError(f"statistics over {sorted(sizes)} items cannot be resampled together; pass the same >= 1 items")
    return sizes.pop()


def _blocks(count: int, items: int) -> list[int]:
    """Cut `count` resamples into blocks whose weights fit in memory."""
    size = max(1, BLOCK // items)
    return [min(size, count - start) for start in range(0, count, size)]
