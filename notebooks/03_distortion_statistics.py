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
# The paper reports how many of its answers carry a label of a cognitive distortion, and names the lack of gold labels
# as a limit. This book's corpus has gold labels. How wrong is a detector, and what does that do to the share?
#
# **You will learn**
#
# - what the eleven distortions are, each with a sentence that looks like one and is none;
# - how often they occur and where in a post they stand, with intervals, and which come together;
# - how much can be read off an answer, how much a detector taught by gold spans finds, and which types it confuses;
# - how to correct a share for the errors of the detector that made it, and when that is impossible;
# - what is left of a detector on posts from elsewhere.

# %% [markdown] tags=["banner"]
# `cbt run notebooks/03_distortion_statistics.py` fills in how this page was made.

# %% [markdown]
# ## Set-up
#
# `distortions` reads labels off answers, `detectors` finds them in posts, `detection` scores a detector,
# `prevalence` counts, with intervals and corrections, and `label_figures` draws.

# %% tags=["imports"]
import json
from collections import Counter

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn
from IPython.display import Markdown

from cbtlib import (
    ROOT, corpus, detection, detectors, distortions, figures, generate, label_figures, labelling, naming, prevalence,
    report, second_pass, widgets, writing,
)  # fmt: skip

# %% [markdown]
# The defaults below are the embedded profile: Gemma 3 270M is read for its hidden states and generates nothing.

# %% tags=["parameters"]
profile: str = "embedded"  # which profile made this page
results: str = "results"  # where products go
model: str = "embedded"  # whose hidden states the probe reads
layer: int = 9  # the layer it reads
resamples: int = 1000  # bootstrap resamples
simulations: int = 4000  # repetitions of the coverage simulation
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
page.number("records", len(records), what="posts with gold labels")

# %% [markdown]
# ## What a distortion is, and what it is not
#
# A distortion is a way of thinking, not a sad mood and not a bad event. Beck named several {cite:p}`beck1979`, Burns
# made the list of ten that most data sets build on {cite:p}`burns1980`, and one of those is two here. Beside each
# example stands the useful part: a sentence about the same trouble that is *not* distorted. “The interview may well
# come to nothing, so I send ten applications” is a forecast; “no point in applying, it will certainly come to nothing”
# is fortune-telling.

# %%
columns = {"zh": "名称", "example": "example", "counter_example": "not a distortion"}
columns |= {"example_zh": "例", "counter_example_zh": "反例", "definition": "definition"}
table = distortions.taxonomy().set_index("en")[list(columns)].rename(columns=columns).rename_axis("distortion")
page.table("taxonomy", table, caption="The eleven types, with an example and a counter-example in both languages.")

# %% [markdown]
# ## How often does each occur?
#
# The share of posts with a label, each with Wilson's 95% interval {cite:p}`wilson1927`. A post can carry several. The
# interval speaks about posts *written to this corpus's brief*: it asked for each type a fixed number of times, so these
# shares say nothing about how people think. They say what the detectors below have to find.
#
# `cbt distortions statistics FILE` draws this figure and the next five for any labelled file or run of answers.

# %%
posts = label_figures.of_records(records)
drawn = label_figures.shares(posts)
anything = drawn.data.loc["any"]
page.number(
    "share_any",
    anything["share"],
    low=anything["low"],
    high=anything["high"],
    n=len(gold),
    what="posts with a gold label",
)
page.number("labels_per_post", gold.sum(1).mean(), n=len(gold), what="gold labels a post")
figures.show(drawn.figure, page, "gold_shares", alt=drawn.alt, caption=drawn.caption, data=drawn.data)

# %% [markdown]
# ### Which come together?
#
# For each pair: how many posts hold both, against how many would if the two were independent. There are 55 pairs, and
# at 5% two or three of them would look remarkable by chance alone, so the p values are corrected for false discoveries
# (Benjamini and Hochberg) {cite:p}`benjamini1995`. The figure shows log [odds ratios](../glossary.md), above 0 for
# types that come together, below 0 for types that keep apart, and marks what survives.

# %%
drawn = label_figures.pairs(posts)
pairs = drawn.data
page.number("pairs_p", int((pairs["p"] < 0.05).sum()), n=len(pairs), what="pairs with p < 0.05 before correction")
page.number("pairs_q", int((pairs["q"] < 0.05).sum()), n=len(pairs), what="pairs with q < 0.05")
figures.show(drawn.figure, page, "cooccurrence", alt=drawn.alt, caption=drawn.caption, data=pairs)

