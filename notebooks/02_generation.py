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
# # Generation: 22,327 questions, and nothing made up
#
# The paper's data set {cite:p}`na2024cbtllm` holds 22,327 answers that ChatGPT wrote to questions of PsyQA
# {cite:p}`sun2021psyqa`. Somewhere in such a run a connection breaks, a filter steps in, a process dies at three in the
# morning. How do you end with answers, and only answers, and know what you paid?
#
# **You will learn**
#
# - why some posts must not be answered by a model at all, and how well a triage tells them apart;
# - how every request ends in one of seven outcomes, with one worked failure of each kind;
# - how a journal makes a run safe to kill, and what the whole set would cost at list prices;
# - which gates stand behind generation, and how many answers each of them stops.

# %% [markdown] tags=["banner"]
# `cbt run notebooks/02_generation.py` fills in how this page was made.

# %% [markdown]
# ## Set-up
#
# `safety` and `risk` look at posts before, `generate` asks, `faults` is an endpoint that fails on purpose, `prices`
# knows money, `screening` looks at answers afterwards, and `flow` draws what became of all.

# %% tags=["imports"]
import json
import shutil
from contextlib import nullcontext
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from cbtlib import (
    CbtError, answers, corpus, endpoint, faults, figures, flow, generate, models, naming, prices, prompts, report,
    risk, safety, screening, sending,
)  # fmt: skip

# %% [markdown]
# The defaults below are the embedded profile. For a run of your own, use the command line instead: `cbt
# generate --questions FILE --out DIR --model NAME --budget 5`.

# %% tags=["parameters"]
profile: str = "embedded"  # which profile made this page
results: str = "results"  # where products go
model: str = "embedded"  # embedded, smoke, or a model at OPENAI_BASE_URL
prompt: str = "few_shot_json"  # a file of cbtlib/prompts; five_parts_json for a chat model
items: int = 7  # posts of the test split that are asked
in_danger: int = 2  # posts of the crisis split that come among them: triage has to keep them from the model
classified: bool = True  # triage by rules and classifier; False: by rules alone
max_tokens: int = 400  # longest answer; one that is not done by then is truncated, and not data
questions: int = 22327  # size of the set that is forecast: the paper's
shown: list = ["deepseek-flash", "gpt-4o-mini", "gpt-4.1-mini", "gemini-3.8-flash", "gpt-6-sol"]  # in the cost figure
speed: float = 50.0  # tokens a second that one answer comes at: an assumption of the time figure, not a measurement
replay: str = ""  # the folder `runs` of an earlier run of this page: take every reply from there

# %% [markdown]
# All that this page produces goes through `page` into one folder.

# %%
page = report.Page("02_generation", profile, results)
records = corpus.load_split("crisis")[:in_danger] + corpus.load_split("test")[:items]
posts = [generate.Question(r.id, r.question, r.description) for r in records]

# %% [markdown]
# ## Before generation: who must not get a model's answer
#
# A post may be written by someone in danger. No language model should answer it, so `safety.triage` looks at each post
# first. *crisis*: the post is not sent anywhere; in place of an answer, whoever runs this shows a fixed referral.
# *concern*: it is answered as any other. Nothing adds a referral; a gate at the end of this chapter stops an answer
# that names no place of help. The referral is the same for everyone. We wrote it, and no clinician has reviewed it:
# whoever runs a study has it checked, and tries the numbers, before anyone sees it.

# %%
meaning = (
    "What you wrote makes one want to know first that you are safe. A letter here is no substitute for real help: "
    "contact someone now who can be with you. If you or someone near you is in danger: 110, 120, or the nearest "
    "emergency room. 12356: the national psychological line; hours differ by region; if nobody answers, use the "
    "numbers above or a local line. Until someone comes, leave danger, hand over what could hurt you, tell someone "
    "you trust where you are."
)
figures.chinese(safety.REFERRAL, meaning, title="The fixed referral")

