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
# # Human evaluation: whose opinion, and do they agree?
#
# The paper {cite:p}`na2024cbtllm` had people rate a hundred replies for relevance, CBT structure and helpfulness. How
# would you do that so that somebody else could believe it?
#
# **You will learn**
#
# - how to make a rating form that does not tell the rater which system wrote what;
# - what Krippendorff's alpha, kappa and Gwet's AC measure, and when they contradict each other;
# - how to put an interval around a mean of ratings when both posts and raters are a sample;
# - how many posts and raters it takes to see a difference of 0.1, 0.2 or 0.3;
# - what hygiene a language model needs as a judge, and what no hygiene can mend.

# %% [markdown] tags=["banner"]
# `cbt run notebooks/06_human_evaluation.py` fills in how this page was made.

# %% [markdown]
# ```{warning}
# **No human has rated anything on this page.** The forms are real and so is the analysis, but the scores come from
# *simulated* raters whose opinions are numbers that we chose. They teach the method and say nothing about any system.
# ```
#
# ## Set-up
#
# `forms` makes the sheets and reads them back, `ratings` analyses them, `agreement` holds the coefficients.

# %% tags=["imports"]
import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from cbtlib import agreement, corpus, figures, forms, judge, ratings, report, resampling, widgets, writing

# %% [markdown]
# The replies are those of the chapter on evaluation.

# %% tags=["parameters"]
profile: str = "embedded"  # which profile made this page
results: str = "results"  # where products go
raters: int = 3  # simulated raters
resamples: int = 1000  # bootstrap resamples
seed: int = 0  # of codes, orders, simulated raters and resampling

# %% [markdown]
# ## Three questions, with anchors
#
# A score means what its anchor says. Without anchors, "1 of 2" is a mood; with an example for each score, two raters
# have at least read the same sentence. The three criteria and the range 0-2 are the paper's. Its wording is not known
# to us, so the anchors are ours.

# %%
page = report.Page("06_human_evaluation", profile, results)
anchors = pd.DataFrame(
    [
        {
            "criterion": f"{one.en} {one.zh}",
            "score": score,
            "anchor": anchor.text,
            "example": f"{anchor.example} ({anchor.gloss})",
        }
        for one in forms.CRITERIA
        for score, anchor in zip(forms.SCORES, one.anchors, strict=True)
    ]
)
page.table("anchors", anchors.set_index("criterion"), caption="What a rater reads next to each score")

# %% [markdown]
# ## A form that keeps its secret
#
# `forms.make` takes posts and answers and writes one form for each rater, as a web page that works offline and on a
# phone, as CSV, and as import files for Label Studio and Argilla. Replies carry codes. Which system wrote which reply
# stands in `key.json`, and that file stays with you. Each rater gets an order of their own. Only replies with outcome
# *ok* are shown: a reply that was cut off is not a bad letter. Of the tuned model's seeds, people rate the first. The
# floor that sends the post back is not rated.

# %%
source = page.product("05_evaluation", "answers.jsonl")
lines = pd.read_json(source, lines=True, dtype=False)
posts = {record.id: record.post for record in corpus.load_split("test") if not record.crisis}
rated = [
    system
    for system in lines["system"].unique()
    if system != "floor: copy the post" and ("seed" not in system or system.endswith("seed 0"))
]
answers = {
    system.removesuffix(", seed 0"): {row["id"]: (row["outcome"], row["text"]) for row in group.to_dict("records")}
    for system, group in lines.groupby("system", sort=False)
    if system in rated
}
names = [f"rater-{number}" for number in range(1, raters + 1)]
folder = page.dir / "forms"
(folder / "key.json").unlink(missing_ok=True)  # no rater has this page's forms: with other replies it makes others
key = forms.make(posts, answers, names, folder, seed)
outcomes = pd.concat([page.outcomes(system, counts) for system, counts in key["outcomes"].items()])
page.count("replies", len(key["codes"]), int(outcomes.to_numpy().sum()), what="replies with outcome ok, on every form")
page.table("outcomes", outcomes, caption="Replies by outcome; only ok reaches a rater")

# %% [markdown]
# This is the form, with the first five of its {glue:text}`replies:.0f` replies. Try it: keys 0, 1, 2 score the framed
# question, arrows move.
# Inside this book it forgets when you leave; opened as a file it keeps its state and saves JSON or CSV.

