"""What tuning the embedded model reaches: minutes, memory, perplexity, letters; what rank, data size and seed change.

    python benchmarks/tuning.py [--json OUT]      the embedded profile, and letters on the test split
    python benchmarks/tuning.py --sweep           ranks and data sizes, into data/sweeps.json
    python benchmarks/tuning.py --seeds           chapter 4's run with three seeds, into data/seeds.json

The first is `cbt train --profile embedded` and then, with base and tuned model, a letter for every test post. Counted
on the letters: share of the five parts they hold (`cbtlib.structure`), of letters that ended by themselves, and of
loops (letters in which most 8-character pieces repeat). The sweep makes one pass over the records of each point, so
fewer records are fewer steps too; its dev loss is over the same dev records at each point. The seeds decide where LoRA
starts and in which order it reads; each adapter answers chapter 5's posts as often as there, and is scored as there.
All keep what is done in DIR (results/tuning): the same command goes on. Some minutes each on two quiet cores with
16-bit arithmetic.
"""

import argparse
import json
import math
import platform
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from cbtlib import (
    ROOT,
    bertscore,
    corpus,
    metrics,
    models,
    runs,
    sampling,
    structure,
    surface,
    templates,
    training,
    writing,
)

RANKS = (2, 8, 32)
SIZES = (32, 64, 128)
AT = 64  # records of the rank sweep
SEEDS = (0, 1, 2)
STEPS = 32  # of chapter 4
POSTS, REPLIES, TOKENS, TEMPERATURE = 16, 3, 448, 0.7  # of chapter 5
SCORED = ("bleu", "chrf", "meteor_char", "bertscore", "parts")


def letters(model: Any, tokenizer: Any, template: str, posts: list[Any], limit: int) -> dict[str, float]:
    """What can be counted on one sampled letter a post."""
    adopted = templates.adopt(template, tokenizer)
    prompts = [templates.render(record.post, adopted, f"record {record.id}") for record in posts]
    stop = templates.stop_ids(adopted, tokenizer)
    found = sampling.sample(model, tokenizer, prompts, max_new_tokens=limit, stop=stop)
    parts = structure.coverage([one.text for one in found])
    return {
        "letters": len(found),
        "coverage": float(parts.to_numpy().mean()),
        "all_five": float(parts.all(axis=1).mean()),
        "ended": sum(one.outcome == "ok" for one in found) / len(found),
        "loops": sum(surface.repeated(one.text) > 0.5 for one in found) / len(found),
        "characters": sum(len(one.text) for one in found) / len(found),
    }


def whole(out: Path, quick: bool) -> dict[str, Any]:
    """The profile as a reader runs it, and its letters beside the base model's."""
    name = "smoke" if quick else "embedded"
    config = training.PROFILES[name]
    rows, dev = corpus.load_split("train")[: 6 if quick else None], corpus.load_split("dev")[: 2 if quick else None]
    test = [record for record in corpus.load_split("test") if not record.crisis][: 2 if quick else None]
    result = training.train(rows, dev, config, out / f"whole-{name}")
    first, last = math.exp(result.dev_losses[0]), math.exp(result.dev_losses[-1])
    limit = 16 if quick else 560
    base = letters(*models.load(config.model), config.template, test, limit)
    adapted, tokenizer = runs.load_adapter(result.adapter)
    tuned = letters(adapted.merge_and_unload(), tokenizer, config.template, test, limit)
    return machine() | {
        "records": len(rows), "epochs": config.epochs, "minutes": result.seconds / 60, "peak_gb": result.peak_gb,
        "tokens_per_second": result.tokens / result.seconds, "perplexity_base": first, "perplexity_tuned": last,
        "base": base, "tuned": tuned,
    }  # fmt: skip


def sweep(out: Path, quick: bool) -> dict[str, Any]:
    """Dev loss after one pass, for each rank at AT records, and for each number of records at the profile's rank."""
    name = "smoke" if quick else "embedded"
    own = training.PROFILES[name]
    rows, dev = corpus.load_split("train"), corpus.load_split("dev")[: 2 if quick else 12]
    points = {(rank, AT) for rank in RANKS} | {(own.rank, size) for size in SIZES}
    found = []
    for rank, size in sorted(points, key=lambda point: (point[1], point[0]))[: 2 if quick else None]:
        count = 4 if quick else min(size, len(rows))
        config = replace(own, rank=rank, max_steps=math.ceil(count / own.batch_size / own.accumulation))
        config = replace(config, evaluate_every=config.max_steps)
        result = training.train(rows[:count], dev, config, out / f"sweep-{name}-{rank}-{size}")
        found.append({
            "rank": rank, "records": count, "steps": config.max_steps, "trainable": result.trainable,
            "dev_loss_base": result.dev_losses[0], "dev_loss": result.dev_losses[-1], "seconds": result.seconds,
        })  # fmt: skip
        print(
            f"rank {rank:3} {count:4} records  dev loss {result.dev_losses[-1]:.3f}  {result.seconds:.0f} s", flush=True
        )
    settings = {"learning_rate": own.learning_rate, "alpha": own.alpha, "dev_records": len(dev), "seed": own.seed}
    return {"command": "python benchmarks/tuning.py --sweep"} | machine() | settings | {"points": found}