# %% [markdown]
# Two readers look at a post. *Rules*, a table of named patterns (`data/crisis_rules.csv`), know net spellings, take
# figures of speech out first (累死了, "dead tired", is no wish to die), and lower what is denied, long past, in a film,
# or done by somebody else, but never below *concern*. A *classifier* over the embedded model's hidden states finds
# wordings that no rule lists; it can raise a level and never lower one.
#
# How well do they tell them apart? Below are three sets, all invented: the corpus's crisis split, half of it
# look-alikes; that split together with the ordinary dev and test posts; and the `heldout` posts of
# `data/risk_posts.jsonl`, veiled ones beside look-alikes that share their words. No weight was learnt from any of
# these. But the author of the held-out posts wrote the posts that the classifier did learn from, and their score was
# seen twice while its layer was chosen, so read it as the best that can be hoped for. No crisis post is shown on any
# page.
#
# *Recall* is the share of the posts in danger that raise an alarm, *precision* the share of the alarms that are right;
# both have Wilson's interval {cite:p}`wilson1927`. A *false calm* is a post in danger without an alarm, a *false alarm*
# one about a post that is in none. The column *alarm* says what counts as one: *crisis* alone, or *concern* too. The
# numbers in the text count *crisis* alone: a post in danger that was called a *concern* counts as missed.

# %%
classifier = risk.load() if classified else None
book = corpus.load_all(corpus.own_files())
crisis_split = [record for record in book if record.split == "crisis"]
unseen = [record for record in book if record.split in ("dev", "test", "crisis")]
sets = {
    "corpus: crisis split": ([r.post for r in crisis_split], [r.crisis for r in crisis_split]),
    "corpus: dev, test, crisis": ([r.post for r in unseen], [r.crisis for r in unseen]),
    "veiled posts, held out": risk.posts("heldout"),
}
tables = {}
for name, (texts, labels) in sets.items():
    rules = [safety.triage(text) for text in texts]
    tables[name, "rules"] = safety.evaluate(rules, labels)
    if classifier:
        tables[name, "rules and classifier"] = safety.evaluate(classifier.look(texts, rules), labels)
triage = pd.concat(tables, names=["posts of", "read by"]).droplevel(2).set_index("alarm", append=True)
page.table("triage", triage, caption="Triage, with Wilson 95% intervals. A dash: a share of nothing.")

# %% [markdown]
# The last rows matter most. The rules were extended after they had missed half of the corpus's crisis split, so their
# recall on it is an upper limit; on the veiled posts, which they had no part in, it is what a list of words is worth
# when people do not use the words. There the classifier does the finding, and it pays with false alarms. A false alarm
# costs a person the answer, and gives a referral that they did not need. A false calm costs more, so the thresholds
# lean that way: they were set on the training posts, to find nearly all of those (`risk.RECALL`).

# %%
kind = "rules and classifier" if classifier else "rules"
for name, short in (("veiled posts, held out", "triage_veiled"), ("corpus: dev, test, crisis", "triage")):
    row = triage.loc[(name, kind, "crisis")]
    for measure in ("recall", "precision"):
        if pd.notna(row[measure]):
            bounds = {"low": float(row[f"{measure}_low"]), "high": float(row[f"{measure}_high"])}
            what = f"{measure} of a crisis alarm, {name}"
            page.number(f"{short}_{measure}", float(row[measure]), n=int(row["posts"]), what=what, **bounds)
    page.number(f"{short}_posts", int(row["posts"]), what=f"posts that triage was tried on: {name}")
    n = int(row["crisis_posts"])
    page.count(f"{short}_false_calms", int(row["false_calm"]), n, what="crisis posts without an alarm")
    missed = int(triage.loc[(name, "rules", "crisis"), "false_calm"])
    page.count(f"{short}_rules_false_calms", missed, n, what="crisis posts without an alarm, by rules alone")
    n = int(row["posts"]) - n
    page.count(f"{short}_false_alarms", int(row["false_alarm"]), n, what="ordinary posts taken for a crisis")
naming.table(row[["posts", "crisis_posts", "false_calm", "false_alarm"]].astype(int).to_frame(f"{name}: {kind}"))

# %% [markdown]
# All of these posts were written by a language model for this book. On other people's words the figures are worse:
# run `cbt safety evaluate --data FILE` on labelled posts of your own population before you believe any of it. No
# number on this page makes the triage fit to guard a service.
#
# ## One question by hand
#
# The endpoint speaks OpenAI's protocol, so the `openai` package can ask it. The cell below is the whole of what many
# scripts do, 22,327 times over: ask, take the text, go on. The limit is set so low that the reply is most likely cut
# off.

# %%
first = next(post for post, record in zip(posts, records, strict=True) if not record.crisis)
by_hand, ended = "(a replay asks nobody)", ""
if not replay:
    with endpoint.connect(model) as where:
        client = sending.client(where)  # OpenAI(base_url=…, api_key=…), kept from proxies and redirects
        messages = prompts.get("five_parts").messages(first.question, first.description)
        reply = client.chat.completions.create(model=where.model, messages=messages, max_tokens=60, seed=0)
    by_hand, reason = reply.choices[0].message.content or "(no text)", reply.choices[0].finish_reason
    ended = f"finish_reason is {reason!r}: 'stop' would be the end of a reply, 'length' is our limit."
