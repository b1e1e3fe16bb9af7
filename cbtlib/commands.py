"""What `cbt generate` and `cbt distortions benchmark` do between their options and the library."""

import ast
import math
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cbtlib import ROOT, CbtError, answers, batch, endpoint, markup, prices, prompts, writing
from cbtlib import generate as generation
from cbtlib.journal import Journal
from cbtlib.questions import Question, read_questions
from cbtlib.reading import load_json
from cbtlib.sending import Endpoint, Traffic

STANDARD = {"prompt": "five_parts_json", "max_tokens": 1024}
BATCH = ("submit", "status", "collect")


def generate(**given: Any) -> None:
    """`cbt generate` with all of its options by name."""
    given = given | _defaults(given)
    for product in ("answers.jsonl", "manifest.json"):
        writing.apart(given["out"] / product, given["questions"])
    posts = read_questions(given["questions"])
    price_file = given["price_file"] or prices.DEFAULT
    sampling = generation.Sampling(given["temperature"], given["max_tokens"], given["seed"], _body(given["body"]))
    prompt, shard = prompts.get(given["prompt"]), _shard(given["shard"])
    _check(given)
    asked = random.Random(0).sample(posts, min(given["sample"], len(posts))) if given["dry_run"] else posts
    with _endpoint(given) as where:
        # The random weights of `smoke` are for tests, and so is what goes to them.
        looks = None if where.model == "smoke" else classifier(given["triage"])
        job = generation.Job(prompt, where.model, sampling, shard, looks)
        if given["batch"]:
            summary = _batch(given, asked, job, where, price_file)
            if summary is None:
                return
        else:
            summary = generation.generate(
                asked,
                prompt,
                where,
                given["out"],
                sampling=sampling,
                traffic=Traffic(given["concurrency"], given["attempts"], given["deadline"], given["rpm"], given["tpm"]),
                budget=given["budget"],
                price_file=price_file,
                shard=shard,
                classifier=job.classifier,
                replay=given["replay"],
                products=not given["dry_run"],  # a sample must not stand where all answers stood
            )
    _report(summary, given, asked)
    if given["dry_run"]:
        _forecast(given["out"], len(posts), where.model, price_file)
    if summary.stopped:
        raise CbtError(f"stopped: {summary.stopped}; the same command goes on")
    if summary.failures and not summary.outcomes["ok"]:
        raise CbtError("no question was answered, see above why; mend it, and the same command asks again")


def _defaults(given: dict[str, Any]) -> dict[str, Any]:
    """What the options leave open: a profile's model, prompt and limit (those of chapter 02), else STANDARD."""
    found = dict(STANDARD)
    if given["profile"]:
        import jupytext

        from cbtlib import run

        known = run.known_parameters(jupytext.read(ROOT / "notebooks/02_generation.py"))
        page = {name: ast.literal_eval(known[name]["default"]) for name in ("model", "prompt", "max_tokens")}
        chosen = run.profile_parameters(given["profile"], "02_generation")
        found |= page | {name: value for name, value in chosen.items() if name in page}
    return {name: value for name, value in found.items() if given[name] is None}


def _check(given: dict[str, Any]) -> None:
    """Options that cannot mean anything, before anything is asked."""
    for name in ("concurrency", "attempts", "deadline", "rpm", "tpm", "sample", "max_tokens"):
        if given[name] is not None and not (math.isfinite(given[name]) and given[name] > 0):
            raise CbtError(f"--{name.replace('_', '-')} {given[name]}: give a finite number above 0")
    if not math.isfinite(given["temperature"]):  # in JSON there is no way to ask for it
        raise CbtError(f"--temperature {given['temperature']}: give a finite number")
    if given["batch"] and given["batch"] not in BATCH:
        raise CbtError(f"--batch {given['batch']}: write one of {', '.join(BATCH)}")
    if given["batch"] and (given["dry_run"] or given["replay"]):
        raise CbtError("--batch goes with neither --dry-run nor --replay")
    check_triage(given["triage"])


def check_triage(triage: str) -> None:
    """CbtError for a triage that there is not, before another one runs in its place."""
    if triage not in ("full", "rules"):
        raise CbtError(f"--triage {triage}: write full (rules and classifier) or rules")


def _batch(
    given: dict[str, Any], posts: list[Question], job: generation.Job, where: Endpoint, price_file: Path
) -> generation.Summary | None:
    if given["batch"] == "submit":
        started = batch.submit(posts, job, where, given["out"], budget=given["budget"], price_file=price_file)
        for found in started:
            print(f"{found.id}  {found.requests} requests")
        print(f"{len(started)} batches are open; `--batch collect` fetches what they bring")
        return None
    if given["batch"] == "status":
        for found, state, completed, failed in batch.status(where, given["out"]):
            print(f"{found.id or found.name}  {state}: {completed} of {found.requests} done, {failed} failed")
        return None
    return batch.collect(posts, job, where, given["out"], price_file=price_file)


