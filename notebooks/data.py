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
# # The corpus: what the chapters learn from and are judged on
#
# A model can be no better than what it was shown, and a score no better than what it was taken on. So before any
# model: what is in this data, who says that its labels are right, and what would happen if some of it were broken?
#
# **You will learn**
#
# - what a record holds, from the post to the spans that carry a distortion;
# - how long, how varied and how evenly spread the records are, beside a public sample of real posts;
# - how far two labelling passes agree, and why close agreement is no proof;
# - which defects the gates stop, by breaking a copy of the data on purpose.

# %% [markdown] tags=["banner"]
# `cbt run notebooks/data.py` fills in how this page was made.

# %% [markdown]
# ## Set-up
#
# `corpus` reads records, `quality` measures them, `second_pass` compares two labellings and `gates` looks for
# defects.

# %% tags=["imports"]
import json
from collections import Counter
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn

from cbtlib import ROOT, corpus, distortions, figures, formats, gates, quality, report, second_pass

# %% [markdown]
# PsyQA {cite}`sun2021psyqa` is given out under an agreement that forbids passing it on. The figures on this page come
# from aggregates of its public sample of 100 questions. If you hold the sample or the whole set, name the file, and
# the same figures are computed from it.

# %% tags=["parameters"]
profile: str = "embedded"  # which profile made this page
results: str = "results"  # where products go
psyqa: str = ""  # your copy of PsyQA or of its public sample; empty: the aggregates in data/psyqa_sample.json
resamples: int = 1000  # bootstrap resamples behind the intervals of the agreement

# %% [markdown]
# Everything that the book trains and tests on, by split. The crisis file is loaded to be counted; none of it is
# shown.

# %%
page = report.Page("data", profile, results)
splits = {name: corpus.load_split(name) for name in corpus.SPLITS}
records = [record for name in ("train", "dev", "test") for record in splits[name]]
page.number("records", len(records), what="records with a letter in train, dev and test")
for name in ("train", "dev", "test"):
    page.number(name, len(splits[name]), what=f"records of the {name} split")
risk = sum(record.crisis for record in splits["crisis"])
page.number("risk", risk, what="posts with a risk signal")
page.number("lookalikes", len(splits["crisis"]) - risk, what="posts that only look like risk")
names = distortions.names("en")

# %% [markdown]
# ## One record
#
# A post from the test split. Brackets show the words that carry a distortion, each with the number of its type below.
# The spans are characters of the post, not a guess about them: a span that no longer fits its text stops the loading.

# %%
shown = max(splits["test"], key=lambda x: (len(x.types) == 2, -len(x.description)))
labels = sorted(shown.distortions, key=lambda label: label.start)
text = shown.description
for number, label in reversed(list(enumerate(labels, 1))):
    text = f"{text[: label.start]}【{number} {shown.quote(label)}】{text[label.end :]}"
notes = "; ".join(f"{number} {names[label.type]}: {label.note}" for number, label in enumerate(labels, 1))
figures.chinese(f"{shown.question}\n{text}", f"{shown.gloss['question']}. {notes}.", title="A post and its labels")

# %% [markdown]
# And its letter. The five parts are fields of the record; joined by line breaks they are meant to read as one letter.

# %%
figures.chinese(shown.answer_text, f"The second part: {shown.gloss['key_thought']}", title="Its letter")

# %% [markdown]
# ## How long?
#
# The posts were written to the lengths of a help forum, the letters to those of a good answer there. The public PsyQA
# sample says what such a forum looks like: 100 real questions and 268 answers, from which we keep only counts.

# %%
own = quality.aggregates([formats.of_record(record) for record in records])
other = json.loads((ROOT / "data/psyqa_sample.json").read_text("utf-8"))
if psyqa:
    other = quality.aggregates(formats.load(psyqa))
rows = [
    (kind, name, int(edge), count / figures_of[f"{kind}s"])
    for kind in ("post", "answer")
    for name, figures_of in (("this book", own), ("PsyQA sample", other))
    for edge, count in figures_of[f"{kind}_histogram"].items()
]
lengths = pd.DataFrame(rows, columns=["kind", "set", "from", "share"]).set_index(["kind", "set"])
middle = {kind: (own[f"{kind}_length"][1], other[f"{kind}_length"][1]) for kind in ("post", "answer")}
for kind, (here, there) in middle.items():
    page.number(f"{kind}_median", here, what=f"median characters of {kind}s", n=own[f"{kind}s"])
    page.number(f"{kind}_median_psyqa", there, what=f"the same in PsyQA's sample: {kind}s", n=other[f"{kind}s"])