# %%
widgets.rating_form(folder / f"form_{names[0]}.html")

# %% [markdown]
# The same from the command line, for your own systems:
#
# ```
# cbt ratings sheet base=base/answers.jsonl tuned=tuned/answers.jsonl --posts data/corpus/test.jsonl \
#     --rater ann --rater bo --out sheet
# cbt ratings analyse sheet/back_ann.json sheet/back_bo.csv --key sheet/key.json --json ratings.json
# ```
#
# ## Simulated raters
#
# Now the forms would go out, and weeks later some come back. We simulate that. Each system gets a quality **that we
# invent** and a knack for some posts more than for others, each post an ease, each rater a severity and a private
# noise; a score is their sum, rounded to 0, 1 or 2.
# One rating in twenty is forgotten. Systems take their invented qualities in the order of their names, so that nobody
# reads a result into them.

# %%
generator = np.random.default_rng(seed)
quality = dict(zip(sorted(answers), np.linspace(0.6, 1.4, len(answers)), strict=True))
knacks = np.random.default_rng([seed, 1])  # so that the scores forgotten are the same with a knack and without
knack = {(system, item): knacks.normal(0, 0.6) for system in quality for item in posts}
ease = {item: generator.normal(0, 0.35) for item in posts}
severity = {name: generator.normal(0, 0.25) for name in names}


def opinion(rater: str, code: str) -> str:
    """A simulated score as a rater would type it; empty when forgotten."""
    place = key["codes"][code]
    system, item = place["system"], place["item"]
    latent = quality[system] + knack[system, item] + ease[item] + severity[rater] + generator.normal(0, 0.4)
    return "" if generator.random() < 0.05 else str(int(np.clip(np.rint(latent), 0, 2)))


returned = []
for name in names:
    filled = pd.read_csv(folder / f"form_{name}.csv", dtype=str, keep_default_na=False)
    for criterion in forms.CRITERIA:
        filled[criterion.id] = [opinion(name, code) for code in filled["code"]]
    returned.append(folder / f"simulated_{name}.csv")
    writing.write_csv(returned[-1], filled, index=False)

# %% [markdown]
# What came back is read like any file from outside: a score that is not 0, 1 or 2, a reply rated twice or a file of
# another sheet is an error with its row. A blank stays missing, and so does the sheet of a rater who sent nothing back.

# %%
table = forms.read(returned, key)
analysis = ratings.analyse(table, resamples=resamples, seed=seed)
page.number("simulated_ratings", table["score"].notna().sum(), what="simulated scores given")
page.number("simulated_blank", table["score"].isna().sum(), what="simulated scores forgotten")
page.table("means", analysis.means.set_index("criterion"), caption="Means of the SIMULATED ratings")

# %% [markdown]
# The intervals speak of other posts *and* other raters: {glue:text}`simulated_ratings:.0f` scores are not that many
# independent opinions. They come from a few people about a few posts, and another few people would have been harsher or
# kinder. With two or three raters that makes them wide, and rightly so: nobody knows the fourth. (Variance clustered by
# posts and by raters, with a t quantile. With so few raters even such an interval holds the truth somewhat less often
# than it says; one that resamples three raters does worse, since three people drawn from three are often two.)

# %%
criterion = forms.CRITERIA[0].id
means = analysis.means[analysis.means["criterion"] == criterion].reset_index(drop=True)
figure, axis = plt.subplots(figsize=(figures.WIDTH, 0.5 * len(means) + 1.4))
axis.hlines(means.index, means["low"], means["high"], linewidth=2)
axis.plot(means["mean"], means.index, "o")
axis.set(yticks=means.index, yticklabels=means["system"], xlim=(0, 2), ylim=(len(means) - 0.5, -0.5))
axis.set(xlabel=f"{criterion}, 0-2")
span = f"{means['mean'].min():.1f} to {means['mean'].max():.1f} of 2 points"
figures.headline(figure, f"Simulated raters, nobody's opinion: {span}")
figures.show(
    figure, page, "means_figure", data=means,
    alt=f"Mean simulated {criterion} of {len(means)} systems with 95% intervals: {span}.",
    caption=f"Means of SIMULATED {criterion} scores, {span}; 95% intervals over posts and raters.",
)  # fmt: skip

