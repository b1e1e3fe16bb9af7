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
# # Evaluation: did tuning help?
#
# A tuned model and its base write replies to posts that neither has seen. Which replies are better, by how much, and
# would another dozen posts have given another answer?
#
# **You will learn**
#
# - what BLEU, chrF and METEOR see in a Chinese letter, and what they are blind to;
# - why a score without a tokeniser, a number of items and an interval is not a result;
# - how floors and a ceiling tell you what a score is worth;
# - how to compare systems on the same posts, what another throw of the dice changes, and what happens to answers that
#   are no answers.

# %% [markdown] tags=["banner"]
# `cbt run notebooks/05_evaluation.py` fills in how this page was made.

# %% [markdown]
# ## Set-up
#
# `metrics` scores and compares, `sampling` lets a model write, `structure` reads which of the five parts a letter has.

# %% tags=["imports"]
import html
import json
from dataclasses import asdict

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import HTML, Markdown
from sacrebleu.metrics import BLEU

from cbtlib import (
    ROOT, bertscore, bleurt, corpus, figures, metrics, models, naming, prompts, report, resampling, runs, sampling,
    structure, templates, writing,
)  # fmt: skip

# %% [markdown]
# The defaults below are the embedded profile. Sampling is the expensive part, so it runs on a part of the test posts:
# as many as a few minutes of two cores carry, given that the tuned model answers each of them three times.

# %% tags=["parameters"]
profile: str = "embedded"  # which profile made this page
results: str = "results"  # where products go
items: int = 16  # test posts that the models answer, spread over the split; 0 for all
samples: int = 3  # replies of the tuned model to each post, each with a seed of its own
max_new_tokens: int = 448  # longest reply; a reply that is not done by then is truncated, and not scored
temperature: float = 0.7  # of sampling
bertscore_layer: int = 4  # layer of the base model whose token states BERTScore compares
bleurt_checkpoint: str = ""  # folder of a BLEURT checkpoint; BLEURT is not run without one
bleurt_python: str = "python3"  # a Python that has Google's bleurt package
resamples: int = 1000  # bootstrap resamples and randomisation trials
seed: int = 0  # of sampling and resampling

# %% [markdown]
# ## What a metric sees
#
# BLEU {cite:p}`papineni2002bleu` counts shared runs of tokens, chrF {cite:p}`popovic2015chrf` shared runs of
# characters, and METEOR {cite:p}`banerjee2005meteor` matched words or characters and their order. Below stand one
# sentence of a letter, and three others. The first says the same in other words. The second differs by one word and
# says the opposite. The third could be sent to anybody.

# %%
reference = "你说“我总是搞砸”，可是上个月的报告，主管还当众夸过你。"
worked = {
    "same meaning": (
        "你觉得自己每次都把事情弄糟，但四月份那份材料，领导在会上表扬过你。",
        "You feel you ruin things every time, yet your manager praised April's report at a meeting.",
    ),
    "opposite": (
        "你说“我总是搞砸”，可是上个月的报告，主管还当众骂过你。",
        "You say “I always mess up”, yet your boss scolded you in public for last month's report.",
    ),
    "to anybody": (
        "人生总有起伏，相信自己，一切都会好起来的。",
        "Life has ups and downs; believe in yourself, and all will be fine.",
    ),
}

# %% [markdown]
# Marked is every character that stands in a pair of characters which the reference has too: most of what these metrics
# have to go on. Single characters in common, marked or not, count a little.


# %% tags=["hide-input"] mystnb={"code_prompt_show": "How the marks are made"}
def marked(text: str, against: str) -> str:
    """The text as HTML, with the characters marked that stand in a shared bigram."""
    shared = [text[i : i + 2] in against for i in range(len(text) - 1)]
    hit = [any(shared[max(0, i - 1) : i + 1]) for i in range(len(text))]
    return "".join(f"<mark>{html.escape(c)}</mark>" if h else html.escape(c) for c, h in zip(text, hit, strict=True))


gloss = "You say “I always mess up”, yet your boss praised you in public for last month's report."
rows = [f"<p lang='zh'><b>reference</b> {reference}</p><p class='zh-gloss'>{gloss}</p>"]
rows += [
    f"<p lang='zh'><b>{k}</b> {marked(t, reference)}</p><p class='zh-gloss'>{g}</p>" for k, (t, g) in worked.items()
]
HTML("<div class='zh-block'>" + "".join(rows) + "</div>")

# %% [markdown]
# The opposite wins, by a wide margin. Overlap metrics measure wording. They can tell a model that writes in the style
# of the corpus from one that does not; they cannot tell kindness from cruelty.

# %%
page = report.Page("05_evaluation", profile, results)
pairs = {
    kind: {name: s.items[0] for name, (s, _) in metrics.measure([text], [[reference]]).items()}
    for kind, (text, _) in worked.items()
}
page.table(
    "worked_pairs", pd.DataFrame(pairs).T, caption="One reference, three candidates (BLEU and chrF 0-100, METEOR 0-1)"
)

# %% [markdown]
# ### The tokeniser alone moves BLEU
#
# BLEU counts runs of up to four *tokens*. Chinese is written without spaces, so everything depends on who cuts. Here
# the same two texts, each test letter against the letter to another post, are scored with five tokenisers.

# %%
test = [record for record in corpus.load_split("test") if not record.crisis]
letters = [record.answer_text for record in test]
others = letters[1:] + letters[:1]
by_tokeniser = {
    cut: BLEU(tokenize=cut, force=True).corpus_score(others, [letters]).score
    for cut in ("13a", "intl", "none", "char", "zh")
}
page.number(
    "bleu_default_tokeniser",
    by_tokeniser["13a"],
    what="BLEU of shuffled letters, sacrebleu's default tokeniser",
    n=len(test),
)
page.number("bleu_zh_tokeniser", by_tokeniser["zh"], what="the same letters, tokeniser zh", n=len(test))
page.table(
    "tokenisers",
    pd.DataFrame({"BLEU": by_tokeniser}).rename_axis("tokeniser"),
    caption="One pair of texts, five values of BLEU",
)

