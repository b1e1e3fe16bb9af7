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
# # LoRA training: what does tuning change?
#
# *Can a base model that follows no instruction learn, from a pass or less over a few hundred letters, to answer in the
# shape of cognitive behavioural therapy?* The paper {cite:p}`na2024cbtllm` tunes four models of seven billion
# parameters (7B) on answers from its set of 22,327 with LoRA {cite:p}`hu2022lora`, which leaves the model as it is and
# trains a small correction to it. This page runs the same method at a size that two processor cores can carry, and says
# at each step what changes for a 7B run.
#
# **You will learn**
#
# - how a post and its answer become one string, and which of its tokens carry loss;
# - what LoRA trains, and how small that is;
# - how to read a training curve beside a dev curve, and when to distrust it;
# - what a run leaves behind, and how to continue one that was killed;
# - what a 270M model can and cannot learn this way.

# %% [markdown] tags=["banner"]
# *Profile, minutes and memory of this page appear here when it is run.*

# %% tags=["imports"]
import json
import math
import shutil
from collections import Counter
from dataclasses import replace

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import Markdown, display

from cbtlib import (
    ROOT,
    corpus,
    figures,
    models,
    prevalence,
    report,
    runs,
    sampling,
    structure,
    surface,
    templates,
    training,
    widgets,
)

# %% tags=["parameters"]
profile: str = "embedded"  # which profile made this page
results: str = "results"  # where products go
model: str = ""  # a folder or a hub id; "": the profile's own
template: str = ""  # a name in templates.TEMPLATES, "chat" for an instruction model; "": the profile's own
max_steps: int = 32  # optimizer steps of four records; 0: the profile's own
train_records: int = 0  # take only this many training records; 0: all
dev_records: int = 8  # dev records watched during training; 0: all
questions: int = 6  # dev posts answered before, at two checkpoints, and after
max_new_tokens: int = 448  # limit of one answer; most letters of the corpus fit
temperature: float = 0.7  # of sampling

# %% [markdown]
# ## The records
#
# The corpus has a post and an answer in five parts for each record. Only records of the split `train` are learned from;
# the dev records are watched, and the test split stays closed until the chapter on evaluation. `cbtlib.training`
# refuses a training row from another split and a dev post that is also in the training set.

# %%
page = report.Page("04_lora_training", profile, results)
rows = corpus.load_split("train")[: train_records or None]
dev = corpus.load_split("dev")[: dev_records or None]
config = training.PROFILES[profile]
config = replace(config, model=model or config.model, template=template or config.template)
steps = max_steps or config.max_steps or math.ceil(config.epochs * len(rows) / config.batch_size / config.accumulation)
config = replace(config, max_steps=steps, evaluate_every=math.ceil(steps / 3), keep=3)
page.number("train_records", len(rows), what="training records at hand")
page.number("dev_records", len(dev), what="dev records watched")
pd.Series({"training records": len(rows), "dev records": len(dev), "model": config.model})

# %% [markdown]
# ### The template, made visible
#
# A base model continues text, so the exchange has to look like text whose natural continuation is the answer. Our
# template for it is a plain page: 来访者 (client), the post, 认知行为咨询师 (CBT counsellor), a colon. Chat models
# have templates of their own, with tokens reserved for the turns; `cbtlib.templates` has those of the paper's
# backbones.
#
# Below is one training record as the model sees it. Each box is a token. The **green, underlined** ones carry loss:
# the answer and the end mark. The others are read but not learned: predicting what a client writes is not the task, and
# learning it would spend the small model's capacity on it.

# %%
base, tokenizer = models.load(config.model)
base = base.to(models.device())
adopted = templates.adopt(config.template, tokenizer)
encoded = templates.encode(rows, tokenizer, adopted, config.max_length)

example = min(encoded, key=lambda row: len(row["input_ids"]))
pieces = [tokenizer.decode([token]) for token in example["input_ids"]]
widgets.tokens(pieces, example["input_ids"], [label != templates.IGNORED for label in example["labels"]])

# %% [markdown]
# The border between grey and green is exact because prompt and answer are tokenised apart. How much of the data
# is learned from, and how long are the records? A record longer than the limit would be refused, not cut: a cut answer
# would teach the model to stop before the encouragement.

