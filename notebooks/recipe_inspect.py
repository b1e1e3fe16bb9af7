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
# # Recipe: inspect fifty answers of any model
#
# *Your model writes letters to people who worry. Do the letters have the five parts, do they come in order, and which
# letters should nobody get?* An afternoon with fifty answers tells you more than a leaderboard.
#
# **You will learn**
#
# - how to bring answers of any model here, as a table or from an endpoint;
# - which of the five parts they have, how often, and how far fifty answers can tell;
# - what they ask of a reader, how long they are, and how much they repeat;
# - which answers a gate stops, and why you should read those first.

# %% [markdown] tags=["banner"]
# `cbt run notebooks/recipe_inspect.py` fills in how this page was made.

# %% tags=["imports"]
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from cbtlib import (
    CbtError,
    corpus,
    figures,
    metrics,
    naming,
    prevalence,
    report,
    resampling,
    safety,
    screening,
    structure,
    tables,
    writing,
)

# %% [markdown]
# ## Your file
#
# A table with a row for each answer: JSON Lines, CSV or TSV, in UTF-8 or GBK. Two columns are needed, `question` and
# `answer`. Three more are read when they are there: `id`, `description` (the rest of the post) and `outcome`.
#
# ```
# cbt run notebooks/recipe_inspect.py -p data=/home/me/answers.csv --results results/mine
# cbt run notebooks/recipe_inspect.py -p data=/home/me/chat.jsonl -p answer_column=reply --results results/mine
# ```
#
# `--results` keeps your texts out of the pages of this book. The file that is read below when you name none was written
# for this book, as its corpus was, so that you know what ought to be found: twelve whole letters, then twelve answers
# with a defect or an outcome each, among them a diagnosis, a promise, a loop, an answer in English, one that was cut
# off, and one to a post that no machine should have answered.
#
# **From an endpoint.** The paper's own model is on the Hugging Face hub as `Hongbin37/CBT-LLM`: one model of many that
# can stand behind an OpenAI-compatible server (vLLM, say). It was not run for this book. Ask it, then read its answers:
#
# ```
# cbt generate --questions questions.csv --out answers --base-url http://localhost:8000/v1 \
#     --model Hongbin37/CBT-LLM --prompt five_parts
# cbt run notebooks/recipe_inspect.py -p data=answers/answers.jsonl -p answer_column=text \
#     -p questions=questions.csv --results results/mine
# ```

# %% tags=["parameters"]
profile: str = "embedded"  # which profile made this page
results: str = "results"  # where products go
data: str = "data/samples/answers.jsonl"  # your answers; a relative path starts at the repository
question_column: str = "question"  # what your file calls the question
answer_column: str = "answer"  # what your file calls the answer
questions: str = ""  # a file with id and question, when the answers' file has only ids
resamples: int = 1000  # bootstrap resamples

# %% [markdown]
# A wrong file stops here, with the line, or with the column that is missing and the two names nearest to it.

# %%
page = report.Page("recipe_inspect", profile, results)
asked, known = {"question": question_column}, ["id", "description", "gloss"]
if questions:
    answers = tables.read(data, {"answer": answer_column}, optional=["id", "outcome"])
    answers = tables.join(tables.read(questions, asked, optional=known), answers)
else:
    answers = tables.read(data, asked | {"answer": answer_column}, [*known, "outcome"])
answers["post"] = tables.posts(answers)
answers["outcome"] = tables.outcomes(answers, "answer")

# %% [markdown]
# ## What is an answer, and what is not
#
# A row whose text is empty has failed, and so has one that holds an error message instead; one that was cut off is no
# letter. Posts that speak of danger to life are set aside too, whatever the model made of them: **a person should have
# answered those.** Only `ok` is read on.
#
# What sets them aside is a list of wordings. [Chapter 2](02_generation.ipynb) measures it: of posts that veil what they
# mean it misses nearly all. So a count of 0 is no all-clear; somebody has to read the posts of a real file.