def _report(summary: generation.Summary, given: dict[str, Any], asked: list[Question]) -> None:
    print("  ".join(f"{outcome} {count}" for outcome, count in summary.outcomes.items()))
    low, high = prices.dollars(summary.spend.lower_micro), prices.dollars(summary.spend.upper_micro)
    print(f"spent {low}" if low == high else f"spent between {low} and {high}", end="")
    products = "" if given["dry_run"] else "answers.jsonl, manifest.json, "
    print(f" for {summary.spend.attempts} attempts; {given['out']}/{products}journal.sqlite")
    for why, count in summary.failures.items():
        print(f"failed {count}: {markup.visible(why)}")
    if products:
        print(f"{answers.export(asked, given['out'])}: the ok answers, for datasets.load_dataset")


def _forecast(out: Path, total: int, model: str, price_file: Path) -> None:
    price = prices.find(model, prices.load(price_file))
    with Journal(out / "journal.sqlite", read_only=True) as journal:
        usages = [
            (reply.prompt_tokens, reply.completion_tokens)
            for outcome in ("ok", "refused", "unparsed", "truncated", "filtered")
            for reply in journal.replies(outcome)
            if reply.prompt_tokens is not None and reply.completion_tokens is not None
        ]
    found = prices.forecast(usages, total, price)
    rows = [("prompt tokens", found.prompt_tokens), ("completion tokens", found.completion_tokens)]
    print(f"all {total} questions, from {found.sample} answers (95% interval):")
    for name, (expected, low, high) in rows:
        print(f"  {name:18} {expected:15,.0f}  [{low:,.0f}, {high:,.0f}]")
    money = "unpriced" if price is None else " ".join(prices.dollars(round(micro)) for micro in found.cost_micro or ())
    print(f"  {'cost':18} {money}" + (f"  (expected, low, high; prices of {price.as_of})" if price else ""))


@contextmanager
def _endpoint(given: dict[str, Any]) -> Iterator[Endpoint]:
    if given["replay"]:
        yield generation.recorded(given["replay"], given["model"])
        return
    if given["base_url"]:
        os.environ["OPENAI_BASE_URL"] = given["base_url"]
    with endpoint.connect(given["model"]) as where:
        yield where


def classifier(triage: str) -> Any:
    """The classifier of triage, or None for the rules alone."""
    check_triage(triage)
    if triage == "rules":
        return None
    from cbtlib import risk

    return risk.load()


def _body(text: str) -> dict[str, Any]:
    try:
        value = load_json(text, strict=True)
    except ValueError as error:
        raise CbtError(f"--body is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise CbtError("--body has to be a JSON object")
    return value


def _shard(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    part, slash, parts = text.partition("/")
    if not (slash and part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise CbtError(f"--shard {text}: write i/n with i from 1 to n")
    return int(part), int(parts)


def benchmark(
    train: Path,
    test: Path | None,
    out: Path,
    format: str,
    kinds: list[str],
    model: str | None,
    budget: float | None,
    options: dict[str, Any],
) -> None:
    """`cbt distortions benchmark`: score detectors, print every table with what stands beside it."""
    from cbtlib import detection, detectors, labelling, llm_labels

    if "llm" in kinds:
        with endpoint.connect(model) as where:

            def ask(texts: Any, types: Any) -> list[llm_labels.Labelled]:
                return llm_labels.label(texts, types, where, out / "llm" / "asked", budget=budget)

            found = labelling.benchmark(train, test, out, format, kinds, ask=ask, **options)
    else:
        found = labelling.benchmark(train, test, out, format, kinds, **options)
    for kind, table in found.tables.items():
        print(f"\n{kind}: " + ", ".join(f"{count} {name}" for name, count in found.outcomes[kind].items()))
        shown = table[["f1", "low", "high", "support", "precision", "recall", "auc"]].assign(ece=found.ece[kind])
        shown["support"] = shown["support"].map("{:.0f}".format, na_action="ignore")
        print(shown.round(3).to_string(na_rep="-"))
        print(f"low and high bound F1 (95%); {out / kind / 'scores.csv'} bounds precision, recall and AUC too")
        print(f"macro averages the types that occur; supported those with at least {detection.LEAST} posts")
        if kind in detectors.KINDS and found.unlearnt:
            print(f"never called, for want of training posts (or of posts without it): {', '.join(found.unlearnt)}")
        if (without := found.without[kind]) is not None:
            print(f"{found.copies} test posts copy a training post; F1 without them:")
            print(without[["f1", "low", "high"]].round(3).T.to_string(na_rep="-"))
    if len(found.differences):
        print("\nF1 of one detector minus another's on the same posts, 95% intervals")
        print(found.differences.round(3).to_string(index=False, na_rep="-"))
    print(f"\n{out}")
