"""LoRA training speed at 7B shape on one GPU: `cbtlib.training` beside TRL's SFTTrainer, same rows, same settings.

    python benchmarks/gpu_lora.py [--quick] [--json OUT] [--sequence 2048 4096] [--batch 1] [--checkpointing]

Random weights in the shape of Baichuan-7B (Llama layout, vocabulary 64,000), bf16, LoRA r=8 on all linear layers, no
dropout, 70% of the tokens with loss, full sequences without padding. Each measurement is a process of its own, so that
its peak memory is its own. FLOPs are counted without recomputation: 4 for each frozen weight and token (forward, and
the gradient of the input), 6 s d for causal attention a layer, 4 for the output layer on tokens with loss. The
share is of the bf16 matmul rate measured in the same process. `--quick` takes a tiny shape, and runs on a CPU.

Needs torch, transformers, peft, accelerate and trl; `cbtlib` must be importable.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

SHAPE = {"vocab_size": 64_000, "hidden_size": 4096, "intermediate_size": 11_008, "num_hidden_layers": 32}
TINY = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
LEARNED = 0.7  # share of the tokens that carry loss
WARM_UP, STEPS = 3, 8


def matmul_rate(device: str, dtype: Any, size: int) -> float:
    """FLOP/s of a square matrix product on random data, median of ten."""
    import torch

    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    times = []
    for _ in range(13):
        _wait(device)
        began = time.perf_counter()
        a @ b
        _wait(device)
        times.append(time.perf_counter() - began)
    return 2 * size**3 / statistics.median(times[3:])


def flops_per_token(shape: dict[str, int], sequence: int) -> float:
    """Multiply-adds times two that LoRA training cannot do without, for one token of a sequence."""
    width, layers = shape["hidden_size"], shape["num_hidden_layers"]
    frozen = layers * (4 * width**2 + 3 * width * shape["intermediate_size"])
    return 4 * frozen + 6 * sequence * width * layers + 4 * LEARNED * shape["vocab_size"] * width


def measure(peer: str, sequence: int, batch: int, checkpointing: bool, quick: bool) -> dict[str, Any]:
    """Train `peer` ("ours" or "trl") for some steps in this process; median seconds a step and what follows."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import LlamaConfig, LlamaForCausalLM, TrainerCallback, TrainingArguments

    from cbtlib import fused, training

    device = "cuda" if torch.cuda.is_available() else "cpu"
    shape, dtype = (TINY, torch.float32) if quick else (SHAPE, torch.bfloat16)
    heads = shape["hidden_size"] // (128 if not quick else 32)
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    with torch.device(device):
        model = LlamaForCausalLM(LlamaConfig(**shape, num_attention_heads=heads, max_position_embeddings=sequence))
    torch.set_default_dtype(torch.float32)
    steps = WARM_UP + STEPS
    ids = torch.randint(0, shape["vocab_size"], (steps * batch, sequence)).tolist()
    unlearned = int(sequence * (1 - LEARNED))
    rows = [{"input_ids": row, "labels": [-100] * unlearned + row[unlearned:]} for row in ids]
    peak = matmul_rate(device, dtype, 256 if quick else 8192)

    class Clock(TrainerCallback):
        times: list[float] = []  # noqa: RUF012

        def on_step_end(self, *_: Any, **__: Any) -> None:
            _wait(device)
            self.times.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        common: dict[str, Any] = {
            "output_dir": folder, "max_steps": steps, "per_device_train_batch_size": batch,
            "gradient_accumulation_steps": 1, "learning_rate": 1e-4, "lr_scheduler_type": "cosine",
            "bf16": dtype == torch.bfloat16, "use_cpu": device == "cpu", "gradient_checkpointing": checkpointing,
            "logging_steps": 1, "save_strategy": "no", "report_to": [], "disable_tqdm": True,
            "remove_unused_columns": False,
        }  # fmt: skip
        if peer == "ours":
            lora = training.add_lora(model, training.TrainingConfig(rank=8, alpha=32, dropout=0.0))
            fused.fuse(lora)
            trainer: Any = training.AnswerTrainer(
                model=lora, args=TrainingArguments(**common), train_dataset=rows, data_collator=training.Collator(0),
                callbacks=[Clock()],
            )  # fmt: skip
        else:
            from transformers import PreTrainedTokenizerFast
            from trl import SFTConfig, SFTTrainer

            settings = LoraConfig(
                r=8, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
            )
            arguments = SFTConfig(**common, max_length=None, dataset_kwargs={"skip_prepare_dataset": True})
            trainer = SFTTrainer(
                model=model, args=arguments, train_dataset=Dataset.from_list(rows), peft_config=settings,
                processing_class=_no_tokenizer(PreTrainedTokenizerFast), callbacks=[Clock()],
            )  # fmt: skip
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        trainer.train()
    seconds = statistics.median(b - a for a, b in zip(Clock.times[WARM_UP:], Clock.times[WARM_UP + 1 :], strict=False))
    rate = batch * sequence / seconds
    flops = rate * flops_per_token(shape, sequence)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {
        "peer": peer, "sequence": sequence, "batch": batch, "checkpointing": checkpointing,
        "seconds_a_step": seconds, "tokens_per_second": rate, "tflops": flops / 1e12,
        "matmul_tflops": peak / 1e12, "share_of_matmul": flops / peak, "first_loss": losses[0], "last_loss": losses[-1],
        "peak_gb": torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None,
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu", "torch": torch.__version__,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny shape, also on a CPU")
    parser.add_argument("--json", type=Path, metavar="OUT")
    parser.add_argument("--sequence", type=int, nargs="+", default=[2048, 4096])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--checkpointing", action="store_true", help="recompute activations in the backward pass")
    parser.add_argument("--only", choices=["ours", "trl"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        row = measure(given.only, given.sequence[0], given.batch, given.checkpointing, given.quick)
        print("\n" + json.dumps(row))
        return
    rows = []
    for sequence in [64] if given.quick else given.sequence:
        for peer in ("ours", "trl"):
            command = [
                sys.executable,
                __file__,
                "--only",
                peer,
                "--sequence",
                str(sequence),
                "--batch",
                str(given.batch),
            ]
            command += ["--quick"] * given.quick + ["--checkpointing"] * given.checkpointing
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:  # out of memory, say: a run that failed is named and is no number
                print(f"{peer} at {sequence} failed: {done.stderr.strip().splitlines()[-1]}")
                rows.append({"peer": peer, "sequence": sequence, "failed": done.stderr.strip().splitlines()[-1]})
                continue
            row = json.loads(done.stdout.strip().splitlines()[-1])
            rows.append(row)
            memory = f"{row['peak_gb']:.1f} GB" if row["peak_gb"] else "-"
            print(
                f"{peer:5} {sequence:5} tokens: {row['tokens_per_second']:9,.0f} tokens/s  {row['tflops']:7.2f} TFLOPS "
                f"= {row['share_of_matmul']:.0%} of {row['matmul_tflops']:.2f}  {memory}  on {row['device']}"
            )
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def _wait(device: str) -> None:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def _no_tokenizer(kind: Any) -> Any:
    """A tokenizer that is asked for nothing but its pad token: the rows are ids already."""
    from tokenizers import Tokenizer, models

    return kind(
        tokenizer_object=Tokenizer(models.WordLevel({"<pad>": 0}, unk_token="<pad>")),
        pad_token="<pad>",
        eos_token="<pad>",
    )


if __name__ == "__main__":
    main()
