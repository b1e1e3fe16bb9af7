# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Distortion statistics: how far can a count of labels be believed?
#
# The paper reports how many of its answers name a cognitive distortion, has no gold labels, and warns that its
# detection raises false alarms. This book's corpus has gold labels. How wrong is a detector, and what does that do to
# the share?
#
# **You will learn**
#
# - what the eleven distortions are, each with a sentence that looks like one and is none;
# - how often they occur, which come together, and how that goes with topic and length, all with intervals;
# - how much of it can be read off an answer, and how much a detector taught by gold spans sees;
# - how to correct a share for the errors of the detector that made it, and when that is impossible.

# %% [markdown] tags=["banner"]
# `cbt run notebooks/03_distortion_statistics.py` fills in how this page was made.

# %% [markdown]
# ## Set-up
#
# `distortions` reads labels off answers, `detectors` finds them in posts, `detection` scores a detector and
# `prevalence` counts, with intervals and corrections.

# %%
from collections import Counter

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Markdown
from scipy import stats

from cbtlib import CbtError, corpus, detection, detectors, distortions, figures, generate, prevalence, report

# %% [markdown]
# The defaults below are the embedded profile. Nothing here needs a language model: the detector reads characters.

# %% tags=["parameters"]
profile: str = "embedded"  # which profile made this page
results: str = "results"  # where products go
resamples: int = 1000  # bootstrap resamples
simulations: int = 400  # repetitions of the coverage simulation
seed: int = 0  # of folds, resamples and simulations

# %% [markdown]
# The gold corpus in one matrix: a row for each post, a column for each distortion. The crisis file is not part of it.

# %%
page = report.Page("03_distortion_statistics", profile, results)
splits = {name: corpus.load_split(name) for name in ("train", "dev", "test")}
records = [record for rows in splits.values() for record in rows]
gold = distortions.of_records(records)
names = distortions.names()
chinese = distortions.names("zh")
both = [f"{names[kind]} {chinese[kind]}" for kind in corpus.TYPES]
page.number("records", len(records), what="posts with gold labels")

# %% [markdown]
# ## What a distortion is, and what it is not
#
# A distortion is a way of thinking, not a sad mood and not a bad event. The last columns hold the useful part: a
# sentence about the same trouble that is *not* distorted. “The interview may well come to nothing, so I send ten
# applications” is a forecast; “no point in applying, it will certainly come to nothing” is fortune-telling.

# %%
columns = {"en": "distortion", "zh": "名称", "definition": "definition", "example": "example", "example_zh": "例"}
columns |= {"counter_example": "not a distortion", "counter_example_zh": "反例"}
table = distortions.taxonomy().set_index("id")[list(columns)].rename(columns=columns)
page.table("taxonomy", table, caption="The eleven types, with an example and a counter-example in both languages.")

# %% [markdown]
# ## How often does each occur?
#
# The share of posts with a label, each with Wilson's 95 % interval. A post can carry several. The interval speaks about
# posts *written to this corpus's brief*: it asked for each type a fixed number of times, so these shares say nothing
# about how people think. They say what the detectors below have to find.

# %%
shares = prevalence.shares(gold)
anything = shares.loc["any"]
page.number(
    "share_any",
    anything["share"],
    low=anything["low"],
    high=anything["high"],
    n=len(gold),
    what="posts with a gold label",
)
page.number("labels_per_post", gold.sum(1).mean(), n=len(gold), what="gold labels a post")
ordered = shares.drop("any").sort_values("share")

# %% [markdown]
# Which is the commonest is not worth a sentence unless its interval stands apart from the others'.

# %%
figure, axis = plt.subplots(figsize=(7.2, 4.6))
error = [ordered["share"] - ordered["low"], ordered["high"] - ordered["share"]]
axis.barh([f"{names[kind]} {chinese[kind]}" for kind in ordered.index], ordered["share"], xerr=error, capsize=3)
axis.set(xlabel="share of posts", title="Distortions in the gold corpus")
axis.xaxis.set_major_locator(plt.MultipleLocator(0.05))
axis.xaxis.set_major_formatter("{x:.0%}")
top, bottom = ordered.index[-1], ordered.index[0]
figures.show(
    figure,
    page,
    "gold_shares",
    alt=f"Bars of the share of posts for eleven distortions, from {names[bottom]} {ordered['share'].iloc[0]:.0%} "
    f"to {names[top]} {ordered['share'].iloc[-1]:.0%}, with intervals.",
    caption=f"Share of {len(gold)} posts with each gold label, 95 % intervals; {anything['share']:.0%} have one.",
    data=shares,
)