# %% [markdown]
# With the default tokeniser BLEU is {glue:text}`bleu_default_tokeniser:.2f`, with `zh` it is
# {glue:text}`bleu_zh_tokeniser:.2f`: nothing about the texts has changed. This is why every value below has a
# **signature** {cite:p}`post2018sacrebleu`, and why a BLEU without one cannot be compared with anything.
#
# ## The gate before the score
#
# A model that has seen the test letters can write them down again. So before any system is scored, the test texts are
# looked up in the training split: exact copies, near duplicates, which share three tenths or more of their character
# 5-grams (Jaccard), and texts that stand inside a longer one. This cell counts them. If there is one, `metrics.score`
# below stops with an error; told to allow it, it goes on and says so in the signature.

# %%
train = [text for record in corpus.load_split("train") for text in (record.post, record.answer_text)]
leaks = metrics.leaks(train, [text for record in test for text in (record.post, record.answer_text)])
page.number(
    "leaks", len(leaks), what="pairs of a test text and a training text that are the same or nearly", n=2 * len(test)
)
f"{len(leaks)} leaks among {2 * len(test)} test texts and {len(train)} training texts"

# %% [markdown]
# ## Systems, floors and a ceiling
#
# A score of 25 says nothing by itself. Three **floors** show what no skill at all earns: sending the post back, sending
# one generic letter to everybody, and sending each person the letter written to somebody else. The **ceiling** is a
# second letter to the same post, where the corpus has one, written from the same brief and, like the first, by a
# language model: no metric can ask for more than two such letters have in common.

# %%
places = np.linspace(0, len(test) - 1, min(items or len(test), len(test))).round().astype(int)
posts = [test[place] for place in places]
generic = (
    "谢谢你愿意把这些说出来，这并不容易。每个人都会遇到低谷，你的感受是可以理解的。有时候我们会把事情想得太糟，"
    "你可以问问自己，事情真的有那么严重吗？不妨写下自己的想法，或者找朋友聊一聊，每天做一点让自己放松的事。"
    "相信只要一步一步走下去，一切都会慢慢好起来的，加油。"
)
answers: dict[str, dict[str, tuple[str, str]]] = {
    "floor: copy the post": {record.id: ("ok", record.post) for record in posts},
    "floor: generic letter": {record.id: ("ok", generic) for record in posts},
    "floor: another's letter": {
        record.id: ("ok", other.answer_text) for record, other in zip(posts, posts[1:] + posts[:1], strict=True)
    },
}
ceiling = {record.id: ("ok", record.second_answer_text) for record in posts if record.second_answer}
page.number("posts", len(posts), what="test posts that every system answers")
pd.Series({"posts": len(posts), "with a second letter": len(ceiling)})

# %% [markdown]
# The model under test is the adapter of the chapter on training, on its base. The base gets two chances. *Zero-shot* it
# sees the post in the form that the tuned model was trained on. *Few-shot* it sees one worked example first, because a
# base model continues text and follows no instructions. A base model does not know when to stop either, so it gets a
# rule: a zero-shot letter ends at an empty line, a few-shot letter at the mark `【` that opens the next example.

# %%
adapter = page.product("04_lora_training", "adapter/adapter_model.safetensors").parent
config = json.loads((adapter / "training.json").read_text("utf-8"))["config"]
base, tokenizer = models.load(config["model"])
base = base.to(models.device())
template = templates.adopt(config["template"], tokenizer)
example = prompts.get("few_shot")
asked = [templates.render(record.post, template, f"record {record.id}") for record in posts]
shown = [(tokenizer.bos_token or "") + example.request(r.question, r.description)["prompt"] for r in posts]
blank_line, next_example = (templates.ids_with(mark, tokenizer) for mark in ("\n\n", "【"))
settings = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
stops = [blank_line] * len(asked) + [next_example] * len(shown)
texts = sampling.sample(base, tokenizer, asked + shown, **settings, stop=stops)
drawn = {"base, zero-shot": texts[: len(asked)], "base, few-shot": texts[len(asked) :]}

# %% [markdown]
# The tuned model gets the same posts, the same settings and the end mark it was trained with. (Nucleus and repetition
# penalty are those of chapter 4, for all.) It answers each post {glue:text}`samples:.0f` times, with seeds of their
# own. These are **sampling seeds of one adapter**: they show what another throw of the dice changes. What another
# *training run* changes stands further below, from adapters that were trained with other seeds beforehand: they take
# minutes that this page does not have.

# %%
base = base.to("cpu")  # a GPU holds one of the two
tuned, tokenizer = runs.load_adapter(adapter, device=models.device())
tuned = tuned.merge_and_unload()  # the same but for rounding, and faster
end = templates.stop_ids(template, tokenizer)
seeds = [f"LoRA-tuned, seed {number}" for number in range(samples)]
texts = sampling.sample(tuned, tokenizer, asked, **settings, replies=samples, stop=end)
for number, system in enumerate(seeds):
    drawn[system] = texts[number * len(asked) : (number + 1) * len(asked)]
del tuned
page.number("samples", samples, what="replies of the tuned model to each post")

# %% [markdown]
# Everything goes into one file, which is the product of this page.

# %% tags=["hide-input"] mystnb={"code_prompt_show": "How the file is written"}
for system, texts in drawn.items():
    answers[system] = {record.id: (one.outcome, one.text) for record, one in zip(posts, texts, strict=True)}
if ceiling:
    answers["ceiling: second letter"] = ceiling
lines = [
    {"id": item, "system": system, "outcome": outcome, "text": text}
    for system, given in answers.items()
    for item, (outcome, text) in given.items()
]
product = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
writing.write_text(page.dir / "answers.jsonl", product)

# %% [markdown]
# ### What became of the answers
#
# A reply that ran into the token limit is cut in the middle of a thought. It is not a bad letter, it is no letter, and
# scoring it would punish or flatter its system for our limit. So it is counted here and appears in no mean below. Nor
# does a reply that ended before it began: *unparsed*, not a letter worth 0. Where a system ends most of its replies
# in such ways, the count *is* its result.