# %% [markdown]
# Pairs do not show threes. The next figure, an UpSet plot {cite:p}`lex2014upset`, counts whole combinations: a bar for
# each, and under it the dots of the labels that make it up.

# %%
drawn = label_figures.upset(posts)
page.number("combinations", len(drawn.data), n=len(gold), what="different combinations of labels")
figures.show(drawn.figure, page, "combinations", alt=drawn.alt, caption=drawn.caption, data=drawn.data)

# %% [markdown]
# ### Does it depend on topic, length or place?
#
# Three relations that are cheap to find and easy to believe. The topic's shares get intervals and one test over all
# topics.

# %%
drawn = label_figures.topics(posts)
page.number("topic_p", drawn.data["p"].iloc[0], n=len(gold), what="chi-squared p value: share with a label by topic")
figures.show(drawn.figure, page, "topics", alt=drawn.alt, caption=drawn.caption, data=drawn.data)

# %% [markdown]
# For length, the rank correlation of the number of labels with the length of the description gets a bootstrap interval.
# It sees a trend, up or down, and nothing else: where the posts with no label *and* those with most are the long ones,
# it says zero. So look at the boxes too.

# %%
drawn = label_figures.lengths(posts, resamples, seed)
rho = drawn.data.iloc[0]
page.number("length_rho", rho["rho"], low=rho["low"], high=rho["high"], n=len(gold), what="Spearman: labels and length")
figures.show(drawn.figure, page, "lengths", alt=drawn.alt, caption=drawn.caption, data=drawn.data)

# %% [markdown]
# And the order in the text: where each type first stands, from the beginning of the post (0) to its end (1). A writer
# tells what happened before saying what it must mean, so a detector that knows only *where* a sentence stands already
# knows something. That is one way to be right for the wrong reason.

# %%
drawn = label_figures.order(posts)
page.number("first_position", drawn.data["position"].mean(), what="mean position of a type's first sentence")
figures.show(drawn.figure, page, "order", alt=drawn.alt, caption=drawn.caption, data=drawn.data)

# %% [markdown]
# The test over topics gives p = {glue:text}`topic_p:.2f`. Length and number of labels correlate with
# ρ = {glue:text}`length_rho:.2f` ({glue:text}`length_rho_low:.2f` to {glue:text}`length_rho_high:.2f`). The first
# mention stands on average {glue:text}`first_position:.0%` of the way into the post.
#
# ## What the generated answers name
#
# How the paper assigned its labels is not known here. Below, one of chapter 2's answers counts when it names a
# distortion. Only answers that *are* answers count; the others are listed by what became of them. Beside it stands the
# share that summaries of the paper give, with the status of that source.

# %%
answers = list(generate.read_answers(page.product("02_generation", "answers.jsonl")))
outcomes = Counter(answer.outcome for answer in answers)
written = label_figures.of_answers(answers, "generated answers")
claims = pd.read_csv(ROOT / "data/paper/claims.csv", dtype=str, keep_default_na=False).set_index("id")
claim = claims[claims["number"].str.endswith("::generated_any")].iloc[0]
page.count("generated_ok", len(written.labels), len(answers), what="generated answers that are answers")
rows = [
    (
        "the paper, by summaries",
        f"{float(claim['value']):.1%}" if claim["value"] else "not transcribed",
        claim["status"],
    )
]
if len(written.labels):
    named = prevalence.shares(written.labels)
    share = named.loc["any"]
    bounds = {"low": share["low"], "high": share["high"], "n": len(written.labels)}
    page.number("generated_any", share["share"], what="answers naming a distortion", **bounds)
    told = f"{share['share']:.1%} ({share['low']:.1%} to {share['high']:.1%})"
    rows.append((f"this run, {share['count']:.0f} of {share['n']:.0f}", told, "names in the answers, chapter 02"))
    writing.write_csv(page.dir / "generated_shares.csv", named)
else:
    rows.append(("this run", "no share", f"none of {len(answers)} replies is an answer; that is not “no distortion”"))
headline = pd.DataFrame(rows, columns=["source", "answers that name a distortion", "status"]).set_index("source")
display(page.outcomes("generation", dict(outcomes)), page.table("headline", headline, caption="The headline share."))

# %% [markdown]
# The same figures for the generated answers, as far as they name anything: the shares of the types. In a set as small
# as this one, look at the intervals only.