# %% [markdown]
# ## Which come together?
#
# For each pair: how many posts hold both, against how many would if the two were independent. There are 55 pairs, and
# at 5 % two or three of them would look remarkable by chance alone, so the p values are corrected for false
# discoveries (Benjamini and Hochberg). The figure shows log odds ratios and marks what survives.

# %%
pairs = prevalence.cooccurrence(gold)
found = pairs[pairs["q"] < 0.05]
page.number("pairs_p", int((pairs["p"] < 0.05).sum()), n=len(pairs), what="pairs with p < 0.05 before correction")
page.number("pairs_q", len(found), n=len(pairs), what="pairs with q < 0.05")
grid = np.full((len(corpus.TYPES), len(corpus.TYPES)), np.nan)
for row in pairs.itertuples():
    grid[corpus.TYPES.index(row.b), corpus.TYPES.index(row.a)] = row.log_odds

figure, axis = plt.subplots(figsize=(7.2, 5.6))
limit = np.nanmax(np.abs(grid))
image = axis.imshow(grid, cmap="RdBu_r", vmin=-limit, vmax=limit)
for row in found.itertuples():
    axis.text(corpus.TYPES.index(row.a), corpus.TYPES.index(row.b), "*", ha="center", va="center", fontsize=16)
axis.set_xticks(range(11), [chinese[kind] for kind in corpus.TYPES], rotation=45, ha="right")
axis.set_yticks(range(11), both)
axis.grid(False)
figure.colorbar(image, label="log odds ratio")
figures.show(
    figure,
    page,
    "cooccurrence",
    data=pairs,
    alt=f"Triangle of log odds ratios of 55 pairs of distortions; {len(found)} are marked as more than chance.",
    caption=f"Pairs of distortions in one post. * q < 0.05 ({len(found)} of {len(pairs)} pairs).",
)

# %% [markdown]
# ## Does it depend on topic or length?
#
# Two relations that are cheap to find and easy to believe. The topic's shares get intervals and one test over all
# topics; for length, the correlation of the number of labels with the length of the description gets a bootstrap
# interval.

# %%
frame = pd.DataFrame({"topic": [x.topic for x in records], "length": [len(x.description) for x in records]})
frame["any"], frame["labels"] = gold.any(1), gold.sum(1)
topics = frame.groupby("topic")["any"].agg(["sum", "count"]).reindex(corpus.TOPICS)
topics["share"] = topics["sum"] / topics["count"]
topics["low"], topics["high"] = prevalence.wilson(topics["sum"], topics["count"])
chance = stats.chi2_contingency(np.stack([topics["sum"], topics["count"] - topics["sum"]])).pvalue
page.number("topic_p", chance, n=len(frame), what="chi-squared p value: share with a label by topic")

generator = np.random.default_rng(seed)
drawn = (frame.iloc[generator.integers(0, len(frame), len(frame))] for _ in range(resamples))
spread = [stats.spearmanr(sample["labels"], sample["length"]).statistic for sample in drawn]
low, high = np.quantile(spread, [0.025, 0.975])
rho = stats.spearmanr(frame["labels"], frame["length"]).statistic
page.number("length_rho", rho, low=min(low, rho), high=max(high, rho), n=len(frame), what="Spearman: labels and length")

# %% [markdown]
# The test over topics gives p = {glue:text}`topic_p:.2f`. Length and number of labels correlate with
# ρ = {glue:text}`length_rho:.2f` ({glue:text}`length_rho_low:.2f` to {glue:text}`length_rho_high:.2f`).

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 4))
error = [topics["share"] - topics["low"], topics["high"] - topics["share"]]
axes[0].errorbar(topics["share"], topics.index, xerr=error, fmt="o", capsize=3)
axes[0].set(xlabel="share of posts with a label", xlim=(0, 1), title="By topic")
groups = [frame.loc[frame["labels"] == k, "length"] for k in range(frame["labels"].max() + 1)]
axes[1].boxplot(groups, tick_labels=range(len(groups)), vert=True)
axes[1].set(xlabel="labels in the post", ylabel="characters", title="By length")
figures.show(
    figure,
    page,
    "topic_length",
    data=topics,
    alt=f"Left: share with a label for nine topics, with intervals. Right: length by number of labels, rho {rho:.2f}.",
    caption=f"Share with a label by topic (p = {chance:.2f}) and length by number of labels (ρ = {rho:.2f}).",
)

