"""Tokens a second with the embedded model: generating and training, ours beside the peers, in one run.

    python benchmarks/embedded.py [--quick] [--only generation|served|training] [--json OUT]

generation  at batch 1, 8 and 16, each row to the same length: `cbtlib.sampling` on the trimmed and on the whole
            vocabulary, and transformers' `generate` with the same settings on the whole one.
served      the loopback server on both, alone and with four requests at once.
training    LoRA r=8 on all linear layers, 2 records a step: our trainer on the trimmed and on the whole vocabulary, and
            TRL's SFTTrainer on the whole one (which is what it would be given), on the same records, in the same
            precision, without gradient checkpointing. A step's time is the median; the first one is not counted.

Contestants take turns within each round and medians are compared, so that a busy machine slows all alike.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import torch
from transformers import PrinterCallback, TrainerCallback

from cbtlib import corpus, endpoint, fused, models, sampling, templates, training

PROMPT = "问：我最近总是觉得自己什么都做不好，同事肯定都在背后笑话我。怎么办？\n答："  # "I keep feeling …; what now?"
QUIET: dict[str, Any] = {
    "eval_strategy": "no",
    "save_strategy": "no",
    "logging_strategy": "no",
    "disable_tqdm": True,
    "report_to": [],
}
Row = dict[str, Any]


def ours(model: Any, row: list[int], batch: int, new_tokens: int) -> None:
    """Generate as the book does, but to the full length."""
    choose = sampling.chooser(temperature=0.7, top_p=0.9, repetition_penalty=1.1)
    with fused.packed(model):
        sampling.decode(
            model, [row] * batch, choose, [torch.Generator()] * batch, ends=[set()] * batch, pad=0, limit=new_tokens
        )


def generate(model: Any, row: list[int], batch: int, new_tokens: int) -> None:
    """Generate as transformers does."""
    how = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 0, "repetition_penalty": 1.1}
    model.generate(torch.tensor([row] * batch), max_new_tokens=new_tokens, min_new_tokens=new_tokens, **how)


def generation(rounds: int, new_tokens: int) -> list[Row]:
    """Tokens a second at batch 1, 8 and 16."""
    trimmed, whole = models.load("embedded"), models.load("embedded", trimmed=False)
    contestants = {"ours": (ours, *trimmed), "ours whole": (ours, *whole), "generate": (generate, *whole)}
    rates: dict[tuple[str, int], list[float]] = {}
    for _ in range(rounds):
        for batch in (1, 8, 16):
            for name, (write, model, tokenizer) in contestants.items():
                row = tokenizer(PROMPT)["input_ids"]
                start = time.perf_counter()
                write(model, row, batch, new_tokens)
                rates.setdefault((name, batch), []).append(batch * new_tokens / (time.perf_counter() - start))
    return [
        compare(f"batch {batch}", ours=rates["ours", batch], **{peer: rates[peer, batch]})
        for batch in (1, 8, 16)
        for peer in ("ours whole", "generate")
    ]


def served(rounds: int, new_tokens: int) -> list[Row]:
    """Tokens a second of the server, alone and with four requests at once."""
    rates: dict[tuple[str, int], list[float]] = {}
    with endpoint.serve() as trimmed, endpoint.serve(trimmed=False) as whole:
        for _ in range(rounds):
            for requests in (1, 4):
                for name, where in (("trimmed", trimmed), ("whole", whole)):
                    client = openai.OpenAI(base_url=where.base_url, api_key=where.api_key, max_retries=0)

                    def ask(number: int, client: openai.OpenAI = client) -> int:
                        reply = client.completions.create(
                            model="embedded", prompt=f"{number}. {PROMPT}", max_tokens=new_tokens, seed=number
                        )
                        return reply.usage.completion_tokens if reply.usage else 0

                    start = time.perf_counter()
                    with ThreadPoolExecutor(requests) as pool:
                        tokens = sum(pool.map(ask, range(requests)))
                    rates.setdefault((name, requests), []).append(tokens / (time.perf_counter() - start))
    return [compare(f"{n} at once", trimmed=rates["trimmed", n], whole=rates["whole", n]) for n in (1, 4)]


class Clock(TrainerCallback):
    """Seconds of each optimizer step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.start = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(time.perf_counter() - self.start)


