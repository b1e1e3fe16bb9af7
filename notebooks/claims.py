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
# # The paper against this rerun
#
# Which of the paper's claims did this book see for itself, and how sure are we?
#
# **You will learn**
#
# - what the paper claims, what of it is in front of us, and what we only know second-hand;
# - what verdict each claim gets from the run that made the copy you are reading;
# - what the run cost in minutes and memory.

# %% [markdown] tags=["banner"]
# `cbt run notebooks/claims.py` fills in how this page was made.

# %% tags=["imports"]
import pandas as pd
from myst_nb import glue

from cbtlib import report

# %% tags=["parameters"]
profile: str = "embedded"  # which profile made this page
results: str = "results"  # where products go

# %% [markdown]
# ## How a verdict is reached
#
# Each claim is one row of `data/paper/claims.csv`. A row says what is claimed, where, and **how we know**: stated in
# the paper, second-hand, or not transcribed. The rows on tuned against base model are what one would expect of such a
# paper; whether it makes that comparison is not known here. A value that we could not read for ourselves is a blank;
# nothing is guessed. The row also names the number of this run that speaks to the claim, and the rule that compares
# them:
#
# - *reproduced*: the paper's value lies within this run's interval (or the row's tolerance);
# - *direction holds*: the row expects something to go up (its status says how we know), and our whole 95% interval
#   lies above zero;
# - *undecided*: the interval holds zero, so this run cannot tell; more posts might;
# - *differs*: our whole interval lies below zero, or the paper's value lies outside it and the row's tolerance;
# - *not comparable*: other data, another model or a blank, so that no comparison would mean anything;
# - *not run*: this profile did not compute that number.

# %%
page = report.Page("claims", profile, results)
claims = report.claims(profile, results)
_ = page.table("claims", claims, caption="Every claim, as a file")
judged = ~claims["verdict"].isin(["not comparable", "not run"])
found = claims[judged].assign(paper=claims["paper"] + ", " + claims["status"])
found = found[["claim", "paper", "rerun", "verdict", "why"]]
found = found.rename(columns={"paper": "the paper", "rerun": "this run"})
page.table("judged", found, caption="Claims with a verdict (95% intervals; n: posts)")

# %% [markdown]
# The other claims have no verdict. For each, the closed table says where the claim stands, whether its value was
# transcribed, and why nothing was compared.

# %% tags=["hide-output"] mystnb={"code_prompt_show": "The claims without a verdict", "code_prompt_hide": "Hide them"}
rest = claims[~judged].assign(source=claims["source"] + ": " + claims["status"].str.split(":").str[0])
rest = rest[["claim", "paper", "source", "verdict", "why"]].rename(columns={"paper": "the paper"})
page.table("not_judged", rest, caption="Claims without a verdict")

# %% [markdown]
# A 270-million-parameter model tuned with a few hundred letters at most cannot confirm the scores of a
# 7-billion-parameter model tuned on answers from a set of 22,327. What it can show is whether the *method* moves the
# numbers in the direction that one would expect. That is why a row about a gain can end at *direction holds* and never
# at *reproduced*, and a row about a setting or a rating that nobody has copied from the paper ends at *not comparable*.
#
# Nor is a gain over the base much to be proud of. The base was taught no end, and a rule of ours ends its replies at
# the first empty line, so that many are short; overlap metrics punish that. [Chapter 5](05_evaluation) also holds the
# tuned model against a letter of full length that was written to somebody else.

# %%
verdicts = claims["verdict"].value_counts().reindex(list(report.VERDICTS), fill_value=0)
for verdict, count in verdicts.items():
    name = f"claims_{verdict.replace(' ', '_')}"
    page.count(name, int(count), len(claims), what=f"claims whose verdict is: {verdict}")
verdicts.rename("claims").to_frame()

# %% [markdown]
# ## What the run cost
#
# Every page measures itself: wall time and the peak memory of its kernel with everything it started.

# %%
manifest = report.manifest(profile, results)
runs = {name: run for name, run in manifest["pages"].items() if name != "claims"}
cost = pd.DataFrame(
    [(name, round(run["seconds"]), round(1000 * run["peak_memory_gb"])) for name, run in runs.items()],
    columns=["page", "seconds", "peak memory (MB)"],
).set_index("page")
page.table("cost", cost, caption="Cost of each page on the machine named in its banner")

# %% [markdown]
# The totals below are what the cover page quotes. They are glued but not written as numbers of this page, because a
# clock is no result: the same run on another day gives other minutes.

# %%
page.number("pages", sum(name[0].isdigit() for name in cost.index), what="chapters run")
page.number("recipes", sum(name.startswith("recipe") for name in cost.index), what="recipes run")
glue("minutes", sum(run["seconds"] for run in runs.values()) / 60, display=False)
glue("peak_memory_gb", max(run["peak_memory_gb"] for run in runs.values()), display=False)
page.save()

# %% [markdown]
# ## Summary
#
# - {glue:text}`claims_direction_holds` rows hold in direction (those on tuned against base are expectations, not
#   sentences read in the paper), {glue:text}`claims_reproduced` are reproduced in value, {glue:text}`claims_undecided`
#   are undecided, {glue:text}`claims_differs` differ, {glue:text}`claims_not_comparable` cannot be compared and
#   {glue:text}`claims_not_run` were not run by this profile.
# - Chapters and recipes took {glue:text}`minutes:.1f` minutes and at most {glue:text}`peak_memory_gb:.1f` GB of memory.
#
# ## Next
#
# [Limits and safety](../safety.md): what none of these numbers licenses anyone to do.