# %% [markdown]
# ## Do they agree?
#
# Two raters who toss coins agree half of the time. Every coefficient therefore sets the agreement seen, $p_o$, against
# the agreement expected by chance, $p_e$:
#
# $$
# \kappa = \frac{p_o - p_e}{1 - p_e}
# $$ (eq-kappa)
#
# They differ in what they expect. *Krippendorff's alpha* {cite:p}`krippendorff2004` (here ordinal: 0 against 2 counts
# more than 0 against 1) takes any number of raters and missing scores. *Cohen's kappa* {cite:p}`cohen1960` is for two
# raters, *Fleiss' kappa* {cite:p}`fleiss1971` for several. *Gwet's AC1* {cite:p}`gwet2008`, here in its weighted form
# AC2 {cite:p}`gwet2014`, was made for the case in which nearly everybody gives the same score.

# %%
shown = analysis.agreement[~analysis.agreement["coefficient"].str.startswith("Cohen")]
for row in shown[shown["coefficient"].str.startswith("Kripp")].to_dict("records"):
    if np.isfinite([row["value"], row["low"], row["high"]]).all():
        what = f"Krippendorff's alpha of simulated raters, {row['criterion']}"
        page.number(f"alpha_simulated_{row['criterion']}", row["value"], low=row["low"], high=row["high"], what=what)
page.table("agreement", shown.set_index("criterion"), caption="Agreement of the SIMULATED raters, intervals over posts")

# %% [markdown]
# Below 0.667 Krippendorff advises against even tentative conclusions. `ratings.analyse` says so, and whatever else a
# reader of the numbers must know, in its notes.

# %%
notes = pd.DataFrame({"what to know": analysis.notes}, index=pd.RangeIndex(1, len(analysis.notes) + 1, name="note"))
page.table("notes", notes, caption="Notes of the analysis")

# %% [markdown]
# ### A paradox worth knowing
#
# A hundred replies, two raters. They agree on 91 of them. In the first case both scores are about as frequent, in the
# second nearly everything is a 2, as when all systems are good at what is asked {cite:p}`feinstein1990`.

# %%
balanced = np.array([(0, 0)] * 45 + [(2, 2)] * 46 + [(0, 2)] * 5 + [(2, 0)] * 4, float)
skewed = np.array([(0, 0)] * 1 + [(2, 2)] * 90 + [(0, 2)] * 5 + [(2, 0)] * 4, float)
paradox = {
    name: {
        "agreement": np.mean(scores[:, 0] == scores[:, 1]),
        "Cohen's kappa": agreement.cohen_kappa(*scores.T, categories=3).value,
        "Krippendorff's alpha": agreement.krippendorff_alpha(scores, 3).value,
        "Gwet's AC2": agreement.gwet_ac(scores, 3).value,
    }
    for name, scores in {"balanced": balanced, "skewed": skewed}.items()
}
page.number(
    "paradox_kappa", paradox["skewed"]["Cohen's kappa"], what="kappa of two raters who agree on 91 of 100 skewed scores"
)
page.number("paradox_ac", paradox["skewed"]["Gwet's AC2"], what="Gwet's AC2 of the same scores")
page.table("paradox", pd.DataFrame(paradox).T, caption="The same 91 agreements, very different coefficients")

# %% [markdown]
# Kappa falls to {glue:text}`paradox_kappa:.2f` while AC2 says {glue:text}`paradox_ac:.2f`. Neither is wrong. Kappa asks
# whether the raters can *tell replies apart*, and where there is nothing to tell apart it has nothing to say. AC takes
# off a chance that *shrinks* where one score dominates. Report both, and the distribution of scores.
#
# ### Who is harsh?
#
# A rater's bias is the own score minus the mean of the others on the same replies. A bias does no harm to a
# comparison of systems, as long as every rater rates all of them; it does when each system has raters of its own. The
# last column is what we put in, measured in the same way. Rounding to 0, 1 and 2, and chance, move what comes out: look
# whether the interval holds it.

# %%
bias = analysis.raters[analysis.raters["criterion"] == criterion].set_index("rater").drop(columns="criterion")
bias["severity we simulated"] = [
    severity[name] - np.mean([severity[other] for other in names if other != name]) for name in bias.index
]
page.table("bias", bias, caption=f"Bias of the SIMULATED raters in {criterion}")

