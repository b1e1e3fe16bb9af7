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
# # Recipe: compare a baseline with a CBT model
#
# *You have two models and your own questions. Which one writes more like a CBT letter, by how much, and would other
# questions have said the same?* And since counting sentences is not judging them: a rating sheet that hides who wrote
# what.
#
# **You will learn**
#
# - why both models must answer the same questions, and what happens to the questions that one of them missed;
# - how to read a paired difference and its interval;
# - what a tie means, and what it does not;
# - how to put both in front of raters without telling them which is which.

# %% [markdown] tags=["banner"]
# `cbt run notebooks/recipe_compare.py` fills in how this page was made.

# %% tags=["imports"]
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from cbtlib import CbtError, corpus, figures, forms, metrics, naming, report, resampling, safety, structure, tables

# %% [markdown]
# ## Your files
#
# Either one table with a question and both answers in a row, or a file of questions and two files of answers that meet
# by `id`, as `cbt generate` writes them:
#
# ```
# cbt run notebooks/recipe_compare.py -p data=/home/me/both.csv --results results/mine
#
# cbt generate --questions questions.csv --out base --model BASE --prompt plain
# cbt generate --questions questions.csv --out tuned --model TUNED --prompt plain
# cbt run notebooks/recipe_compare.py -p data=questions.csv -p baseline_file=base/answers.jsonl \
#     -p cbt_file=tuned/answers.jsonl -p answer_column=text --results results/mine
# ```
#
# Give both models the same prompt, or you compare prompts. The file that is read when you name none was written for
# this book: a dozen posts, each with a list of tips in the place of the baseline and a letter in the place of the CBT
# model. The two differ as much as two answers can, so look here at how a difference is shown, not at how large it is.

# %% tags=["parameters"]
profile: str = "embedded"  # which profile made this page
results: str = "results"  # where products go
data: str = "data/samples/two_systems.jsonl"  # questions and both answers; or questions alone
question_column: str = "question"  # what your file calls the question
baseline_column: str = "baseline"  # what it calls the answers of the baseline
cbt_column: str = "cbt"  # what it calls the answers of the CBT model
baseline_file: str = ""  # answers of the baseline, when they have a file of their own
cbt_file: str = ""  # answers of the CBT model, when they have a file of their own
answer_column: str = "answer"  # what those two files call the answer
raters: int = 2  # forms to make
sheet_posts: int = 10  # posts on the rating sheet
resamples: int = 1000  # bootstrap resamples and randomisation trials
seed: int = 0  # of resampling and of the order on the sheet

# %% [markdown]
# ## Only what both answered
#
# Leaving out the questions that one model failed makes that model look stronger; scoring its failures as 0 makes the
# other one look stronger. The comparison below is over the questions that both answered, so the first remains. That is
# why the failures are counted here: where a model failed often, the count is its result, and the comparison says
# little.

# %%
page = report.Page("recipe_compare", profile, results)
systems = {"baseline": (baseline_column, baseline_file), "cbt": (cbt_column, cbt_file)}
inside = {name: column for name, (column, file) in systems.items() if not file}
marks = [f"{name}_outcome" for name in inside]
table = tables.read(data, {"question": question_column, **inside}, ["id", "description", "gloss", *marks])
for name, (_, file) in systems.items():
    if file:
        answers = tables.read(file, {"answer": answer_column}, optional=["id", "outcome"])
        answers = answers.rename(columns={"answer": name, "outcome": f"{name}_outcome"})
        table = tables.join(table, answers)
table["post"] = tables.posts(table)

# %% [markdown]
# Posts that speak of danger to life are set aside for both: no model should answer them, and no rater needs to read
# them. A list of wordings finds them, and misses most of those that veil what they mean ([chapter
# 2](02_generation.ipynb)): tell your raters that one may come, and whom to call.

# %%
urgent = np.array([safety.triage(post).level == "crisis" for post in table["post"]])
answers = {}
for name in systems:
    outcome = np.where(urgent, "crisis", tables.outcomes(table, name, f"{name}_outcome"))
    answers[name] = dict(zip(table["id"], zip(outcome, table[name].fillna(""), strict=True), strict=True))
shared, counted = metrics.outcomes(answers)
page.number("questions", len(table), what="questions of the file")
page.number("shared", len(shared), what="questions that both models answered")
counts = pd.concat([page.outcomes(name, counted[name]) for name in systems])
if len(shared) < 2:
    raise CbtError(f"both models answered {len(shared)} of {len(table)} questions; a comparison needs two or more")
page.table("outcomes", counts, caption=f"Outcomes; both models answered {len(shared)} of {len(table)} questions")

# %% [markdown]
# ## The five parts
#
# For each question and part, a model has the part or not. The difference is taken *within* the question, then
# averaged: a hard question is hard for both. The interval says how far the difference would move with other questions
# of the same kind. Where it holds zero, these questions cannot tell the models apart; it does not say that they are
# equal.

# %%
texts = {name: [answers[name][item][1] for item in shared] for name in systems}
covered = {name: structure.coverage(texts[name]) for name in systems}
forest = pd.DataFrame(index=list(corpus.PARTS), columns=["difference", "low", "high", "p"], dtype=float)
for part in corpus.PARTS:
    one, two = (resampling.Statistics.share_of(covered[name][part]) for name in ("cbt", "baseline"))
    p = resampling.randomisation(one, two, resamples, seed)
    forest.loc[part] = one.value - two.value, *resampling.share_difference(one, two), p
