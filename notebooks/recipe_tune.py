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
# # Recipe: tune on a thousand pairs of your own
#
# *You have a thousand questions with the answers you would have given. Can a model learn to answer in your form and
# your tone, and how would you see it?* LoRA learns form quickly. This recipe shows what changed, and what did not.
#
# **You will learn**
#
# - what a pair must look like, and what is left out before training;
# - how many steps a thousand pairs take, and how to see it before you wait;
# - how to measure a change of form and of tone on questions that were held out;
# - why sounding like you is not thinking like you.

# %% [markdown] tags=["banner"]
# `cbt run notebooks/recipe_tune.py` fills in how this page was made.

# %% tags=["imports"]
import shutil
from collections import Counter
from dataclasses import replace
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy import stats

from cbtlib import (
    CbtError,
    figures,
    metrics,
    models,
    prevalence,
    report,
    runs,
    safety,
    sampling,
    tables,
    templates,
    training,
)

# %% [markdown]
# ## Your pairs
#
# A table with the columns `question` and `answer`, a row for each pair: JSON Lines, CSV or TSV, in UTF-8 or GBK.
#
# ```
# cbt run notebooks/recipe_tune.py -p data=/home/me/pairs.csv -p max_steps=0 --results results/mine
# cbt run notebooks/recipe_tune.py -p data=/home/me/pairs.csv -p max_steps=0 -p model=Qwen/Qwen2.5-0.5B --profile gpu
# ```
#
# `max_steps=0` trains for the epochs below; a killed run goes on where it was. The page you read was made from the
# book's sample, a few dozen invented pairs that all have one easy form: three short lines that open with 我听到 (I
# hear), 换个角度 (another angle) and 今天试试 (try today). Its run is far too short for anything but a form this plain.
#
# **Whose pairs?** Letters of real people need their consent and a legal ground, also when names are gone. A tuned
# model can repeat what it has read.

# %% tags=["parameters"]
profile: str = "embedded"  # which profile made this page
results: str = "results"  # where products go
data: str = "data/samples/pairs.csv"  # your pairs; a relative path starts at the repository
question_column: str = "question"  # what your file calls the question
answer_column: str = "answer"  # what your file calls the answer
model: str = ""  # embedded, smoke, a folder or a hub id; empty: the profile's own
max_steps: int = 12  # optimizer steps; 0: all epochs
epochs: float = 2.0  # passes over your pairs when max_steps is 0
held_out: int = 6  # pairs that are not trained on, to look at before and after
max_new_tokens: int = 120  # limit of one answer; twice your longest answer is plenty
seed: int = 0  # of the draw and of sampling

# %% [markdown]
# ## What is trained on
#
# Three things are left out, and counted: pairs without an answer, posts that speak of danger to life (a letter is no
# answer to those), and held-out pairs that nearly repeat a training pair, because they would test memory. The posts of
# danger are found by a list of wordings, which misses most of those that veil what they mean ([chapter
# 2](02_generation.ipynb)): read your posts before a model learns from them.

# %%
page = report.Page("recipe_tune", profile, results)
given = tables.read(data, {"question": question_column, "answer": answer_column}, ["id", "outcome", "gloss"])
outcome = pd.Series(tables.outcomes(given, "answer"), index=given.index)
outcome[given["question"].map(lambda post: safety.triage(post).level == "crisis")] = "crisis"
counts = page.outcomes("your pairs", outcome.value_counts().to_dict())


class Pair(NamedTuple):
    """What training wants of a record."""

    id: str
    post: str
    answer_text: str


pairs = [Pair(*row) for row in given.loc[outcome.eq("ok"), ["id", "question", "answer"]].to_numpy()]
if len(pairs) < held_out + 2:
    raise CbtError(f"{data} holds {len(pairs)} usable pairs: it takes {held_out} to hold out and some to train on")
page.table("outcomes", counts, caption=f"Pairs; {len(pairs)} are used")

# %% [markdown]
# The held-out pairs are drawn by chance, and looked up among the rest.

