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
# They need only the next cell, not the chapter. `make student` writes them as a notebook without the solutions.

# %% tags=["setup"]
import json

from cbtlib import CbtError, distortions

# %% [markdown]
# ### Exercise 1 (read): Distorted, or only sad?
#
# Which of these sentences show a cognitive distortion, and which do not?
#
# - **a** 面试没过三次了，我想知道问题出在哪个环节。 (Three interviews failed; I want to know at which step.)
# - **b** 这次没拿第一，这一年就等于白学了。 (I did not come first, so the whole year of study was for nothing.)
# - **c** 这次没拿第一，有点不甘心，不过比上回进步了。 (I did not come first and it stings, though it is better than
#   last time.)
# - **d** 面试又没过，以后不会有公司要我了，从来都是这样。 (Another interview failed; it has always been like this and
#   no company will ever take me.)

# %% [raw] tags=["blank"]
# distorted = ...  # a set of letters

# %% [raw] tags=["wrong"]
# distorted = {"a", "b", "d"}  # three failed interviews must be overgeneralisation

# %% tags=["solution"]
distorted = {"b", "d"}  # a counts and asks, c is sorry and sees the rest: both are sad, neither is distorted

# %% tags=["check"]
assert isinstance(distorted, set), "give a set of letters"
assert {"b", "d"} <= distorted, "b makes a year worthless for one rank, d makes one failure a law"
assert not distorted & {"a", "c"}, "a bad event, counted or regretted, is no error of thinking"

# %% [markdown]
# ### Exercise 2 (compute): From a reported share to the share
#
# A detector has a sensitivity of 0.6 and a specificity of 0.95. It reports 17 % of 22,327 answers. Write Rogan and
# Gladen's correction `corrected(reported, sensitivity, specificity)`. It stays between 0 and 1, and is `None` for a
# detector that is no better than a coin (sensitivity + specificity ≤ 1).

# %% [raw] tags=["blank"]
# def corrected(reported: float, sensitivity: float, specificity: float) -> float | None:
#     ...

# %% [raw] tags=["wrong"]
# def corrected(reported: float, sensitivity: float, specificity: float) -> float | None:
#     """Adds what was missed and forgets what was invented."""
#     return min(1.0, reported / sensitivity)


# %% tags=["solution"]
def corrected(reported: float, sensitivity: float, specificity: float) -> float | None:
    """reported = share * sensitivity + (1 - share) * (1 - specificity), solved for the share."""
    worth = sensitivity + specificity - 1
    return None if worth <= 0 else min(1.0, max(0.0, (reported + specificity - 1) / worth))


print(corrected(0.17, 0.6, 0.95))

# %% tags=["check"]
for share, sensitivity, specificity in ((0.3, 0.6, 0.95), (0.0, 0.8, 0.9), (1.0, 0.7, 0.99), (0.5, 1.0, 1.0)):
    reported = share * sensitivity + (1 - share) * (1 - specificity)
    found = corrected(reported, sensitivity, specificity)
    assert found is not None and abs(found - share) < 1e-9, f"a share of {share} is reported as {reported:.3f}; go back"
assert corrected(0.02, 0.8, 0.9) == 0, "fewer reports than false alarms alone would give: the share is not negative"
assert corrected(0.4, 0.5, 0.5) is None, "a coin says nothing, and nothing is not a number"

# %% [markdown]
# ### Exercise 3 (break): Exceptions counted as "no distortion"
#
# A public pipeline asks a model for labels and reads its JSON. When reading fails, it stores an empty list, and the
# share of distorted posts falls with every failure. Mend it: `share(replies)` gives the share among the replies that
# could be read (`None` when there is none) and how many could not. A readable reply is a JSON object with a list
# `labels`.

# %% [raw] tags=["blank"]
# def careless(replies: list[str]) -> float:
#     found = []
#     for reply in replies:
#         try:
#             found.append(json.loads(reply)["labels"])
#         except Exception:
#             found.append([])
#     return sum(map(bool, found)) / len(found)
#
#
# def share(replies: list[str]) -> tuple[float | None, int]:
#     ...

# %% [raw] tags=["wrong"]
# def share(replies: list[str]) -> tuple[float | None, int]:
#     """Counts the failures, and still divides by everything."""
#     found, unread = [], 0
#     for reply in replies:
#         try:
#             found.append(json.loads(reply)["labels"])
#         except Exception:
#             unread += 1
#     return (sum(map(bool, found)) / len(replies) if found else None), unread


