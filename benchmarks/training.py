"""LoRA training speed of the embedded model on this machine: ours, ours without each shortcut, and TRL's SFTTrainer.

    python benchmarks/training.py [--quick] [--json OUT]

All take the same rows (records of the corpus), rank, targets, precision and batches, no dropout, and the same Trainer
underneath. Each is a process of its own and is measured twice, in two rounds, so that a busy moment of the machine
does not fall on one of them alone. Reported, of the faster round: mean seconds of a micro-batch step, tokens a second,
and the share of the fp32 or bf16 matmul rate in the same process: the higher of those right before and right after the
steps, or a busy moment would make of it a rate that training surpasses. FLOPs are those that LoRA training with
answer-only logits cannot do without, for every variant; a variant that computes more reaches a smaller share.

    ours          cbtlib.training as the chapter uses it
    peft forward  with nothing of `cbtlib.fused`
    sdpa          with PyTorch's attention kernel, queries and keys turned by transformers' code
    plain norm    with transformers' norm around attention and MLP
    any length    with batches as wide as their longest row, not a multiple of 32
    returned      with freed memory returned to the system after every use
    dropout       with LoRA dropout 0.1 (which rules out the fused LoRA step)
    untrimmed     the whole 262,144-token vocabulary
    naive         transformers.Trainer: full logits, attention mask, untrimmed, peft's forward
    trl           TRL's SFTTrainer, untrimmed, its own loss (logits in chunks)
"""

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

FUSED = ("ours", "sdpa", "plain norm", "any length", "returned", "dropout", "untrimmed")
VARIANTS = (
    *("ours", "peft forward", "sdpa", "plain norm", "any length", "returned", "dropout", "untrimmed"),
    *("naive", "trl"),
)
WARM_UP = 6  # steps: by then most widths of a batch have been met


def matmul_rate(dtype: Any) -> float:
    """FLOP/s of a (1024, 640) x (640, 2048) product, the shape that training spends most time in; median of 100."""
    import torch

    a, b = torch.randn(1024, 640).to(dtype), torch.randn(2048, 640).to(dtype)
    times = []
    for _ in range(105):
        began = time.perf_counter()
        torch.nn.functional.linear(a, b)
        times.append(time.perf_counter() - began)
    return 2 * 1024 * 640 * 2048 / statistics.median(times[5:])


def flops(model: Any, rows: list[dict[str, list[int]]]) -> float:
    """Floating-point operations of one pass over the rows: 4 a frozen weight and token, attention, answer logits."""
    settings = model.config.get_text_config()
    frozen = sum(p.numel() for name, p in model.named_parameters() if "base_layer" in name)
    width = settings.num_attention_heads * settings.head_dim
    total = 0.0
    for row in rows:
        length, learned = len(row["input_ids"]), sum(label != -100 for label in row["labels"])
        total += 4 * frozen * length + 6 * length**2 * width * settings.num_hidden_layers
        total += 4 * learned * settings.vocab_size * settings.hidden_size
    return total