# %% [markdown]
# Ours are tamer: no very short answers, none of the very long ones, and fewer long posts.

# %%
figure, axes = plt.subplots(2, figsize=(figures.WIDTH, 5.6))
for axis, kind, longest in zip(axes, ("post", "answer"), (500, 2000), strict=True):
    for name, style in (("this book", "-"), ("PsyQA sample", "--")):
        bins = lengths.loc[(kind, name)]
        axis.stairs(bins["share"], [*bins["from"], bins["from"].max() + quality.BIN], label=name, ls=style, lw=1.8)
    axis.set(xlabel=f"characters of the {kind}", ylabel="share", xlim=(0, longest))
axes[0].legend(frameon=False)
figures.headline(figure, f"Median post {middle['post'][0]:.0f} characters (PsyQA: {middle['post'][1]:.0f}), "
                         f"answer {middle['answer'][0]:.0f} ({middle['answer'][1]:.0f})")  # fmt: skip
figures.show(
    figure,
    page,
    "lengths",
    data=lengths,
    alt=f"Two outlines of lengths. Median post: {middle['post'][0]} characters here, {middle['post'][1]} in the PsyQA "
    f"sample; median answer: {middle['answer'][0]} and {middle['answer'][1]}, whose outline is far wider.",
    caption=f"Lengths in steps of {quality.BIN} characters: {len(records)} posts and letters of the book, "
    f"{other['posts']} posts and {other['answers']} answers of PsyQA.",
)

# %% [markdown]
# ## How varied?
#
# Texts written by one author to one brief tend to repeat themselves, and a language model is one author. The table
# sets what can be counted beside the same counts of human answers. Variety is compared on an equal footing, because
# longer texts repeat more.

# %%
table = quality.beside({"this book": own, "PsyQA sample": other})
page.number("self_bleu", own["self_bleu"], what="self-BLEU of letters (lower is more varied)", n=quality.FOOTING[0])
page.number("distinct_4", own["distinct_4"], what="share of 4-character runs that differ", n=quality.FOOTING[0])
page.number("quoting", own["quoting"], what="letters with 8 characters in a row of their post", n=len(records))
page.number("quoting_psyqa", other["quoting"], what="the same in PsyQA's sample", n=other["answers"])
page.table("beside", table, caption="The letters of the book beside the answers of the public PsyQA sample")

# %% [markdown]
# Read this with suspicion. The letters look *more* varied than what people wrote, and that is a sign of the brief and
# not of life: programs compared every batch with all others and sent repeated phrases back. People repeat themselves.
# They also talk about themselves, advise at length and skip the question. {glue:text}`quoting:.0%` of our letters
# quote their post, {glue:text}`quoting_psyqa:.0%` of the human answers do. What is measured here is that no template
# shows, not that the letters are as good as a counsellor's.
#
# ## How even?
#
# The brief asked for nine topics in about equal number and for every distortion often enough to be counted. A cell
# that is empty or full would let a model read the label off the topic.

# %%
columns = [*corpus.TYPES, "none"]
grid = pd.DataFrame(0, index=pd.Index(corpus.TOPICS, name="topic"), columns=columns)
for record in records:
    for kind in record.types or {"none"}:
        grid.loc[record.topic, kind] += 1
figure, axis = plt.subplots(figsize=(figures.WIDTH, 5))
kinds = [names.get(kind, kind) for kind in columns]
shades = figures.shades(grid.to_numpy().max()) | {"annot": True, "fmt": "d"}
seaborn.heatmap(grid, xticklabels=kinds, ax=axis, **shades)
axis.set(xlabel="", ylabel="")
plt.setp(axis.get_xticklabels(), rotation=50, ha="right")
cells = grid[list(corpus.TYPES)].to_numpy()
page.number("empty_cells", int((cells == 0).sum()), what="topics without a distortion", n=cells.size)
told = f"Of {cells.size} cells of a distortion {(cells == 0).sum()} are empty; at most {cells.max()} posts in one"
figures.headline(figure, told)
figures.show(
    figure,
    page,
    "topics",
    data=grid,
    alt=f"Grid of nine topics by eleven distortions and none; a distortion stands in {cells.min()} to {cells.max()} "
    "posts of a topic.",
    caption="Posts by topic and distortion. A post with two distortions counts in two columns.",
)