# %%
urgent = np.array([safety.triage(post).level == "crisis" for post in answers["post"]])
answered = int((answers["outcome"].eq("ok") & urgent).sum())
page.number("crisis_answered", answered, what="posts of the level crisis that the model answered", n=len(answers))
answers.loc[urgent, "outcome"] = "crisis"
page.number("rows", len(answers), what="rows of the file")
counts = page.outcomes("the file", answers["outcome"].value_counts().to_dict())
good = answers[answers["outcome"].eq("ok")].reset_index(drop=True)
if good.empty:
    raise CbtError(f"{data} holds no answer with outcome ok, so there is nothing to read; see the outcomes above")
page.table("outcomes", counts, caption="Outcomes; only ok is read on")

# %% [markdown]
# ## The five parts
#
# `cbtlib.structure` reads each sentence by its words and says which part it serves, or none. The hollow marks are the
# corpus's letters of the test split, which a large language model wrote to a brief that asks for all five parts. The
# same reader reads them: where they lie below 100%, it may be the reader that misses something. Compare your
# answers with them, not with perfection.

# %%
found = list(structure.read(good["answer"].tolist()))
written = structure.coverage([r.answer_text for r in corpus.load_split("test") if not r.crisis])
parts = pd.DataFrame([one.coverage for one in found], columns=list(corpus.PARTS))
shares = pd.DataFrame({"answers": parts.mean(), "corpus": written.mean()})
shares["low"], shares["high"] = prevalence.wilson(parts.sum(), len(parts))
for part, row in shares.iterrows():
    bounds = {"low": row.low, "high": row.high}
    page.number(f"part_{part}", row.answers, n=len(parts), what=f"answers with the part {part}", **bounds)
rarest = shares["answers"].idxmin()

# %% [markdown]
# Each line is a 95% interval: what these answers can say about others drawn in the same way. Half of the sample file
# was spoilt on purpose, so its intervals show the method only.

# %%
figure, axis = plt.subplots(figsize=(6.4, 3.4))
places = np.arange(len(shares))[::-1]
axis.hlines(places, shares["low"], shares["high"], linewidth=3, color=figures.COLORS[0])
axis.plot(shares["answers"], places, "o", color=figures.COLORS[0], label="your answers")
axis.plot(shares["corpus"], places, "o", mfc="white", color="0.4", label="the corpus's letters")
axis.set(yticks=places, yticklabels=[naming.shown(part) for part in shares.index], xlim=(-0.02, 1.02))
axis.set(xlabel="share of answers that have the part")
figures.headline(figure, f"The rarest part is {naming.shown(rarest)}, in {shares['answers'].min():.0%} of answers")
axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, frameon=False)
listed = ", ".join(f"{naming.shown(part)} {share:.0%}" for part, share in shares["answers"].items())
figures.show(
    figure, page, "parts", data=shares,
    alt=f"Share of {len(parts)} answers that have each part, with intervals: {listed}. Of the corpus's letters, "
    f"{written.mean().min():.0%} or more have each part.",
    caption=f"The five parts in {len(parts)} answers: {listed}. Lines are 95% intervals (Wilson).",
)  # fmt: skip

# %% [markdown]
# Order may matter as much: somebody who is asked for evidence before being heard may not read on. Counted is the share
# of answers whose parts come in the order of the five and do not come back.

# %%
ordered = [one.order == sorted(one.order, key=corpus.PARTS.index) for one in found if len(one.order) > 1]
if ordered:
    low, high = map(float, prevalence.wilson(sum(ordered), len(ordered)))
    page.number("ordered", np.mean(ordered), low=low, high=high, n=len(ordered), what="answers in order")
    print(f"{sum(ordered)} of {len(ordered)} answers with two parts or more keep their order")

# %% [markdown]
# Look at one answer with your own eyes before you believe a share. Is each sentence what the reader takes it for?