# %%
lengths = pd.DataFrame(
    {
        "tokens": [len(row["input_ids"]) for row in encoded],
        "with loss": [sum(label != templates.IGNORED for label in row["labels"]) for row in encoded],
    }
)
share = page.number("loss_share", lengths["with loss"].sum() / lengths["tokens"].sum(), what="tokens that carry loss")
page.number("tokens_per_record", lengths["tokens"].mean(), n=len(lengths), what="mean tokens of a training record")
page.table("lengths", lengths.describe().loc[["mean", "min", "50%", "max"]].round(0), caption="Tokens a record")

# %% [markdown]
# ## What LoRA trains
#
# A linear layer computes $y = xW^\top$. LoRA freezes $W$ and learns a correction of low rank,
#
# $$y = xW^\top + \tfrac{\alpha}{r}\,(xA^\top)B^\top, \qquad A \in \mathbb{R}^{r \times d_\text{in}},\;
# B \in \mathbb{R}^{d_\text{out} \times r},$$
#
# with $B = 0$ at the start, so that training begins at the base model. Rank, alpha and targets are ours. Of the
# paper's settings this book knows LoRA, the cosine schedule, accumulation over 4 batches and 16-bit precision; the
# others are not known here.

# %%
settings = {
    "the paper's": {"schedule": "cosine", "accumulation": config.accumulation, "method": "LoRA"},
    "ours": {
        "rank": config.rank,
        "alpha": config.alpha,
        "targets": config.targets,
        "learning rate": config.learning_rate,
        "records a step": config.batch_size * config.accumulation,
        "steps": steps,
        "precision": str(base.dtype).removeprefix("torch."),
    },
}
pd.concat({whose: pd.Series(part, dtype=object) for whose, part in settings.items()}).to_frame("value")

# %% [markdown]
# ## Before: the base model
#
# First the answers of the base model, so that there is something to compare with. Each token is drawn from the smallest
# set of likely tokens that holds 90% of the probability (nucleus sampling) {cite:p}`holtzman2020`. Tokens that stand in
# the post or in the text so far are made somewhat less likely (a repetition penalty of 1.1), so loops and copying are
# counted under that remedy. Sampling is seeded. A text that runs into the limit is marked as cut off: it never said
# that it was done. Below stands its beginning, as it came.

# %%
prompts = [templates.render(row.post, adopted, f"record {row.id}") for row in dev[:questions]]
stops = templates.stop_ids(adopted, tokenizer)
how = {"max_new_tokens": max_new_tokens, "temperature": temperature, "stop": stops, "seed": 0}
before = sampling.sample(base, tokenizer, prompts, **how)
del base
beginning = before[0].text[:160] + (" …" if len(before[0].text) > 160 else "")
gloss = "Unedited model output. It has no gloss, because it has no reliable meaning to gloss. The post: "
gloss += dev[0].gloss["question"]
figures.chinese(beginning, gloss, title=dev[0].question + (" (cut off)" if before[0].truncated else ""))

# %% [markdown]
# ## Training
#
# On the embedded profile the reader's minutes decided the length of the run: less than one pass over the corpus. Two
# cores that compute in 16 bits are done with it in minutes, others take several times as long. The learning rate is
# high for the same reason: few steps have to go far. `cbt train --plan` measures three steps and says how long a run
# takes on your machine; `max_steps` is a parameter of this page. `cbt train` itself makes two passes, and
# `results/reference/benchmarks/README.md` says how much better its letters are.
#
# What makes a step fast, each measured by `benchmarks/training.py`: the vocabulary is trimmed to what Chinese needs;
# the output layer is computed for answer tokens only; no dropout, whose masks a CPU draws slowly; and the LoRA
# correction, the norms and attention are single steps that read and write memory less often than the layers they
# replace.
#
# The run has a folder named after the hash of configuration and data. Kill it and run the page again: it goes on from
# its last checkpoint. Run a finished one again: it returns at once.