figures.chinese(by_hand, ended, title="One bare reply")

# %% [markdown]
# Whatever this is, it is text, and a script that stores it has stored whatever arrived: half a letter, a refusal, or
# nothing. It has no place for a broken connection and none for the bill.
#
# ## One run
#
# The prompt shows the model one worked example and asks for five JSON fields; the server enforces the schema
# where it can, and each reply is checked here in every case. Each attempt is written to a journal before it
# is sent, and each raw reply after it came.

# %%
sampling = generate.Sampling(temperature=0.7, max_tokens=max_tokens, seed=0)
# One at a time: on one machine the same run gives the same words.
traffic = sending.Traffic(concurrency=1, deadline=600)
recorded = sorted(Path(replay).glob(f"{prompt}-*/journal.sqlite")) if replay else []
options = {"sampling": sampling, "classifier": classifier, "replay": recorded[0] if recorded else None}
with nullcontext(generate.recorded(recorded[0])) if recorded else endpoint.connect(model) as where:
    folder = page.dir / "runs" / f"{prompt}-{where.fingerprint[:12]}"
    summary = generate.generate(posts, prompts.get(prompt), where, folder, traffic=traffic, **options)
    again = generate.generate(posts, prompts.get(prompt), where, folder, traffic=traffic, **options)
assert again.spend.attempts == summary.spend.attempts or again.outcomes["failed"]  # nothing finished is asked twice
found = list(generate.read_answers(folder / "answers.jsonl"))
for file in ("answers.jsonl", "manifest.json"):
    shutil.copy(folder / file, page.dir / file)
page.number("asked", len(found), what="posts that went in, those in danger among them")
page.count("ok", summary.outcomes["ok"], len(found), what="ok answers")
page.table(
    "outcomes", page.outcomes("generation", summary.outcomes), caption="How the requests ended. Only ok is data."
)

# %% [markdown]
# The cell above ran the same command twice. The second time found every finished answer in the journal and
# sent nothing. The same holds after `kill -9` at any instant: tests do that to a run, and count on the
# server's side that no finished answer was paid again. The posts in danger were not sent at all.
#
# What leaves a run is a data set: a parquet file of the `ok` answers, and a card that says which prompt, model,
# parameters and prices made them. It is what `datasets.load_dataset` reads.

# %%
data_set = answers.export(posts, folder)
print("\n".join((data_set / "README.md").read_text(encoding="utf-8").splitlines()[8:24]))

# %% [markdown]
# ## One failure of each kind
#
# A run that went well shows nothing about failures. So here is a rehearsal: a loopback endpoint that misbehaves as
# told. Its letter is invented text of this book and no model's answer. Each row is one request with one attempt; in a
# real run the failures that may pass by themselves (429, 5xx, broken connections) are tried again.

# %%
# In English: "I keep sleeping badly"; "since I changed jobs I fall asleep at three every night"
post = [generate.Question("example", "最近总是睡不好", "换了工作以后，每天三点才睡着。")]
rows = []
with faults.serve(retry_after=0) as rehearsal:
    for fault, meaning in faults.FAULTS.items():
        rehearsal.plan = lambda key, attempt, fault=fault: fault
        folder = page.dir / "rehearsal" / fault
        shutil.rmtree(folder, ignore_errors=True)
        try:
            once = sending.Traffic(attempts=1, deadline=0.3)
            (answer,) = generate.run(post, prompts.get("five_parts_json"), rehearsal, folder, traffic=once)
            rows.append((fault, meaning, answer.outcome, len(answer.text), answer.detail[:70]))
        except CbtError as error:
            rows.append((fault, meaning, "run stopped", 0, str(error)[:70]))
kinds = pd.DataFrame(rows, columns=["fault", "what the endpoint did", "outcome", "characters", "detail"]).set_index(
    "fault"
)
assert (kinds["characters"] > 0).equals(kinds["outcome"] == "ok")
page.table("failures", kinds, caption="A rehearsal. Characters: text that could reach a data set.")

# %% [markdown]
# Some rows are worth a second look. `no_usage` is a good answer whose cost is unknown: the ledger counts nothing at its
# lower bound and the most it can have been at its upper bound. `english` is `ok`: an outcome says that there *is* an
# answer, gates say whether it is a usable one. And a wrong key, a wrong URL or an empty account stops the run, since it
# concerns every request.
#
# One of each kind, worked: what came over the wire, and what was made of it. The seventh outcome, *crisis*, never
# reaches the wire.