def train(contestant: str, steps: int) -> float:
    """Tokens a second of one contestant over `steps` optimizer steps of two records of middling length."""
    model, tokenizer = models.load("embedded", trimmed=contestant == "ours trimmed")
    template = templates.adopt("gemma", tokenizer)
    encoded = templates.encode(corpus.load_split("train"), tokenizer, template, 10_000)
    middle = statistics.median(len(row["input_ids"]) for row in encoded)
    # Records of nearly one length: every step does the same work, whatever order a trainer takes them in.
    rows = sorted(encoded, key=lambda row: abs(len(row["input_ids"]) - middle))[: 2 * steps]
    config = training.TrainingConfig(batch_size=2, accumulation=1, max_steps=steps, dropout=0.0)
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        run = replace(training.arguments(config, Path(folder), len(rows)), eval_on_start=False, **QUIET)
        if contestant == "TRL":
            trainer = trl_trainer(model, tokenizer, rows, run)
        else:
            trainer = training.AnswerTrainer(
                model=training.add_lora(model, config),
                args=run,
                train_dataset=rows,  # type: ignore[arg-type]
                data_collator=training.Collator(tokenizer.pad_token_id),
                processing_class=tokenizer,
            )
            fused.fuse(trainer.model)  # type: ignore[arg-type]
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(clock)
        trainer.train()
    tokens = statistics.mean(len(row["input_ids"]) for row in rows) * 2
    return tokens / statistics.median(clock.seconds[1:])


def trl_trainer(model: Any, tokenizer: Any, rows: list[dict[str, list[int]]], run: Any) -> Any:
    """TRL's trainer with the arguments of ours."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    ours = training.TrainingConfig(dropout=0.0)
    lora = LoraConfig(r=ours.rank, lora_alpha=ours.alpha, target_modules=ours.targets, task_type="CAUSAL_LM")
    same = ("output_dir", "max_steps", "per_device_train_batch_size", "learning_rate", "lr_scheduler_type", "bf16",
            "use_cpu", "seed", "weight_decay", "dataloader_pin_memory")  # fmt: skip
    config = SFTConfig(
        **{name: getattr(run, name) for name in same},
        max_length=None,
        gradient_checkpointing=False,
        **QUIET,
    )
    data = Dataset.from_list(rows)
    return SFTTrainer(model=model, args=config, train_dataset=data, peft_config=lora, processing_class=tokenizer)


def training_rates(rounds: int, steps: int) -> list[Row]:
    """Tokens a second of LoRA training."""
    rates: dict[str, list[float]] = {"ours trimmed": [], "ours whole": [], "TRL": []}
    for _ in range(rounds):
        for contestant, found in rates.items():
            found.append(train(contestant, steps))
    return [
        compare("against TRL", trimmed=rates["ours trimmed"], TRL=rates["TRL"]),
        compare("against our whole", trimmed=rates["ours trimmed"], whole=rates["ours whole"]),
    ]


def compare(what: str, **rates: list[float]) -> Row:
    """Median rates of two contestants and the ratio of the first to the second."""
    (ours, first), (peer, second) = ((name, statistics.median(values)) for name, values in rates.items())
    print(f"{what:18} {ours} {first:7.1f} tokens/s   {peer:8} {second:7.1f} tokens/s   ratio {first / second:.1f}")
    return {"what": what, ours: first, peer: second, "ratio": first / second, "rounds": len(rates[ours])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--quick", action="store_true", help="one round of less work")
    parser.add_argument("--only", choices=("generation", "served", "training"), help="one part")
    parser.add_argument("--json", type=Path, help="write the results here")
    args = parser.parse_args()
    rounds = 1 if args.quick else 3
    parts = {
        "generation": lambda: generation(rounds, 16 if args.quick else 128),
        "served": lambda: served(rounds, 32 if args.quick else 96),
        "training": lambda: training_rates(rounds, 3 if args.quick else 6),
    }
    precision = models.best_dtype()
    results: dict[str, Any] = {"cores": os.cpu_count(), "threads": torch.get_num_threads(), "precision": precision}
    print(f"{results['cores']} cores, {results['threads']} threads, {precision}")
    for name, part in parts.items():
        if args.only in (None, name):
            print(f"-- {name}")
            results[name] = part()
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