# %%
identity = runs.identity(rows, dev, config)
result = training.train(rows, dev, config, page.dir / "runs" / identity["hash"][:12])
shutil.rmtree(page.dir / "adapter", ignore_errors=True)
shutil.copytree(result.adapter, page.dir / "adapter")
trained = page.number("trained_tokens", result.tokens, what="tokens read in training")
page.number("trainable", result.trainable, what="parameters of the adapter")
page.number("epochs", result.tokens / lengths["tokens"].sum(), what="passes over the training records")
print(f"{result.seconds:.0f} s, {trained / result.seconds:.0f} tokens/s, peak memory {result.peak_gb:.1f} GB")

# %% [markdown]
# ### The curves
#
# Loss is minus the log-probability of the right next token, in nats. Its exponential is the *perplexity*: among how
# many equally likely tokens the model hesitates. The training loss of a step is that of its few records, so it jumps.
# The dev loss is over the same records each time: it is the line to read. Were it to rise while the training loss
# falls, the adapter would be learning its training letters by heart. With less than one pass, as on the embedded
# profile, that cannot show: each letter is read once at most, so the training loss too is taken on letters not yet
# learned from. Only from the second pass on can the two lines part.

# %%
curve = pd.DataFrame(result.history).set_index("step")
figure, axes = plt.subplots(figsize=(6.5, 3.6))
axes.plot(curve["loss"].dropna(), color="0.6", label="training records of the step")
axes.plot(curve["dev_loss"].dropna(), "o-", label="dev records")
first, last = result.dev_losses[0], result.dev_losses[-1]
title = f"Dev loss goes from {first:.2f} to {last:.2f} nats a token"
axes.set(xlabel="optimizer step", ylabel="loss (nats a token)", title=title)
axes.legend()
page.number("perplexity_base", math.exp(first), n=len(dev), what="dev perplexity before")
page.number("perplexity_tuned", math.exp(last), n=len(dev), what="dev perplexity after")
figures.show(
    figure,
    page,
    "curves",
    alt=f"Line chart: dev loss goes from {first:.2f} to {last:.2f} nats a token; training loss scatters around it.",
    caption=f"Loss on answer tokens over {steps} steps. {title}; its {len(dev)} records are the same at each point.",
    data=curve,
)

# %% [markdown]
# ### What the run leaves
#
# The adapter is in PEFT's own format, weights as safetensors, with a model card that states data hashes, settings,
# curve, licence and limits. `AutoPeftModelForCausalLM.from_pretrained` loads it; vLLM reads the same format (not tried
# here).

# %%
files = {path.name: round(path.stat().st_size / 1e6, 2) for path in sorted((page.dir / "adapter").iterdir())}
pd.Series(files, name="MB").to_frame()

# %% [markdown]
# ## After: the tuned model at three checkpoints
#
# The same questions, the same seed, the same sampling; only the adapter differs. Every checkpoint of the run is an
# adapter in PEFT's format, so the letters of a third and two thirds of the way can be read too. Here is one question,
# answered three times. Read the first beside the base model's answer above. The adapter is added into the weights
# first: a merged model computes what the two compute apart, but for rounding, and writes faster.

# %%
checkpoints = sorted((result.adapter.parent / "checkpoints").glob("checkpoint-*"), key=lambda p: int(p.name[11:]))
letters = {0: before}
for folder in checkpoints:
    tuned = runs.load_adapter(folder, config.model, models.device())[0].merge_and_unload()
    letters[int(folder.name[11:])] = sampling.sample(tuned, tokenizer, prompts, **how)
    del tuned  # before the next one takes its room
for step, (first_letter, *_) in letters.items():
    if step:
        title = f"{dev[0].question} (after {step} steps{', cut off' if first_letter.truncated else ''})"
        display(figures.chinese(first_letter.text, gloss, title=title))

# %% [markdown]
# One letter proves nothing, and the eye is kind. So here is what can be counted on all of the questions: did the text
# end by itself, how many of the five parts does it hold (`cbtlib.structure` reads them; [the first
# chapter](01_prompt_design.ipynb) says how well), and is it a loop, that is, does most of it repeat what it said? [The
# chapter on evaluation](05_evaluation.ipynb) uses the test split.