# %%
worked = ["ok", "refusal", "not_schema", "length", "filtered", "garbled"]
wire = []
for fault in worked:
    with generate.Journal(page.dir / "rehearsal" / fault / "journal.sqlite", read_only=True) as journal:
        (reply,) = (r for outcome in generate.OUTCOMES for r in journal.replies(outcome))
    outcome, text, *_, detail = generate.classify(reply.status, reply.body, prompts.get("five_parts_json"))
    said = reply.body[max(0, reply.body.find('"choices"')) :]  # what stands before is the same in all of them
    wire.append((outcome, reply.status, said[:120] + " …", detail or f"{len(text)} characters of text"))
table = pd.DataFrame(wire, columns=["outcome", "HTTP", "in the reply", "what was made of it"]).set_index("outcome")
caption = "One reply of each kind, as journalled. The letter in them is invented; it begins with nights of bad sleep. "
caption += "The refusal says: sorry, I cannot help with this topic."
page.table("worked", table, caption=caption)

# %% [markdown]
# ## What would it cost, and how long would it take?
#
# Money is counted in whole micro-dollars from a price file with a date and a source in each row
# (`data/prices.csv`). A model without a row is *unpriced*, never free. The forecast needs tokens. Here they
# come from the book's own posts and letters in the form of `five_parts_json`, counted with the
# embedded model's tokenizer: other models count differently, often by a fifth.

# %%
tokenizer = models.tokenizer("smoke" if model == "smoke" else "embedded")
usages = []
for r in (r for r in book if not r.crisis):
    sent = "\n".join(m["content"] for m in prompts.get("five_parts_json").messages(r.question, r.description))
    letter = json.dumps(r.answer, ensure_ascii=False)
    usages.append((len(tokenizer(sent)["input_ids"]), len(tokenizer(letter)["input_ids"])))
tokens = prices.forecast(usages, questions, None)
page.number("questions", questions, what="questions that are forecast")
page.number("million_prompt_tokens", tokens.prompt_tokens[0] / 1e6, what="million prompt tokens, expected")
page.number("million_completion_tokens", tokens.completion_tokens[0] / 1e6, what="million completion tokens, expected")

# %% [markdown]
# Each price is a list price on the day in its row. The interval is a 95% prediction interval for the total,
# from the scatter between posts alone. It knows nothing of retries, of other tokenizers, or of a model that
# thinks aloud at your expense. That is why `cbt generate --dry-run` asks a sample of *your* questions first.

# %%
costs = []
for price in prices.load().values():
    expected, low, high = (value / 1e6 for value in prices.forecast(usages, questions, price).cost_micro)
    batch = expected * float(price.batch_share) if price.batch_share else None
    costs.append((price.model, price.provider, expected, low, high, batch, price.as_of, price.note))
columns = ["model", "provider", "US$", "low", "high", "by Batch API", "price of", "note"]
cost = pd.DataFrame(costs, columns=columns).set_index("model").sort_values("US$")
page.number("cheapest", float(cost["US$"].min()), what="US$ for all questions, cheapest model of the price file")
page.number("dearest", float(cost["US$"].max()), what="US$ for all questions, dearest model of the price file")
page.table(
    "cost", cost, caption=f"What {questions:,} five-part answers would cost at list prices (forecast, 95% interval)."
)

# %% [markdown]
# Time is another matter than money: it depends on how many requests are in flight. The lower half of the figure
# assumes that each answer comes at {glue:text}`speed:.0f` tokens a second, which no provider promises and which was
# not measured here; your own `--dry-run` measures it. The Batch API takes up to a day for about half the price.