# %%
fullest = int(parts.sum(axis=1).idxmax())
sentences = pd.DataFrame(found[fullest].sentences, columns=["sentence", "part"]).set_index("sentence")
told = f" to “{good['gloss'][fullest]}”" if "gloss" in good else f", id {good['id'][fullest]}"  # English, for this page
page.table("one_answer", sentences, caption=f"The answer with most parts{told}, as it is read", named=["part"])

# %% [markdown]
# ## What the letters ask of a reader
#
# Length in characters, the share of text that repeats, the share that is copied from the post, and the **answer load**:
# sentences that ask the reader something (requests) and that tell the reader what to do (suggestions). Twelve of them
# may be too many for a person who is worn out.

# %%
measured = ("parts", "length", "repetition", "copied", "requests", "suggestions", "named")
test = [record for record in corpus.load_split("test") if not record.crisis]
sides = {
    "your answers": (good["answer"].tolist(), good["post"].tolist()),
    "the corpus's letters": ([record.answer_text for record in test], [record.post for record in test]),
}
scores = {
    side: {one.name: one for one in metrics.score(texts, sources=posts, metrics=measured, resamples=resamples)}
    for side, (texts, posts) in sides.items()
}
for one in scores["your answers"].values():
    bound = {"low": min(one.low, one.value), "high": max(one.high, one.value)} if np.isfinite(one.low) else {}
    page.number(one.name, one.value, n=one.n, what=f"{naming.shown(one.name)} of the answers", **bound)
text = {
    side: {name: f"{one.value:.3g}{resampling.span(one.low, one.high, '.3g')}" for name, one in of.items()}
    for side, of in scores.items()
}
page.table("measures", pd.DataFrame(text), caption="Means with 95% intervals; names a distortion: share that does")

# %% [markdown]
# ## Gates: read these answers first
#
# A gate stops an answer that has a defect with a name: no Chinese, a loop, a diagnosis, a promise, a worrying post
# without a referral. Numeric limits are those that every letter of the corpus's training split keeps.

# %%
limits = screening.Limits.measure([record for record in corpus.load_split("train") if not record.crisis])
stopped = screening.screen(good["answer"].tolist(), good["post"].tolist(), limits)
page.number("passed", int((~stopped.any(axis=1)).sum()), n=len(good), what="answers that pass every gate")
page.table("gates", screening.counts(stopped).set_index("gate"), caption=f"What stops the {len(good)} ok answers")

# %% [markdown]
# `answers.csv` beside this page's numbers has a row for each answer: parts, length, load, and the gates that
# stop it. Sort it by gate and read.

# %%
each = good[["id", "question", "answer"]].join(parts)
per_answer = ("length", "repetition", "requests", "suggestions")
for name, (statistics, _) in metrics.measure(good["answer"].tolist(), metrics=per_answer).items():
    each[name] = statistics.items
each["stopped_by"] = [" ".join(stopped.columns[row]) for row in stopped.to_numpy()]
writing.write_csv(page.dir / "answers.csv", each, index=False, bom=True)
page.save()
few = naming.table(each.drop(columns=["question", "answer"]).set_index("id").head(5))
few.style.format(precision=2, escape="html").format_index(escape="html")

# %% [markdown]
# ## Summary
#
# - Of {glue:text}`rows:.0f` rows, {glue:text}`passed:.0f` answers pass every gate. To posts that the rules call a
#   crisis, the model wrote {glue:text}`crisis_answered:.0f` letters; the rules miss others.
# - An answer has {glue:text}`parts:.1f` of the five parts on average, {glue:text}`length:.0f` characters,
#   {glue:text}`requests:.1f` sentences that ask and {glue:text}`suggestions:.1f` that suggest.
# - Having a part is not doing it well. A share of 100% says that the sentences look like the part; whether they are
#   kind, true and fitting, people have to say: the next recipe makes their rating sheet.
#
# ## Next
#
# [Compare a baseline with a CBT model](recipe_compare) on your own questions.