# %%
if written.labels.any():
    drawn = label_figures.shares(written)
    figures.show(drawn.figure, page, "generated_shares", alt=drawn.alt, caption=drawn.caption, data=drawn.data)
else:
    display(Markdown("No generated answer of this run names a distortion, so there is nothing to draw."))

# %% [markdown]
# ### How much of the truth is in an answer's words?
#
# The letters of the corpus were written by an author who knew the post. Reading labels off them shows what extraction
# can find at best in letters of this kind. They speak in plain words (“you wrote the ending yourself”), and a list of
# names finds only the names.

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
# The *probe* learns from the gold spans of the training posts which *sentence* shows which type, and scores a post by
# its highest-scoring sentence. It reads runs of characters, and the hidden states of a middle layer of the embedded
# model. Calibration and thresholds come from cross-validation: the training posts are cut into five parts (*folds*),
# and each is scored by a detector taught by the other four. Beside it stands a detector that has the characters only.
# The test posts are used once, here.

# %%
teaching = detectors.of_records(splits["train"])
made = {
    "probe": detectors.train(teaching, "probe", model=model, layers=(layer,), seed=seed),
    "characters": detectors.train(teaching, "characters", seed=seed),
}
detector = made["probe"]
detector.save(page.dir / "detector")
tested = np.array([record.split == "test" for record in records])
dev = np.array([record.split == "dev" for record in records])
held_out = [record.description for record in records if record.split != "train"]
scores = {name: np.zeros((len(records), len(one.columns))) for name, one in made.items()}
for name, one in made.items():
    scores[name][tested | dev] = one.scores(held_out)
called = {name: scores[name] >= one.thresholds for name, one in made.items()}

# %% [markdown]
# Scores on the test posts: of the probe, of characters alone, and of the second pass, in which another language model
# labelled the posts from the guide alone, as if it were a detector. *Precision* is the share of its calls that are
# right, *recall* the share of the labels that it finds, and F1 their harmonic mean; *macro* averages over the types,
# *micro* over all labels. The second pass is the ceiling of what can be asked of a machine here. It was made by a model
# from clear posts, so it is nearer to perfect than two people would be.

# %%
second = second_pass.read(ROOT / "data/second_labels.jsonl", records)
rows = [row for row, record in enumerate(records) if record.split == "test" and record.id in second]
again = distortions.matrix([{label.type for label in second[records[row].id]} for row in rows])
result = {
    name: detection.evaluate(gold[tested], called[name][tested][:, :-1], corpus.TYPES, scores[name][tested],
                             resamples=resamples, seed=seed)
    for name in made
}  # fmt: skip
result["second pass"] = detection.evaluate(gold[rows], again, corpus.TYPES, resamples=resamples, seed=seed)
best = result["probe"].table
for row in ("any", "micro", "macro"):
    score = best.loc[row]
    bounds, n = dict(score[["low", "high"]].dropna()), int(tested.sum())
    page.number(f"f1_{row}", score["f1"], n=n, what=f"F1 of the probe on the test posts, {row}", **bounds)
    page.number(f"ceiling_{row}", result["second pass"].table.loc[row, "f1"], n=len(rows), what=f"second pass, {row}")
page.number("ece", result["probe"].ece.drop("any").mean(), n=n, what="calibration error, mean over types")
caption = f"The probe on {tested.sum()} test posts; low and high bound F1 (95%); ECE is its miscalibration."
shown = best[["f1", "low", "high", "support", "precision", "recall", "auc"]].assign(ece=result["probe"].ece)
page.table("detector", shown, caption=caption)

# %% [markdown]
# Whether a post holds *any* distortion is told with F1 = {glue:text}`f1_any:.2f`
# ({glue:text}`f1_any_low:.2f` to {glue:text}`f1_any_high:.2f`; the second pass {glue:text}`ceiling_any:.2f`); the mean
# over the types is {glue:text}`f1_macro:.2f` ({glue:text}`f1_macro_low:.2f` to {glue:text}`f1_macro_high:.2f`; the
# second pass {glue:text}`ceiling_macro:.2f`). The probabilities are off by {glue:text}`ece:.3f` on average.
#
# *AUC* is the chance that a post with the type gets a higher score than one without. *Weighted* weighs the types by
# their posts. The bounds are resampled; where every call is right, they are derived from Wilson's.
#
# The table has two macro averages. *Macro* is the mean over all types that occur in the test posts. *Macro, supported
# types* is the mean over those that at least six test posts carry; the column *support* counts the posts. The F1 of a
# type with two or three posts hangs on each of them, so in the first average chance weighs as much as a type that was
# measured well. The second leaves such types out, and so hides a detector that fails on them. Both are shown because
# their distance says how much the rare types decide. Where they are equal, no type is that rare.

