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
# The paper's data set holds 22,327 answers that a model wrote over an API. Somewhere in such a run a
# connection breaks, a filter steps in, a process dies at three in the morning. How do you end with answers,
# and only answers, and know what you paid?
#
# **You will learn**
#
# - why some posts must not be answered by a model at all, and how well a triage tells;
# - how every request ends in one of seven outcomes, with one worked failure of each kind;
# - how a journal makes a run safe to kill, and what the whole set would cost at list prices;
# - which gates stand behind generation, and how many answers each of them stops.

# %% [markdown] tags=["banner"]
# `cbt run notebooks/02_generation.py` fills in how this page was made.

# %% [markdown]
# ## Set-up
#
# `safety` looks at posts before, `generate` asks, `faults` is an endpoint that fails on purpose, `prices`
# knows money, and `screening` looks at answers afterwards.

# %%
import json
import shutil

import matplotlib.pyplot as plt
import pandas as pd
from openai import OpenAI
from transformers import AutoTokenizer

from cbtlib import corpus, embedded, endpoint, faults, figures, generate, prices, prompts, report, safety, screening
from cbtlib.sending import Traffic

# %% [markdown]
# The defaults below are the embedded profile. For a run of your own, use the command line instead: `cbt
# generate --questions FILE --out DIR --model NAME --budget 5`.

# %% tags=["parameters"]
profile: str = "embedded"  # which profile made this page
results: str = "results"  # where products go
model: str = "embedded"  # embedded, smoke, or a model at OPENAI_BASE_URL
prompt: str = "few_shot_json"  # a file of cbtlib/prompts; five_parts_json for a chat model
items: int = 10  # posts of the test split that are answered
max_tokens: int = 400  # longest answer; one that is not done by then is truncated, and not data
questions: int = 22327  # size of the set that is forecast: the paper's

# %% [markdown]
# All that this page produces goes through `page` into one folder.

# %%
page = report.Page("02_generation", profile, results)
records = corpus.load_split("test")[:items]
posts = [generate.Question(r.id, r.question, r.description) for r in records]

# %% [markdown]
# ## Before generation: who must not get a model's answer
#
# A post may be written by someone in danger. No language model should answer it, so `safety.triage` looks at
# each post first. *crisis*: the post is not sent anywhere, and a fixed referral stands in place of an answer.
# *concern*: it is answered, and the answer has to carry a referral. The referral is the same for everyone:

# %%
meaning = (
    "Make sure you are safe. 110: police, 120: ambulance, or an emergency room. 12356: the national psychological "
    "line; hours differ by region. Leave danger, hand over what could hurt you, tell someone you trust."
)
figures.chinese(safety.REFERRAL, meaning, title="The fixed referral")

# %% [markdown]
# The rules know net spellings, take figures of speech out first (累死了, "dead tired", is no wish to die), and
# lower what is denied, long past, or in a film, but never below *concern*. On ordinary posts they should be
# quiet. Here are the book's own posts, all splits that there are, with the labels of the corpus. No crisis
# post is shown on any page.

# %%
splits = [split for split in corpus.SPLITS if (corpus.ROOT / "data" / "corpus" / f"{split}.jsonl").exists()]
book = [record for split in splits for record in corpus.load_split(split)]
triage = safety.evaluate([record.post for record in book], [record.crisis for record in book])
page.number("triage_posts", len(book), what="posts of the book that triage was tried on")
page.number("triage_false_alarms", int(triage["false_alarm"][0]), what="ordinary posts taken for a crisis", n=len(book))
calms, crises = int(triage["false_calm"][0]), int(triage["crisis_posts"][0])
page.number("triage_false_calms", calms, what="crisis posts without an alarm", n=crises)
page.table("triage", triage.set_index("alarm").T, caption="Triage on the book's posts. A dash: a share of nothing.")

# %% [markdown]
# These posts are the book's own, and the rules were extended after they had missed half of the crisis posts
# of this very set: read the recall as an upper limit. On
# other people's words the figures are worse. Run `cbt safety evaluate --data FILE` on labelled posts of your
# own population before you believe any of it. A false calm costs more than a false alarm, and no number on
# this page makes the triage fit to guard a service.
#
# ## One question by hand
#
# The endpoint speaks OpenAI's protocol, so the `openai` package can ask it. The cell below is the whole of what
# many scripts do, 22,327 times over: ask, take the text, go on. The limit is set low here on purpose.

# %%
with endpoint.connect(model) as where:
    client = OpenAI(base_url=where.base_url, api_key=where.api_key, max_retries=0)
    messages = prompts.get("five_parts").messages(posts[0].question, posts[0].description)
    reply = client.chat.completions.create(model=where.model, messages=messages, max_tokens=60, seed=0)
choice = reply.choices[0]
ended = f"finish_reason is {choice.finish_reason!r}: 'stop' would be the end of a reply, 'length' is our limit."
figures.chinese(choice.message.content or "(no text)", ended, title="One bare reply")