forest["p_holm"] = resampling.holm(forest["p"])
for part, row in forest.iterrows():
    what = f"share with {part}, cbt minus baseline"
    page.number(f"part_{part}", row.difference, low=row.low, high=row.high, n=len(shared), what=what)
clear = forest["p_holm"] < 0.05

# %% [markdown]
# To the right of zero the CBT model has the part more often. With this few questions an interval may just leave out
# zero; and five are looked at. So the parts in the title are counted by p values, of swapping the two models' answers
# and corrected for five looks (Holm). A filled dot survives that, a ring does not.

# %%
figure, axis = plt.subplots(figsize=(6.4, 3.2))
places = np.arange(len(forest))[::-1]
axis.axvline(0, color="0.3", linewidth=1)
axis.hlines(places, forest["low"], forest["high"], linewidth=3)
axis.plot(forest["difference"], places, "o", markerfacecolor="white")
axis.plot(forest["difference"][clear], places[clear], "o", color=figures.COLORS[0])
axis.set(yticks=places, yticklabels=[naming.shown(part) for part in forest.index], xlim=(-1.05, 1.05))
axis.set(xlabel="share with the part: CBT model minus baseline")
axis.set_title(f"{clear.sum()} of {len(forest)} parts differ, p (Holm) < 0.05")
listed = ", ".join(f"{naming.shown(part)} {value:+.0%}" for part, value in forest["difference"].items())
figures.show(
    figure, page, "parts", data=forest,
    alt=f"Paired differences of {len(forest)} parts over {len(shared)} questions, with intervals: {listed}.",
    caption=f"CBT model minus baseline on the {len(shared)} questions both answered: {listed}. Lines: 95% intervals. "
    "Filled: p (Holm) < 0.05.",
)  # fmt: skip

# %% [markdown]
# ## The other measures
#
# The same for the number of parts, length, repetition, what is copied from the post, and what the letter asks of its
# reader: requests and suggestions. The p value asks how often a difference like this would arise if it did not matter
# which model wrote which answer. Holm's correction is for the number of rows, since who looks at enough measures finds
# something.

# %%
measured = ("parts", "length", "repetition", "copied", "requests", "suggestions", "named")
posts = table.set_index("id").loc[shared, "post"].tolist()
found = metrics.compare(texts, base="baseline", metrics=measured, sources=posts, resamples=resamples, seed=seed)
rows = pd.DataFrame([{k: getattr(one, k) for k in ("name", "value", "low", "high", "p", "p_holm")} for one in found])
for row in rows.itertuples(index=False):
    bound = {"low": min(row.low, row.value), "high": max(row.high, row.value)} if np.isfinite(row.low) else {}
    what = f"{naming.shown(row.name)}, cbt minus baseline"
    page.number(f"{row.name}_difference", row.value, n=len(shared), what=what, **bound)
for name in systems:
    page.number(f"parts_{name}", covered[name].sum(axis=1).mean(), n=len(shared), what=f"mean parts, {name}")
page.table("differences", rows.set_index("name"), caption="CBT model minus baseline, paired by question")

# %% [markdown]
# Read a pair before you believe a table. This is the question on which the two differ most in parts; of each answer the
# first 400 characters. The English line is the question's.

# %%
gap = (covered["cbt"].sum(axis=1) - covered["baseline"].sum(axis=1)).abs()
widest = int(gap.idxmax())
gloss = table["gloss"][table["id"].eq(shared[widest])].item() if "gloss" in table else ""
gloss = f"The question: {gloss}" if gloss else ""  # English, for this page
for name in systems:
    display(figures.chinese(texts[name][widest][:400], gloss, title=f"{name}: {posts[widest].splitlines()[0]}"))

# %% [markdown]
# ## A rating sheet
#
# What a count cannot say, people can: relevance, structure and helpfulness, 0 to 2, with anchors. Each rater gets an
# offline page with codes in place of names and an own order; `key.json` says which code is which model. Send the
# pages, keep the key, then `cbt ratings analyse`.

# %%
chosen = np.random.default_rng(seed).permutation(len(shared))[:sheet_posts]
items = [shared[place] for place in sorted(chosen)]
sheet = {name: {item: answers[name][item] for item in items} for name in systems}
names = [f"rater-{number}" for number in range(1, raters + 1)]
key = forms.make(dict(zip(shared, posts, strict=True)), sheet, names, page.dir / "forms", seed)
page.number("to_rate", len(key["codes"]), what="replies on each rating form")
page.save()
pd.Series(sorted(path.name for path in (page.dir / "forms").iterdir()), name="file").to_frame()

# %% [markdown]
# ```
# cbt ratings analyse back_rater-1.json back_rater-2.json --key results/mine/embedded/recipe_compare/forms/key.json
# ```
#
# ## Summary
#
# - Both models answered {glue:text}`shared:.0f` of {glue:text}`questions:.0f` questions, and are compared on those.
# - The CBT model has {glue:text}`parts_difference:+.2f` parts more than the baseline
#   ({glue:text}`parts_difference_low:+.2f` to {glue:text}`parts_difference_high:+.2f`), and its letters differ from the
#   baseline's by {glue:text}`length_difference:+.0f` characters.
# - More parts is not more help. {glue:text}`to_rate:.0f` replies, to questions
#   drawn at random, wait on each rating form for somebody who can tell.
#
# ## Next
#
# [Tune a model on your own pairs](recipe_tune), or read [how ratings are analysed](06_human_evaluation).