# %%
ok = {step: [text.text for text in texts if text.outcome == "ok"] for step, texts in letters.items()}
counted = pd.DataFrame(
    {
        step: {
            "ended": len(ok[step]) / len(texts),
            "parts": structure.coverage(ok[step]).to_numpy().mean() if ok[step] else math.nan,
            "loops": sum(surface.repeated(text.text) > 0.5 for text in texts) / len(texts),
            "characters": sum(len(text.text) for text in texts) / len(texts),
        }
        for step, texts in letters.items()
    }
).T.rename_axis("step")

# %% [markdown]
# Step 0 is the base model. Whether a text ended is the first thing to look at: what was cut off is no letter, however
# well it began, so parts are counted in those that ended, and a dash says that none did. Loops and characters are of
# all texts: a loop is one way of not ending.

# %%
for name, step in (("base", 0), ("tuned", max(letters))):
    of = {"ended": (questions, "answers that ended"), "parts": (len(ok[step]), "share of the five parts in them")}
    for measure, (n, what) in of.items():
        if n:
            share = counted.loc[step, measure]
            low, high = prevalence.wilson(share * n, n)  # of a mean of shares it is the widest interval
            page.number(f"{measure}_{name}", share, low=low, high=high, n=n, what=f"{what}: {name} model")
    page.outcomes(f"answers of the {name} model", Counter(text.outcome for text in letters[step]))
caption = (
    f"Means over {questions} dev posts (CBT parts: share of the five, where a text ended); step 0 is the base model"
)
page.table("before_after", counted, caption=caption)

# %% [markdown]
# ## Rank and data: what more of either buys
#
# A sweep trains once for each of several ranks, and once for each of several numbers of letters. It takes longer than
# this page has: `python benchmarks/tuning.py --sweep` makes one and keeps its numbers in `data/sweeps.json`, with the
# machine that made them. The figure below was drawn from them. Each point is one pass over its records, judged on the
# same dev records. So more letters are more steps too; and as alpha is fixed, a higher rank has a smaller scale
# $\alpha/r$. One seed, a dozen dev records: read the large differences, and nothing into the small ones.

# %%
swept = pd.DataFrame(json.loads((ROOT / "data/sweeps.json").read_text("utf-8"))["points"])
figure, panels = plt.subplots(1, 2, figsize=(figures.WIDTH, 3.4), sharey=True)
base = swept["dev_loss_base"].iloc[0]
common = swept["records"].mode()[0]
moved = {}
for axis, by in zip(panels, ("rank", "records"), strict=True):
    part = swept[swept["records"] == common] if by == "rank" else swept[swept["rank"] == swept["rank"].mode()[0]]
    part = part.sort_values(by)
    moved[by] = part["dev_loss"].max() - part["dev_loss"].min()
    axis.plot(part[by], part["dev_loss"], "o-")
    axis.axhline(base, color="0.6", linestyle=":")
    axis.set(xscale="log", xlabel=by, xticks=part[by], xticklabels=part[by])
    axis.minorticks_off()
panels[0].set(ylabel="dev loss (nats a token)")
best = swept.loc[swept["dev_loss"].idxmin()]
told = f"{best.dev_loss:.2f} at rank {best['rank']:.0f} and {best.records:.0f} records"
figures.headline(figure, f"Dev loss is lowest, {told}")
alt = f"Two line charts of dev loss from {base:.2f} down to {best.dev_loss:.2f}: by rank, and by number of records."
caption = f"Dev loss after one pass, one seed, lowest {told}. Left: at {common} records. Dotted: the base model."
figures.show(figure, page, "sweeps", alt=alt, caption=caption, data=swept)

# %% [markdown]
# More letters, or a higher rank? What moved the dev loss further says which to try first.

# %%
first = "write more letters before you raise the rank" if moved["records"] > moved["rank"] else "try the ranks first"
Markdown(
    f"Dev losses differ by up to {moved['records']:.2f} between the numbers of letters, by up to {moved['rank']:.2f} "
    f"between the ranks. At this size, and with one seed: {first}."
)