# %% [markdown]
# ## Differences between systems
#
# Paired again: the same rater on the same post. A harsh rater is harsh to both systems, which cancels; a rater's liking
# for one of them does not. So interval and p value come from the same clustered variance as those of the means, and
# speak of other posts and other raters. (A test that swaps the systems post by post speaks of these raters alone: where
# raters have likings, it finds differences that others would not.) The p value is corrected for all pairs in all three
# criteria, of which the table shows one.

# %%
differences = analysis.differences[analysis.differences["criterion"] == criterion].drop(columns="criterion")
page.table("differences", differences.set_index("system"), caption=f"Differences in SIMULATED {criterion}")

# %% [markdown]
# ## How many posts, how many raters?
#
# Before anybody is paid, ask what the study could show. The spread of these (simulated) ratings has two parts: posts on
# which one system really is better than on others, and the noise of a single rating. More raters average out the second
# only. The table gives the chance to find a true difference with a 5% test that knows these spreads. It is the most to
# hope for: likings of raters are not in it, which a few raters do not show and more posts do not average out. The t
# test above, which has to estimate its spread from two or three raters, finds less.

# %%
seen = table[table["criterion"] == criterion].groupby("system")["item"].agg(set)
one, other = max(itertools.combinations(seen.index, 2), key=lambda two: len(seen[two[0]] & seen[two[1]]))
power = ratings.power(table, one, other, criterion)
page.table(
    "power",
    power.set_index(["difference", "raters"]),
    caption=f"Power for 25 to 400 posts, were the spread as simulated between {one} and {other}",
)

# %% [markdown]
# The last column is the number of posts at which the chance is 80%. A hundred posts and one rater, as is often done,
# can miss a difference of 0.1 more often than find it. Look at the row before you trust an absence.

# %% [markdown]
# ## A machine as judge
#
# A language model rates faster than people, and fails in its own ways {cite:p}`zheng2023judge`. `cbtlib.judge` gives it
# the same hygiene: it sees two replies called 1 and 2, every pair in both orders; only a win in both counts; an answer
# that is no verdict is missing, and counts for neither reply; a model may not judge itself; and its verdicts are held
# against people's. Its rubric is there in Chinese and in English. For your own systems and any endpoint:
#
# ```
# cbt ratings judge base=base/answers.jsonl tuned=tuned/answers.jsonl --posts data/corpus/test.jsonl --model JUDGE \
#     --contestant base=gemma-3-270m --contestant tuned=gemma-3-270m-lora --repeats 2 --temperature 0.7 \
#     --against sheet/back_ann.json --key sheet/key.json --out judged
# ```
#
# To see what the hygiene catches, here is a *simulated* judge without taste: it takes the longer reply, but one time in
# three simply the first, and one time in twenty it rambles. Everything is asked twice. It compares the systems that
# answered every post: one with a reply that is not *ok* is left out here, since a missing reply cannot lose.

# %%
whole = {s: given for s, given in answers.items() if all(outcome == "ok" for outcome, _ in given.values())}
dice = np.random.default_rng(seed)


def tasteless(messages: list[dict[str, str]], schema: dict) -> str:
    """What a judge endpoint would send back."""
    first, second = (messages[1]["content"].split(f"<reply {number}>")[1].split("</reply")[0] for number in (1, 2))
    if dice.random() < 0.05:
        return "Both replies have their merits."
    better = 1 if dice.random() < 1 / 3 or len(first) >= len(second) else 2
    return f'{{"better": "{better}"}}'


models = {system: system for system in whole}
verdicts = judge.verdicts(posts, whole, tasteless, judge="a simulated judge", contestants=models, repeats=2, workers=1)
judged = judge.analyse(verdicts, resamples, seed)
for name, (share, low, high) in {
    "judge_first_wins": judged.first_wins,
    "judge_consistency": judged.consistency,
    "judge_self_consistency": judged.self_consistency,
}.items():
    bounds = {"low": low, "high": high} if np.isfinite(low) else {}
    page.number(name, share, what=f"{name.removeprefix('judge_')}, SIMULATED judge", **bounds)
page.outcomes("simulated judge", judged.outcomes)