def measure(variant: str, name: str, steps: int) -> dict[str, Any]:
    """Train `variant` for some micro-batches of one record in this process."""
    import torch
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainerCallback, TrainingArguments

    from cbtlib import corpus, fused, models, templates, training

    torch.manual_seed(0)
    trimmed = variant not in ("untrimmed", "naive", "trl")
    if variant in FUSED and variant != "returned":
        fused.keep_memory()
    model, tokenizer = models.load(name, trimmed=trimmed)
    records = corpus.load_split("train")[: WARM_UP + steps]
    rows = templates.encode(records, tokenizer, templates.adopt("gemma", tokenizer), 4096)
    config = dataclasses.replace(training.PROFILES["embedded"], dropout=0.1 if variant == "dropout" else 0.0)
    lora = training.add_lora(model, config)
    peak = matmul_rate(model.dtype)
    needed = flops(lora, rows[WARM_UP:])

    class Clock(TrainerCallback):
        times: list[float] = []  # noqa: RUF012

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.times.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        common: dict[str, Any] = {
            "output_dir": folder, "max_steps": len(rows), "per_device_train_batch_size": 1, "learning_rate": 1e-3,
            "bf16": model.dtype == torch.bfloat16, "use_cpu": True, "save_strategy": "no", "report_to": [],
            "logging_steps": 1, "disable_tqdm": True, "remove_unused_columns": False,
            "train_sampling_strategy": "sequential", "gradient_checkpointing": False,
        }  # fmt: skip
        if variant == "trl":
            from datasets import Dataset
            from trl import SFTConfig, SFTTrainer

            arguments = SFTConfig(**common, max_length=None, dataset_kwargs={"skip_prepare_dataset": True})
            trainer: Any = SFTTrainer(
                model=lora, args=arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer,
                callbacks=[Clock()],
            )  # fmt: skip
        elif variant == "naive":
            masked = [row | {"attention_mask": [1] * len(row["input_ids"])} for row in rows]
            trainer = Trainer(
                model=lora, args=TrainingArguments(**common), train_dataset=masked, callbacks=[Clock()],
                data_collator=DataCollatorForSeq2Seq(tokenizer),
            )  # fmt: skip
        else:
            if variant in FUSED:
                fused.fuse(lora)
            if variant == "sdpa":
                lora.get_base_model().set_attn_implementation("sdpa")
            if variant == "plain norm":
                for module in lora.modules():
                    if type(module) is fused.Gemma3RMSNorm:
                        del module.forward  # what `fuse` has put before the class's own
            collator: Any = training.Collator(tokenizer.pad_token_id)
            if variant == "any length":
                collator = lambda rows: {key: torch.tensor([row[key] for row in rows]) for key in rows[0]}  # noqa: E731
            trainer = training.AnswerTrainer(
                model=lora, args=TrainingArguments(**common), train_dataset=rows, callbacks=[Clock()],
                data_collator=collator,
            )  # fmt: skip
        trainer.train()
        peak = max(peak, matmul_rate(model.dtype))
    seconds = Clock.times[-1] - Clock.times[WARM_UP - 1]
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    tokens = sum(len(row["input_ids"]) for row in rows[WARM_UP:])
    return {
        "variant": variant, "model": name, "precision": str(model.dtype), "threads": torch.get_num_threads(),
        "seconds_a_step": seconds / steps, "tokens_per_second": tokens / seconds, "gflops": needed / seconds / 1e9,
        "matmul_gflops": peak / 1e9, "share_of_matmul": needed / seconds / peak, "first_loss": losses[0],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the smoke model, two steps, one round")
    parser.add_argument("--json", type=Path, metavar="OUT")
    parser.add_argument("--only", choices=VARIANTS, help="measure one variant in this process")
    given = parser.parse_args()
    name, steps, rounds = ("smoke", 2, 1) if given.quick else ("embedded", 12, 2)
    if given.only:
        print("\n" + json.dumps(measure(given.only, name, steps)))
        return
    measured: dict[str, list[dict[str, Any]]] = {variant: [] for variant in VARIANTS}
    for _ in range(rounds):
        for variant in VARIANTS:
            command = [sys.executable, __file__, "--only", variant, *["--quick"] * given.quick]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(f"{variant} failed: {done.stderr.strip()[-2000:]}")
            measured[variant].append(json.loads(done.stdout.strip().splitlines()[-1]))
    rows = []
    for variant, runs in measured.items():
        best = max(runs, key=lambda run: run["tokens_per_second"])  # the round that was disturbed least
        best["all_tokens_per_second"] = [run["tokens_per_second"] for run in runs]
        rows.append(best)
        print(
            f"{variant:13} {best['seconds_a_step']:7.2f} s/step {best['tokens_per_second']:7.0f} tokens/s "
            f"{best['gflops']:6.0f} GFLOP/s = {best['share_of_matmul']:4.0%} of {best['matmul_gflops']:.0f}   "
            f"ours is {rows[0]['tokens_per_second'] / best['tokens_per_second']:.1f}x   loss {best['first_loss']:.4f}"
        )
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