# %%
five = cost.loc[[name for name in cost.index if name in shown]]
flights = [1, 8, 64, 256]
hours = pd.Series([tokens.completion_tokens[0] / speed / n / 3600 for n in flights], index=flights, name="hours")
page.number("speed", speed, what="assumed tokens a second of one answer")
page.number("hours_64", float(hours[64]), what="hours with 64 requests in flight, at the assumed speed")
figure, (left, right) = plt.subplots(2, figsize=(figures.WIDTH, 6), height_ratios=[3, 2])
error = [five["US$"] - five["low"], five["high"] - five["US$"]]
left.barh(five.index, five["US$"], xerr=error, color=figures.COLORS[0], label="one by one")
left.scatter(five["by Batch API"], range(len(five)), color=figures.COLORS[1], zorder=3, label="by the Batch API")
told = f"{questions:,} answers by {len(five)} of {len(cost)} models: {five['US$'].min():.0f} to "
told += f"{five['US$'].max():.0f} US dollars at list prices"
left.set(xlabel="US dollars")
figures.headline(figure, told)
left.legend(frameon=False, loc="lower right")
right.plot(hours.index, hours, "o-")
right.set(xscale="log", yscale="log", xlabel="requests in flight", ylabel="hours")
right.set_title(f"{hours[1]:.0f} hours one by one, {hours[256]:.1f} with 256 in flight")
right.set_xticks(flights, flights)
caption = f"{told} (lines: 95% interval); hours, were each answer to come at {speed:.0f} tokens a second."
alt = (
    f"Above, bars of cost: {told}. Below, hours fall from {hours[1]:.0f} with one request in flight to "
    f"{hours[256]:.1f} with 256."
)
figures.show(figure, page, "cost_time", alt=alt, caption=caption, data=five)

# %% [markdown]
# ## Gates behind generation
#
# An `ok` answer is a text, not yet a letter. Nine gates look for defects that can be named. The limits of the
# numeric ones are measured: they are as wide as the corpus's letters of the train split need, so that
# none of those is stopped.

# %%
limits = screening.Limits.measure(corpus.load_split("train"))
good = [answer for answer in found if answer.outcome == "ok"]
post_of = {record.id: record.post for record in records}
answered, levels = [post_of[answer.id] for answer in good], [answer.triage for answer in good]
stopped = screening.screen([answer.text for answer in good], answered, limits, prompts.get(prompt).text, levels)
unseen = corpus.load_split("test")
letters = screening.screen([r.answer_text for r in unseen], [r.post for r in unseen], limits)
accepted = [answer for answer, bad in zip(good, stopped.any(axis=1), strict=True) if not bad]
lines = [json.dumps({"id": a.id, "text": a.text}, ensure_ascii=False) for a in accepted]
answers.write_lines(page.dir / "accepted.jsonl", lines)
page.count("accepted", len(accepted), len(found), what="ok answers that pass every gate")
passed = float((~letters.any(axis=1)).mean())
page.number("letters_passed", passed, what="corpus letters of the test split that pass every gate", n=len(letters))
page.table(
    "stopped", screening.counts(stopped).set_index("gate"), caption=f"What stops the {len(good)} ok answers of the run."
)

# %% [markdown]
# The same gates on the corpus's letters of the test split, which no limit has seen, say what the gates
# cost: every letter of these that is stopped is a false alarm.

# %%
shares = pd.DataFrame({"generated, ok": stopped.mean(), "the corpus's letters": letters.mean()})
figure, axes = plt.subplots(figsize=(figures.WIDTH, 4.5))
shares[::-1].plot.barh(ax=axes, width=0.75, color=[figures.COLORS[5], figures.COLORS[0]])
axes.set_xlim(0, 1)
axes.set_xlabel("share of answers that the gate stops")
told = f"{len(accepted)} of {len(good)} ok answers and {passed:.0%} of the corpus's letters pass every gate"
figures.headline(figure, told)
axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.4, -0.14), ncols=2)
alt = f"Bars: the share of answers and of letters that each of {len(shares)} gates stops. {told}."
caption = f"Share of {len(good)} ok answers and of {len(letters)} letters that each gate stops. {told}."
figures.show(figure, page, "gates", alt=alt, caption=caption, data=shares)

# %% [markdown]
# And here is the whole run in one picture, from what was asked to what may be learned from. Every post is in it:
# a step that lost one would be refused by `flow`.

# %%
ends = {name: count for name, count in summary.outcomes.items() if name not in ("ok", "crisis")}
crisis = summary.outcomes["crisis"]
by_gate = {}
for _, row in stopped[stopped.any(axis=1)].iterrows():
    gate = row.index[row.to_numpy().argmax()]
    by_gate[f"{gate} gate"] = by_gate.get(f"{gate} gate", 0) + 1