# %% [markdown]
# The reply shown first wins {glue:text}`judge_first_wins:.2f` of the verdicts, between
# {glue:text}`judge_first_wins_low:.2f` and {glue:text}`judge_first_wins_high:.2f`; a half would be no bias. Asked the
# same again, the judge repeats itself in {glue:text}`judge_self_consistency:.2f` of the cases; with the replies
# swapped, {glue:text}`judge_consistency:.2f` of the pairs get the same verdict. A ranking rests on the latter.

# %%
page.table("judge", judged.wins.set_index("system"), caption="Win rates by a SIMULATED judge who likes length")

# %% [markdown]
# A ranking invites reading it as a ladder. Whether a step of it is real is another question: each system is compared
# with the next one, on the same posts. Where the interval holds zero, these posts cannot tell the two apart, and their
# order may be chance.

# %%
page.table(
    "neighbours", judged.neighbours.set_index("system"), caption="Neighbours in the ranking: told apart, or not?"
)

# %% [markdown]
# Whatever stands apart here stands apart by *length*: that is all this judge looks at. Against a judge that is
# consistently wrong only one thing helps: agreement with people. `judge.against` measures it as kappa with an interval,
# and calls a judge usable only where the lower end is 0.4 or more, a limit of ours.

# %%
agreed = judge.against(verdicts, table, "helpfulness", resamples, seed)
bounds = {end: agreed[end] for end in ("low", "high") if np.isfinite(agreed["low"])}
page.number("judge_kappa", agreed["kappa"], n=agreed["pairs"], **bounds,
            what="kappa of the SIMULATED judge with the SIMULATED raters, pairs of replies")  # fmt: skip
page.save()
print(f"kappa {agreed['kappa']:.2f}{resampling.span(agreed['low'], agreed['high'])}: {agreed['verdict']}")

# %% [markdown]
# ## Summary
#
# - Blind the rater, randomise the order, keep the key, and rate only what is a reply.
# - Anchors with examples make a score mean something; criteria are reported apart.
# - Missing is missing. An interval of a mean of ratings has to respect posts and raters.
# - A machine judge needs both orders, typed outcomes and people to compare it with.
# - Give an agreement coefficient with its interval and the distribution of scores: none of them tells it all.
# - Of the systems we know nothing from this page: its {glue:text}`simulated_ratings:.0f` scores are simulated. What it
#   shows is what such a method finds and what it misses. The liking of the judge for the first place is found; of the
#   differences between systems that were put in, three raters and a few posts may show none. The judge gave that place
#   {glue:text}`judge_first_wins:.0%` of its verdicts ({glue:text}`judge_first_wins_low:.0%` to
#   {glue:text}`judge_first_wins_high:.0%`), and its kappa with the raters is {glue:text}`judge_kappa:.2f`
#   ({glue:text}`judge_kappa_low:.2f` to {glue:text}`judge_kappa_high:.2f`).
#
# *Further reading.* Coding and its reliability {cite:p}`krippendorff2004`; the paradox of high agreement and low kappa
# {cite:p}`feinstein1990`; language models as judges {cite:p}`zheng2023judge`.

# %% [markdown]
# ## Exercises
#
# They need only the next cell, not the chapter. `make student` writes them as a notebook without the solutions.

# %% tags=["setup"]
import numpy as np

from cbtlib import agreement

# %% [markdown]
# ### Exercise 1 (read): What does the judge know?
#
# Four ways to ask a model which of two letters is better. Each sends one or two requests:
#
# - **a** "Before CBT training: {base} After CBT training: {tuned} Which is better?"
# - **b** "Letter 1: {base} Letter 2: {tuned} Which is better?"
# - **c** "Letter 1: {base} Letter 2: {tuned} Letter 2 was revised. Which is better?"
# - **d** b, and then b again with the two letters exchanged
#
# A way is *blind* when the systems leave no trace in it: had base and tuned written each other's letters, the same
# requests would have been sent. Which ways are blind?

# %% [raw] tags=["blank"]
# blind = ...  # a set of letters

# %% [raw] tags=["wrong"]
# blind = {"b", "d"}  # b names nobody, but its first letter is always the base model's

# %% tags=["solution"]
blind = {"d"}  # in b the place tells: a judge who likes the second letter likes the tuned model


# %% tags=["check"]
def sent(base: str, tuned: str) -> dict[str, set[str]]:
    """The requests of each way."""
    one, two = (f"Letter 1: {x} Letter 2: {y}" for x, y in ((base, tuned), (tuned, base)))
    before = f"Before CBT training: {base} After CBT training: {tuned}"
    return {"a": {before}, "b": {one}, "c": {one + " Letter 2 was revised."}, "d": {one, two}}


