"""What human ratings say, and how far they can be trusted.

    analyse     means, agreement, rater bias and system differences of returned ratings
    power       how many items and raters would have shown a difference

Ratings are a table with one row for each score: rater, item, system, criterion, score (`forms.read` makes it). A row
without a score says that it was asked for and is missing.

Notable choices
- Means and differences speak of other items *and* other raters: a hundred items rated by two people say little about a
  third person. With one rater only items can vary, and a note says so.
- A mean and a difference have a t interval, and a difference the p value of the same t, from their two-way clustered
  variance (Cameron, Gelbach and Miller 2011) with Satterthwaite's degrees of freedom. Bootstrapping two or three raters
  covers far too little (74 and 83% of means in our simulation, against 90 and 92%).
- In a difference severity cancels, but a rater's liking for one of the systems does not. Where raters have none, the
  interval covers 96 to 97% at 100 posts. With likings of SD 0.25 it covers 91, 93 and 94% for 2, 3 and 5 raters (at 400
  posts 89, 92 and 95%; Owen's pigeonhole bootstrap at 100 posts 82, 88 and 92%). So p falls below 0.05 in 9, 7 and 6%
  of the cases where nothing differs. A test that swaps the systems post by post speaks of these raters alone: 32, 27
  and 18%.
- Agreement and rater bias resample items; all replies to one post stay together in a resample.
- Scores that do not vary have no interval (NaN): that six are alike does not make the seventh certain.
- A missing rating is missing: a difference uses the posts that the same rater scored for both systems.
- Criteria are analysed apart: a sum of relevance and structure measures nothing. They are reported together, so their
  p values are corrected together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import norm
from scipy.stats import t as student

from cbtlib import CbtError, agreement, forms
from cbtlib.resampling import Floats, Statistics, check, holm, intervals

COLUMNS = ("rater", "item", "system", "criterion", "score")
CATEGORIES = 3  # the scores 0, 1, 2
DIFFERENCES, ITEMS, RATERS = (0.1, 0.2, 0.3), (25, 50, 100, 200, 400), (1, 2, 3, 5)  # of a power table
FEW = 5  # raters below which an interval of a mean is mostly about them
TOO_LOW = 0.667  # alpha below which Krippendorff (2004, p. 241) advises against even tentative conclusions


@dataclass(frozen=True, slots=True)
class Analysis:
    """Tables of an analysis; every one has a row for each criterion and what it compares.

    `means`: system, mean, low, high, ratings, missing · `agreement`: coefficient, value, low, high · `raters`: rater,
    bias (own score minus the others' on the same replies), low, high, ratings · `differences`: system, base, value,
    low, high, p (of the same t), p_holm (corrected over all rows, whatever the criterion), posts · `power`: of the two
    systems that were rated together most, system, base and the columns of `power` · `notes`: what a reader must know.
    """

    means: pd.DataFrame
    agreement: pd.DataFrame
    raters: pd.DataFrame
    differences: pd.DataFrame
    power: pd.DataFrame
    notes: list[str]


@dataclass(frozen=True, slots=True)
class _Cube:
    """Scores of one criterion, (items, raters, systems), NaN where missing; items and raters have one at least.

    `silent` are the raters without a score, `asked` how many scores of each system all raters were asked for.
    """

    scores: Floats
    raters: list[str]
    systems: list[str]
    silent: list[str]
    asked: list[int]

    @property
    def missing(self) -> list[int]:
        """How many scores of each system are missing."""
        given = (~np.isnan(self.scores)).sum(axis=(0, 1))
        return [int(asked - there) for asked, there in zip(self.asked, given, strict=True)]

    @property
    def cells(self) -> Floats:
        """(items * systems, raters): one row for each reply."""
        return self.scores.transpose(0, 2, 1).reshape(-1, len(self.raters))

    def by_item(self, statistics: Statistics) -> Statistics:
        """Sum statistics of `cells` over the replies to one post, so that posts are what is resampled."""
        rows = statistics.rows.reshape(len(self.scores), len(self.systems), -1).sum(axis=1)
        return Statistics(rows, statistics.formula)


def analyse(ratings: pd.DataFrame, resamples: int = 2000, confidence: float = 0.95, seed: int = 0) -> Analysis:
    """Analyse ratings; CbtError for missing columns, no rating, a score outside 0..2, or a reply rated twice."""
    check(resamples, confidence)
    settings = (resamples, confidence, seed)
    tables: dict[str, list[dict[str, Any]]] = {
        "means": [],
        "agreement": [],
        "raters": [],
        "differences": [],
        "power": [],
    }
    notes = []
    rows = _checked(ratings)
    for criterion in rows["criterion"].unique():
        own = rows[rows["criterion"] == criterion]
        if own["score"].isna().all():
            notes.append(f"{criterion}: there is not one rating of it, so it has no row in any table")
            continue
        cube = _cube(own)
        for name, part in (
            ("means", _means),
            ("agreement", _agreement),
            ("raters", _bias),
            ("differences", _differences),
            ("power", _power),
        ):
            tables[name] += [{"criterion": criterion, **row} for row in part(cube, *settings)]
        notes += [f"{criterion}: {note}" for note in _notes(cube)]
    compared = [row for row in tables["differences"] if np.isfinite(row["p"])]
    for row, adjusted in zip(compared, holm([row["p"] for row in compared]), strict=True):
        row["p_holm"] = float(adjusted)
    return Analysis(**{name: pd.DataFrame(rows) for name, rows in tables.items()}, notes=notes)


def power(
    ratings: pd.DataFrame,
    system: str,
    base: str,
    criterion: str,
    *,
    differences: Sequence[float] = DIFFERENCES,
    items: Sequence[int] = ITEMS,
    raters: Sequence[int] = RATERS,
) -> pd.DataFrame:
    """Power of a two-sided 5% test of `system` against `base`, were the spread as in these ratings.

    The difference on a post is a post's own part plus a rating's noise; more raters average the noise away, only more
    posts the rest. It is the most to hope for. A rater's liking for one of the systems is not in it: a few raters do
    not show how large it is, and more posts do not average it out. And it is a normal approximation: the t of `analyse`
    reaches 11 to 16 points less with two raters, 5 to 9 with three. Columns difference, raters, one for each number of
    items, and `80%`: the number of items at which the power is 80%.
    """
    rows = _checked(ratings)
    cube = _cube(rows[rows["criterion"] == criterion])
    return pd.DataFrame(_power_rows(cube, system, base, differences, items, raters))


def _power_rows(
    cube: _Cube, system: str, base: str, differences: Sequence[float], items: Sequence[int], raters: Sequence[int]
) -> list[dict[str, Any]]:
    between, noise = _components(_paired(cube, system, base))
    table = []
    for size in differences:
        for count in raters:
            variance = between + noise / count
            spread = np.sqrt(variance / np.asarray(items, float))
            with np.errstate(divide="ignore"):
                shift = np.where(spread > 0, size / spread, np.inf)
            reached = norm.sf(norm.ppf(0.975) - shift) + norm.cdf(-norm.ppf(0.975) - shift)
            needed = max(2, int(np.ceil(variance * (norm.ppf(0.975) + norm.ppf(0.8)) ** 2 / size**2)))
            row = dict(zip(map(str, items), reached, strict=True))
            table.append({"difference": size, "raters": count, **row, "80%": needed})
    return table


def _checked(ratings: pd.DataFrame) -> pd.DataFrame:
    missing = [name for name in COLUMNS if name not in ratings.columns]
    if missing:
        raise CbtError(f"the ratings have no column {missing[0]!r}; they need {', '.join(COLUMNS)}")
    if ratings["score"].isna().all():
        raise CbtError("there is not one rating; a sheet without scores has nothing to analyse")
    names = ratings[list(COLUMNS[:-1])]
    if (blank := names.isna() | names.map(lambda one: isinstance(one, str) and not one.strip())).any(axis=None):
        name = blank.any().idxmax()
        raise CbtError(f"a rating in row {blank[name].idxmax()} has no {name}; fill it in, or take the row out")
    if (odd := ~names.map(forms.is_name)).any(axis=None):
        name = odd.any().idxmax()
        given = names[name][odd[name]].iloc[0]
        raise CbtError(f"row {odd[name].idxmax()}: the {name} is {given!r:.40}; give a name or a whole number")
    ratings = ratings.assign(**names.map(str))
    rows = ratings.dropna(subset=["score"])
    truths = rows["score"].map(lambda one: isinstance(one, bool | np.bool_))  # True is 1 to Python, and no score
    wrong = rows[~rows["score"].isin(range(CATEGORIES)) | truths]
    if len(wrong):
        one = wrong.iloc[0]
        score = repr(one["score"]) if isinstance(one["score"], str) else one["score"]
        raise CbtError(
            f"{one['rater']} gave {one['item']} of {one['system']} {score} for {one['criterion']}, not 0, 1 or 2"
        )
    twice = rows[rows.duplicated(["rater", "item", "system", "criterion"])]
    if len(twice):
        one = twice.iloc[0]
        raise CbtError(f"{one['rater']} rated {one['item']} of {one['system']} twice for {one['criterion']}; keep one")
    return ratings


def _cube(rows: pd.DataFrame) -> _Cube:
    given = rows.dropna(subset=["score"])
    raters = sorted(rows["rater"].unique())
    axes = [sorted(given["item"].unique()), sorted(given["rater"].unique()), sorted(rows["system"].unique())]
    scores = np.full([len(axis) for axis in axes], np.nan)
    places = [
        pd.Index(axis).get_indexer(given[name]) for axis, name in zip(axes, ("item", "rater", "system"), strict=True)
    ]
    scores[tuple(places)] = given["score"].astype(float)
    asked = [int(rows["system"].eq(system).sum()) for system in axes[2]]
    return _Cube(scores, axes[1], axes[2], [one for one in raters if one not in axes[1]], asked)


def _clustered(scores: Floats, confidence: float, least: float) -> tuple[float, float, float]:
    """t interval of the mean of (items, raters) scores (NaN: missing), from `least` up, and the p value of a mean of 0.

    The variance is clustered by items and by raters. Without variance neither (NaN), but a mean of 0 has p = 1.
    """
    present = ~np.isnan(scores)
    items, raters, n = int(present.any(axis=1).sum()), int(present.any(axis=0).sum()), int(present.sum())
    if items < 2:
        return np.nan, np.nan, np.nan
    mean = float(np.nanmean(scores))
    influence = np.where(present, scores - mean, 0) / n
    by_item = float((influence.sum(axis=1) ** 2).sum()) * items / (items - 1)
    by_rater = float((influence.sum(axis=0) ** 2).sum()) * raters / (raters - 1) if raters > 1 else 0.0
    once = float((influence**2).sum()) * n / (n - 1) if raters > 1 else 0.0  # what both of them have counted
    variance = max(by_item + by_rater - once, by_item, by_rater)
    if variance < 1e-20:  # none, but for rounding
        return np.nan, np.nan, 1.0 if mean == 0 else np.nan
    freedom = variance**2 / (by_item**2 / (items - 1) + (by_rater**2 / (raters - 1) if raters > 1 else 0))
    error = variance**0.5
    half = float(student.ppf((1 + confidence) / 2, freedom)) * error
    p = 2 * float(student.sf(abs(mean) / error, freedom))
    return max(mean - half, least), min(mean + half, CATEGORIES - 1.0), p


def _means(cube: _Cube, resamples: int, confidence: float, seed: int) -> list[dict[str, Any]]:
    rows = []
    for index, system in enumerate(cube.systems):
        given = cube.scores[:, :, index]
        low, high, _ = _clustered(given, confidence, 0.0)
        ratings, missing = int((~np.isnan(given)).sum()), cube.missing[index]
        mean = float(np.nanmean(given)) if ratings else np.nan
        rows.append({"system": system, "mean": mean, "low": low, "high": high, "ratings": ratings, "missing": missing})
    return rows


def _agreement(cube: _Cube, resamples: int, confidence: float, seed: int) -> list[dict[str, Any]]:
    cells = cube.cells
    found = {
        "Krippendorff's alpha (ordinal)": agreement.krippendorff_alpha(cells, CATEGORIES),
        "Gwet's AC2 (quadratic)": agreement.gwet_ac(cells, CATEGORIES),
        "Fleiss' kappa (nominal)": agreement.fleiss_kappa(cells, CATEGORIES),
    }
    for one, two in combinations(range(len(cube.raters)), 2):
        name = f"Cohen's kappa (quadratic) {cube.raters[one]}, {cube.raters[two]}"
        found[name] = agreement.cohen_kappa(cells[:, one], cells[:, two], CATEGORIES)
    statistics = [cube.by_item(one) for one in found.values()]
    bounds = intervals(statistics, resamples, confidence, seed)
    return [
        {"coefficient": name, "value": one.value, "low": low, "high": high}
        for name, one, (low, high) in zip(found, statistics, bounds, strict=True)
    ]


def _bias(cube: _Cube, resamples: int, confidence: float, seed: int) -> list[dict[str, Any]]:
    """Every rater's score minus the mean of the others on the same reply."""
    cells, present = cube.cells, ~np.isnan(cube.cells)
    total, count = np.where(present, cells, 0).sum(axis=1), present.sum(axis=1)
    rows = []
    for index, rater in enumerate(cube.raters):
        shared = present[:, index] & (count > 1)
        own = np.where(shared, cells[:, index], 0)
        others = np.where(shared, (total - own) / np.maximum(count - 1, 1), 0)
        statistics = cube.by_item(Statistics(np.column_stack([own - others, shared])))
        ((low, high),) = intervals([statistics], resamples, confidence, seed)
        rows.append({"rater": rater, "bias": statistics.value, "low": low, "high": high, "ratings": int(shared.sum())})
    return rows


def _differences(cube: _Cube, resamples: int, confidence: float, seed: int) -> list[dict[str, Any]]:
    rows = []
    for base, system in combinations(cube.systems, 2):
        difference = _paired(cube, system, base)
        if not (posts := int((~np.isnan(difference)).any(axis=1).sum())):
            continue
        low, high, p = _clustered(difference, confidence, 1.0 - CATEGORIES)
        row = {"system": system, "base": base, "value": float(np.nanmean(difference)), "low": low, "high": high}
        rows.append({**row, "p": p, "p_holm": np.nan, "posts": posts})
    return rows


def _power(cube: _Cube, resamples: int, confidence: float, seed: int) -> list[dict[str, Any]]:
    pair = _most_shared(cube)
    if pair is None:
        return []
    system, base = pair
    return [{"system": system, "base": base, **row} for row in _power_rows(cube, *pair, DIFFERENCES, ITEMS, RATERS)]


def _paired(cube: _Cube, system: str, base: str) -> Floats:
    """(items, raters) score of `system` minus score of `base`, NaN unless the rater gave both."""
    for name in (system, base):
        if name not in cube.systems:
            raise CbtError(f"there is no system {name!r} in these ratings; they hold {', '.join(cube.systems)}")
    return cube.scores[:, :, cube.systems.index(system)] - cube.scores[:, :, cube.systems.index(base)]


def _components(difference: Floats) -> tuple[float, float]:
    """Variance of a difference between items and within an item (between raters), by moments."""
    count = (~np.isnan(difference)).sum(axis=1)
    several = difference[count > 1]
    if len(several) < 2:
        raise CbtError("a power table needs two posts that two raters scored for both systems")
    within = np.nanvar(several, axis=1, ddof=1)
    weight = count[count > 1] - 1
    noise = float((within * weight).sum() / weight.sum())
    spread = float(np.var(np.nanmean(several, axis=1), ddof=1))
    return max(0.0, spread - noise * float((1 / count[count > 1]).mean())), noise


def _most_shared(cube: _Cube) -> tuple[str, str] | None:
    """The two systems with the most posts that two raters scored for both; None without two such posts that differ."""

    def posts(pair: tuple[str, str]) -> int:
        difference = _paired(cube, *pair)
        several = difference[(~np.isnan(difference)).sum(axis=1) > 1]
        return len(several) if len(np.unique(several[~np.isnan(several)])) > 1 else 0

    best = max(((system, base) for base, system in combinations(cube.systems, 2)), key=posts, default=None)
    return best if best and posts(best) > 1 else None


def _notes(cube: _Cube) -> list[str]:
    notes = []
    if missing := sum(cube.missing):
        notes.append(f"{missing} of {sum(cube.asked)} ratings are missing; they were left out, not filled in")
    if cube.silent:
        notes.append(f"no rating came from {', '.join(cube.silent)}; what they were asked counts as missing")
    alone = len(cube.raters) == 1
    for base, system in combinations(cube.systems, 2):
        shared = (~np.isnan(_paired(cube, system, base))).any(axis=0).sum()
        if not shared:
            notes.append(f"{system} and {base}: no rater scored the same post of both, so there is no difference")
        elif shared == 1 and not alone:
            notes.append(f"{system} and {base}: one rater scored both, so their difference speaks of other posts only")
    if alone:
        return [
            *notes,
            "one rater: intervals speak of other posts only; there is no agreement to measure, and no power to foresee",
        ]
    counts = (~np.isnan(cube.scores)).any(axis=0).sum(axis=0)  # raters of each system
    for system, count in zip(cube.systems, counts, strict=True):
        if count == 1:
            notes.append(f"{system}: one rater scored it, so its interval speaks of other posts only")
    if few := [count for count in counts if 1 < count < FEW]:
        notes.append(f"only {min(few)} raters of a system: another's scores are hardly known, so intervals are wide")
    alpha = agreement.krippendorff_alpha(cube.cells, CATEGORIES).value
    if np.isnan(alpha):
        notes.append("the scores never vary (or no reply has two), so alpha and kappa are undefined")
    elif alpha < TOO_LOW:
        notes.append(f"Krippendorff's alpha is {alpha:.2f}, below {TOO_LOW}: too low to conclude from these ratings")
    if _most_shared(cube) is None:
        notes.append("no power table: no two systems have two posts that two raters scored for both, and that differ")
    else:
        notes.append("the power table is the most to hope for: a rater's liking for one system is not in it")
    return notes