# %% [markdown]
# It is not even. Blame gathers in the family and mind reading among friends: that is how the posts were written, and
# says nothing about people. {glue:text}`empty_cells` of the cells are empty: a detector may learn some of the topic
# along with the thought, and a test on other posts is the only way to know.
#
# By split, the rarest type decides what can be reported: with six positives a score says little, with two it says
# nothing.

# %%
counts = pd.DataFrame(
    {split: Counter(kind for x in splits[split] for kind in x.types or {"none"}) for split in ("train", "dev", "test")},
    index=columns,
)
figure, axis = plt.subplots(figsize=(figures.WIDTH, 4.8))
left = np.zeros(len(columns))
for split in counts:
    axis.barh([names.get(kind, kind) for kind in columns], counts[split], left=left, label=split)
    left += counts[split].to_numpy()
axis.set(xlabel="posts", ylim=(len(columns) - 0.4, -0.6))
axis.legend(frameon=False, loc="upper right")
types = counts.loc[list(corpus.TYPES)]
figures.headline(figure, f"{types.sum(axis=1).min()} posts or more of each type, {types['test'].min()} or more in test")
page.number("rarest", int(types.sum(axis=1).min()), what="positives of the rarest type, all splits", n=len(records))
page.number("rarest_test", int(types["test"].min()), what="positives of the rarest type in test", n=len(splits["test"]))
page.number("without", counts.loc["none"].sum() / len(records), what="share without a distortion", n=len(records))
figures.show(
    figure,
    page,
    "labels",
    data=counts,
    alt=f"Bars of posts by distortion and split; each type has {types.sum(axis=1).min()} to {types.sum(axis=1).max()} "
    f"posts, at least {types['test'].min()} in test, and {counts.loc['none'].sum()} posts have none.",
    caption=f"Posts by distortion and split. {counts.loc['none'].sum() / len(records):.0%} of the posts hold none.",
)

# %% [markdown]
# ## Do the labels hold?
#
# A second pass labelled the posts of the dev and test splits from the guide alone, without the first labels.
# Agreement on the *type* of a post is one question, and kappa answers it: agreement beyond chance, at most 1. Which
# *words* carry it is another, and Jaccard's share answers that: the characters that both passes marked, of all that
# either did. There the two passes part.

# %%
second = second_pass.read(ROOT / "data/second_labels.jsonl", records)
kappa = second_pass.compare(records, second, resamples).loc[list(corpus.TYPES)]
spans = second_pass.spans(records, second)
jaccard = spans.reset_index().groupby("type")["jaccard"]
lowest, mean = kappa["kappa"].min(), spans["jaccard"].mean()
page.number("kappa_lowest", lowest, what="lowest kappa of a type, two passes", n=len(second))
page.number("span_jaccard", mean, what="mean Jaccard of spans both passes marked", n=len(spans))
page.number("spans_equal", (spans["jaccard"] == 1).mean(), what="share of those spans that are equal", n=len(spans))

# %% [markdown]
# Each dot on the right is the shared part of the words for one type in one post that both passes saw; the bar is the
# mean.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(figures.WIDTH, 4.6), sharey=True)
around = [kappa["kappa"] - kappa["kappa_low"], kappa["kappa_high"] - kappa["kappa"]]
left.errorbar(kappa["kappa"], range(len(kappa)), xerr=around, fmt="o", capsize=3)
left.set(xlabel="kappa, 95% interval", xlim=(0, 1.03))
left.set_yticks(range(len(kappa)), [names[kind] for kind in kappa.index])
for place, kind in enumerate(kappa.index):
    values = jaccard.get_group(kind)
    right.plot(values, [place] * len(values), "o", color=figures.COLORS[0], alpha=0.25)
    right.plot(values.mean(), place, "|", color=figures.COLORS[5], markersize=16, markeredgewidth=2.5)