# %%
order = np.random.default_rng(seed).permutation(len(pairs))
held, rows = [pairs[i] for i in order[:held_out]], [pairs[i] for i in order[held_out:]]
texts = [[text for pair in side for text in (pair.post, pair.answer_text)] for side in (rows, held)]
leaks = {leak.test // 2 for leak in metrics.leaks(*texts)}
held = [pair for number, pair in enumerate(held) if number not in leaks]
if not held:
    raise CbtError(f"{data}: every held-out pair repeats one that is trained on, or nearly; take out what stands twice")
page.number("train_pairs", len(rows), what="pairs trained on")
page.number("held_out", len(held), what="pairs held out")
page.number("leaks", len(leaks), what="held-out pairs dropped, since they nearly repeat a training pair")
gloss = dict(zip(given["id"], given["gloss"], strict=True)) if "gloss" in given else {}  # English, for this page
asked = {name: f"The question: {meaning}" for name, meaning in gloss.items() if meaning}
figures.chinese(rows[0].answer_text, asked.get(rows[0].id, ""), title=rows[0].post)

# %% [markdown]
# ## Before
#
# The base model answers the held-out questions. It was pretrained to continue text and has seen no pair of yours. Nor
# was it taught when to stop, so its answer ends at the first empty line. The answer is unedited output; where a gloss
# stands under it, it is that of the question.

# %%
config = training.PROFILES[profile]
config = replace(config, model=model or config.model, max_steps=max_steps, epochs=epochs, evaluate_every=max_steps // 2)
base, tokenizer = models.load(config.model)
base = base.to(models.device())
template = templates.adopt(config.template, tokenizer)
prompts = [templates.render(pair.post, template, f"record {pair.id}") for pair in held]
how = {"max_new_tokens": max_new_tokens, "seed": seed}
stop = templates.stop_ids(template, tokenizer)
before = sampling.sample(base, tokenizer, prompts, **how, stop=[*stop, *templates.ids_with("\n\n", tokenizer)])
del base
figures.chinese(
    before[0].text, asked.get(held[0].id, ""), title=held[0].post + (" (cut off)" if before[0].truncated else "")
)

# %% [markdown]
# ## Training
#
# The same call as in the chapter on training; loss on your answers only. To see the minutes of a real run first:
# `cbt train --plan --data YOUR_FILE` prints them for this machine. A step reads four pairs, so a thousand pairs and two
# epochs make 500 steps.

# %%
identity = runs.identity(rows, held, config)
run = training.train(rows, held, config, page.dir / "runs" / identity["hash"][:12])
shutil.rmtree(page.dir / "adapter", ignore_errors=True)
shutil.copytree(run.adapter, page.dir / "adapter")
steps = max(entry["step"] for entry in run.history)
page.number("steps", steps, what="optimizer steps")
page.number("dev_loss_before", run.dev_losses[0], n=len(held), what="nats a token of held-out answers, before")
page.number("dev_loss_after", run.dev_losses[-1], n=len(held), what="nats a token of held-out answers, after")
print(f"{steps:.0f} steps in {run.seconds:.0f} s; loss on held-out answers {run.dev_losses[0]:.2f} before, "
      f"{run.dev_losses[-1]:.2f} after")  # fmt: skip

# %% [markdown]
# ## After
#
# The same question, seed and settings, with your adapter.

# %%
tuned, tokenizer = runs.load_adapter(page.dir / "adapter", device=models.device())
after = sampling.sample(tuned.merge_and_unload(), tokenizer, prompts, **how, stop=stop)
figures.chinese(
    after[0].text, asked.get(held[0].id, ""), title=held[0].post + (" (cut off)" if after[0].truncated else "")
)

# %% [markdown]
# ## Form and tone, counted
#
# First the share of texts that ended: those of the base model at the empty line of our rule, those of the tuned model
# at their own end mark, so the two shares are not one measure. A text that was cut off is no answer, and all the rest
# is counted on those that ended. **Form**: lines, characters, and the share of your own habitual openings that a text
# uses (how a line begins in at least half of your answers). **Tone**: sentences that address the reader as 你 or 您,
# that ask, and the exclamation marks. Your own held-out answers show where it should go.

# %%
lines = [[line[:3] for line in pair.answer_text.splitlines() if line.strip()] for pair in rows]
used = Counter(opening for answer in lines for opening in set(answer))
habits = [opening for opening, count in used.items() if count >= len(rows) / 2]


def shape(one: sampling.Sample) -> dict[str, float]:
    """What can be counted about one answer; of a text that is none only that it did not end."""
    if one.outcome != "ok":
        return {"ended": 0.0}
    text = one.text
    whole = [line for line in text.splitlines() if line.strip()]
    said = [part for line in whole for part in line.replace("？", "？。").replace("！", "！。").split("。") if part]
    counted = {"ended": 1.0, "lines": len(whole), "characters": len("".join(text.split()))}
    if habits:
        counted["your openings"] = np.mean([any(line.startswith(h) for line in whole) for h in habits])
    of = max(1, len(said))
    counted["says you"] = sum("你" in part or "您" in part for part in said) / of
    counted["asks"] = sum(part.endswith("？") for part in said) / of
    return counted | {"exclaims": sum(part.endswith("！") for part in said) / of}


texts = {"yours": [sampling.Sample(pair.answer_text, False) for pair in held], "before": before, "after": after}

# %% [markdown]
# Means over the held-out questions; a dash where no text ended. With so few of them, look for large changes: another
# draw of the answers would give other means, and each is kept with an interval, Wilson's for a share
# {cite:p}`wilson1927` and Student's for a count.


# %%
def interval(values: pd.Series) -> dict[str, float]:
    """Of the mean; none for a count that is the same in all answers, or known of one answer only."""
    if values.between(0, 1).all():
        low, high = prevalence.wilson(values.sum(), len(values))
    elif values.nunique() > 1:
        low, high = stats.t.interval(0.95, len(values) - 1, values.mean(), values.sem())
    else:
        return {}
    return {"low": float(low), "high": float(high)}


shapes = {who: pd.DataFrame([shape(one) for one in of]) for who, of in texts.items()}
means = pd.DataFrame({who: table.mean() for who, table in shapes.items()})[["before", "after", "yours"]]
for who, table in shapes.items():
    for measure, values in ((name, column.dropna()) for name, column in table.items()):
        bounds, name = interval(values), f"{measure.replace(' ', '_')}_{who}"
        page.number(name, values.mean(), n=len(values), what=f"{measure}, {who}", **bounds)
page.outcomes("answers before tuning", Counter(one.outcome for one in before))
page.outcomes("answers after tuning", Counter(one.outcome for one in after))
page.table("shape_means", means, caption=f"Means over {len(held)} held-out questions, of the answers that ended")

# %% [markdown]
# The same as a picture: the filled square should stand nearer to the diamond than the circle does.

# %%
both = means.dropna()
nearer = [m for m, row in both.iterrows() if abs(row["after"] - row["yours"]) < abs(row["before"] - row["yours"])]
figure, axes = plt.subplots(len(means), 1, figsize=(5.6, 0.75 * len(means) + 0.8))
look = {"before": ("0.4", "o", 13), "after": (figures.COLORS[0], "s", 8), "yours": (figures.COLORS[5], "D", 6)}
for axis, (measure, row) in zip(axes, means.iterrows(), strict=True):
    for who, (color, mark, size) in look.items():
        fill = "white" if who == "before" else color
        axis.plot(row[who], 0, mark, color=color, label=who, markersize=size, mfc=fill)
    axis.set(yticks=[0], yticklabels=[measure], ylim=(-1, 1), xlim=(-0.05 * row.max() - 0.02, 1.1 * row.max() + 0.05))
figures.headline(figure, f"{len(nearer)} of {len(both)} measures moved towards your answers")
axes[-1].legend(loc="upper center", bbox_to_anchor=(0.4, -0.9), ncols=3, frameon=False)
page.count("nearer", len(nearer), len(both), what="measures that tuning brought nearer to your answers")
figures.show(
    figure, page, "shape", data=means,
    alt=f"{len(means)} measures before and after tuning and in your answers; nearer to yours: {', '.join(nearer)}.",
    caption=f"Means over {len(held)} held-out questions, of the answers that ended. Nearer to yours after tuning, "
    f"among {len(both)} measures known before and after: {', '.join(nearer) or 'none'}.",
)  # fmt: skip

# %% [markdown]
# The adapter is in PEFT's format, with a model card that says what it was trained on. Keep it as private as the pairs.

# %%
page.save()
pd.Series({path.name: path.stat().st_size / 1e6 for path in sorted((page.dir / "adapter").iterdir())}, name="MB")

# %% [markdown]
# ## Summary
#
# - {glue:text}`steps:.0f` steps on {glue:text}`train_pairs:.0f` pairs took the loss on held-out answers from
#   {glue:text}`dev_loss_before:.2f` to {glue:text}`dev_loss_after:.2f` nats a token.
# - Of the measures known before and after, {glue:text}`nearer:.0f` moved towards the answers you would have given.
# - A form is learned long before anything else. A model that opens each line as you do has learned your openings, not
#   your judgement; before anybody reads such a letter, [people have to rate it](recipe_compare).
#
# ## Next
#
# [LoRA training](04_lora_training) explains every step, [limits and safety](../safety.md) what not to do with it.