assert isinstance(blind, set), "give a set of letters"
exchanged = sent("信乙", "信甲")
assert blind == {way for way, requests in sent("信甲", "信乙").items() if requests == exchanged[way]}, (
    "let base and tuned exchange their letters: are the same requests sent?"
)

# %% [markdown]
# ### Exercise 2 (compute): Agreement beyond chance
#
# Two raters give 0, 1 or 2. Write Cohen's kappa without weights, `kappa(one, two)`: agreement seen, less agreement
# expected from how often each rater gives each score, over the most that could be had beyond it. It is undefined where
# both always give the same single score.

# %% [raw] tags=["blank"]
# def kappa(one: list[int], two: list[int]) -> float:
#     ...

# %% [raw] tags=["wrong"]
# def kappa(one: list[int], two: list[int]) -> float:
#     """Takes one third as chance, as if both raters threw dice."""
#     seen = np.mean(np.array(one) == np.array(two))
#     return float((seen - 1 / 3) / (1 - 1 / 3))


# %% tags=["solution"]
def kappa(one: list[int], two: list[int]) -> float:
    """Chance is what these two raters would agree on if they scored as they do, but other letters."""
    first, second = np.array(one), np.array(two)
    seen = np.mean(first == second)
    chance = sum(np.mean(first == score) * np.mean(second == score) for score in (0, 1, 2))
    return float((seen - chance) / (1 - chance))


# %% tags=["check"]
for one, two in (([0, 1, 2, 2], [0, 1, 2, 1]), ([2, 2, 2, 0], [2, 2, 0, 2]), ([0, 1, 2], [2, 0, 1])):
    real = agreement.cohen_kappa(one, two, 3, weights="none").value
    found = kappa(one, two)
    assert isinstance(found, float) and abs(found - real) < 1e-9, f"kappa of {one} and {two} is {real:.3f}"

# %% [markdown]
# ### Exercise 3 (break): An API error worth 1 point
#
# A public evaluation asks a judge for a score from 1 to 5. Its function ends with `except Exception: return 1`. Write
# `mean_score(replies)`: the mean of the replies that are one whole number from 1 to 5, how many there were, and how
# many failed. Without a score the mean is `None`.

# %% [raw] tags=["blank"]
# def careless(reply: str | None) -> int:
#     try:
#         return int(reply)
#     except Exception:
#         return 1
#
#
# def mean_score(replies: list[str | None]) -> tuple[float | None, int, int]:
#     ...

# %% [raw] tags=["wrong"]
# def mean_score(replies: list[str | None]) -> tuple[float | None, int, int]:
#     """Finds a digit somewhere: error 503 is a 5, and "from 1 to 5" is a 1."""
#     found = [next((int(char) for char in reply or "" if char in "12345"), None) for reply in replies]
#     scores = [score for score in found if score is not None]
#     return (sum(scores) / len(scores) if scores else None), len(scores), len(replies) - len(scores)


# %% tags=["solution"]
def mean_score(replies: list[str | None]) -> tuple[float | None, int, int]:
    """Only a reply that is a score is a score."""
    scores = [int(reply) for reply in replies if reply is not None and reply.strip() in set("12345")]
    return (sum(scores) / len(scores) if scores else None), len(scores), len(replies) - len(scores)


# %% tags=["check"]
assert mean_score(["4", " 5\n", "3"]) == (4.0, 3, 0), "three scores, white space around one"
assert mean_score(["4", "4", None, ""]) == (4.0, 2, 2), "two failures, and the mean does not move"
assert mean_score(["5", "HTTP 503 Service Unavailable"]) == (5.0, 1, 1), "an error page was read as a score"
assert mean_score(["4", "On a scale from 1 to 5 I cannot say.", "45", "0"]) == (4.0, 1, 3), "that is no score"
assert mean_score([None]) == (None, 0, 1), "nothing was scored, so there is no mean"

# %% [markdown]
# ### Exercise 4 (break): A judge who likes the first place
#
# Each pair was shown twice, the second time exchanged. Write `winner(forth, back)`: `"base"` or `"tuned"` when both
# verdicts name the same *system*, `"tie"` when they contradict each other, `None` when one of them is no verdict. In
# `forth` the base model's letter is letter 1, in `back` it is letter 2. Verdicts are `"1"`, `"2"` or anything else.