# %% tags=["solution"]
def share(replies: list[str]) -> tuple[float | None, int]:
    """A reply that cannot be read is missing: neither in the numerator nor in the denominator."""
    found, unread = [], 0
    for reply in replies:
        try:
            labels = json.loads(reply)["labels"]
        except (ValueError, TypeError, KeyError):
            labels = None
        if isinstance(labels, list):
            found.append(bool(labels))
        else:
            unread += 1
    return (sum(found) / len(found) if found else None), unread


# %% tags=["check"]
labelled, empty, broken = '{"labels": ["mind_reading"]}', '{"labels": []}', "抱歉，我无法判断。"
assert share([labelled, labelled, empty, empty]) == (0.5, 0), "two of four"
assert share([labelled, labelled, empty, empty, broken]) == (0.5, 1), "a failure moved the share"
assert share([broken, "", "[]", "null"]) == (None, 4), "nothing was read, so there is no share"
assert share(['{"labels": "mind_reading"}']) == (None, 1), "a text is not a list of labels"
try:
    distortions.matrix([{"mind_reading"}, None])
    raise AssertionError("the book's own matrix took a missing label")
except CbtError:
    pass

# %% [markdown]
# ### Exercise 4 (break): Denied, and counted all the same
#
# `distortions.extract` leaves out what is denied. 这不是读心术 ("this is no mind reading") gives nothing. Write a
# Chinese sentence that *names* mind reading (读心术), denies it, and is counted. What would a reader of names have to
# look at?

# %% [raw] tags=["blank"]
# sentence = ...

# %% [raw] tags=["wrong"]
# sentence = "这不是读心术。"  # "this is no mind reading": the denial comes first and is heard

# %% tags=["solution"]
sentence = "说你在读心术里打转，那倒真没有。"  # "going round in mind reading? not really": the denial is last
print(distortions.extract(sentence))

# %% tags=["check"]
assert isinstance(sentence, str) and "读心术" in sentence, "the sentence names mind reading"
assert any(word in sentence for word in ("不", "没", "非", "无")), "the sentence denies it"
assert "mind_reading" in distortions.extract(sentence), "the denial was heard; where does the reader not look?"

# %% [markdown]
# ### Exercise 5 (compute): The same detector, another forum
#
# Of the posts a detector flags, which share holds no distortion? Write `false_share(sensitivity, specificity,
# share)`, and compute it for 0.9, 0.8 on a forum where two thirds of the posts hold one, and on a bereavement forum
# where one in ten does.

# %% [raw] tags=["blank"]
# def false_share(sensitivity: float, specificity: float, share: float) -> float:
#     ...
#
#
# forum, bereavement = ..., ...

# %% [raw] tags=["wrong"]
# def false_share(sensitivity: float, specificity: float, share: float) -> float:
#     """One minus the specificity: the share of the *undistorted* posts that are flagged, which is another question."""
#     return 1 - specificity
#
#
# forum, bereavement = false_share(0.9, 0.8, 2 / 3), false_share(0.9, 0.8, 0.1)


# %% tags=["solution"]
def false_share(sensitivity: float, specificity: float, share: float) -> float:
    """False alarms over all alarms."""
    false = (1 - share) * (1 - specificity)
    return false / (false + share * sensitivity)


forum, bereavement = false_share(0.9, 0.8, 2 / 3), false_share(0.9, 0.8, 0.1)
print(f"{forum:.0%} of the alarms are false on the forum, {bereavement:.0%} among the bereaved")

# %% tags=["check"]
assert false_share(1.0, 0.5, 0.5) == 1 / 3, "of 100 posts 50 are rightly flagged and 25 wrongly"
assert false_share(0.9, 1.0, 0.3) == 0, "perfect specificity, no false alarm"
assert abs(forum - 0.1) < 1e-9 and abs(bereavement - 2 / 3) < 1e-9, "the share of distorted posts decides"

# %% [markdown]
# ### Exercise 6 (research): What would gold labels cost, and buy?
#
# You have 22,327 letters, a detector, and money for 300 labels by clinicians. Which letters do they label, how many
# clinicians see each, which method of this chapter do you use, and which sentence may the paper then print?

# %% [markdown] tags=["solution"]
# The letters are drawn at random from the 22,327, not from those the detector found interesting: both corrections
# lean on that. Two clinicians see at least a part of them blindly, because a share corrected with labels that people
# do not agree on is as shaky as their agreement, and that is reported beside it. With a random sample, PPI++ gives
# the narrower interval; Rogan-Gladen is for gold labels from elsewhere, and then leans on the detector erring alike
# in both places. The sentence has an interval, the number of labels and who made them: "between x and y of *these
# letters* name a distortion". It says nothing about clients. The alternative is worth a line too: 300 labels alone,
# without any detector, already give a share to about ± 6 points.

# %% [markdown]
# ## Next
#
# The posts have been counted. [The next chapter](04_lora_training) trains a model to answer them.
