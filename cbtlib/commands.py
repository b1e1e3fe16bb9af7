"""What `cbt generate` and `cbt distortions benchmark` do between their options and the library."""

import json
import os
import random
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from cbtlib import CbtError, endpoint, prices, prompts
from cbtlib import generate as generation
from cbtlib.journal import Journal
from cbtlib.questions import read_questions
from cbtlib.sending import Traffic


def generate(**given: Any) -> None:
    """`cbt generate` with all of its options by name."""
    posts = read_questions(given["questions"])
    price_file = given["price_file"] or prices.DEFAULT
    options: dict[str, Any] = {
        "sampling": generation.Sampling(given["temperature"], given["max_tokens"], given["seed"], _body(given["body"])),
        "traffic": Traffic(given["concurrency"], given["attempts"], given["deadline"], given["rpm"], given["tpm"]),
        "budget": given["budget"],
        "price_file": price_file,
        "progress": sys.stderr.isatty(),
    }
    asked = random.Random(0).sample(posts, min(given["sample"], len(posts))) if given["dry_run"] else posts
    with _endpoint(given) as where:
        summary = generation.generate(
            asked,
            prompts.get(given["prompt"]),
            where,
            given["out"],
            shard=_shard(given["shard"]),
            replay=given["replay"],
            **options,
        )
        model = where.model
    print("  ".join(f"{outcome} {count}" for outcome, count in summary.outcomes.items()))
    low, high = prices.dollars(summary.spend.lower_micro), prices.dollars(summary.spend.upper_micro)
    print(f"spent {low}" if low == high else f"spent between {low} and {high}", end="")
    print(f" for {summary.spend.attempts} attempts; {given['out']}/answers.jsonl, manifest.json, journal.sqlite")
    if given["dry_run"]:
        _forecast(given["out"], len(posts), model, price_file)
    if summary.stopped:
        raise CbtError(f"stopped: {summary.stopped}; the same command goes on")


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
    print(f"all {total} questions, from {found.sample} answers (95 % interval):")
    for name, (expected, low, high) in rows:
        print(f"  {name:18} {expected:15,.0f}  [{low:,.0f}, {high:,.0f}]")
    money = "unpriced" if price is None else " ".join(prices.dollars(round(micro)) for micro in found.cost_micro or ())
    print(f"  {'cost':18} {money}" + (f"  (expected, low, high; prices of {price.as_of})" if price else ""))


def _endpoint(given: dict[str, Any]) -> AbstractContextManager[endpoint.Endpoint]:
    if given["base_url"]:
        os.environ["OPENAI_BASE_URL"] = given["base_url"]
    return endpoint.connect(given["model"])


def _body(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise CbtError(f"--body is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise CbtError("--body has to be a JSON object")
    return value


def _shard(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    part, slash, parts = text.partition("/")
    if not (slash and part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)):
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
    from cbtlib import labelling, llm_labels

    if "llm" in kinds:
        with endpoint.connect(model) as where:

            def ask(texts: Any, types: Any) -> list[llm_labels.Labelled]:
                asking = {"budget": budget, "progress": sys.stderr.isatty()}
                return llm_labels.label(texts, types, where, out / "llm" / "asked", **asking)

            found = labelling.benchmark(train, test, out, format, kinds, ask=ask, **options)
    else:
        found = labelling.benchmark(train, test, out, format, kinds, **options)
    for kind, table in found.tables.items():
        print(f"\n{kind}: " + ", ".join(f"{count} {name}" for name, count in found.outcomes[kind].items()))
        shown = table.assign(ece=found.ece[kind].reindex(table.index))
        print(shown.round(3).to_string(na_rep="-"))
        without = found.without[kind]
        if found.copies:
            print(f"{found.copies} test posts copy a training post", end="")
            print("; every one of them" if without is None else "; F1 without them:")
        if without is not None:
            print(without[["f1", "low", "high"]].round(3).T.to_string(na_rep="-"))
    if len(found.differences):
        print("\nF1 of one detector minus another's on the same posts, 95 % intervals")
        print(found.differences.round(3).to_string(index=False))
    print(f"\n{out}")