steps = [
    {"asked": len(found)},
    {"sent": len(found) - crisis, "crisis": crisis},
    {"ok": len(good)} | {name: count for name, count in ends.items() if count},
    {"accepted": len(accepted)} | by_gate,
]
figure, axes = plt.subplots(figsize=(figures.WIDTH, 3.8))
flow.draw(axes, steps, ["asked", "triage", "outcomes", "gates"], [figures.COLORS[0], figures.COLORS[1]])
table = pd.DataFrame([(i, name, count) for i, step in enumerate(steps) for name, count in step.items()])
table.columns = ["step", "name", "posts"]
figures.headline(figure, f"Of {len(found)} posts asked, {len(good)} got an ok answer; {len(accepted)} passed the gates")
alt = f"Flow: {len(found)} asked, {steps[1]['sent']} sent, {len(good)} ok, {len(accepted)} accepted; the others end."
caption = f"From {len(found)} asked to {len(accepted)} accepted. An answer that several gates stop counts at the first."
figures.show(figure, page, "flow", alt=alt, caption=caption, data=table.set_index("step"))

# %% [markdown]
# The numbers of this page go where the book's other pages find them.

# %%
page.save()

# %% [markdown]
# ## Summary
#
# - {glue:text}`asked` posts went in, those in danger among them; {glue:text}`ok` answers are `ok`, and
#   {glue:text}`accepted` of those pass every gate. Of the corpus's letters, {glue:text}`letters_passed:.0%` pass. A
#   base model that was never taught to answer writes texts, not letters: look before you train on anything.
# - A failure has a type and no text. It is counted beside the data and never in it.
# - The journal comes first. The run can be killed at any instant, and the bill has two bounds.
# - {glue:text}`questions` answers of this kind take about {glue:text}`million_prompt_tokens:.1f` million
#   prompt and {glue:text}`million_completion_tokens:.1f` million completion tokens: between
#   {glue:text}`cheapest:.0f` and {glue:text}`dearest:.0f` US dollars at the list prices of the file.
# - On {glue:text}`triage_veiled_posts` veiled posts and look-alikes that no weight was learnt from, triage found
#   {glue:text}`triage_veiled_recall:.0%` of the posts in danger ({glue:text}`triage_veiled_recall_low:.0%` to
#   {glue:text}`triage_veiled_recall_high:.0%`), missed {glue:text}`triage_veiled_false_calms`, and took
#   {glue:text}`triage_veiled_false_alarms` of the look-alikes for a crisis. On your posts it will do otherwise, and
#   most likely worse.
#
# *Further reading.* How the questions were collected {cite:p}`sun2021psyqa`, and how the paper had them answered
# {cite:p}`na2024cbtllm`.

# %% [markdown]
# ## Exercises
#
# They need only the next cell, not the chapter. `make student` writes them as a notebook without the solutions.

# %% tags=["setup"]
import math
import tempfile
from itertools import pairwise

from cbtlib import faults, generate, prices, prompts

# %% [markdown]
# ### Exercise 1 (read): Which of these are answers?
#
# Six replies of an endpoint that was asked for a letter of a few hundred characters:
#
# | | HTTP | finish_reason | content |
# |---|---|---|---|
# | a | 200 | stop | 听起来这几周你很累。…… ("It sounds as if these weeks have worn you out. …", 312 characters) |
# | b | 200 | length | 你提到主管没有回你消息，于是你觉得 ("You say your manager did not answer, so you feel") |
# | c | 200 | content_filter | (empty) |
# | d | 429 | | rate limit reached |
# | e | 200 | stop | 抱歉，作为人工智能，我无法提供这方面的帮助。 ("Sorry, as an AI I cannot help with this.") |
# | f | 200 | stop | (empty) |
#
# Give each its outcome: *ok, truncated, filtered, failed, unparsed* or *refused*. An empty reply that says it is done
# holds nothing that can be read: it is *unparsed*.

# %% [raw] tags=["blank"]
# outcome = ...  # a dict, such as {"a": "ok", "b": …}

# %% [raw] tags=["wrong"]
# outcome = {"a": "ok", "b": "ok", "c": "filtered", "d": "failed", "e": "ok", "f": "unparsed"}  # text in b and e

# %% tags=["solution"]
outcome = {"a": "ok", "b": "truncated", "c": "filtered", "d": "failed", "e": "refused", "f": "unparsed"}

# %% tags=["check"]
assert isinstance(outcome, dict) and sorted(outcome) == list("abcdef"), "give each of a to f an outcome"
assert [one for one, kind in outcome.items() if kind == "ok"] == ["a"], "half a letter is no letter, nor is an apology"
assert outcome["b"] == "truncated" and outcome["e"] == "refused", "say why b and e are not data: the reasons differ"
assert (outcome["c"], outcome["d"], outcome["f"]) == ("filtered", "failed", "unparsed"), "look at c, d and f again"