# %% [markdown]
# The text looks like an answer, and a script that stores it has stored whatever arrived: half a letter, a refusal, or
# nothing. It has no place for a broken connection and none for the bill.
#
# ## One run
#
# The prompt shows the model one worked example and asks for five JSON fields; the server enforces the schema
# where it can, and each reply is checked here in every case. Each attempt is written to a journal before it
# is sent, and each raw reply after it came.

# %%
sampling = generate.Sampling(temperature=0.7, max_tokens=max_tokens, seed=0)
traffic = Traffic(concurrency=1, deadline=600)  # one at a time: on one machine the same run gives the same words
with endpoint.connect(model) as where:
    folder = page.dir / "runs" / f"{prompt}-{where.fingerprint[:12]}"
    summary = generate.generate(posts, prompts.get(prompt), where, folder, sampling=sampling, traffic=traffic)
    again = generate.generate(posts, prompts.get(prompt), where, folder, sampling=sampling, traffic=traffic)
assert again.spend.attempts == summary.spend.attempts or again.outcomes["failed"]  # nothing finished is asked twice
answers = list(generate.read_answers(folder / "answers.jsonl"))
shutil.copy(folder / "answers.jsonl", page.dir / "answers.jsonl")
page.number("asked", len(answers), what="posts of the test split")
page.number("ok", summary.outcomes["ok"], what="ok answers", n=len(answers))
page.table(
    "outcomes", page.outcomes("generation", summary.outcomes), caption="How the requests ended. Only ok is data."
)

# %% [markdown]
# The cell above ran the same command twice. The second time found every finished answer in the journal and
# sent nothing. The same holds after `kill -9` at any instant: tests do that to a run, and count on the
# server's side that no finished answer was paid again.
#
# ## One failure of each kind
#
# A run that went well shows nothing about failures. So here is a rehearsal: a loopback endpoint that
# misbehaves as told. Its letter is invented text of this book and no model's answer. Each row is one request
# with one attempt; in a real run the passing failures (429, 5xx, broken connections) are tried again.

# %%
post = [generate.Question("example", "最近总是睡不好", "换了工作以后，每天三点才睡着。")]
rows = []
with faults.serve(retry_after=0) as rehearsal:
    for fault, meaning in faults.FAULTS.items():
        rehearsal.plan = lambda key, attempt, fault=fault: fault
        folder = page.dir / "rehearsal" / fault
        shutil.rmtree(folder, ignore_errors=True)
        try:
            (answer,) = generate.run(
                post, prompts.get("five_parts_json"), rehearsal, folder, traffic=Traffic(attempts=1, deadline=0.3)
            )
            rows.append((fault, meaning, answer.outcome, len(answer.text), answer.detail[:70]))
        except generate.CbtError as error:
            rows.append((fault, meaning, "run stopped", 0, str(error)[:70]))
kinds = pd.DataFrame(rows, columns=["fault", "what the endpoint did", "outcome", "characters", "detail"]).set_index(
    "fault"
)
assert (kinds["characters"] > 0).equals(kinds["outcome"] == "ok")
page.table("failures", kinds, caption="A rehearsal. Characters: text that could reach a data set.")

# %% [markdown]
# Three rows are worth a second look. `no_usage` is a good answer whose cost is unknown: the ledger counts
# nothing at its lower bound and the most it can have been at its upper bound. `english` is `ok`: an outcome
# says that there *is* an answer, gates say whether it is a usable one. And a wrong key, a wrong URL or an
# empty account stops the run, since it concerns every request.
#
# ## What would it cost?
#
# Money is counted in whole micro-dollars from a price file with a date and a source in each row
# (`data/prices.csv`). A model without a row is *unpriced*, never free. The forecast needs tokens. Here they
# come from the book's own posts and hand-written letters in the form of `five_parts_json`, counted with the
# embedded model's tokenizer: other models count differently, often by a fifth.

# %%
tokenizer = AutoTokenizer.from_pretrained(embedded.model_dir("smoke" if model == "smoke" else "embedded"))
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
# Each price is a list price on the day in its row. The interval is a 95 % prediction interval for the total,
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
    "cost", cost, caption=f"What {questions:,} five-part answers would cost at list prices (forecast, 95 % interval)."
)

# %% [markdown]
# ## Gates behind generation
#
# An `ok` answer is a text, not yet a letter. Nine gates look for defects that can be named. The limits of the
# numeric ones are measured: they are as wide as the hand-written letters of the train split need, so that
# none of those is stopped.

# %%
limits = screening.Limits.measure(corpus.load_split("train"))
good = [answer for answer in answers if answer.outcome == "ok"]
post_of = {record.id: record.post for record in records}
stopped = screening.screen([a.text for a in good], [post_of[a.id] for a in good], limits, prompts.get(prompt).text)
unseen = corpus.load_split("test")
human = screening.screen([r.answer_text for r in unseen], [r.post for r in unseen], limits)
accepted = [answer for answer, bad in zip(good, stopped.any(axis=1), strict=True) if not bad]
lines = [json.dumps({"id": a.id, "text": a.text}, ensure_ascii=False) for a in accepted]
generate.write_lines(page.dir / "accepted.jsonl", lines)
page.number("accepted", len(accepted), what="ok answers that pass every gate", n=len(good))
passed = float((~human.any(axis=1)).mean())
page.number("human_passed", passed, what="hand-written test letters that pass every gate", n=len(human))
page.table(
    "gates", screening.counts(stopped).set_index("gate"), caption=f"What stops the {len(good)} ok answers of the run."
)

