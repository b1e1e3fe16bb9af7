"""The statistics of a labelled set as tables and figures: the corpus, generated answers, or a reader's own file.

    read     any of these files into one shape, `Labelled`
    draw     all figures of it: shares, pairs, sets (UpSet), topics, lengths, order in the text
    write    tables and figures into a folder: what `cbt distortions statistics` does

Notable choices
- Every figure comes with its data, and with alt text and a caption that hold its numbers; none is drawn of nothing.
- Items without labels (a failed or unparsed answer) and posts in a crisis are counted beside the figures and are in
  none of them.
- The UpSet plot (Lex et al. 2014) is a bar and a column of dots for each combination of labels: a few lines here,
  because the package of that name does not run on pandas 3.
- A name in both languages has a line for each: side by side, they leave no room for letters that a telephone can show.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import ArrayLike, NDArray
from scipy import sparse, stats

from cbtlib import CbtError, corpus, distortions, figures, formats, generate, prevalence, reading, resampling
from cbtlib.answers import told
from cbtlib.corpus import TYPES
from cbtlib.writing import make_folder, write_json

SHOWN_SETS = 15
"""Combinations of labels in an UpSet plot, the most frequent ones."""
LEAST = 3
"""Texts that a mean needs to be drawn."""
FEWEST = 10
"""Texts that a correlation needs to have an interval: of fewer, resamples hardly differ."""
SIZE = 14
"""Points of a type's name on an axis. A telephone shows a figure at little more than half its size."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """`labels` (items, types), and of each item length and topic ('' when it has none), and where its labels stand.

    `places`: (type, position of its first mention from 0 to 1) in the order of the text, empty when that is not known.
    `outcomes` counts all items, those without labels too.
    """

    what: str
    types: tuple[str, ...]
    labels: NDArray[np.bool_]
    lengths: NDArray[np.int64]
    topics: list[str]
    places: list[list[tuple[str, float]]]
    outcomes: dict[str, int]


@dataclass(frozen=True, slots=True)
class Drawn:
    """A figure, its alt text and caption, and the numbers in it."""

    figure: Figure
    alt: str
    caption: str
    data: pd.DataFrame


# ------------------------------------------------------------------ one shape


def of_records(records: Sequence[corpus.Record]) -> Labelled:
    """The gold labels of records, in their descriptions."""
    rows = []
    for record in records:
        first: dict[str, int] = {}
        for label in sorted(record.distortions, key=lambda label: label.start):
            first.setdefault(label.type, label.start)
        rows.append([(kind, start / len(record.description)) for kind, start in first.items()])
    lengths = np.array([len(record.description) for record in records])
    topics = [record.topic for record in records]
    return Labelled("posts", TYPES, distortions.of_records(records), lengths, topics, rows, {"ok": len(records)})


def of_answers(answers: Sequence[generate.Answer], what: str = "answers") -> Labelled:
    """The types that generated answers name, in those that are answers (outcome ok)."""
    texts = [answer.text for answer in answers if answer.outcome == "ok"]
    rows = []
    for text in texts:
        first: dict[str, int] = {}
        for mention in distortions.mentions(text):
            if not mention.negated:
                first.setdefault(mention.type, mention.start)
        rows.append([(kind, start / len(text)) for kind, start in first.items()])
    labels = distortions.matrix([[kind for kind, _ in row] for row in rows])
    lengths = np.array([len(text) for text in texts], int)
    outcomes: dict[str, int] = dict(Counter(str(answer.outcome) for answer in answers))
    return Labelled(what, TYPES, labels, lengths, [""] * len(texts), rows, outcomes)


_ANEW = "is {}; label the posts anew with cbt distortions label"


def read(path: Path, format: str = "auto") -> Labelled:
    """A file as a labelled set: records, an answers.jsonl, the output of `cbt distortions label`, or gold labels.

    CbtError when a line cannot be read or no item has labels.
    """
    first = _first_object(path) if path.suffix == ".jsonl" else {}
    if {"outcome", "text", "parts"} <= first.keys():
        found = of_answers(list(generate.read_answers(path)))
    elif "labels" in first and isinstance(first.get("scores"), dict):
        bad, kept = [], []
        lines: dict[str, int] = {}
        outcomes: Counter[str] = Counter()
        for line, row in reading.objects(path):
            if isinstance(row, reading.Problem):
                bad.append(row)
            elif "id" not in row:
                bad.append(reading.Problem(line, "id", _ANEW.format("missing")))
            elif (name := str(row["id"])) in lines:
                bad.append(reading.Problem(line, "id", f"{name!r} stands on line {lines[name]} already"))
            else:
                lines[name] = line
                outcome = "crisis" if row.get("triage") == "crisis" else str(told(row))
                outcomes[outcome] += 1
                if outcome == "ok":
                    kept.append(row)
                    if type(length := row.get("characters")) is not int or not 0 <= length < 2**31:
                        bad.append(reading.Problem(line, "characters", _ANEW.format("no number of characters")))
                    names = row.get("labels")
                    if names is not None and not (isinstance(names, list) and all(isinstance(x, str) for x in names)):
                        bad.append(reading.Problem(line, "labels", _ANEW.format("no list of names")))
        if bad:
            raise corpus.CorpusError(path, bad)
        types = tuple(kind for kind in first["scores"] if kind != "any")
        labels = distortions.matrix([row.get("labels") for row in kept], types)
        lengths = np.array([row["characters"] for row in kept], int)
        topics = [str(row.get("topic", "")) for row in kept]
        found = Labelled("texts", types, labels, lengths, topics, [[]] * len(kept), dict(outcomes))
    elif format == "records" or (format == "auto" and formats.detect(path) == "records"):
        records = corpus.load(path)
        found = of_records([record for record in records if not record.crisis])
        found.outcomes["crisis"] = sum(record.crisis for record in records)
    else:
        samples = formats.load(path, format)
        known = [sample for sample in samples if sample.labels is not None and not sample.crisis]
        types = tuple(sorted({name for sample in known for name in sample.labels or ()}))
        labels = distortions.matrix([sample.labels for sample in known], types)
        outcomes = Counter({"ok": len(known)})
        outcomes.update("unparsed" if x.outcome == "ok" else str(x.outcome) for x in samples if x.labels is None)
        lengths = np.array([len(sample.text) for sample in known], int)
        topics = [sample.topic for sample in known]
        found = Labelled("texts", types, labels, lengths, topics, [[]] * len(known), dict(outcomes))
    if not len(found.labels) or not found.types:
        raise CbtError(f"{path}: no item of it has labels ({_counts(found.outcomes)}): there is nothing to count")
    return found


def _first_object(path: Path) -> dict:
    """The first object that tells the form of a file: a post that was not labelled has an id and an outcome alone."""
    rows = (row for _, row in reading.objects(path) if isinstance(row, dict))
    return next((row for row in rows if not row.keys() <= {"id", "outcome"}), {})


def _counts(outcomes: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in outcomes.items() if count) or "no item"


# ------------------------------------------------------------------ the figures


def draw(labelled: Labelled, language: str = "both") -> Iterator[tuple[str, Drawn]]:
    """(name, figure) of every figure that a set has the data for; `language` of the labels is en, zh or both."""
    yield "shares", shares(labelled, language)
    if len(labelled.types) > 1:
        yield "pairs", pairs(labelled, language)
        yield "sets", upset(labelled, language)
    if len(set(labelled.topics)) > 1:
        yield "topics", topics(labelled)
    enough = len(labelled.labels) >= resampling.FEWEST
    if enough and len(np.unique(labelled.lengths)) > 1 and len(np.unique(labelled.labels.sum(1))) > 1:
        yield "lengths", lengths(labelled)
    counts = Counter(kind for row in labelled.places for kind, _ in row)
    if sum(len(row) >= 2 for row in labelled.places) >= LEAST <= max(counts.values()):
        yield "order", order(labelled, language)


def names(types: Sequence[str], language: str = "both") -> list[str]:
    """Names of types for an axis, `both` on two lines; a type of another set stands as it is."""
    if language not in ("en", "zh", "both"):
        raise CbtError(f"no names in {language!r}: choose en, zh or both")
    english, chinese = distortions.names("en"), distortions.names("zh")
    both = {kind: f"{english[kind]}\n{chinese[kind]}" for kind in english}
    table = {"en": english, "zh": chinese, "both": both}[language]
    return [table.get(kind, kind) for kind in types]


def room(rows: int, language: str = "both") -> float:
    """Inches of height that the names of so many types take on an axis."""
    return rows * (0.52 if language == "both" else 0.33)


def shares(labelled: Labelled, language: str = "both") -> Drawn:
    """Bars of each type's share, with Wilson intervals."""
    table = prevalence.shares(labelled.labels, labelled.types)
    rows = table.drop("any").sort_values("share")
    labels = names(list(rows.index), language)
    figure, axis = plt.subplots(figsize=(figures.WIDTH, 1.4 + room(len(rows), language)))
    axis.tick_params(axis="y", labelsize=SIZE)
    error = np.clip([rows["share"] - rows["low"], rows["high"] - rows["share"]], 0, 1)
    axis.barh(labels, rows["share"], xerr=error, capsize=3)
    axis.set_xlabel(f"share of {labelled.what}")
    axis.locator_params(axis="x", nbins=5)
    axis.xaxis.set_major_formatter(PercentFormatter(1))  # as many decimals as its ticks need
    one = table.loc["any"]
    label = "distortion" if labelled.types == TYPES else "label"
    figures.headline(figure, f"A {label} in {one['share']:.0%} of {len(labelled.labels):,} {labelled.what}")
    share = f"{one['share']:.0%} ({one['low']:.0%} to {one['high']:.0%})"
    first, last = (label.replace("\n", " ") for label in (labels[0], labels[-1]))
    alt = f"Bars of shares with intervals, from {first} {rows['share'].iloc[0]:.0%} to {last} "
    alt += f"{rows['share'].iloc[-1]:.0%}."
    caption = f"Share of {len(labelled.labels):,} {labelled.what} with each label, 95% intervals. {share} have any."
    return Drawn(figure, alt, caption, table)