# %% [markdown]
# ## What the generated answers name
#
# The paper counts an answer when it names a distortion. Here are chapter 02's answers, counted in the same way. Only
# answers that *are* answers count; the others are listed by what became of them.

# %%
answers = list(generate.read_answers(page.product("02_generation", "answers.jsonl")))
outcomes = Counter(answer.outcome for answer in answers)
written = [answer.text for answer in answers if answer.outcome == "ok"]
page.number("generated_ok", len(written), n=len(answers), what="generated answers that are answers")
if written:
    named = prevalence.shares(distortions.matrix([distortions.extract(text) for text in written]))
    share = named.loc["any"]
    page.number(
        "generated_any",
        share["share"],
        low=share["low"],
        high=share["high"],
        n=len(written),
        what="answers naming a distortion",
    )
    interval = f"{share['share']:.0%} ({share['low']:.0%} to {share['high']:.0%})"
    text = f"{share['count']:.0f} of {len(written)} answers name a distortion: {interval}."
else:
    named = pd.DataFrame(columns=["count", "n", "share", "low", "high"])
    text = f"None of the {len(answers)} replies is an answer, so there is no share; that is not “no distortion”."
named.to_csv(page.dir / "generated_shares.csv")
display(page.outcomes("generation", dict(outcomes)), Markdown(text))

# %% [markdown]
# ## How much of the truth is in an answer's words?
#
# The letters of the corpus were written by an author who knew the post. Reading labels off them shows what extraction
# can find at best in letters of this kind. They speak in plain words (“you wrote the ending yourself”), and a list of
# names hears only the names.

# %%
extracted = distortions.matrix([distortions.extract(record.answer_text) for record in records])
truth, seen = gold.any(1), extracted.any(1)
for name, hit, of, what in (
    ("extract_recall", truth & seen, truth, "labelled posts whose letter names a distortion"),
    ("extract_false", ~truth & seen, ~truth, "unlabelled posts whose letter names a distortion"),
):
    low, high = prevalence.wilson(hit.sum(), of.sum())
    page.number(name, hit.sum() / of.sum(), low=float(low), high=float(high), n=int(of.sum()), what=what)

# %% [markdown]
# A letter to a post with a distortion names one in {glue:text}`extract_recall:.1%` of the cases
# ({glue:text}`extract_recall_low:.1%` to {glue:text}`extract_recall_high:.1%`). So a share of *answers that name a
# distortion* measures the style of the answers first, and the thinking of the clients second. A prompt that lists the
# distortions raises it without any client thinking differently.

# %% [markdown]
# ## A detector that reads the post
#
# The detector learns from the gold spans of the training posts which *sentence* shows which type, and scores a post by
# its worst sentence. Calibration and thresholds come from predictions on training posts that its fold had not seen. The
# test posts are used once, here.

# %%
detector = detectors.train(detectors.of_records(splits["train"]), seed=seed)
detector.save(page.dir / "detector")
texts = [record.description for record in records]
scores = detector.scores(texts)
called = scores >= detector.thresholds
test = np.array([record.split == "test" for record in records])
result = detection.evaluate(
    gold[test], called[test][:, :-1], corpus.TYPES, scores[test], resamples=resamples, seed=seed
)
for row, name in (("any", "f1_any"), ("micro", "f1_micro"), ("macro", "f1_macro")):
    score = result.table.loc[row]
    page.number(
        name, score["f1"], low=score["low"], high=score["high"], n=int(test.sum()), what=f"F1 on the test posts, {row}"
    )
page.number("ece", result.ece.drop("any").mean(), n=int(test.sum()), what="calibration error, mean over types")
page.table(
    "detector",
    result.table,
    caption=f"The detector on {test.sum()} test posts; low and high bound F1 (95 %, bootstrap).",
)