# %%
kinds = best.loc[list(corpus.TYPES)].sort_values("f1")
axis_names = label_figures.names(list(kinds.index))
figure, axis = plt.subplots(figsize=(figures.WIDTH, 1.6 + label_figures.room(len(kinds))))
axis.tick_params(axis="y", labelsize=label_figures.SIZE)
error = [kinds["f1"] - kinds["low"], kinds["high"] - kinds["f1"]]
axis.errorbar(kinds["f1"], axis_names, xerr=np.clip(error, 0, 1), fmt="o", capsize=3, label="probe")
for name, mark, color in (("characters", "x", figures.COLORS[1]), ("second pass", "|", figures.COLORS[2])):
    axis.plot(result[name].table.loc[kinds.index, "f1"], axis_names, mark, color=color, markersize=9, label=name)
axis.set(xlabel="F1", xlim=(0, 1.02))
axis.legend(loc="upper center", bbox_to_anchor=(0.2, -0.08), ncols=3, frameon=False)
told = [f"{names[kind]} {kinds.loc[kind, 'f1']:.2f}" for kind in kinds["f1"].dropna().index[[-1, 0]]]
figures.headline(figure, f"The probe is best at {told[0]} and worst at {told[1]}")
shown = pd.concat({name: one.table.loc[kinds.index, ["f1", "low", "high"]] for name, one in result.items()}, axis=1)
figures.show(
    figure,
    page,
    "detector_f1",
    data=shown,
    alt=f"F1 of eleven distortions with intervals, from {told[1]} to {told[0]}.",
    caption=f"F1 of each type on {tested.sum()} test posts with 95% intervals; mean {best.loc['macro', 'f1']:.2f}.",
)

# %% [markdown]
# Is the model worth having, beside counting characters? Two detectors on the same posts are compared post by post: the
# interval of the *difference*, not two intervals laid side by side.

# %%
pair = [called[name][tested][:, :-1] for name in ("probe", "characters")]
difference = detection.difference(gold[tested], *pair, corpus.TYPES, resamples=resamples, seed=seed)
for row in difference.itertuples():
    what = f"F1 of the probe minus that of characters, {row.Index}"
    bounds = {"low": row.low, "high": row.high} if np.isfinite(row.low) else {}
    page.number(f"gain_{row.Index}", row.difference, n=int(tested.sum()), what=what, **bounds)
page.table("difference", difference, caption="F1 of the probe minus F1 of characters alone, 95% paired intervals.")

# %% [markdown]
# Over the types, the model adds {glue:text}`gain_macro:+.3f` to F1 ({glue:text}`gain_macro_low:+.3f` to
# {glue:text}`gain_macro_high:+.3f`). An interval that holds zero has not shown that it is worth
# having.
#
# ### Which types it confuses
#
# Each cell counts posts in which the row's type was missed and the column's type was called falsely. Look at the total
# first: among 110 cells a handful of confusions is no pattern, and two in one cell can be chance.

# %%
mixed = detection.confusion(gold[tested], called["probe"][tested][:, :-1], corpus.TYPES)
figure, axis = plt.subplots(figsize=(figures.WIDTH, 1.9 + label_figures.room(len(mixed))))
counts, short = mixed.to_numpy(), [chinese[kind] for kind in corpus.TYPES]
shades = figures.shades(counts.max()) | {"annot": mixed.astype(str).replace("0", ""), "fmt": ""}
seaborn.heatmap(mixed, xticklabels=short, yticklabels=label_figures.names(corpus.TYPES), ax=axis, **shades)
axis.tick_params(labelsize=label_figures.SIZE)
plt.setp(axis.get_xticklabels(), rotation=45, ha="right")
axis.set(xlabel="called falsely", ylabel="missed")
missed, false = np.unravel_index(int(counts.argmax()), counts.shape)
worst = (
    f"{names[corpus.TYPES[missed]]} taken for {names[corpus.TYPES[false]]} ({counts.max()})" if counts.any() else "none"
)
figures.headline(figure, f"{counts.sum()} confusions on {tested.sum()} posts; most frequent: {worst}")
figures.show(
    figure,
    page,
    "confusion",
    data=mixed,
    alt=f"Grid of missed against falsely called types; {counts.sum()} confusions, the most frequent: {worst}.",
    caption=f"Which types the probe confuses, on {tested.sum()} test posts. Most frequent: {worst}.",
)