right.set(xlabel="shared characters", xlim=(-0.03, 1.03))
left.invert_yaxis()
figures.headline(figure, f"Types: kappa {lowest:.2f} or more. Words: {mean:.0%} of the characters shared")
figures.show(
    figure,
    page,
    "agreement",
    data=kappa.join(jaccard.mean()),
    alt=f"Left: kappa of each type, none below {lowest:.2f}. Right: overlap of the marked words, from "
    f"{spans['jaccard'].min():.2f} to 1, {mean:.2f} on average.",
    caption=f"Two passes over {len(second)} posts. Types: kappa {lowest:.2f} or more; words: {mean:.0%} shared.",
)

# %% [markdown]
# An interval of no width is not certainty: the resampling never met a disagreement, because there was none to meet.
# And both passes are language models reading posts whose brief asked for clear cases. Do not expect it of two
# clinicians and real posts. Take these numbers as the most that could be hoped for, never as the agreement of people.
#
# ## What the gates stop
#
# Public sets of this kind have had defects that became numbers: an evaluation set inside the training set, an error
# message stored as an answer. `cbt corpus check` has a gate for each kind. First the corpus as it is.

# %%
clean = gates.check(corpus.own_files())
page.number("findings", len(clean.findings), what="findings of the gates on the book's corpus", n=clean.lines)
pd.DataFrame([clean.counts], index=["findings"])

# %% [markdown]
# A check that finds nothing proves little until it has been seen to find something. So a copy is damaged in six ways,
# each a kind of defect met in public sets, and checked again.

# %%
train, test = splits["train"][:40], splits["test"][:5]


def spoilt(record, **parts):
    return replace(record, answer={**record.answer, **parts})


damage = {
    "a test post stands in train": replace(test[0], id="x-1", split="train"),
    "a post of train, a little changed": replace(train[9], id="x-2", description=train[9].description[4:] + "。"),
    "an error stored as an answer": replace(train[2], answer=dict.fromkeys(corpus.PARTS, "Error code: 429")),
    "a refusal kept as a letter": spoilt(train[3], validation="作为一个AI，我无法回答。"),
    "a letter that breaks off": spoilt(train[4], encouragement="慢慢来，先从一件小"),
    "a number to call the writer": replace(train[5], description=train[5].description + "手机13800001234"),
}
damaged = page.dir / "damaged.jsonl"
corpus.dump([*damage.values(), *train[6:], *test], damaged)
found = gates.check([damaged], support=0)
line = dict(enumerate(damage, 1))
rows = [(int(finding.where.rpartition(":")[2]), finding.gate, finding.other) for finding in found.findings]

# %% [markdown]
# Each defect is found at its line; a copy is reported where its second occurrence stands.

# %%
caught = pd.DataFrame(
    [(number, gate, int(other.rpartition(":")[2]) if other else None) for number, gate, other in rows],
    columns=["line", "gate", "other line"],
).astype({"other line": "Int64"})
caught["defect"] = [line.get(n) or line.get(o, "") for n, o in zip(caught["line"], caught["other line"], strict=True)]
missed = set(damage) - set(caught["defect"])
page.number("caught", len(damage) - len(missed), what="of six defects put in on purpose, found", n=len(damage))
caught.drop_duplicates().set_index("defect").sort_index()

# %% [markdown]
# The numbers of the page go to its folder.

# %%
page.save()

# %% [markdown]
# ## Summary
#
# - {glue:text}`records` posts with letters ({glue:text}`train` to learn from, {glue:text}`dev` to tune on,
#   {glue:text}`test` to be judged on), {glue:text}`without:.0%` of them without a distortion, and every type at least
#   {glue:text}`rarest` times, {glue:text}`rarest_test` in test; {glue:text}`risk` posts with a risk signal and
#   {glue:text}`lookalikes` that only look so, kept apart.
# - A median post has {glue:text}`post_median` characters ({glue:text}`post_median_psyqa` in the PsyQA sample), a median
#   answer {glue:text}`answer_median` ({glue:text}`answer_median_psyqa`).
# - Two passes agree on types (lowest kappa {glue:text}`kappa_lowest:.2f`) and much less on words
#   ({glue:text}`span_jaccard:.2f` of the characters shared). Both are machines.
# - The gates have {glue:text}`findings` findings on the corpus, and found {glue:text}`caught` of the six defects put in
#   on purpose. That is no proof that there are no others.
#
# ## Next
#
# The [data card](../data.md) lists every figure, the known biases and the licence. [Prompt
# design](01_prompt_design.ipynb) starts to use the posts.