# %% [markdown]
# Whether a post holds *any* distortion is told with F1 = {glue:text}`f1_any:.2f`
# ({glue:text}`f1_any_low:.2f` to {glue:text}`f1_any_high:.2f`); the mean over the types is {glue:text}`f1_macro:.2f`
# ({glue:text}`f1_macro_low:.2f` to {glue:text}`f1_macro_high:.2f`). Look at the width of the intervals of single types
# before ranking them: each rests on a handful of posts. And the posts were all written to one brief, so expect less on
# posts from elsewhere.

# %%
kinds = result.table.loc[list(corpus.TYPES)].sort_values("f1")
figure, axis = plt.subplots(figsize=(7.2, 4.4))
error = [kinds["f1"] - kinds["low"], kinds["high"] - kinds["f1"]]
axis.errorbar(
    kinds["f1"], [f"{names[k]} {chinese[k]}" for k in kinds.index], xerr=np.clip(error, 0, 1), fmt="o", capsize=3
)
axis.axvline(result.table.loc["macro", "f1"], linestyle="--", color=figures.COLORS[1], label="mean")
axis.set(xlabel="F1", xlim=(0, 1.02), title="Detector on the test posts")
axis.legend()
figures.show(
    figure,
    page,
    "detector_f1",
    data=result.table,
    alt=f"F1 of eleven distortions with intervals; mean {result.table.loc['macro', 'f1']:.2f}.",
    caption=f"F1 of each type on {test.sum()} test posts with 95 % bootstrap intervals.",
)

# %% [markdown]
# ## From the naive share to a corrected one
#
# Suppose the test posts had no gold labels, and a clinician had labelled the dev posts only. Which share of the test
# posts holds a distortion? *Naive* counts what the detector calls. *Rogan-Gladen* corrects with the sensitivity and
# specificity seen on the dev posts. *PPI++* starts from the clinician's share and lets the detector narrow it. The true
# share of the test posts is known here, and drawn as a line.

# %%
dev = np.array([record.split == "dev" for record in records])
truth_share = float(truth[test].mean())
page.number("true_share", truth_share, n=int(test.sum()), what="test posts with a gold label")
rows = []
for label, flags in (("detector", called[:, :-1].any(1)), ("names in the letter", seen)):
    for name, method in (("naive", None), ("rogan-gladen", prevalence.rogan_gladen), ("ppi++", prevalence.ppi)):
        try:
            estimate = method(flags[test], truth[dev], flags[dev]) if method else prevalence.naive(flags[test])
            rows.append((label, name, estimate.value, estimate.low, estimate.high, ""))
        except CbtError as error:
            rows.append((label, name, np.nan, np.nan, np.nan, str(error)))
corrected = pd.DataFrame(rows, columns=["labels from", "method", "share", "low", "high", "undefined because"])
page.table("corrected", corrected, caption=f"Share of test posts with a distortion; the truth is {truth_share:.2f}.")

# %% [markdown]
# The names in the letters give a naive share far below the truth with a confident, narrow interval: the error that no
# sample size mends. Where a method is undefined it says so and gives no number.

# %%
drawn = corrected.dropna(subset=["share"])
figure, axis = plt.subplots(figsize=(7.2, 3.6))
labels = [f"{row.method}, {row._1}" for row in drawn.itertuples()]
error = np.clip([drawn["share"] - drawn["low"], drawn["high"] - drawn["share"]], 0, 1)
axis.errorbar(drawn["share"], labels, xerr=error, fmt="o", capsize=3)
axis.axvline(truth_share, linestyle="--", color=figures.COLORS[1], label="truth")
axis.set(xlabel="share of test posts with a distortion", xlim=(0, 1), title="Naive and corrected")
axis.invert_yaxis()
axis.legend()
figures.show(
    figure,
    page,
    "naive_corrected",
    data=corrected,
    alt=f"Shares with intervals, two sources of labels and three methods, beside the true share {truth_share:.2f}.",
    caption=f"One share, three methods, two sources of labels. Dashed: the truth, {truth_share:.2f}.",
)

# %% [markdown]
# ## Does a 95 % interval hold 95 % of the time?
#
# One corpus shows one draw. The simulation repeats it: posts with a known share, a detector with a known sensitivity
# and specificity, 200 gold posts, 2,000 others, and the count of intervals that hold the truth.