def pairs(labelled: Labelled, language: str = "both") -> Drawn:
    """Heat map of the log odds ratio of each pair; a star where the pair survives false-discovery control."""
    table = prevalence.cooccurrence(labelled.labels, labelled.types)
    found = table[table["q"] < 0.05]
    index, size = {kind: k for k, kind in enumerate(labelled.types)}, len(labelled.types)
    grid = np.full((size, size), np.nan)
    grid[table["b"].map(index), table["a"].map(index)] = table["log_odds"]
    figure, axis = plt.subplots(figsize=(figures.WIDTH, 2.8 + room(size, language)))
    limit = max(float(np.nanmax(np.abs(grid))), 1e-9)
    stars = np.full(grid.shape, "", dtype=object)
    stars[found["b"].map(index), found["a"].map(index)] = "*"
    seaborn.heatmap(
        grid,
        annot=stars,
        fmt="",
        annot_kws={"fontsize": 16},
        cmap="RdBu_r",
        vmin=-limit,
        vmax=limit,
        xticklabels=names(labelled.types, "en" if language == "en" else "zh"),
        yticklabels=names(labelled.types, language),
        cbar_kws={"location": "bottom", "label": "apart ← log odds ratio → together"},
        ax=axis,
    )
    axis.grid(False)
    axis.tick_params(labelsize=SIZE)
    plt.setp(axis.get_xticklabels(), rotation=45, ha="right")
    told = f"{len(found)} of {len(table)} pairs"
    figures.headline(figure, f"{told} are seen to come together more or less often than by chance")
    alt = f"Triangle of log odds ratios; {told} are marked as differing from chance."
    caption = f"Pairs of labels in the same of {len(labelled.labels):,} {labelled.what}. * p below 0.05, corrected for "
    caption += f"the number of pairs: {told}."
    return Drawn(figure, alt, caption, table)