# %% [markdown]
# ## How the 7B run differs
#
# In the configuration, and in the data that you bring. As they stand, the commands below tune on this book's letters; a
# set of your own, such as your copy of PsyQA with answers, goes in with `--data FILE --dev FILE`.
# `cbt train --profile paper --plan` prints parameters, memory and minutes for three kinds of GPU, each figure with its
# formula or source. Then:
#
# ```
# accelerate launch --config_file workflow/accelerate/one_gpu.yaml -m cbtlib train --profile paper --model FOLDER
# accelerate launch --config_file workflow/accelerate/fsdp_8_gpus.yaml -m cbtlib train --profile paper --model FOLDER
# snakemake --profile workflow/slurm --config profile=paper -- pages
# ```
#
# Baichuan-7B and Qwen-7B come with model code of their own, which current libraries no longer run.
# `cbt convert FOLDER OUT` renames their weights into Llama's and Qwen2's layout, in which they compute the same; the
# published CBT-LLM, a merged Baichuan-7B, takes the same way. `cbt train --merge` adds an adapter into its base, and
# `cbt train --export llama-factory` (or `axolotl`) writes the same rows and settings as the other trainer's own files.
# `--set four_bit=true` is QLoRA {cite:p}`dettmers2023qlora`; `rslora` and `dora` are switches too. The 7B weights were
# not run for this book.
#
# We expect a 7B model to know more, and to learn the *form* first, too; we saw it in the small model only. What a small
# model writes in that form can be nonsense.

# %%
page.save()

# %% [markdown]
# ## Summary
#
# - {glue:text}`loss_share:.0%` of the tokens carry loss: the answers. The rest is read only.
# - The adapter has {glue:text}`trainable:,` parameters; it read {glue:text}`trained_tokens:,` tokens,
#   {glue:text}`epochs:.2f` passes over {glue:text}`train_records` records.
# - Perplexity of dev answers, on one vocabulary: {glue:text}`perplexity_base:.0f` before,
#   {glue:text}`perplexity_tuned:.0f` after.
# - Answers that ended by themselves: {glue:text}`ended_base:.0%` before, {glue:text}`ended_tuned:.0%` after. A few
#   posts only, and no rule ends the base model's text here. The chapter on evaluation gives it one, so its base answers
#   are others; it has the parts of more letters, with intervals.
#
# *Further reading.* LoRA {cite:p}`hu2022lora`, and the same on a quantised base {cite:p}`dettmers2023qlora`; why greedy
# decoding loops {cite:p}`holtzman2020`; the base model {cite:p}`gemma2025`.

# %% [markdown]
# ## Exercises
#
# They need only the next cell, not the chapter. The tokeniser is that of the tests' tiny model, so nothing here needs
# minutes. `make student` writes the exercises as a notebook without the solutions.

# %% tags=["setup"]
import math

import peft
import torch
from transformers import get_cosine_schedule_with_warmup

from cbtlib import corpus, models, templates, training

tokenizer = models.tokenizer("smoke")
template = templates.adopt(training.PROFILES["smoke"].template, tokenizer)

# %% [markdown]
# ### Exercise 1 (read): Which pieces are learned?
#
# A training record is six pieces in this order: **a** the start mark, **b** 来访者： ("client:"), **c** the post,
# **d** 认知行为咨询师： ("CBT counsellor:"), **e** the letter, **f** the end mark. Which of them carry loss?

# %% [raw] tags=["blank"]
# learned = ...  # a set of letters

# %% [raw] tags=["wrong"]
# learned = {"e"}  # the letter is what we want; the end mark looks like packaging

# %% tags=["solution"]
learned = {"e", "f"}  # without f, nothing teaches the model to stop

# %% tags=["check"]
record = corpus.load_split("train")[0]
(row,) = templates.encode([record], tokenizer, template, 10_000)
texts = [tokenizer.decode(i) for i, label in zip(row["input_ids"], row["labels"], strict=True) if label >= 0]
pieces = {
    "a": tokenizer.bos_token,
    "b": "来访者：",
    "c": record.description,
    "d": "认知行为咨询师：",
    "e": record.answer_text,
}
found = {letter for letter, piece in pieces.items() if piece in "".join(texts)}
if texts[-1] == tokenizer.eos_token:
    found.add("f")