# %%
counts = pd.concat(
    [
        page.outcomes(system, {o: sum(one == o for one, _ in given.values()) for o in report.OUTCOMES})
        for system, given in answers.items()
    ]
)
page.table("outcomes", counts, caption="Outcomes of each system's replies; only ok is scored")

# %% [markdown]
# Two replies to the same post, unedited, the first 400 characters of each. They have no gloss, because they have no
# reliable meaning to gloss; the English line is the post's title.

# %%
first = posts[0]
for system in ("base, few-shot", seeds[0]):
    outcome, text = answers[system][first.id]
    display(
        figures.chinese(text[:400], f"{system}: {outcome}. The post: {first.gloss['question']}", title=first.question)
    )

# %% [markdown]
# ## The scores
#
# BERTScore {cite:p}`zhang2020bertscore` compares no characters but what a model makes of them: each token of the reply
# is matched to the most similar token of the reference, by the cosine of their states in one layer of the base model,
# and the other way round. Values crowd together near the top, so only differences mean something. Here are the three
# worked pairs again: their BERTScore, and which token of the reference each of their tokens found.

# %%
encoder = bertscore.Encoder(base.to(models.device()), tokenizer, bertscore_layer, config["model"])
metrics.METRICS["bertscore"] = bertscore.metric(encoder)
candidates = [text for text, _ in worked.values()]
values = metrics.measure(candidates, [[reference] * 3], metrics=["bertscore"])["bertscore"][0].items
pieces = {text: [tokenizer.decode([token]) for token in encoder.tokens[text]] for text in (*candidates, reference)}
rows = []
for kind, text, value in zip(worked, candidates, values, strict=True):
    nearest = (encoder.states[text] @ encoder.states[reference].T).argmax(dim=1).tolist()
    found = [f"{piece} → {pieces[reference][place]}" for piece, place in zip(pieces[text], nearest, strict=True)]
    rows.append(f"<p lang='zh'><b>{kind}</b> {value:.4f}: {html.escape(', '.join(found))}</p>")
HTML("<div class='zh-block'>" + "".join(rows) + "</div>")

# %% [markdown]
# Which layer? The authors of BERTScore took, for each model, the one whose scores agree best with people's. So did we:
# `benchmarks/layers.py` scores pairs of sentences that people graded by how alike they are {cite:p}`cer2017`, in a
# Chinese translation that is not in this book, and keeps its figures in `data/layers.json`. The layer was chosen on
# one part of them; the other says whether the choice carries.

# %%
graded = json.loads((ROOT / "data/layers.json").read_text("utf-8"))["files"]
curves = pd.concat({one["file"]: pd.DataFrame(one["layers"]).set_index("layer") for one in graded}, names=["file"])
figure, axis = plt.subplots()
for one, colour in zip(graded, figures.COLORS, strict=False):
    curve = curves.loc[one["file"]]
    axis.plot(curve.index, curve["spearman"], "o-", color=colour, label=f"BERTScore, {one['file']}")
    axis.fill_between(curve.index, curve["low"], curve["high"], color=colour, alpha=0.15, linewidth=0)
    axis.axhline(one["chrf"]["spearman"], color=colour, linestyle="--", linewidth=1, label=f"chrF, {one['file']}")
axis.set(xlabel="layer", ylabel="Spearman's correlation", xticks=curve.index)
axis.margins(y=0.2)  # room for the legend
axis.legend(fontsize="small", ncols=2, loc="upper right")
chosen, plain = curves.loc[graded[0]["file"], "spearman"], graded[0]["chrf"]["spearman"]
told = f"layer {chosen.idxmax()} with {chosen.max():.2f}, where chrF has {plain:.2f}"
axis.set_title(f"Layer {chosen.idxmax()} agrees most with people")
figures.show(
    figure, page, "layers", data=curves,
    alt=f"Lines of the correlation by layer: highest at {told}; lowest at layer {chosen.idxmin()}, {chosen.min():.2f}.",
    caption=f"Correlation of BERTScore with people's grades of pairs of sentences, by layer,"
    f" with 95% intervals. Nearest: {told}; layer {chosen.idxmin()} has {chosen.min():.2f}. Dashed: chrF.",
)  # fmt: skip

# %% [markdown]
# An early layer is nearest. By most others, the late ones among them, which serve the next token, BERTScore agrees less
# with people than chrF does, which knows nothing of meaning. Even the best layer is not far above it: sentences alike
# in meaning mostly share characters too. Grades of letters would be a better judge than grades of single sentences, and
# would take people: [chapter 6](06_human_evaluation.ipynb) has the form for it.

# %% [markdown]
# **BLEURT** {cite:p}`sellam2020bleurt` is the fifth metric of the paper: a model that was trained to imitate human
# scores. It needs a checkpoint that no package registry holds, so it has no value here unless the parameter
# `bleurt_checkpoint` names one; then `cbtlib.bleurt` runs it in the environment that it needs, and it takes part in
# everything below.

# %%
if bleurt_checkpoint:
    metrics.METRICS["bleurt"] = bleurt.metric(bleurt_checkpoint, bleurt_python)
fifth = ("bleurt",) if bleurt_checkpoint else ()
print("BLEURT:", f"run on {bleurt_checkpoint}" if bleurt_checkpoint else bleurt.NOT_RUN)

# %% [markdown]
# Now every system, on the posts it answered. The tuned model has a row for each seed, and one for all of them: there,
# the replies to one post are averaged first, because three replies to a post are still one post. Intervals are a
# bootstrap over posts: draw as many posts again, with replacement, many times over, and keep the middle 95% of the
# scores, corrected for bias and skewness (BCa) {cite:p}`efron1987` and widened where posts are few
# {cite:p}`hesterberg2015` or few of them decide {cite:p}`satterthwaite1946`. No interval knows of what its sample does
# not hold: where one pair in a hundred shares whole sentences and decides BLEU and chrF, as `benchmarks/metrics.py`
# simulates, a hundred posts suffice, and a dozen do not.
#
# *CBT parts* counts how many of the five parts a reply has; *names a distortion* is the share that does, with Wilson's
# interval {cite:p}`wilson1927`: where no reply does, no resample does either. *Requests* and
# *suggestions* are the **load** of a letter: how many sentences ask something, and how many tell the reader what to do.
# In a single turn, five good suggestions can be four too many.