def upset(labelled: Labelled, language: str = "both") -> Drawn:
    """UpSet plot: the most frequent combinations of labels as bars over a matrix of dots."""
    counts = Counter(tuple(np.flatnonzero(row)) for row in labelled.labels if row.any())
    kept = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:SHOWN_SETS]
    size = len(labelled.types)
    tall = room(size, language)
    figure, (bars, dots) = plt.subplots(2, sharex=True, figsize=(figures.WIDTH, 3 + tall), height_ratios=[2.4, tall])
    bars.bar(range(len(kept)), [count for _, count in kept])
    for x, (_, count) in enumerate(kept):
        bars.text(x, count, f"{count:,}", ha="center", va="bottom", fontsize=11)
    bars.set_ylabel(labelled.what)
    bars.tick_params(axis="x", bottom=False)
    for x, (kinds, _) in enumerate(kept):
        dots.plot([x] * size, range(size), "o", color="0.88")
        dots.plot([x] * len(kinds), kinds, "o-", color=figures.COLORS[0])
    dots.set_yticks(range(size), names(labelled.types, language), fontsize=SIZE)
    dots.set_xticks([])
    dots.invert_yaxis()
    dots.grid(False)
    several = int((labelled.labels.sum(1) > 1).sum())
    joint = f", in {sum(len(kinds) > 1 for kinds in counts)} combinations" if several else ""
    figures.headline(figure, f"{several:,} of {len(labelled.labels):,} {labelled.what} carry several labels{joint}")
    rows = [("|".join(labelled.types[k] for k in kinds), len(kinds), n) for kinds, n in counts.most_common()]
    top = " and ".join(names([labelled.types[k] for k in kept[0][0]], "en")) if kept else "nothing"
    alt = f"UpSet plot of the {len(kept)} most frequent of {len(counts)} combinations; the first is {top}."
    caption = f"The {len(kept)} most frequent of {len(counts)} combinations of labels; {several:,} "
    caption += f"{labelled.what} carry several."
    return Drawn(figure, alt, caption, pd.DataFrame(rows, columns=["types", "size", "count"]))


