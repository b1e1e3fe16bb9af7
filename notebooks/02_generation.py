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
# | a | 200 | stop | 听起来这几周你很累。…… (312 characters) |
# | b | 200 | length | 你提到主管没有回你消息，于是你觉得 |
# | c | 200 | content_filter | (empty) |
# | d | 429 | | rate limit reached |
# | e | 200 | stop | 抱歉，作为人工智能，我无法提供这方面的帮助。 ("Sorry, as an AI I cannot help with this.") |
# | f | 200 | stop | (empty) |
#
# Give each its outcome: *ok, truncated, filtered, failed* or *refused*. An empty reply that says it is done is
# *failed*.

# %% [raw] tags=["blank"]
# outcome = ...  # a dict, such as {"a": "ok", "b": …}

# %% [raw] tags=["wrong"]
# outcome = {"a": "ok", "b": "ok", "c": "filtered", "d": "failed", "e": "ok", "f": "failed"}  # there is text in b and e

# %% tags=["solution"]
outcome = {"a": "ok", "b": "truncated", "c": "filtered", "d": "failed", "e": "refused", "f": "failed"}

# %% tags=["check"]
assert isinstance(outcome, dict) and sorted(outcome) == list("abcdef"), "give each of a to f an outcome"
assert [one for one, kind in outcome.items() if kind == "ok"] == ["a"], "half a letter is no letter, nor is an apology"
assert outcome["b"] == "truncated" and outcome["e"] == "refused", "say why b and e are not data: the reasons differ"
assert (outcome["c"], outcome["d"], outcome["f"]) == ("filtered", "failed", "failed"), "look at c, d and f again"

# %% [markdown]
# ### Exercise 2 (read): How many requests?
#
# Two questions of a file differ in their ids only. A run asks both. How many requests reach the endpoint, and how
# many answers come back?

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
# A triage missed none of the *n* crisis posts it was tried on. How large must *n* be before you may say, with 95 %
# confidence, that it misses fewer than 5 %? Write `needed(miss_rate, confidence)`.

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