assert isinstance(learned, set), "give a set of letters"
assert learned == found, "decode the tokens of `row` whose label is not -100, the last one too"

# %% [markdown]
# ### Exercise 2 (compute): How small is an adapter?
#
# Write `adapter_parameters(layers, rank)` for linear layers given as (d_in, d_out).

# %% [raw] tags=["blank"]
# def adapter_parameters(layers: list[tuple[int, int]], rank: int) -> int:
#     ...

# %% [raw] tags=["wrong"]
# def adapter_parameters(layers: list[tuple[int, int]], rank: int) -> int:
#     """Counts the correction as a full matrix."""
#     return sum(rank * d_in * d_out for d_in, d_out in layers)


# %% tags=["solution"]
def adapter_parameters(layers: list[tuple[int, int]], rank: int) -> int:
    """A has rank x d_in numbers, B has d_out x rank."""
    return sum(rank * (d_in + d_out) for d_in, d_out in layers)


whole = adapter_parameters([(4096, 4096)], 8), 4096 * 4096
print(f"one square layer of a 7B model: {whole[0]:,} numbers learned in place of {whole[1]:,}")

# %% tags=["check"]
for layers, rank in (([(6, 4), (4, 10)], 2), ([(16, 16)], 8), ([(5, 7), (7, 5), (5, 5)], 3)):
    blocks = [torch.nn.Linear(*layer) for layer in layers]
    adapted = peft.get_peft_model(
        torch.nn.ModuleDict({f"block{i}": block for i, block in enumerate(blocks)}),
        peft.LoraConfig(r=rank, target_modules=[f"block{i}" for i in range(len(blocks))]),
    )
    real = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert adapter_parameters(layers, rank) == real, f"PEFT makes {real} parameters for {layers} at rank {rank}"

# %% [markdown]
# ### Exercise 3 (compute): The learning rate of a step
#
# The rate climbs from 0 to its peak over `warm` steps and then falls along half a cosine to 0 at `steps`. Write
# `rate(done, steps, warm, peak)`, the rate after `done` steps.

# %% [raw] tags=["blank"]
# def rate(done: int, steps: int, warm: int, peak: float) -> float:
#     ...

# %% [raw] tags=["wrong"]
# def rate(done: int, steps: int, warm: int, peak: float) -> float:
#     """Lets the cosine begin at step 0 instead of at the end of the warm-up."""
#     if done < warm:
#         return peak * done / warm
#     return peak * 0.5 * (1 + math.cos(math.pi * done / steps))


# %% tags=["solution"]
def rate(done: int, steps: int, warm: int, peak: float) -> float:
    """Linear up, half a cosine down."""
    if done < warm:
        return peak * done / warm
    return peak * 0.5 * (1 + math.cos(math.pi * (done - warm) / max(1, steps - warm)))


# %% tags=["check"]
optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
schedule = get_cosine_schedule_with_warmup(optimizer, num_warmup_steps=5, num_training_steps=50)
for done in range(50):
    real = schedule.get_last_lr()[0]
    mine = rate(done, 50, 5, 2.0)
    assert isinstance(mine, float) and math.isclose(mine, real, abs_tol=1e-9), f"after {done} steps it is {real:.4f}"
    optimizer.step()
    schedule.step()

# %% [markdown]
# ### Exercise 4 (break): The model that never stops
#
# Many base models have no padding token, so scripts set padding = end of sequence and then take the loss off every
# padding token *by its id*. The end mark has that id too. The model learns letters and never their end. Write
# `labels(ids, mask, prompt)`: -100 on the first `prompt` tokens and on padding (mask 0), the token itself elsewhere.

# %% [raw] tags=["blank"]
# def careless(ids: list[int], mask: list[int], prompt: int, pad: int = 2) -> list[int]:
#     return [-100 if at < prompt or token == pad else token for at, token in enumerate(ids)]
#
#
# def labels(ids: list[int], mask: list[int], prompt: int) -> list[int]:
#     ...