def seeds(out: Path, quick: bool) -> dict[str, Any]:
    """Scores of adapters that differ in the seed of their training alone: of all replies, and of each sampling seed."""
    name = "smoke" if quick else "embedded"
    own = training.PROFILES[name]
    rows, dev = corpus.load_split("train"), corpus.load_split("dev")[: 2 if quick else 8]
    test = [record for record in corpus.load_split("test") if not record.crisis]
    posts = [test[place] for place in np.linspace(0, len(test) - 1, 2 if quick else POSTS).round().astype(int)]
    seen = [text for record in rows for text in (record.post, record.answer_text)]
    metrics.METRICS["bertscore"] = bertscore.metric(bertscore.encoder(own.model))
    found = []
    for seed in SEEDS:
        config = replace(own, seed=seed, max_steps=2 if quick else STEPS)
        config = replace(config, evaluate_every=config.max_steps)
        result = training.train(rows, dev, config, out / f"seed-{name}-{seed}")
        adapted, tokenizer = runs.load_adapter(result.adapter)
        adopted = templates.adopt(config.template, tokenizer)
        prompts = [templates.render(record.post, adopted, f"record {record.id}") for record in posts]
        texts = sampling.sample(
            adapted.merge_and_unload(), tokenizer, prompts, max_new_tokens=16 if quick else TOKENS,
            temperature=TEMPERATURE, replies=REPLIES, stop=templates.stop_ids(adopted, tokenizer),
        )  # fmt: skip
        drawn = [texts[start : start + len(posts)] for start in range(0, len(texts), len(posts))]
        values = [_scored(posts, [one], seen) for one in drawn]
        found.append({
            "seed": seed, "perplexity": math.exp(result.dev_losses[-1]),
            "ended": sum(text.outcome == "ok" for text in texts) / len(texts),
            "all_replies": _scored(posts, drawn, seen), "sampling_seeds": values,
        })  # fmt: skip
        print(f"training seed {seed}: {found[-1]}", flush=True)
    settings = {"steps": config.max_steps, "posts": len(posts), "replies": REPLIES, "temperature": TEMPERATURE}
    return {"command": "python benchmarks/tuning.py --seeds"} | machine() | settings | {"adapters": found}


def _scored(posts: list[Any], drawn: list[list[sampling.Sample]], seen: list[str]) -> dict[str, float]:
    """Scores of the letters that ended; replies to one post are averaged first, and a post without one has no part."""
    given = {i: [one[i].text for one in drawn if one[i].outcome == "ok"] for i in range(len(posts))}
    given = {place: letters for place, letters in given.items() if letters}
    if not given:
        return {}
    gold = [[posts[place].answer_text for place in given]]
    scores = metrics.score(list(given.values()), gold, metrics=SCORED, training=seen)
    return {score.name: score.value for score in scores}


def machine() -> dict[str, Any]:
    """What it was measured on."""
    import torch

    return {
        "cores": torch.get_num_threads(), "processor": platform.processor() or platform.machine(),
        "precision": models.best_dtype(), "torch": torch.__version__,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the smoke model, a few records")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--sweep", action="store_true", help="ranks and data sizes in place of the whole profile")
    what.add_argument("--seeds", action="store_true", help="three training seeds in place of the whole profile")
    parser.add_argument("--out", type=Path, default=ROOT / "results/tuning", help="where runs are kept and continued")
    parser.add_argument(
        "--json", type=Path, metavar="OUT", help="default of a full --sweep or --seeds: a file in data/"
    )
    given = parser.parse_args()
    kept = {sweep: ROOT / "data/sweeps.json", seeds: ROOT / "data/seeds.json"}
    work = sweep if given.sweep else seeds if given.seeds else whole
    found, place = work(given.out, given.quick), given.json or (None if given.quick else kept.get(work))
    print(json.dumps(found, indent=1))
    if place:
        writing.write_json(place, found)


if __name__ == "__main__":
    main()