# %%
share, sensitivity, specificity, gold_posts = 0.2, 0.8, 0.9, 200
held = Counter()
generator = np.random.default_rng(seed)
for _ in range(simulations):
    real = generator.random(2000 + gold_posts) < share
    flags = np.where(real, generator.random(len(real)) < sensitivity, generator.random(len(real)) > specificity)
    sample, rest = slice(gold_posts), slice(gold_posts, None)
    estimates = [prevalence.naive(flags[rest])]
    estimates += [
        method(flags[rest], real[sample], flags[sample]) for method in (prevalence.rogan_gladen, prevalence.ppi)
    ]
    held.update({estimate.method: estimate.low <= share <= estimate.high for estimate in estimates})
for method, name in (("naive", "cover_naive"), ("rogan-gladen", "cover_rogan_gladen"), ("ppi++", "cover_ppi")):
    low, high = prevalence.wilson(held[method], simulations)
    page.number(
        name, held[method] / simulations, low=float(low), high=float(high), n=simulations, what=f"coverage, {method}"
    )
page.save()

# %% [markdown]
# Of the naive intervals {glue:text}`cover_naive:.0%` hold the truth, of Rogan-Gladen's
# {glue:text}`cover_rogan_gladen:.0%`, of PPI++'s {glue:text}`cover_ppi:.0%`. Use PPI++ when the gold posts are a
# random sample of the posts in question: it is narrower. Use Rogan-Gladen when they are not, but the detector errs
# alike on both.

# %% [markdown]
# ## Summary
#
# - {glue:text}`share_any:.0%` of the {glue:text}`records` posts hold a distortion, by design of the corpus.
# - Of 55 pairs, {glue:text}`pairs_p` look related before and {glue:text}`pairs_q` after correction for false
#   discoveries.
# - Letters in plain words name a distortion in {glue:text}`extract_recall:.1%` of the cases that have one: a share read
#   off answers is a statement about the answers.
# - A detector taught by spans reaches F1 {glue:text}`f1_any:.2f` for *any* and {glue:text}`f1_macro:.2f` over the
#   types.
# - A corrected share needs gold labels, and then its interval can be believed; a naive one cannot.

# %% [markdown]
# ## Exercises
#
# **1.** A detector with sensitivity 0.6 and specificity 0.95 reports 17 % of 22,327 answers. What is the share if it is
# right about its own errors? At which reported share does Rogan-Gladen give zero?

# %% tags=["solution", "hide-input"]
corrected_share = (0.17 + 0.95 - 1) / (0.6 + 0.95 - 1)
assert abs(corrected_share - 0.218) < 0.001
zero_at = 1 - 0.95  # what false alarms alone would report
assert abs((zero_at + 0.95 - 1) / (0.6 + 0.95 - 1)) < 1e-9
corrected_share, zero_at

# %% [markdown]
# **2.** A pipeline stores failed requests as empty label sets. Show with `distortions.matrix` that this book cannot do
# that by accident, and compute what it would do to a true share of 60 % when a fifth of the requests fails.

# %% tags=["solution", "hide-input"]
try:
    distortions.matrix([{"labelling"}, None])
    raise AssertionError("a missing label became a number")
except CbtError as error:
    message = str(error)
assert "they are not 'no distortion'" in message
assert abs(0.6 * (1 - 0.2) - 0.48) < 1e-9
message

# %% [markdown]
# **3.** `distortions.extract` leaves out what is denied. Find a sentence that denies a distortion and is still counted,
# and say what a mention would have to look at.

# %% tags=["solution", "hide-input"]
fooled = distortions.extract("说你在读心术里打转，那倒真没有。")
assert fooled == {"mind_reading"}, "the denial stands after the name; only what comes before it is read"
fooled

# %% [markdown]
# **4.** How many gold posts does PPI++ need to halve its interval? Compute the width for 50 and for 200 gold posts of
# the simulation above.

# %% tags=["solution", "hide-input"]
widths = {}
for size in (50, 200):
    estimate = prevalence.ppi(flags[1000:], real[:size], flags[:size])
    widths[size] = estimate.high - estimate.low
assert 1.3 < widths[50] / widths[200] < 3.2, "about two: the gold posts' share of the variance falls with their number"
widths

# %% [markdown]
# ## Next
#
# The posts have been counted. [The next chapter](04_lora_training) trains a model to answer them.