# %%
gold = {record.id: record for record in posts}
wanted = (*metrics.OVERLAP, "bertscore", *fifth, "parts", "named", "requests", "suggestions", "length", "repetition")
wanted += ("copied", "distinct_1", "distinct_2")
replies = {
    system: {item: [text] for item, (outcome, text) in given.items() if outcome == "ok"}
    for system, given in answers.items()
}
pooled = {item: [t for system in seeds for t in replies[system].get(item, [])] for item in gold}
replies["LoRA-tuned"] = {item: texts for item, texts in pooled.items() if texts}
scores: dict[str, dict[str, metrics.Score]] = {}
for system, given in replies.items():
    if given:
        found = metrics.score(
            list(given.values()), [[gold[item].answer_text for item in given]],
            sources=[gold[item].post for item in given],
            metrics=wanted, training=train, resamples=resamples, seed=seed,
        )  # fmt: skip
        scores[system] = {score.name: score for score in found}

# %% [markdown]
# A dash is a system without one ok reply, or a metric that was not run. Distinct-n, the share of different n-grams, has
# no value for all seeds together: it falls with the number of letters, whoever writes them, and with their length.
# *Repetition* is the share of four-character runs that the text has used before, *copied* the share that stands in the
# post. BLEU is of the whole: matches are summed over the posts first.

# %%
rows = {s: {"n": of["bleu"].n, **{m: one.value for m, one in of.items()}} for s, of in scores.items()}
order = [*(system for system in replies if system[0] != "c"), *(system for system in replies if system[0] == "c")]
table = pd.DataFrame(rows).T.reindex(index=order, columns=["n", *metrics.OVERLAP, "bertscore", "bleurt", *wanted[5:]])
table.loc["LoRA-tuned", ["distinct_1", "distinct_2"]] = np.nan
caption = "Scores of each system" + ("" if fifth else f". BLEURT {bleurt.NOT_RUN}")
page.table("scores", table.loc[:, ~table.columns.duplicated()], caption=caption)

# %% [markdown]
# The numbers that other pages cite, with their intervals.

# %% tags=["hide-input"] mystnb={"code_prompt_show": "The code of these numbers"}
kinds = {
    "copy": "floor: copy the post",
    "generic": "floor: generic letter",
    "shuffled": "floor: another's letter",
    "zero_shot": "base, zero-shot",
    "few_shot": "base, few-shot",
    "tuned": "LoRA-tuned",
    "ceiling": "ceiling: second letter",
}
panels = {name: naming.shown(name) for name in ("bleu", "chrf", "meteor_char", "bertscore", "parts", *fifth)}
for kind, system in kinds.items():
    for metric in panels if system in scores else ():
        one = scores[system][metric]
        bounds = {"low": one.low, "high": one.high} if np.isfinite(one.low) else {}
        if kind != "few_shot" or one.n >= 5:  # the few replies that it ends by itself say nothing of a system
            page.number(f"{metric}_{kind}", one.value, n=one.n, what=f"{panels[metric]} of {system}", **bounds)

# %% [markdown]
# The rows of the figure that follows: floors first, the ceiling last, each score with its interval.

# %% tags=["hide-input"] mystnb={"code_prompt_show": "The code of these rows"}
data = pd.DataFrame(
    [{"system": system, **asdict(one)} for system, found in scores.items() for one in found.values()]
).drop(columns="signature")
shown = [system for system in kinds.values() if system in replies]
floors = [system for system in shown if system.startswith("floor")]
chrf = {system: scores[system]["chrf"].value for system in shown if system in scores}
beside = {"tuned": "LoRA-tuned", "best floor": max(floors, key=chrf.__getitem__), "base": kinds["zero_shot"]}
beside["ceiling"] = kinds["ceiling"]
told = "" if "LoRA-tuned" in chrf else "No ok reply of the tuned model. "
told += "By chrF: " + ", ".join(f"{name} {chrf[system]:.1f}" for name, system in beside.items() if system in chrf)

# %% [markdown]
# All of them at a glance: floors are blue, models orange, the ceiling green. Small rings are the single seeds. The same
# system stands at the same height in every panel.