def topics(labelled: Labelled) -> Drawn:
    """Share with any label by topic, with one chi-squared test over all topics.

    Its p value comes from random tables with the same sums. The chi-squared distribution is wrong for small topics: of
    one topic of 200 posts and twenty of one post, all alike at 5%, it says "differ" in 22% of the cases, this in 2%.
    """
    frame = pd.DataFrame({"topic": labelled.topics, "any": labelled.labels.any(1)})
    table = frame.groupby("topic").agg(count=("any", "sum"), n=("any", "count"))
    table["share"] = table["count"] / table["n"]
    table["low"], table["high"] = prevalence.wilson(table["count"], table["n"])
    cells = np.stack([table["count"], table["n"] - table["count"]])
    tables = stats.MonteCarloMethod(rng=np.random.default_rng(0))
    p = stats.chi2_contingency(cells, correction=False, method=tables).pvalue if cells.sum(1).all() else 1.0
    table["p"] = p
    figure, axis = plt.subplots(figsize=(figures.WIDTH, 1 + 0.33 * len(table)))
    error = [table["share"] - table["low"], table["high"] - table["share"]]
    axis.errorbar(table["share"], table.index, xerr=np.clip(error, 0, 1), fmt="o", capsize=3)
    axis.set(xlabel=f"share of {labelled.what} with a label", xlim=(0, 1))
    said = f"p = {p:.2f}" if p >= 0.01 else "p < 0.01"
    axis.set_title(f"{'Topics differ' if p < 0.05 else 'No difference between topics shows'} ({said})")
    alt = f"Share with a label for {len(table)} topics, with intervals: {table['share'].min():.0%} to "
    alt += f"{table['share'].max():.0%}."
    caption = f"Share with a label by topic, 95% intervals; all topics alike: {said} (chi-squared, permuted)."
    return Drawn(figure, alt, caption, table)


def lengths(labelled: Labelled, resamples: int = 1000, seed: int = 0) -> Drawn:
    """Length by number of labels, and Spearman's correlation of the two with a bootstrap interval.

    No interval (NaN) and no verdict of fewer than `FEWEST` texts, or where nearly all resamples are alike.
    """
    resampling.check(resamples)
    count = labelled.labels.sum(1)
    rho = float(stats.spearmanr(count, labelled.lengths).statistic)
    low, high = np.quantile(spearman_draws(count, labelled.lengths, resamples, seed), [0.025, 0.975])
    known = len(count) >= FEWEST and high - low > 1e-9
    low, high = (low, high) if known else (np.nan, np.nan)
    groups = {int(k): labelled.lengths[count == k] for k in np.unique(count)}
    figure, axis = plt.subplots(figsize=(figures.WIDTH, 3.6))
    axis.boxplot(list(groups.values()), tick_labels=[f"{k}\nn = {len(row)}" for k, row in groups.items()])
    axis.set(xlabel=f"labels in one of the {labelled.what}", ylabel="characters")
    value = f"ρ = {rho:.2f}" if np.isfinite(rho) else "no ρ"
    told = f"{value} ({low:.2f} to {high:.2f})" if known else f"{value}, no interval"
    seen = "More labels, longer texts" if low > 0 else "More labels, shorter texts" if high < 0 else "No trend shows"
    seen = seen if known else "Length by number of labels"
    axis.set_title(f"{seen}: {told}")
    table = pd.DataFrame({k: {"n": len(row), "median": np.median(row)} for k, row in groups.items()}).T
    table = table.rename_axis("labels").assign(rho=rho, low=np.minimum(low, rho), high=np.maximum(high, rho))
    alt = f"Boxes of length by number of labels, 0 to {count.max()}; {told}."
    return Drawn(figure, alt, f"Length by number of labels; {told}.", table)