# %% [markdown]
# Some of the posts it gets wrong, with the English gloss of their titles. A post that worries triage is counted and
# never shown.

# %%
items = [labelling.Item(x.id, post, None) for x, post in
         zip(splits["test"], detectors.of_records(splits["test"]), strict=True)]  # fmt: skip
errors = labelling.errors(items, gold[tested], called["probe"][tested][:, :-1], corpus.TYPES).set_index("id")
gloss = {record.id: record.gloss["question"] for record in splits["test"]}
errors.insert(0, "title", [gloss[name] for name in errors.index])
wrong = int((gold[tested] != called["probe"][tested][:, :-1]).any(1).sum())
page.number("posts_wrong", wrong, n=int(tested.sum()), what="test posts with a missed or a false label")
caption = (
    f"{min(6, len(errors))} of the {wrong} posts with a missed or a false label; "
    f"{wrong - len(errors)} more worry triage and are never shown."
)
page.table("errors", errors, shown=6, caption=caption, named=["missed", "called falsely"])

# %% [markdown]
# ### How far it travels
#
# Everything so far was written to one brief. The table shows what is left elsewhere: a detector taught by this book's
# posts and tested on two public sets of short posts from social media, SocialCD-3K {cite:p}`qi2025` and the posts of
# Lin et al. {cite:p}`lin2024`, and the other way round. The caption says of which kind the detector is, and *copies*
# counts test posts that repeat a training post. The sets are their owners'; only the figures are here
# (`benchmarks/domain_shift.py` made them beforehand, on another machine, from files that you supply; so the row at home
# can differ a little from the table above).

# %%
shift = json.loads((ROOT / "data/domain_shift.json").read_text("utf-8"))
table = pd.DataFrame(shift["rows"]).set_index("taught by")
home, away, kind = table.iloc[0], table.iloc[1], shift["detector"]
page.number("home_macro", home["macro f1"], low=home["macro low"], high=home["macro high"], n=int(home["posts"]),
            what=f"macro-F1 of {kind} at home")  # fmt: skip
page.number("away_macro", away["macro f1"], low=away["macro low"], high=away["macro high"], n=int(away["posts"]),
            what=f"macro-F1 of {kind} on SocialCD-3K")  # fmt: skip
page.table("domain_shift", table, caption=f"A detector ({kind}) at home and away; F1 with 95% intervals.")

# %% [markdown]
# At home the mean over the types is {glue:text}`home_macro:.2f`; on posts from elsewhere it is
# {glue:text}`away_macro:.2f`. The words of the types differ, and so do the labellers' habits: in one public set most
# posts are labelled as *labelling*. An F1 near 0 is a detector that calls hardly anything: taught by posts of two
# sentences, it has never seen one as long as ours. A detector of this book counts this book's posts. Anywhere else it
# needs labels from there, first to be measured, then to be taught.
#
# ## From the naive share to a corrected one
#
# Suppose the test posts had no gold labels, and a clinician had labelled the dev posts only. Which share of the test
# posts holds a distortion? *Naive* counts what the detector calls. *Rogan-Gladen* {cite:p}`rogan1978` corrects this
# share $p$ with what was seen on the dev posts: the detector's sensitivity $s$ (of the posts with a distortion, the
# share that it calls) and its specificity $t$ (of those without, the share that it leaves alone). The corrected share
# is $\hat{\pi}$:
#
# $$
# \hat{\pi} = \frac{p + t - 1}{s + t - 1}
# $$ (eq-rogan-gladen)
#
# Its interval is Lang and Reiczigel's {cite:p}`lang2014`. *PPI++* {cite:p}`angelopoulos2023ppi` starts from the
# clinician's share and lets the detector narrow it. The true share of the test posts is known here, and drawn as a
# line. The intervals are for the share among all such posts; these test posts are one draw of them, so a good interval
# can miss the line a little more often than it says.