# %% [markdown]
# ### Exercise 2 (read): How many requests?
#
# The journal names a request by the hash of its body, and the id of a question is not in the body. Two questions of a
# file differ in their ids only. A run asks both. How many requests reach the endpoint, and how many answers come back?

# %% [raw] tags=["blank"]
# sent, came_back = ..., ...

# %% [raw] tags=["wrong"]
# sent, came_back = 2, 2  # one request for each question

# %% tags=["solution"]
sent, came_back = 1, 2  # the key of a request is the hash of its body, and the id is not in the body

# %% tags=["check"]
twins = [generate.Question(name, "同一个问题", "同一段描述") for name in ("a", "b")]
with faults.serve() as server, tempfile.TemporaryDirectory() as folder:
    answers = generate.run(twins, prompts.get("five_parts_json"), server, folder)
assert came_back == len(answers), "each question of the file has a line in the answers"
assert sent == server.requests, "what makes two requests the same? look at generate.key_of"

# %% [markdown]
# ### Exercise 3 (compute): A bill that is never too low
#
# Write `cost(model, prompt_tokens, completion_tokens)` in whole micro-dollars, rounded **up**, from the price file;
# `None` for a model that the file does not have. A price has `input_pico` and `output_pico`: picodollars a token, of
# which a micro-dollar has 10⁶.

# %% [raw] tags=["blank"]
# def cost(model: str, prompt_tokens: int, completion_tokens: int) -> int | None:
#     price = prices.find(model, prices.load())
#     ...

# %% [raw] tags=["wrong"]
# def cost(model: str, prompt_tokens: int, completion_tokens: int) -> int | None:
#     """What is not in the table costs nothing."""
#     price = prices.find(model, prices.load())
#     if price is None:
#         return 0
#     return -(-(prompt_tokens * price.input_pico + completion_tokens * price.output_pico) // 10**6)