# %%
rows = -(-len(panels) // 2)
figure, axes = plt.subplots(rows, 2, figsize=(figures.WIDTH, rows * (0.28 * len(shown) + 0.7) + 0.5), sharey=True)
for axis in axes.flat[len(panels) :]:
    axis.axis("off")
for axis, (metric, title) in zip(axes.flat, panels.items(), strict=False):
    for place, system in enumerate(shown):
        if system not in scores:
            axis.text(0.03, place, "no reply", va="center", color="#666666", transform=axis.get_yaxis_transform())
            continue
        one, color = scores[system][metric], figures.COLORS[{"f": 0, "c": 2}.get(system[0], 5)]
        axis.plot([one.low, one.high], [place, place], color=color, linewidth=2)
        axis.plot(one.value, place, "o", color=color)
        for single in seeds if system == "LoRA-tuned" else ():
            if single in scores:
                axis.plot(scores[single][metric].value, place - 0.25, "o", mfc="none", mec=color, markersize=4)
    axis.set(title=title, yticks=range(len(shown)), yticklabels=shown)
    axis.set_xlim(left=None if metric == "bertscore" else 0)
    axis.locator_params(axis="x", nbins=2 if metric == "bertscore" else 5)
axes[0, 0].set_ylim(len(shown) - 0.5, -0.5)
figures.headline(figure, told)
figures.show(
    figure, page, "forest", data=data,
    alt=f"Dot and interval of {len(panels)} measures for {len(shown)} systems. {told}.",
    caption=f"Floors, base, tuned model and ceiling on {len(posts)} test posts, 95% bootstrap intervals. {told}.",
)  # fmt: skip

# %% [markdown]
# A metric that puts a floor above the tuned model is reported as it is. These are means over the posts that each of the
# two answered; their intervals are in the figure. Where they are close, another run may swap them: see the paired
# comparison.

# %% tags=["hide-input"] mystnb={"code_prompt_show": "The code of this sentence"}
above = [
    f"{title}: {', '.join(better)}".replace("floor: ", "")
    for metric, title in panels.items()
    if "LoRA-tuned" in scores
    and (better := [f for f in floors if scores[f][metric].value > scores["LoRA-tuned"][metric].value])
]
ranks = "The tuned model has no ok reply to hold against a floor."
if "LoRA-tuned" in scores:
    ranks = f"In the means, some floor stands above the tuned model by {len(above)} of {len(panels)} measures"
    ranks += f" ({'; '.join(above)})." if above else "."
Markdown(ranks)

# %% [markdown]
# Look where *another's letter* stands, beside the second letter to the same post. A letter of the same corpus, sent to
# the wrong person, has the right length and all five parts: *CBT parts* does not notice. Overlap with one reference
# does. A model that writes to this person, and not just in this form, has to leave another's letter behind.
#
# Each value has its signature. The closed table has the tuned model's, or those of the first floor where the model has
# no ok reply.

# %% tags=["hide-output"] mystnb={"code_prompt_show": "The signatures", "code_prompt_hide": "Hide the signatures"}
chosen = scores.get("LoRA-tuned", next(iter(scores.values())))
page.table(
    "signatures", pd.DataFrame({"signature": {m: one.signature for m, one in chosen.items()}}), caption="Signatures"
)

# %% [markdown]
# ### What another throw of the dice changes
#
# The same adapter, other seeds: how far apart are its scores, beside the interval over posts? Where the seeds differ
# nearly as much as the interval is wide, one seed would have been a matter of luck.

# %%
dice = pd.DataFrame(
    {
        metric: [scores[one][metric].value for one in seeds if one in scores]
        + [np.ptp([scores[one][metric].value for one in seeds if one in scores] or [np.nan])]
        + [scores["LoRA-tuned"][metric].high - scores["LoRA-tuned"][metric].low if "LoRA-tuned" in scores else np.nan]
        for metric in panels
    },
    index=[*(one for one in seeds if one in scores), "range over seeds", "width of the interval over posts"],
)
page.table("seeds", dice, caption="One adapter, one score for each sampling seed")

# %% [markdown]
# ### What another training run changes
#
# A seed decides too where training begins and in which order it reads: LoRA's first weights, and the shuffle of the
# letters. `python benchmarks/tuning.py --seeds` makes the run of [chapter 4](04_lora_training.ipynb) with three other
# seeds, lets each adapter answer posts as this page does, and keeps the scores in `data/seeds.json` with the machine
# that made them. Adapters that were equally good would still differ, because each answers with dice of its own: a mean
# of three replies varies $\sqrt{3}$ times less than one. The fifth row says how far apart that alone would put them.
# Ranges of three are rough, and the measures share their letters: read only whether one is much larger.

# %%
kept = json.loads((ROOT / "data/seeds.json").read_text("utf-8"))
trained = pd.DataFrame({f"training seed {one['seed']}": one["all_replies"] for one in kept["adapters"]}).T
throws = [np.ptp(pd.DataFrame(one["sampling_seeds"])[trained.columns], axis=0) for one in kept["adapters"]]
apart, alone = np.ptp(trained, axis=0), np.mean(throws, axis=0) / np.sqrt(kept["replies"])
trained.loc["range over training seeds"], trained.loc["range that sampling alone would give"] = apart, alone
if "LoRA-tuned" in scores:
    trained.loc["this page's adapter"] = {metric: scores["LoRA-tuned"][metric].value for metric in trained}
    trained.loc["width of its interval over posts"] = dice.loc["width of the interval over posts"]
caption = f"Three adapters, {kept['replies']} replies each to {kept['posts']} posts, and this page's"
display(page.table("training_seeds", trained, caption=caption))
Markdown(
    f"By {(apart > alone).sum()} of {len(apart)} measures the adapters lie further apart than that, at most "
    f"{(apart / alone).max():.1f} times as far. Were there nothing but sampling, about half of them would, and the "
    "measures tend to move together."
)

# %% [markdown]
# ## Tuned against base, on the same posts
#
# Two intervals that overlap do not mean that two systems are alike: some posts are harder for both. So the comparison
# is **paired** {cite:p}`koehn2004`. The difference is computed on the posts that both systems answered, its interval
# from resampling those posts, and its p value from swapping the two systems' replies post by post (approximate
# randomisation) {cite:p}`noreen1989,riezler2005`. There are several metrics and several rivals, so p values are
# corrected over all rows of the table (Holm) {cite:p}`holm1979`: of twenty true nulls, one would else be news.

# %%
tested = {"bleu": "bleu_gain", "chrf": "chrf_gain", "meteor_char": "meteor_gain"}
tested |= {"bertscore": "bertscore_gain", "parts": "structure_gain"} | dict.fromkeys(fifth, "bleurt_gain")
found: list[metrics.Difference] = []
rivals = ["base, zero-shot", "base, few-shot", *floors]
for rival in rivals:
    shared = [item for item in replies["LoRA-tuned"] if item in replies[rival]]
    if len(shared) > 1:
        texts = {name: [replies[name][item] for item in shared] for name in ("LoRA-tuned", rival)}
        gold_texts = [[gold[item].answer_text for item in shared]]
        found += metrics.compare(
            texts, gold_texts, base=rival, metrics=list(tested), training=train, resamples=resamples, seed=seed
        )
differences = metrics.family(found)
table = pd.DataFrame([asdict(one) for one in differences], columns=list(metrics.Difference.__slots__))
table = table.drop(columns=["system", "signature"]).set_index(["base", "name"])
sure = table["p_holm"] < 0.05
wins, losses = (int((sure & (table["value"] * sign > 0)).sum()) for sign in (1, -1))

# %% [markdown]
# A panel for each measure, a row for each rival. Right of the line the tuned model scores higher. A filled dot survives
# the correction, a ring does not.

# %%
told = f"After correction LoRA-tuned is above its rival in {wins} of {len(table)} comparisons, below in {losses}"
rows = -(-len(tested) // 2)
figure, axes = plt.subplots(rows, 2, figsize=(figures.WIDTH, rows * (0.3 * len(rivals) + 0.8) + 0.5), sharey=True)
for axis in axes.flat[len(tested) :]:
    axis.axis("off")
for axis, metric in zip(axes.flat, tested, strict=False):
    axis.axvline(0, color="#666666", linewidth=1)
    for place, rival in enumerate(rivals):
        if (rival, metric) not in table.index:
            axis.text(0.03, place, "too few replies", va="center", transform=axis.get_yaxis_transform())
            continue
        one, color = table.loc[(rival, metric)], figures.COLORS[0 if rival.startswith("floor") else 5]
        filled = color if one["p_holm"] < 0.05 else "white"
        axis.plot([one["low"], one["high"]], [place, place], color=color, linewidth=2)
        axis.plot(one["value"], place, "o", color=color, markerfacecolor=filled)
    axis.set(title=panels[metric], yticks=range(len(rivals)), yticklabels=rivals)
    axis.locator_params(axis="x", nbins=2 if metric == "bertscore" else 4)
axes[0, 0].set_ylim(len(rivals) - 0.5, -0.5)
figure.supxlabel("LoRA-tuned minus rival", fontsize="medium")
figures.headline(figure, told)
figures.show(
    figure, page, "gains", data=table,
    alt=f"LoRA-tuned minus {len(rivals)} rivals, dot and interval, in {len(tested)} panels. {told}.",
    caption=f"LoRA-tuned minus each rival, 95% paired intervals. Blue: floors. Filled: p (Holm) < 0.05. {told}.",
)  # fmt: skip

# %% [markdown]
# The same in numbers, with p values before and after the correction.

# %% tags=["hide-output"] mystnb={"code_prompt_show": "The table of differences", "code_prompt_hide": "Hide the table"}
page.table("differences", table, caption="LoRA-tuned minus each rival on the posts that both answered")

# %% [markdown]
# The claims page reads the gains over the base that is asked just as the tuned model is, without an example. Fewer than
# five posts have no interval: then there is no gain to report, and the claims page says *not run*.

# %% tags=["hide-input"] mystnb={"code_prompt_show": "The code of this sentence"}
against = kinds["zero_shot"]
gains = [one for one in differences if one.base == against and np.isfinite(one.low)]
for one in gains:
    what = f"{panels[one.name]}, LoRA-tuned minus {against}, on the same posts"
    page.number(tested[one.name], one.value, low=one.low, high=one.high, n=one.n, what=what)
each = [
    f"{panels[one.name]} {one.value:+.3g} ({one.low:+.3g} to {one.high:+.3g}"
    + (", p (Holm) < 0.05)" if one.p_holm < 0.05 else ")")
    for one in gains
]
verdict = "Too few posts were answered by both systems to compare them."
if gains:
    verdict = f"On {gains[0].n} posts, tuned minus base ({against}): {', '.join(each)}."
Markdown(verdict)

# %% [markdown]
# ### Which parts are there?
#
# *CBT parts* is a mean. The table opens it up: the share of replies in which each of the five parts was found. The
# reader that finds them is a classifier with errors of its own. Those were measured on letters of the corpus and on
# answers of the base model, never on letters of a tuned one, which can use the words of a part without its sense: take
# its parts as vocabulary.

# %%
shares = {
    system: structure.coverage([text for texts in replies[system].values() for text in texts]).mean()
    for system in shown
    if system in scores
}
page.table("parts", pd.DataFrame(shares).T, caption="Share of ok replies in which each part was found")

# %% [markdown]
# ## Your own answers
#
# The same from the command line: values with intervals and signatures, the leak gate, and differences from every
# `--base` on the posts that both answered, as a table and as JSON. A file of answers has a line for each post, with its
# id, its outcome and its text. `cbt generate` writes such files, and `cbt answer` with an adapter of yours.
#
# ```
# cbt answer --adapter results/train/adapter --questions data/corpus/test.jsonl --out tuned
# cbt score --hyp tuned/answers.jsonl --ref data/corpus/test.jsonl --train data/corpus/train.jsonl \
#     --base base/answers.jsonl --base other/answers.jsonl --json scores.json
# cbt score --hyp tuned/answers.jsonl --ref data/corpus/test.jsonl --metric bertscore --encoder bert-base-chinese
# cbt score --hyp tuned/answers.jsonl --ref data/corpus/test.jsonl --bleurt BLEURT-20 --bleurt-python bleurt/bin/python
# ```
#
# ### The paper's four backbones
#
# The paper tunes four models of seven billion parameters. A run of the `paper` profile fills the row of the backbone
# that it tuned. The paper's own values are blanks until somebody copies them from its table into
# `data/paper/automatic.csv`; they are not guessed, and they were computed with settings that we do not know.

# %%
backbones = report.backbones(config["model"], {metric: of.value for metric, of in scores.get("LoRA-tuned", {}).items()})
page.table(
    "backbones", backbones, caption="The paper's backbones: its values, and this run's. A dash: blank, or not run"
)

# %% [markdown]
# ## How many posts are enough?
#
# The paper's human evaluation has 100 samples, this page has {glue:text}`posts:.0f` posts. How wide is an interval at a
# given number? Take the letters of the whole test split, each against the one for another post, and pretend that they
# were many more by drawing from them.

# %%
(statistics, _) = metrics.measure(others, [letters], metrics=["chrf"])["chrf"]
generator = np.random.default_rng(seed)
widths = {}
for size in (10, 20, 40, 80, 100, 200, 400):
    drawn_posts = [statistics.rows[generator.integers(0, len(test), size)] for _ in range(8)]
    eight = [resampling.Statistics(rows, statistics.formula) for rows in drawn_posts]
    widths[size] = np.mean([(high - low) / 2 for low, high in resampling.intervals(eight, resamples, seed=seed)])
page.number("half_width_80", widths[80], what="half the width of a 95% interval of chrF at 80 posts")
figure, axis = plt.subplots()
axis.plot(list(widths), list(widths.values()), "o-")
axis.set(xscale="log", yscale="log", xlabel="posts", ylabel="± chrF (95%)")
axis.yaxis.set_minor_locator(plt.LogLocator(subs=(2, 5)))  # so few that their labels stand apart
axis.set_title(f"±{widths[10]:.1f} chrF at 10 posts, ±{widths[100]:.1f} at 100, ±{widths[400]:.1f} at 400")
figures.show(
    figure, page, "widths", data=pd.DataFrame({"half width": widths}).rename_axis("posts"),
    alt=f"The half width of the interval falls from {widths[10]:.1f} chrF at 10 posts to {widths[400]:.1f} at 400.",
    caption=f"Half the width of the 95% interval of chrF, mean of eight draws: {widths[10]:.2f} at 10 posts, "
    f"{widths[400]:.2f} at 400.",
)  # fmt: skip

# %% [markdown]
# Four times the posts give about half the width. At 80 posts the chrF of *this floor* is known to ±
# {glue:text}`half_width_80:.2f`; another system's scores may vary more or less from post to post. A difference of two
# systems is known less finely, unless both find the same posts hard: read the paired interval above, which says whether
# a gain is more than chance.

# %%
page.save()

# %% [markdown]
# ## Summary
#
# - Overlap metrics measure wording: a reply with the opposite meaning can beat a faithful one.
# - For Chinese, the tokeniser decides the value of BLEU. Print the signature.
# - Floors and ceilings make a score readable; look at what a letter to the wrong person earns.
# - Replies that are no replies are counted, not scored. Systems are compared where both answered, post by post, with
#   an interval and a p value that is corrected for all that was tried. Several seeds are still the same posts.
#
# *Further reading.* Why a BLEU needs a signature {cite:p}`post2018sacrebleu`; tests between two systems
# {cite:p}`koehn2004,riezler2005`; what the bootstrap can and cannot do with few items {cite:p}`hesterberg2015`.

# %% [markdown]
# Did tuning help? This run knows about likeness to one reference and about parts, and nothing of what a person would
# feel. The gains below stand with their 95% intervals. The sentence on floors compares means and leaves their intervals
# out, so a floor may lead by chance.

# %%
Markdown(f"{verdict} {ranks} {told}.")

# %% [markdown]
# ## Exercises
#
# They need only the next cell, not the chapter. `make student` writes them as a notebook without the solutions.

# %% tags=["setup"]
import numpy as np
from sacrebleu.metrics import BLEU

from cbtlib import metrics, resampling

# %% [markdown]
# ### Exercise 1 (read): Which numbers can be compared?
#
# Five papers report BLEU on the same 100 posts:
#
# - **a** 12.4, `nrefs:1|tok:zh|smooth:exp|version:2.6.0`
# - **b** 21.7, `nrefs:1|tok:char|smooth:exp|version:2.6.0`
# - **c** 13.0, `nrefs:1|tok:zh|smooth:exp|version:2.6.0`
# - **d** 19.8, no signature
# - **e** 17.1, `nrefs:2|tok:zh|smooth:exp|version:2.6.0`
#
# Which pairs may be compared at all?

# %% [raw] tags=["blank"]
# comparable = ...  # a set of pairs, such as {("a", "b")}

# %% [raw] tags=["wrong"]
# comparable = {("a", "c"), ("a", "e"), ("c", "e")}  # all three say tok:zh

# %% tags=["solution"]
comparable = {("a", "c")}  # e has two references a post, which only raises the score; d could be anything

# %% tags=["check"]
said = {
    "a": "nrefs:1|tok:zh|smooth:exp|version:2.6.0",
    "b": "nrefs:1|tok:char|smooth:exp|version:2.6.0",
    "c": "nrefs:1|tok:zh|smooth:exp|version:2.6.0",
    "d": None,
    "e": "nrefs:2|tok:zh|smooth:exp|version:2.6.0",
}
assert isinstance(comparable, set), "give a set of pairs"
same = {(x, y) for x in said for y in said if x < y and said[x] and said[x] == said[y]}
assert {tuple(sorted(pair)) for pair in comparable} == same, "compare the signatures field by field"

# %% [markdown]
# ### Exercise 2 (break): The default that gives 0
#
# A script scores Chinese letters with `BLEU()` and reports 0.0 for every model. Write `bleu(hypotheses, references)`:
# the value over the whole corpus and its signature, with a tokeniser that cuts Chinese.

# %% [raw] tags=["blank"]
# def careless(hypotheses: list[str], references: list[str]) -> float:
#     return BLEU().corpus_score(hypotheses, [references]).score
#
#
# def bleu(hypotheses: list[str], references: list[str]) -> tuple[float, str]:
#     ...

# %% [raw] tags=["wrong"]
# def bleu(hypotheses: list[str], references: list[str]) -> tuple[float, str]:
#     """Smoothing makes the zero go away, and the tokeniser is still the one for English."""
#     metric = BLEU(smooth_method="add-k", smooth_value=1)
#     return metric.corpus_score(hypotheses, [references]).score, str(metric.get_signature())


# %% tags=["solution"]
def bleu(hypotheses: list[str], references: list[str]) -> tuple[float, str]:
    """`zh` cuts between Han characters; the signature says so."""
    metric = BLEU(tokenize="zh")
    return metric.corpus_score(hypotheses, [references]).score, str(metric.get_signature())


# %% tags=["check"]
reference = ["你觉得领导不满意，可是上个月他还夸过你的报告。"]
close = ["你觉得领导不满意，可是上周他还夸过你的方案。"]
assert BLEU(force=True).corpus_score(close, [reference]).score == 0, "the default sees two long words that differ"
answer = bleu(close, reference)
assert isinstance(answer, tuple) and len(answer) == 2, "give the value and the signature"
assert answer[0] > 30, "most characters agree, and the score does not see it"
assert "tok:zh" in answer[1] or "tok:char" in answer[1], "the signature must name a tokeniser that cuts Chinese"
two = [*close, "今晚早点睡。"], [*reference, "今晚早点睡吧，别看手机了。"]
whole = [BLEU(tokenize=cut).corpus_score(two[0], [two[1]]).score for cut in ("zh", "char")]
assert min(abs(bleu(*two)[0] - value) for value in whole) < 0.5, "BLEU sums counts over the corpus; it is no mean"

# %% [markdown]
# ### Exercise 3 (break): A test set that is in the training set
#
# A public evaluation was run on its own training file. Write `unseen(test, training)`: the test texts that are
# neither the same as a training text nor nearly so. White space and full-width forms (ＡＢ１２) do not make a text
# new, nor does one word changed in a long letter. Sharing a topic is no leak.

# %% [raw] tags=["blank"]
# def unseen(test: list[str], training: list[str]) -> list[str]:
#     ...

# %% [raw] tags=["wrong"]
# def unseen(test: list[str], training: list[str]) -> list[str]:
#     """Exact copies only, after a strip."""
#     known = {text.strip() for text in training}
#     return [text for text in test if text.strip() not in known]


# %% tags=["solution"]
def unseen(test: list[str], training: list[str]) -> list[str]:
    """The book's gate: same but for white space, or near in character 5-grams. Width is folded first."""
    import unicodedata

    fold = [[unicodedata.normalize("NFKC", text) for text in texts] for texts in (training, test)]
    leaked = {leak.test for leak in metrics.leaks(*fold)}
    return [text for index, text in enumerate(test) if index not in leaked]


# %% tags=["check"]
long = "你说这周三次例会都没有发言，主管也没有看你，于是你觉得自己可有可无。可是上个月的方案是你写的，大家都用了。"
training = [long, "室友最近不怎么理我，我猜她讨厌我。请问第12周该怎么办？"]
leaks = {
    "a copy": long,
    "a copy with line breaks": long.replace("。", "。\n"),
    "a copy in full width": training[1].replace("12", "１２"),
    "a copy with one word changed": long.replace("主管", "经理"),
}
honest = "这周的例会我没有发言，因为我真的不同意那个方案，也想好了下次要怎么说。"
for what, text in leaks.items():
    assert unseen([text, honest], training) == [honest], f"{what} was let through, or an honest text was not"
assert unseen([], training) == [], "no test texts, no unseen ones"
assert unseen([honest], []) == [honest], "nothing was trained on, so nothing leaks"

# %% [markdown]
# ### Exercise 4 (compute): Twenty comparisons, one false joy
#
# Compare two samples of one system often enough, and some p value falls below 0.05 though nothing differs. Write Holm's
# correction `holm(p)`: adjusted p values in the order given. Sort, multiply the smallest by *m*, the next by *m* - 1
# and so on, never let an adjusted value be smaller than one before it, and stop at 1.

# %% [raw] tags=["blank"]
# def holm(p: list[float]) -> list[float]:
#     ...

# %% [raw] tags=["wrong"]
# def holm(p: list[float]) -> list[float]:
#     """Forgets that a larger p value may not get a smaller adjusted one."""
#     order = np.argsort(p)
#     adjusted = np.empty(len(p))
#     adjusted[order] = [min(1.0, (len(p) - rank) * p[index]) for rank, index in enumerate(order)]
#     return adjusted.tolist()


# %% tags=["solution"]
def holm(p: list[float]) -> list[float]:
    """Step down: the running maximum keeps the order."""
    order = np.argsort(p)
    adjusted = np.empty(len(p))
    steps = [(len(p) - rank) * p[index] for rank, index in enumerate(order)]
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return adjusted.tolist()


# %% tags=["check"]
for p in ([0.01, 0.04, 0.03], [0.04, 0.041, 0.042, 0.2], [0.5], [0.6, 0.7], [0.001, 0.001]):
    found = holm(p)
    assert found is not None and len(found) == len(p), "an adjusted value for each p value"
    assert np.allclose(found, resampling.holm(p)), f"{p} becomes {np.round(resampling.holm(p), 3).tolist()}"

# %% [markdown]
# ### Exercise 5 (break): A failed request, scored
#
# An evaluator stores a failed request as an empty text and scores it with the rest. Write `mean_score(answers,
# score)`: the mean over the answers that are `ok`, and how many were left out. Answers are (outcome, text); with
# nothing left the mean is `None`.

# %% [raw] tags=["blank"]
# def mean_score(answers: list[tuple[str, str]], score) -> tuple[float | None, int]:
#     ...

# %% [raw] tags=["wrong"]
# def mean_score(answers: list[tuple[str, str]], score) -> tuple[float | None, int]:
#     """Leaves out empty texts, and scores half a letter and a refusal."""
#     values = [score(text) for _, text in answers if text]
#     return (float(np.mean(values)) if values else None), len(answers) - len(values)


# %% tags=["solution"]
def mean_score(answers: list[tuple[str, str]], score) -> tuple[float | None, int]:
    """The outcome decides what is data. A text can look like anything."""
    values = [score(text) for outcome, text in answers if outcome == "ok"]
    return (float(np.mean(values)) if values else None), len(answers) - len(values)


# %% tags=["check"]
answers = [("ok", "好" * 10), ("ok", "好" * 20), ("failed", ""), ("truncated", "好" * 400), ("refused", "抱歉")]
assert mean_score(answers, len) == (15.0, 3), "two of five are letters, of 10 and 20 characters"
assert mean_score([("failed", ""), ("refused", "抱歉")], len) == (None, 2), "no letter, no mean"
assert mean_score([("ok", "好")], len) == (1.0, 0), "nothing to leave out"

# %% [markdown]
# ### Exercise 6 (research): A test that kindness passes and cruelty fails
#
# The chapter showed a sentence of opposite meaning that beats a faithful one. Design a small test set that a metric
# must pass before you let it rank letters to people: which pairs, who writes them, how many, and what counts as a
# pass?

# %% [markdown] tags=["solution"]
# Pairs of letters to one post that differ in one property: faithful against reversed, specific against general,
# asking against lecturing, a safe step against a careless one, and pairs with equal content in other words as
# controls. Several people write them, others say blindly which is better, and only pairs on which they agree enter. A
# metric passes when it prefers the better letter more often than chance with the lower end of its interval, *in each
# property*, and does not prefer wording on the controls; fifty pairs a property tell 70% from 50% most of the time.
# Overlap metrics will fail the reversals. The set then says what a score may be used for, and that is worth more than
# one further metric.

# %% [markdown]
# ## Next
#
# No metric on this page has read a letter. [The next chapter](06_human_evaluation) shows how people would do
# that, blindly, and how to tell whether they agree; its raters are simulated.