# %%
truth_share = float(truth[tested].mean())
page.number("true_share", truth_share, n=int(tested.sum()), what="test posts with a gold label")
sources = {"probe": called["probe"][:, :-1], "names in the letter": extracted}
whole = {name: prevalence.corrected(flags[tested], gold[dev], flags[dev]) for name, flags in sources.items()}
whole = pd.concat(whole, names=["labels from", None]).reset_index(level=0)
corrected = whole[whole["type"] == "any"].drop(columns="type").rename(columns={"undefined": "undefined because"})
caption = f"Share of test posts with a distortion; the truth is {truth_share:.2f}."
page.table("corrected", corrected.set_index("labels from"), caption=caption, named=["method"])

# %% [markdown]
# The names in the letters give a naive share far below the truth with a confident, narrow interval: the error that no
# sample size mends. Where a method is undefined it says so and gives no number.

# %%
drawn = corrected.dropna(subset=["share"])
figure, axis = plt.subplots(figsize=(figures.WIDTH, 3.8))
labels = [f"{naming.shown(row['method'])}, {row['labels from']}" for _, row in drawn.iterrows()]
error = np.clip([drawn["share"] - drawn["low"], drawn["high"] - drawn["share"]], 0, 1)
axis.errorbar(drawn["share"], labels, xerr=error, fmt="o", capsize=3)
axis.axvline(truth_share, linestyle="--", color=figures.COLORS[1], label="truth")
axis.set(xlabel="share of test posts with a distortion", xlim=(0, 1))
axis.invert_yaxis()
axis.legend()
hold = drawn["low"].le(truth_share) & drawn["high"].ge(truth_share)
told = f"{hold.sum()} of {len(drawn)} intervals hold the share of these test posts, {truth_share:.0%}"
figures.headline(figure, told)
figures.show(
    figure,
    page,
    "naive_corrected",
    data=corrected,
    alt=f"Shares with intervals, two sources of labels and three methods; {told}.",
    caption=f"One share, three methods, two sources of labels; 95% intervals. Dashed: the test posts' own. {told}.",
)

# %% [markdown]
# The same for every type. With the few labelled posts of a type among the dev posts, a corrected share knows little,
# and its interval says so. The naive one does not.

# %%
types = whole[(whole["labels from"] == "probe") & (whole["type"] != "any")]
wide = types.pivot(index="type", columns="method", values=["share", "low", "high"]).loc[list(corpus.TYPES)]
wide = wide.swaplevel(axis=1)[["naive", "rogan-gladen", "ppi++"]]
wide.insert(0, "true", gold[tested].mean(0))
held = wide["naive"]["low"].le(wide["true"]) & wide["naive"]["high"].ge(wide["true"])
page.number("naive_held", int(held.sum()), n=len(held), what="types whose naive interval holds the test posts' share")
page.number("undefined", int((types["undefined"] != "").sum()), n=len(types), what="corrections by type, undefined")
wide.columns = [" ".join(name).strip() if isinstance(name, tuple) else name for name in wide.columns]
page.table("corrected_types", wide, caption="Shares of the types among the test posts, from the probe's labels.")

# %% [markdown]
# At home {glue:text}`naive_held:.0f` of the eleven naive intervals hold the share of these posts: few posts make them
# wide, and this detector errs little here. Misses and false calls need not cancel. How far they do, only gold labels
# can show; on other posts they may cancel less.
#
# Try it with errors of your own choice. The sliders start at what the probe did on the dev posts. Lower sensitivity and
# specificity together: where they sum to 1 the share is undefined.

# %%
flagged = called["probe"][:, :-1].any(1)
hits, alarms = flagged[dev][truth[dev]], flagged[dev][~truth[dev]]
widgets.prevalence(flagged[tested].mean(), hits.mean(), 1 - alarms.mean(), positives=len(hits), negatives=len(alarms))

# %% [markdown]
# ### Does a 95% interval hold 95% of the time?
#
# One corpus shows one draw. A simulation repeats it: posts with a known share, a detector with a known sensitivity
# and specificity, 200 gold posts, 2,000 others. First one draw in the open, then many.

# %%
share, sensitivity, specificity, gold_posts = 0.2, 0.8, 0.9, 200
generator = np.random.default_rng(seed)
real = generator.random(2000 + gold_posts) < share
flags = np.where(real, generator.random(len(real)) < sensitivity, generator.random(len(real)) > specificity)
rest, sample = slice(gold_posts, None), slice(gold_posts)
one_draw = {"naive": prevalence.naive(flags[rest])}
one_draw |= {
    name: method(flags[rest], real[sample], flags[sample])
    for name, method in (("rogan-gladen", prevalence.rogan_gladen), ("ppi++", prevalence.ppi))
}
table = pd.DataFrame({name: {"share": x.value, "low": x.low, "high": x.high} for name, x in one_draw.items()}).T
page.table("one_draw", table, caption=f"One draw; the true share is {share}.")