# %% tags=["solution"]
def cost(model: str, prompt_tokens: int, completion_tokens: int) -> int | None:
    """Whole numbers all the way: a float would lose picodollars, and a missing price is not a price of 0."""
    price = prices.find(model, prices.load())
    if price is None:
        return None
    return -(-(prompt_tokens * price.input_pico + completion_tokens * price.output_pico) // 10**6)


# %% tags=["check"]
listed = next(iter(prices.load().values()))
for tokens in ((1000, 500), (1, 0), (1, 1), (123_456_789, 987_654_321)):
    found = cost(listed.model, *tokens)
    assert isinstance(found, int) and found == listed.micro(*tokens), f"{tokens} tokens cost {listed.micro(*tokens)}"
assert cost("a-model-nobody-listed", 1000, 500) is None, "an unknown price is unknown, and not nothing"

# %% [markdown]
# ### Exercise 4 (break): Dialogues glued together
#
# A chat log is one list of turns; a session is one client. In a public data set, more than half of the training
# samples hold turns of *another* client, because the list was cut into pairs without a look at the session. Write
# `pairs(turns)`: (client, counsellor) texts where the counsellor's turn directly answers the client's in the same
# session. What has no answer makes no pair. Show that the careless way glues.
#
# In English the turns are: I failed again. / My roommate ignores me. / Why do you think she does? / Perhaps she is
# busy. / That is one way to see it; is there another? / Hello, please go on. / I cannot sleep.

# %% [raw] tags=["blank"]
# turns = [  # (session, who, text); Lin never got an answer
#     ("Lin", "client", "我又考砸了。"),
#     ("Wei", "client", "室友不理我。"),
#     ("Wei", "counsellor", "你觉得她为什么不理你？"),
#     ("Wei", "client", "可能她很忙。"),
#     ("Wei", "counsellor", "这是一种可能，还有吗？"),
#     ("Bo", "counsellor", "你好，请说。"),
#     ("Bo", "client", "我睡不着。"),
# ]
#
#
# def pairs(turns: list[tuple[str, str, str]]) -> list[tuple[str, str]]:
#     ...
#
#
# glued = ...  # how many of list(zip(turns[::2], turns[1::2])) join two sessions?

# %% [raw] tags=["wrong"]
# turns = [
#     ("Lin", "client", "我又考砸了。"),
#     ("Wei", "client", "室友不理我。"),
#     ("Wei", "counsellor", "你觉得她为什么不理你？"),
#     ("Wei", "client", "可能她很忙。"),
#     ("Wei", "counsellor", "这是一种可能，还有吗？"),
#     ("Bo", "counsellor", "你好，请说。"),
#     ("Bo", "client", "我睡不着。"),
# ]
#
#
# def pairs(turns: list[tuple[str, str, str]]) -> list[tuple[str, str]]:
#     """Looks at who speaks, and not to whom: right for this list by luck."""
#     return [(a[2], b[2]) for a, b in pairwise(turns) if (a[1], b[1]) == ("client", "counsellor")]
#
#
# glued = 2

# %% tags=["solution"]
turns = [
    ("Lin", "client", "我又考砸了。"),
    ("Wei", "client", "室友不理我。"),
    ("Wei", "counsellor", "你觉得她为什么不理你？"),
    ("Wei", "client", "可能她很忙。"),
    ("Wei", "counsellor", "这是一种可能，还有吗？"),
    ("Bo", "counsellor", "你好，请说。"),
    ("Bo", "client", "我睡不着。"),
]


def pairs(turns: list[tuple[str, str, str]]) -> list[tuple[str, str]]:
    """A pair is two turns in a row of one session, the client's first."""
    return [(a[2], b[2]) for a, b in pairwise(turns) if a[0] == b[0] and (a[1], b[1]) == ("client", "counsellor")]


glued = sum(a[0] != b[0] for a, b in zip(turns[::2], turns[1::2], strict=False))

# %% tags=["check"]
assert glued == 2, "count the pairs of the careless way whose two sessions differ"
expected = [("室友不理我。", "你觉得她为什么不理你？"), ("可能她很忙。", "这是一种可能，还有吗？")]
assert pairs(turns) == expected, "Wei has two pairs, Lin and Bo have none"
border = [("Lin", "client", "我又考砸了。"), ("Wei", "counsellor", "室友为什么不理你？")]
assert pairs(border) == [], "an answer to Wei became an answer to Lin"
assert pairs([]) == [], "an empty log has no pairs"

# %% [markdown]
# ### Exercise 5 (compute): How many crisis posts make a claim?
#
# A triage missed none of the *n* crisis posts it was tried on. How large must *n* be before you may say, with 95%
# confidence, that it misses fewer than 5%? Start here: if it missed 5% of all such posts, with what chance would it
# miss none of *n*? Write `needed(miss_rate, confidence)`.

# %% [raw] tags=["blank"]
# def needed(miss_rate: float, confidence: float) -> int:
#     ...

# %% [raw] tags=["wrong"]
# def needed(miss_rate: float, confidence: float) -> int:
#     """Enough posts to expect one miss."""
#     return math.ceil(1 / miss_rate)


# %% tags=["solution"]
def needed(miss_rate: float, confidence: float) -> int:
    """Smallest n at which a triage with that miss rate would pass without a miss with a chance of 1 - confidence."""
    return math.ceil(math.log(1 - confidence) / math.log(1 - miss_rate))


print(needed(0.05, 0.95), "posts; close to the rule of three: 3 / 0.05 = 60")

# %% tags=["check"]
for miss_rate, confidence in ((0.05, 0.95), (0.01, 0.95), (0.05, 0.99), (0.5, 0.5)):
    n = needed(miss_rate, confidence)
    assert isinstance(n, int), "give a whole number of posts"
    assert (1 - miss_rate) ** n <= 1 - confidence + 1e-12, f"{n} posts are too few for a claim"
    assert (1 - miss_rate) ** (n - 1) > 1 - confidence, f"{n} posts are more than it takes"

# %% [markdown]
# ### Exercise 6 (research): Who decides that a triage is good enough?
#
# Suppose somebody wants to run `safety.triage` in front of a real forum. Which posts would you test it on, who labels
# them and who looks after the labellers, what is counted, and who may stop it? When is the answer *do not run it at
# all*?

# %% [markdown] tags=["solution"]
# Test posts come from that forum, with its consent and an ethics review, drawn so that rare and oblique wording is
# in, and labelled by at least two clinicians who can reach support themselves. Misses and false alarms are counted
# apart, with intervals, for each group of people that writes there: a recall over all hides a group that is missed.
# Exercise 5 says how many crisis posts a claim needs. A named clinician may stop the service at any hour; posts that
# raise an alarm reach a person within a stated time, or the triage only gives comfort to its owner. If there is no
# such person, or too few labelled posts to tell, the answer is: do not run it.

# %% [markdown]
# ## Next
#
# [Distortion statistics](03_distortion_statistics.ipynb) asks what kinds of thoughts the posts hold, and how
# sure one can be of such a count.