# %% [markdown]
# The same gates on the hand-written letters of the test split, which no limit has seen, say what the gates
# cost: every hand-written letter that is stopped is a false alarm.

# %%
shares = pd.DataFrame({"generated, ok": stopped.mean(), "hand-written": human.mean()})
figure, axes = plt.subplots(figsize=(8, 4.5))
shares[::-1].plot.barh(ax=axes, width=0.75, color=[figures.COLORS[5], figures.COLORS[0]])
axes.set_xlim(0, 1)
axes.set_xlabel("share of answers that the gate stops")
axes.set_title(f"Gates: {len(good)} generated answers, {len(human)} hand-written letters")
axes.legend(frameon=False, loc="lower right")
figure.tight_layout()
alt = (
    "Horizontal bars: for each of nine gates the share of generated answers and of hand-written letters that it stops."
)
figures.show(figure, page, "gates", alt=alt, caption="Share of answers that each gate stops.", data=shares)

# %% [markdown]
# The numbers of this page go where the book's other pages find them.

# %%
page.save()

# %% [markdown]
# ## Summary
#
# - {glue:text}`asked` posts were asked, {glue:text}`ok` answers are `ok`, and {glue:text}`accepted` of those
#   pass every gate. That is what a base model of this size does, and the reason to look before training on
#   anything. Of the hand-written letters, {glue:text}`human_passed:.0%` pass.
# - A failure has a type and no text. It is counted beside the data and never in it.
# - The journal comes first. The run can be killed at any instant, and the bill has two bounds.
# - {glue:text}`questions` answers of this kind take about {glue:text}`million_prompt_tokens:.1f` million
#   prompt and {glue:text}`million_completion_tokens:.1f` million completion tokens: between
#   {glue:text}`cheapest:.0f` and {glue:text}`dearest:.0f` US dollars at the list prices of the file.
# - On {glue:text}`triage_posts` posts of the book, the triage raised {glue:text}`triage_false_alarms` false
#   alarms and missed {glue:text}`triage_false_calms` crisis posts. On your posts it will do otherwise.
#
# ## Exercises
#
# **1.** A run asks for `deepseek-flash` and for a model that the price file does not have. What do 1,000
# prompt and 500 completion tokens cost?

# %% tags=["solution", "hide-input"]
table = prices.load()
known = prices.find("deepseek-flash", table)
assert prices.find("a-model-nobody-listed", table) is None
micro = known.micro(1000, 500)
assert micro == -(-(1000 * known.input_pico + 500 * known.output_pico) // 10**6)
print(f"{prices.dollars(micro)} at prices of {known.as_of}; the other one is {prices.dollars(None)}, which is not $0")

# %% [markdown]
# **2.** Two questions of a file differ in their ids only. How many requests does a run send?

# %% tags=["solution", "hide-input"]
twins = [generate.Question(name, "同一个问题", "同一段描述") for name in ("a", "b")]
shutil.rmtree(page.dir / "rehearsal" / "twins", ignore_errors=True)
with faults.serve() as server:
    both = generate.run(twins, prompts.get("five_parts_json"), server, page.dir / "rehearsal" / "twins")
assert server.requests == 1 and [answer.outcome for answer in both] == ["ok", "ok"]
print("one request, two answers: the key is the hash of the request, and the id is not in it")

# %% [markdown]
# **3.** Triage these two: 累死了，明天还要加班 ("dead tired, and overtime again tomorrow") and
# 最近一直很麻木，看不到头 ("numb for weeks, no end in sight"). Which level does each get?

# %% tags=["solution", "hide-input"]
tired, hopeless = safety.triage("累死了，明天还要加班"), safety.triage("最近一直很麻木，看不到头")
assert (tired.level, hopeless.level) == ("none", "concern")
print(tired, hopeless, sep="\n")

# %% [markdown]
# **4.** An answer to the second post of exercise 3 says nothing about where to find help. Which gate stops
# it? Add one sentence so that this gate lets it through.

# %% tags=["solution", "hide-input"]
letter, post_text = corpus.load_split("train")[0].answer_text, "最近一直很麻木，看不到头"
helped = letter + "\n难受的时候，可以拨打12356心理援助热线。"
before, after = screening.screen([letter, helped], [post_text] * 2, limits)["referral"]
assert before and not after
print("the referral gate; a sentence that names the line 12356 satisfies it")

# %% [markdown]
# ## Next
#
# [Distortion statistics](03_distortion_statistics.ipynb) asks what kinds of thoughts the posts hold, and how
# sure one can be of such a count.