# %% [markdown]
# Now the count of intervals that hold the truth, for rare and common labels and for poor and good detectors.

# %%
settings = [(0.02, 0.8, 0.95), (0.05, 0.75, 0.92), (0.2, 0.8, 0.9), (0.3, 0.7, 0.75), (0.5, 0.9, 0.9)]
runs = {x: prevalence.coverage(*x, gold=gold_posts, simulations=simulations, seed=seed) for x in settings}
cover = pd.concat(runs, names=["share", "sensitivity", "specificity"]).reset_index()
for method, name in (("naive", "cover_naive"), ("rogan-gladen", "cover_rogan_gladen"), ("ppi++", "cover_ppi")):
    row = cover[(cover["method"] == method) & (cover["share"] == share)].iloc[0]
    page.number(name, row["coverage"], low=row["low"], high=row["high"], n=simulations, what=f"coverage, {method}")
few = prevalence.coverage(*settings[2], gold=int(dev.sum()), simulations=simulations, seed=seed).loc["ppi++"]
page.number("cover_ppi_few", few["coverage"], low=few["low"], high=few["high"], n=simulations,
            what=f"coverage, ppi++ with {dev.sum()} gold posts")  # fmt: skip
figure, axis = plt.subplots(figsize=(figures.WIDTH, 4.2))
places = {x: f"share {x[0]:.0%}\nsens. {x[1]}\nspec. {x[2]}" for x in settings}
for shift_by, (method, rows) in zip((-0.15, 0, 0.15), cover.groupby("method", sort=False), strict=True):
    error = np.clip([rows["coverage"] - rows["low"], rows["high"] - rows["coverage"]], 0, 1)
    label = naming.shown(method)
    axis.errorbar(np.arange(len(rows)) + shift_by, rows["coverage"], yerr=error, fmt="o", capsize=3, label=label)
axis.axhline(0.95, linestyle="--", color="0.4")
axis.set_xticks(range(len(settings)), list(places.values()))
axis.set(ylabel="intervals that hold the truth", ylim=(-0.02, 1.02))
axis.legend()
naive, least = (cover[cover["method"].eq("naive") == yes]["coverage"].min() for yes in (True, False))
told = f"Naive intervals hold the truth as rarely as {naive:.0%} of the time, corrected ones {least:.0%} or more"
figures.headline(figure, told)
alt = f"Coverage of three methods in {len(settings)} settings. {told}."
figures.show(figure, page, "coverage", data=cover, alt=alt, caption=f"{told}. {simulations} simulations a setting.")

# %% [markdown]
# At a share of 20%, {glue:text}`cover_naive:.0%` of the naive intervals hold the truth, of Rogan-Gladen's
# {glue:text}`cover_rogan_gladen:.0%`, of PPI++'s {glue:text}`cover_ppi:.0%`. In the last setting misses and
# false alarms are equally many, so that the naive share is right by luck. Which to use:
#
# - **Naive**: never for a share in the world; only to describe what a detector did.
# - **Rogan-Gladen**: when the gold posts come from elsewhere, or were picked by label, and the detector errs alike
#   on both. It needs gold posts with the label and without.
# - **PPI++**: when the gold posts are a random sample of the posts in question. It is narrower, and assumes nothing of
#   the detector; some dozens of gold posts make it useful. (The interval is Wilson's at the variance of PPI++; the
#   published one, of a normal estimate, fails for rare types.) The simulation has more gold posts than the dev posts
#   above: with as few as those, {glue:text}`cover_ppi_few:.0%` of the intervals hold.

# %% [markdown]
# The page's numbers are written down.

# %%
page.save()