# %% [raw] tags=["wrong"]
# def labels(ids: list[int], mask: list[int], prompt: int) -> list[int]:
#     """Keeps the last end mark of the row, wherever it stands: that one is padding."""
#     found = [-100 if at < prompt or token == 2 else token for at, token in enumerate(ids)]
#     return [*found[:-1], ids[-1]]


# %% tags=["solution"]
def labels(ids: list[int], mask: list[int], prompt: int) -> list[int]:
    """What is padding is said by the mask; an id cannot say it."""
    return [-100 if at < prompt or not real else token for at, (token, real) in enumerate(zip(ids, mask, strict=True))]


# %% tags=["check"]
assert labels([1, 7, 8, 9, 2], [1, 1, 1, 1, 1], 2) == [-100, -100, 8, 9, 2], "the end mark of a full row is learned"
padded = labels([1, 7, 8, 2, 2, 2], [1, 1, 1, 1, 0, 0], 2)
assert padded == [-100, -100, 8, 2, -100, -100], "learn the first 2, which ends the letter, and not the padding"
assert labels([1, 7], [1, 1], 2) == [-100, -100], "a row without an answer teaches nothing"

# %% [markdown]
# ### Exercise 5 (break): Multiplied, then split
#
# To have more data, a script lets a model rewrite each of its letters several times, shuffles all rows and cuts off a
# tenth as dev set. Every dev row now has sisters in the training set. Write `split(rows, share)`, which returns
# (train, dev) with about `share` of the *sources* in dev and no source in both. Rows are (source, text), in any
# order.

# %% [raw] tags=["blank"]
# def split(rows: list[tuple[str, str]], share: float) -> tuple[list, list]:
#     ...

# %% [raw] tags=["wrong"]
# def split(rows: list[tuple[str, str]], share: float) -> tuple[list, list]:
#     """Cuts rows; sorted by source, so that at most one source is torn. One is enough."""
#     rows = sorted(rows)
#     cut = round(len(rows) * (1 - share))
#     return rows[:cut], rows[cut:]


# %% tags=["solution"]
def split(rows: list[tuple[str, str]], share: float) -> tuple[list, list]:
    """Draw sources, not rows."""
    sources = sorted({source for source, _ in rows})
    held = set(sources[: max(1, round(len(sources) * share))])
    return [row for row in rows if row[0] not in held], [row for row in rows if row[0] in held]


# %% tags=["check"]
for copies, sources, share in ((3, 10, 0.2), (7, 5, 0.3), (1, 20, 0.1), (4, 9, 0.5)):
    rows = [(f"post-{s:02}", f"改写 {c}") for c in range(copies) for s in range(sources)]
    parts = split(rows, share)
    assert isinstance(parts, tuple) and len(parts) == 2, "give (train, dev)"
    train, dev = parts
    assert sorted(train + dev) == sorted(rows), "every row stands in exactly one part"
    torn = {source for source, _ in train} & {source for source, _ in dev}
    assert not torn, f"{sorted(torn)} stands in both parts"
    assert abs(len({source for source, _ in dev}) / sources - share) <= 0.15, "about that share of the sources in dev"

# %% [markdown]
# ### Exercise 6 (research): Learning, or learning by heart?
#
# You may spend twenty runs on rank, learning rate, number of letters and seed. What do you vary, what do you hold,
# which curve would show you that the model learns letters by heart, and what do you report when the best run is best
# by less than the seeds differ?

# %% [markdown] tags=["solution"]
# Start with three seeds of one setting: their spread is the ruler for everything else. Then vary one thing at a time on
# a coarse grid (number of letters first: it is what the next person can change), choose on dev letters, and open the
# test split once. By heart means that the dev loss turns up while the training loss still falls, or that answers copy
# training letters: count the runs of eight characters that an answer shares with them. Chapter 5's *copied* counts such
# runs (of four) against the post; no page here counts them against the training letters. If the best run leads by less
# than the spread of the seeds, report the mean over seeds with an interval and call the settings alike; a table of
# single best runs is a table of luck.

# %% [markdown]
# ## Next
#
# The adapter is a product of this page. [The next chapter](05_evaluation.ipynb) lets base and tuned model answer the
# test posts and sets their answers between floors that take no skill and a second letter to the same post.