def spearman_draws(one: ArrayLike, two: ArrayLike, resamples: int = 1000, seed: int = 0) -> NDArray[np.float64]:
    """Spearman's correlation of two columns of whole numbers (n,) on resamples of the rows: (resamples,).

    A resample is a count of each pair of values that occurs, so that the time hardly grows with the rows. Where a
    resample has one value only in a column, its correlation is 0.
    """
    pairs, times = np.unique(np.stack([one, two], 1), axis=0, return_counts=True)
    rows, generator = times.sum(), np.random.default_rng(seed)
    kinds = [np.unique(column, return_inverse=True)[1] for column in pairs.T]
    members = [sparse.csr_array((np.ones(len(kind)), (np.arange(len(kind)), kind))) for kind in kinds]
    block = max(1, resampling.BLOCK // len(pairs))
    draws = []
    for start in range(0, resamples, block):
        drawn = generator.multinomial(rows, times / rows, min(block, resamples - start)).astype(float)
        sizes = [drawn @ member for member in members]  # (resamples, values) rows of each value
        # middle ranks of each value, less their mean
        a, b = ((size.cumsum(1) - size / 2 - rows / 2)[:, kind] for size, kind in zip(sizes, kinds, strict=True))
        spread = np.sqrt((drawn * a**2).sum(1) * (drawn * b**2).sum(1))
        draws.append((drawn * a * b).sum(1) / np.where(spread == 0, 1, spread))
    return np.concatenate(draws)


def order(labelled: Labelled, language: str = "both") -> Drawn:
    """Where in the text each label first stands, from 0 to 1, and how often it is the first of several.

    A mean has a closed interval, Student's: no resampling, which would take a minute for 300,000 texts.
    """
    places = pd.DataFrame(
        [(kind, place, k == 0, len(row) >= 2) for row in labelled.places for k, (kind, place) in enumerate(row)],
        columns=["type", "position", "first", "of"],
    )
    places["first"] &= places["of"]
    found = places.groupby("type").agg({"position": ["size", "mean", "sem"], "first": "sum", "of": "sum"})
    found.columns = ["n", "position", "error", "first", "of"]
    found = found.loc[[kind for kind in labelled.types if kind in found.index]]
    found = found[found["n"] >= LEAST]
    half = stats.t.ppf(0.975, found["n"] - 1) * found["error"]
    ends = {"low": (found["position"] - half).clip(0), "high": (found["position"] + half).clip(upper=1)}
    table = found.assign(**ends)[["n", "position", "low", "high", "first", "of"]]
    table = table.sort_values("position", kind="stable")
    figure, axis = plt.subplots(figsize=(figures.WIDTH, 1.4 + room(len(table), language)))
    axis.tick_params(axis="y", labelsize=SIZE)
    error = [table["position"] - table["low"], table["high"] - table["position"]]
    axis.errorbar(table["position"], names(list(table.index), language), xerr=error, fmt="o", capsize=3)
    axis.set(xlabel="position in the text (0 beginning, 1 end)", xlim=(0, 1))
    axis.invert_yaxis()
    span = f"{table['position'].iloc[0]:.0%} to {table['position'].iloc[-1]:.0%}"
    figures.headline(figure, f"A label first stands {span} of the way into a text, on average")
    early, late = names([table.index[0], table.index[-1]], "en")
    alt = f"Mean position of the first mention of {len(table)} labels with intervals: {early} "
    alt += f"{table['position'].iloc[0]:.2f} to {late} {table['position'].iloc[-1]:.2f}."
    several = sum(len(row) >= 2 for row in labelled.places)
    caption = f"Mean position of each label's first mention, 95% intervals; {several:,} {labelled.what} hold several."
    return Drawn(figure, alt, caption, table)


# ------------------------------------------------------------------ a folder of them


def write(labelled: Labelled, out: Path, language: str = "both") -> list[str]:
    """Write every figure (PNG, SVG, CSV) and statistics.json into a folder; returns the lines that sum it up."""
    make_folder(out)
    table = prevalence.shares(labelled.labels, labelled.types)
    told = {}
    for name, drawn in draw(labelled, language):
        figures.save(drawn.figure, out, name, drawn.data)
        told[name] = {"alt": drawn.alt, "caption": drawn.caption}
    one = table.loc["any"].to_dict()
    facts = {"n": len(labelled.labels), "outcomes": labelled.outcomes, "figures": told, "any": one}
    write_json(out / "statistics.json", facts)
    share = f"{one['share']:.1%} ({one['low']:.1%} to {one['high']:.1%})"
    first = f"{share} of {len(labelled.labels):,} {labelled.what} have a label ({_counts(labelled.outcomes)})"
    return [first, *(text["caption"] for text in told.values()), str(out)]