# %% [markdown]
# ## Summary
#
# - {glue:text}`share_any:.0%` of the {glue:text}`records` posts hold a distortion, by design of the corpus.
# - Of 55 pairs, {glue:text}`pairs_p` look related before and {glue:text}`pairs_q` after correction for false
#   discoveries.
# - Letters in plain words name a distortion in {glue:text}`extract_recall:.1%` of the cases that have one: a share read
#   off answers is a statement about the answers.
# - A detector taught by spans reaches F1 {glue:text}`f1_any:.2f` ({glue:text}`f1_any_low:.2f` to
#   {glue:text}`f1_any_high:.2f`) for *any* and {glue:text}`f1_macro:.2f` ({glue:text}`f1_macro_low:.2f` to
#   {glue:text}`f1_macro_high:.2f`) over the types at home. Taken to posts from elsewhere, a detector goes
#   from {glue:text}`home_macro:.2f` to {glue:text}`away_macro:.2f`.
# - A count of labels can be believed as far as there are gold labels to correct it. In the simulation with a true share
#   of 20%, {glue:text}`cover_naive:.0%` of the naive 95% intervals held it, and {glue:text}`cover_ppi:.0%` of those of
#   PPI++.
#
# *Further reading.* Prevalence from an imperfect test {cite:p}`rogan1978` and its interval {cite:p}`lang2014`; a few
# gold labels with many predicted ones {cite:p}`angelopoulos2023ppi`.

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
# - **a** 论文又被退回来了，我想先看看审稿人说的是哪一段。 (The paper came back again; I want to see first which passage
#   the reviewers mean.)
# - **b** 有一道菜咸了，这一桌就算白做了。 (One dish was too salty, so the whole dinner was for nothing.)
# - **c** 奶奶走了以后，家里再没有人叫我的小名了。 (Since Grandma died, nobody at home calls me by my pet name.)
# - **d** 室友没等我吃饭，每个人到头来都会把我丢下。 (My roommate ate without me; everybody leaves me in the end.)

# %% [raw] tags=["blank"]
# distorted = ...  # a set of letters

# %% [raw] tags=["wrong"]
# distorted = {"a", "b", "d"}  # "again" must be overgeneralisation

# %% tags=["solution"]
distorted = {"b", "d"}  # a looks for the cause, c is grief: neither is distorted

# %% tags=["check"]
assert isinstance(distorted, set), "give a set of letters"
assert {"b", "d"} <= distorted, "b makes a dinner worthless for one dish, d makes one meal a law"
assert not distorted & {"a", "c"}, (
    "a setback that is looked into, and a loss that is mourned, are no errors of thinking"
)

# %% [markdown]
# ### Exercise 2 (compute): From a reported share to the share
#
# A detector has a sensitivity of 0.6 and a specificity of 0.95. It reports 17% of 22,327 answers. Write Rogan and
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
assert corrected(0.9, 0.7, 0.95) == 1, "more reports than the sensitivity allows: the share is not above 1"
for sensitivity, specificity in ((0.5, 0.5), (0.3, 0.4)):
    assert corrected(0.4, sensitivity, specificity) is None, "a coin, or worse, says nothing, and nothing is no number"

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
# look at? (Whether your sentence denies it, the check cannot tell; a word like 不 is all that it looks for.)

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
third = false_share(1.0, 0.5, 0.5)
assert third is not None and abs(third - 1 / 3) < 1e-9, "of 100 posts 50 are rightly flagged and 25 wrongly"
assert false_share(0.9, 1.0, 0.3) == 0, "perfect specificity, no false alarm"
assert abs(forum - 0.1) < 1e-9 and abs(bereavement - 2 / 3) < 1e-9, "the share of distorted posts decides"

# %% [markdown]
# ### Exercise 6 (research): What would gold labels cost, and buy?
#
# You have 22,327 letters, a detector, and money for 300 labels by clinicians. Which letters do they label, how many
# clinicians see each, which method of this chapter do you use, and which sentence may the paper then print?

# %% [markdown] tags=["solution"]
# The letters are drawn at random from the 22,327, not from those the detector found interesting: PPI++ leans on the
# draw, and a sensitivity measured on posts that the detector picked is none. Two clinicians see at least a part of them
# blindly, because a share corrected with labels that people do not agree on is as shaky as their agreement, and that is
# reported beside it. With a random sample, PPI++ gives the narrower interval; Rogan-Gladen is for gold labels from
# elsewhere, and then leans on the detector erring alike in both places. The sentence has an interval, the number of
# labels and who made them: "between x and y of *these letters* name a distortion". It says nothing about clients. The
# alternative is worth a line too: 300 labels alone, without any detector, already give a share to about ± 6 points.

# %% [markdown]
# ## Next
#
# The posts have been counted. [The next chapter](04_lora_training) trains a model to answer them.