# %% [raw] tags=["blank"]
# def winner(forth: str, back: str) -> str | None:
#     ...

# %% [raw] tags=["wrong"]
# def winner(forth: str, back: str) -> str | None:
#     """Forgets that the letters were exchanged: two votes for the same *place* become a win."""
#     if forth not in ("1", "2") or back not in ("1", "2"):
#         return None
#     return {"1": "base", "2": "tuned"}[forth] if forth == back else "tie"


# %% tags=["solution"]
def winner(forth: str, back: str) -> str | None:
    """Translate places into systems first, then compare."""
    first = {"1": "base", "2": "tuned"}.get(forth)
    second = {"1": "tuned", "2": "base"}.get(back)
    if first is None or second is None:
        return None
    return first if first == second else "tie"


# %% tags=["check"]
assert winner("1", "2") == "base" and winner("2", "1") == "tuned", "both orders name the same system: it wins"
assert winner("1", "1") == "tie" and winner("2", "2") == "tie", "a judge who always takes one place decides nothing"
assert winner("1", "Both have merits.") is None and winner("", "2") is None, "no verdict is no tie"

# %% [markdown]
# ### Exercise 5 (break): Forgotten ratings
#
# A sheet came back with blanks. A spreadsheet reads a blank as 0. Write `mean_rating(cells)` for cells that are text
# as they stand in the file: the mean of the ratings given, and how many were forgotten. A cell that is neither blank
# nor 0, 1 or 2 raises `ValueError`.

# %% [raw] tags=["blank"]
# def mean_rating(cells: list[str]) -> tuple[float | None, int]:
#     ...

# %% [raw] tags=["wrong"]
# def mean_rating(cells: list[str]) -> tuple[float | None, int]:
#     """What cannot be read was forgotten, whatever it was."""
#     given = [int(cell) for cell in cells if cell.strip() in ("0", "1", "2")]
#     return (sum(given) / len(given) if given else None), len(cells) - len(given)


# %% tags=["solution"]
def mean_rating(cells: list[str]) -> tuple[float | None, int]:
    """A blank is missing, a 3 is a mistake that somebody has to look at."""
    given = [cell.strip() for cell in cells if cell.strip()]
    for cell in given:
        if cell not in ("0", "1", "2"):
            raise ValueError(f"{cell!r} is no rating from 0 to 2")
    return (sum(map(int, given)) / len(given) if given else None), len(cells) - len(given)


# %% tags=["check"]
assert mean_rating(["2", "0", "1", " 1 "]) == (1.0, 0), "four ratings and no blank"
assert mean_rating(["2", "", "2", " "]) == (2.0, 2), "a forgotten rating pulled the mean down"
assert mean_rating(["", ""]) == (None, 2), "nobody rated, so there is no mean"
for cell in ("3", "two", "1.5"):
    try:
        mean_rating(["1", cell])
        refused = False
    except ValueError:
        refused = True
    assert refused, f"the cell {cell!r} was taken, or silently left out"

# %% [markdown]
# ### Exercise 6 (research): Would you let them read it?
#
# Plan a rating study with three raters and 100 posts of distressed people. Who are the raters, what do they see
# before they agree, how many letters a day, what do they do with a letter that could harm, who pays and who may
# publish? And what, in your plan, would make the result *not* count?

# %% [markdown] tags=["solution"]
# Raters are trained in CBT or trained for this study on anchors and test letters, are paid for their time whatever
# they find, and are told that posts are about distress before they agree; they may stop without a reason. An ethics
# board has seen the plan, the posts may be used for it, and crisis posts are taken out and handled by a clinician.
# Twenty or thirty letters a day, in each rater's own order, blinded, with a third rated by everybody. A harmful
# letter has a box of its own: it is reported at once and is not averaged into helpfulness. Written down before the
# first rating: the outcome, the smallest difference that matters, the agreement below which no comparison is made.
# Broken blinding, an agreement whose interval reaches below that line, or a system with many letters missing makes
# the result not count, and the paper says so.

# %% [markdown]
# ## Next
#
# That was the last chapter. [The recipes](../recipes.md) do the same with files of your own, and
# [the claims page](claims) sets what this book measured against what the paper claims.
