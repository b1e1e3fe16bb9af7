"""LoRA instruction tuning on one path: the same call trains 270M on a laptop's CPU and 7B on eight GPUs.

peft on `transformers.Trainer`; `accelerate launch` scales it out. Notable choices:

- Loss and logits for answer tokens only. A hook on the output layer drops every other position, so the vocabulary-wide
  matmul (a third of a small model's work) is done where something is learned and nowhere else; the loss is the mean
  over all answer tokens of an optimizer step, whatever micro-batches and processes they were in.
- No attention mask: rows are padded on the right, so a causal model never sees padding from a real token, and attention
  without a mask takes the fast kernel. Batches hold rows of similar length.
- A run owns its folder. `run.json` has configuration and data hashes: the same run continues or returns at once,
  another one is refused. A checkpoint counts once its seal (hashes of its files) is written; before that it is litter.
- What cannot work is said before the model is loaded, what went wrong (NaN, memory) as a sentence with a remedy.
- The paper names the cosine schedule, accumulation over 4 batches and 16-bit precision; all else is ours
  (LLaMA-Factory's defaults of the time), or measured (the embedded profile).
"""

import dataclasses
import hashlib
import json
import math
import os
import resource
import shutil
import sys
import time
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import EarlyStoppingCallback, ProgressCallback, Trainer, TrainerCallback, TrainingArguments, set_seed

from cbtlib import CbtError, endpoint, fused, templates
from cbtlib.embedded import NAMES, NOTICE
from cbtlib.templates import IGNORED, Row


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of one run; their hash, with the data's, is the run's identity."""

    model: str = "embedded"  # "embedded", "smoke", a folder or a hub id
    template: str = "gemma"  # a name in templates.TEMPLATES
    max_length: int = 1024  # tokens; a longer record is refused, never cut
    epochs: float = 3.0  # ours
    max_steps: int = 0  # optimizer steps; 0: as many as the epochs have
    batch_size: int = 4  # ours; records a device sees at once
    accumulation: int = 4  # the paper's
    learning_rate: float = 5e-5  # ours; the schedule is the paper's cosine
    warmup: float = 0.05  # ours; share of the steps
    rank: int = 8  # ours
    alpha: int = 32  # ours
    dropout: float = 0.1  # ours
    targets: str = "all-linear"  # or names of linear layers, comma-separated
    rslora: bool = False
    dora: bool = False
    precision: str = "auto"  # "float32", "float16", "bfloat16"; auto: 16-bit (the paper's) where it is native
    gradient_checkpointing: bool = False
    device: str = "auto"  # "cpu", "cuda"
    evaluate_every: int = 0  # optimizer steps between dev losses and checkpoints; 0: once an epoch
    keep: int = 2  # checkpoints kept
    patience: int = 0  # dev losses without improvement before stopping; 0: never
    seed: int = 42


PROFILES = {
    "smoke": TrainingConfig(
        model="smoke", max_steps=4, batch_size=2, accumulation=2, learning_rate=1e-2, dropout=0.0, evaluate_every=2
    ),
    # Measured on two cores without bf16 arithmetic: see the chapter on training for what was chosen and why.
    "embedded": TrainingConfig(
        max_steps=30, batch_size=1, learning_rate=1e-3, dropout=0.0, evaluate_every=10, keep=3, max_length=768
    ),
    "gpu": TrainingConfig(
        model="Qwen/Qwen2.5-0.5B", template="chat", batch_size=8, learning_rate=1e-4, dropout=0.0, max_length=2048
    ),
    "paper": TrainingConfig(
        model="baichuan-inc/Baichuan-7B", template="baichuan", max_length=2048, gradient_checkpointing=True
    ),
}


@dataclass(frozen=True)
class TrainingResult:
    """Where a finished run left its adapter, its curve, and what it cost."""

    adapter: Path
    history: list[dict[str, float]]  # one entry a step (loss) or evaluation (dev_loss)
    trainable: int  # parameters
    tokens: int  # read in training, without padding
    answer_tokens: int  # of these, with loss
    seconds: float  # of training, without loading
    peak_gb: float  # memory of the process

    @property
    def dev_losses(self) -> list[float]:
        """Mean negative log-likelihood a dev answer token, before training first (nats)."""
        return [entry["dev_loss"] for entry in self.history if "dev_loss" in entry]


def train(rows: Iterable[Row], dev_rows: Iterable[Row], config: TrainingConfig, out: Path | str) -> TrainingResult:
    """Tune an adapter on `rows`, watch `dev_rows`, leave everything in `out`; continue or return what is there already.

    Writes run.json, log.jsonl, checkpoints/, adapter/ (PEFT, tokenizer, model card), result.json and timing.json.
    """
    rows, dev_rows, out = list(rows), list(dev_rows), Path(out)
    _check(rows, dev_rows, config)
    identity = _identity(rows, dev_rows, config)
    _claim(out, identity)
    if (out / "result.json").exists():
        return read_result(out)

    set_seed(config.seed)
    model, tokenizer = endpoint.load(config.model, None if config.precision == "auto" else config.precision)
    template = templates.adopt(config.template, tokenizer)
    data = templates.encode(rows, tokenizer, template, config.max_length)
    dev = templates.encode(dev_rows, tokenizer, template, config.max_length)
    checkpoint = _last_checkpoint(out, identity["hash"])
    trainer = AnswerTrainer(
        model=add_lora(model, config),
        args=arguments(config, out / "checkpoints", len(data)),
        train_dataset=data,  # type: ignore[arg-type]
        eval_dataset=dev,  # type: ignore[arg-type]
        data_collator=Collator(tokenizer.pad_token_id),
        callbacks=[Journal(out, identity["hash"])],
    )
    trainer.remove_callback(ProgressCallback)
    if config.patience:
        trainer.add_callback(EarlyStoppingCallback(config.patience))
    if not trainer.is_fsdp_enabled:  # sharded weights are only whole inside their own module's forward
        fused.fuse(trainer.model)  # type: ignore[arg-type]
    began = time.perf_counter()
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except torch.OutOfMemoryError as error:
        raise CbtError(
            f"out of memory with {config.batch_size} x up to {config.max_length} tokens: take a smaller batch_size "
            "(and more accumulation), gradient_checkpointing, or a smaller model"
        ) from error
    seconds = time.perf_counter() - began
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        _finish(trainer, tokenizer, identity, out, seconds)
    trainer.accelerator.wait_for_everyone()
    return read_result(out)


def add_lora(model: nn.Module, config: TrainingConfig) -> PeftModel:
    """The model with a fresh LoRA adapter, its weights in fp32, everything else frozen."""
    targets: str | list[str] = config.targets
    if config.targets != "all-linear":
        targets = [name.strip() for name in config.targets.split(",")]
        known = sorted({name.rpartition(".")[2] for name, part in model.named_modules() if isinstance(part, nn.Linear)})
        unknown = [name for name in targets if name not in known]
        if unknown:
            raise CbtError(f"no linear layer is called {', '.join(unknown)}: this model has {', '.join(known)}")
    settings = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=targets,
        use_rslora=config.rslora,
        use_dora=config.dora,
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks for an attribute that transformers has renamed
        return get_peft_model(model, settings)  # type: ignore[arg-type]


def arguments(config: TrainingConfig, folder: Path, records: int) -> TrainingArguments:
    """The Trainer's arguments for a configuration."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    an_epoch = math.ceil(records / (config.batch_size * config.accumulation * processes))
    every = config.evaluate_every or an_epoch
    precision = endpoint.best_dtype() if config.precision == "auto" else config.precision
    return TrainingArguments(
        output_dir=str(folder),
        seed=config.seed,
        num_train_epochs=config.epochs,
        max_steps=config.max_steps or -1,
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=config.batch_size,
        gradient_accumulation_steps=config.accumulation,
        train_sampling_strategy="group_by_length",
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=config.warmup,
        weight_decay=0.0,
        bf16=precision == "bfloat16",
        fp16=precision == "float16",
        activation_checkpointing=config.gradient_checkpointing,
        use_cpu=config.device == "cpu" or not torch.cuda.is_available(),
        eval_strategy="steps",
        eval_steps=every,
        eval_on_start=True,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=config.keep,
        load_best_model_at_end=bool(config.patience),
        metric_for_best_model="loss",
        logging_steps=1,
        logging_nan_inf_filter=False,  # a loss that is no number must be seen
        report_to=[],
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
    )


# ------------------------------------------------------------------------------------------- the loss


class AnswerTrainer(Trainer):
    """A Trainer whose loss is the mean negative log-likelihood of answer tokens, and whose dev loss is exact."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = True  # makes the Trainer count the labels of a whole step
        self.loss_is_scaled_for_ga = True

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Sum over this micro-batch / answer tokens of the step; times processes, since DDP averages gradients."""
        loss = answer_nll(model, inputs["input_ids"], inputs["labels"])
        return loss / num_items_in_batch * self.accelerator.num_processes

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        """Dev loss over all rows, weighted by token; every process computes the same number."""
        metrics = {"eval_loss": mean_nll(self.model_wrapped, self.eval_dataset, self.data_collator)}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def answer_logits(model: nn.Module, input_ids: Tensor, keep: Tensor) -> Tensor:
    """Logits (kept, vocabulary) at the True positions of keep (batch, length) only."""
    head = extract_model_from_parallel(model).get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, states: (states[0][keep].unsqueeze(0),))
    try:
        return model(input_ids=input_ids, use_cache=False).logits.squeeze(0)
    finally:
        hook.remove()


def answer_nll(model: nn.Module, input_ids: Tensor, labels: Tensor) -> Tensor:
    """Summed negative log-likelihood of the labelled tokens, for input_ids and labels (batch, length)."""
    # Position t predicts token t+1, so the labels move one to the left; the last position predicts nothing.
    target = nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED)
    keep = target != IGNORED
    return nn.functional.cross_entropy(answer_logits(model, input_ids, keep).float(), target[keep], reduction="sum")


@torch.no_grad()
def mean_nll(model: nn.Module, encoded: Any, collator: Any, batch_size: int = 4) -> float:
    """Mean negative log-likelihood an answer token over encoded rows (nats); dropout off. exp() is the perplexity."""
    was_training, total, count = model.training, 0.0, 0
    device = next(model.parameters()).device
    ordered = sorted(encoded, key=lambda row: len(row["input_ids"]))
    model.eval()
    for start in range(0, len(ordered), batch_size):
        batch = collator(ordered[start : start + batch_size])
        total += float(answer_nll(model, batch["input_ids"].to(device), batch["labels"].to(device)))
        count += int((batch["labels"] != IGNORED).sum())
    model.train(was_training)
    return total / count


@dataclass(frozen=True)
class Collator:
    """Encoded rows to tensors (batch, longest), padded on the right."""

    pad: int

    def __call__(self, rows: Sequence[dict[str, list[int]]]) -> dict[str, Tensor]:
        width = max(len(row["input_ids"]) for row in rows)
        fill = {"input_ids": self.pad, "labels": IGNORED}
        return {
            key: torch.tensor([row[key] + [value] * (width - len(row[key])) for row in rows])
            for key, value in fill.items()
        }


# ------------------------------------------------------------------------------------------- sampling


@dataclass(frozen=True, slots=True)
class Sample:
    """A generated text; `truncated` says that it ran into the token limit before it ended."""

    text: str
    truncated: bool


@torch.no_grad()
def sample(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    max_new_tokens: int = 512,
    batch_size: int = 16,
    temperature: float = 0.7,
    seed: int = 0,
    *,
    top_p: float = 0.9,
    repetition_penalty: float = 1.1,
    stop: Sequence[int] = (),
) -> list[Sample]:
    """One text for each rendered prompt, in their order; temperature 0 is greedy. Seeded, the caller's RNG untouched.

    Prompts of similar length share a batch, so the result depends on the list as a whole, and not on its order alone.
    """
    stop = sorted({tokenizer.eos_token_id, *stop})
    ids = [tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]
    order = sorted(range(len(ids)), key=lambda i: (len(ids[i]), i))
    how = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0} if temperature else {}
    samples: dict[int, Sample] = {}
    was_training = model.training
    model.eval()
    with torch.random.fork_rng(), tqdm(total=len(ids), desc="sampling", disable=None) as bar:
        torch.manual_seed(seed)
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            width = max(len(ids[i]) for i in batch)
            padded = [[tokenizer.pad_token_id] * (width - len(ids[i])) + ids[i] for i in batch]
            mask = [[0] * (width - len(ids[i])) + [1] * len(ids[i]) for i in batch]
            tokens = model.generate(
                input_ids=torch.tensor(padded, device=model.device),
                attention_mask=torch.tensor(mask, device=model.device),
                max_new_tokens=max_new_tokens,
                repetition_penalty=repetition_penalty,
                eos_token_id=stop,
                pad_token_id=tokenizer.pad_token_id,
                **(how or {"do_sample": False}),
            )[:, width:].tolist()
            for i, new in zip(batch, tokens, strict=True):
                end = next((at for at, token in enumerate(new) if token in stop), None)
                text = tokenizer.decode(new[:end], skip_special_tokens=True)
                samples[i] = Sample(text.strip(), truncated=end is None)
            bar.update(len(batch))
    model.train(was_training)
    return [samples[i] for i in range(len(ids))]


def load_adapter(folder: Path | str, model: str | None = None) -> tuple[PeftModel, Any]:
    """Base model with the adapter of `folder` on it, and its tokenizer. `model` overrides the base named there."""
    folder = Path(folder)
    if not (folder / "adapter_config.json").exists():
        raise CbtError(f"{folder} holds no adapter (no adapter_config.json): train one with `cbt train`")
    settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    base, tokenizer = endpoint.load(model or settings["base_model_name_or_path"])
    tuned = PeftModel.from_pretrained(base, str(folder))
    fused.fuse(tuned)
    return tuned.eval(), tokenizer


# ------------------------------------------------------------------------------------------- the folder of a run


class Journal(TrainerCallback):
    """Writes the curve after every step, seals checkpoints, shows progress, stops on a loss that is no number."""

    def __init__(self, out: Path, run_hash: str):
        self.out, self.hash = out, run_hash
        self.bar: Any = None

    def on_train_begin(self, args, state, control, **kwargs):
        self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc="training", disable=None)

    def on_step_end(self, args, state, control, **kwargs):
        self.bar.update(1)

    def on_log(self, args, state, control, logs=None, **kwargs):
        loss = (logs or {}).get("loss", (logs or {}).get("eval_loss", 0.0))
        if not math.isfinite(loss):
            raise CbtError(
                f"the loss is {loss} at step {state.global_step}: lower the learning_rate"
                + (", or take bfloat16 or float32 instead of float16" if args.fp16 else "")
            )
        if state.is_world_process_zero:
            _write(self.out / "log.jsonl", "".join(json.dumps(entry) + "\n" for entry in curve(state.log_history)))

    def on_save(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            files = {path.name: _sha256(path) for path in sorted(folder.iterdir()) if path.is_file()}
            _write(folder / "seal.json", json.dumps({"hash": self.hash, "files": files}, indent=1))

    def on_train_end(self, args, state, control, **kwargs):
        self.bar.close()


def curve(history: list[dict[str, float]]) -> list[dict[str, float]]:
    """The Trainer's log as entries {step, loss, learning_rate, grad_norm} or {step, dev_loss}, clocks left out."""
    entries = []
    for entry in history:
        if "eval_loss" in entry:
            entries.append({"step": entry["step"], "dev_loss": entry["eval_loss"]})
        elif "loss" in entry:
            entries.append({key: entry[key] for key in ("step", "loss", "learning_rate", "grad_norm") if key in entry})
    return entries


def read_result(out: Path | str) -> TrainingResult:
    """The result of a finished run in `out`."""
    out = Path(out)
    if not (out / "result.json").exists():
        raise CbtError(f"{out} holds no finished run (no result.json): run `cbt train --out {out}` again to finish it")
    facts = json.loads((out / "result.json").read_text(encoding="utf-8"))
    clocks = json.loads((out / "timing.json").read_text(encoding="utf-8"))
    history = [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return TrainingResult(out / "adapter", history, **facts, **clocks)


def _check(rows: list[Row], dev_rows: list[Row], config: TrainingConfig) -> None:
    if config.device == "cuda" and not torch.cuda.is_available():
        raise CbtError("device is 'cuda' and PyTorch finds no CUDA device here: take device 'cpu' or 'auto'")
    if config.template not in templates.TEMPLATES:
        raise CbtError(f"no template {config.template!r}: take one of {', '.join(templates.TEMPLATES)}")
    if not rows or not dev_rows:
        raise CbtError(f"no {'training' if not rows else 'dev'} records: training needs both kinds")
    held_out = [row.id for row in rows if getattr(row, "split", "train") != "train"]
    if held_out:
        raise CbtError(f"{len(held_out)} training records are not of the split 'train', {held_out[0]} first: leave out")
    leaked = {row.post.strip() for row in dev_rows} & {row.post.strip() for row in rows}
    if leaked:
        raise CbtError(f"{len(leaked)} posts are in the training and in the dev records: leave them out of one")
    local = Path(config.model)
    if config.model not in NAMES and local.is_dir() and not any(local.glob("*.safetensors")):
        raise CbtError(f"the model folder {local} holds no weights (*.safetensors)")


def _identity(rows: list[Row], dev_rows: list[Row], config: TrainingConfig) -> dict[str, Any]:
    data = {
        name: hashlib.sha256(json.dumps([[r.post, r.answer_text] for r in part]).encode()).hexdigest()
        for name, part in (("train", rows), ("dev", dev_rows))
    }
    identity = {
        "config": dataclasses.asdict(config),
        "data": data,
        "records": {"train": len(rows), "dev": len(dev_rows)},
    }
    return identity | {"hash": hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()}


def _claim(out: Path, identity: dict[str, Any]) -> None:
    """Make `out` this run's folder, or refuse when it is another run's."""
    out.mkdir(parents=True, exist_ok=True)
    place = out / "run.json"
    if place.exists():
        there = json.loads(place.read_text(encoding="utf-8"))
        if there["hash"] != identity["hash"]:
            old, new = there["config"] | there["data"], identity["config"] | identity["data"]
            changed = [f"{key} {old.get(key)} -> {new[key]}" for key in new if old.get(key) != new[key]]
            raise CbtError(f"{out} holds another run ({'; '.join(changed)}): take another folder, or remove that one")
    elif int(os.environ.get("RANK", "0")) == 0:
        _write(place, json.dumps(identity, indent=1, ensure_ascii=False) + "\n")


def _last_checkpoint(out: Path, run_hash: str) -> str | None:
    """The newest whole checkpoint; one that a kill left without a seal does not count, a damaged one is refused."""
    folders = sorted((out / "checkpoints").glob("checkpoint-*"), key=lambda path: -int(path.name.rpartition("-")[2]))
    for folder in folders:
        if not (folder / "seal.json").exists():
            print(f"cbt: {folder} was being written when its run ended; going on from the one before", file=sys.stderr)
            continue
        seal = json.loads((folder / "seal.json").read_text(encoding="utf-8"))
        if seal["hash"] != run_hash:
            raise CbtError(f"{folder} belongs to another run: remove it, or take another folder")
        damaged = [name for name, digest in seal["files"].items() if _sha256(folder / name) != digest]
        if damaged:
            raise CbtError(f"{folder} is damaged ({', '.join(damaged)}): remove it to go on from the one before")
        return str(folder)
    return None


def _finish(trainer: AnswerTrainer, tokenizer: Any, identity: dict[str, Any], out: Path, seconds: float) -> None:
    model = extract_model_from_parallel(trainer.model)
    entries = curve(trainer.state.log_history)
    place = out / "adapter.part"
    shutil.rmtree(place, ignore_errors=True)
    model.save_pretrained(place, save_embedding_layers=False)
    tokenizer.save_pretrained(place)
    (place / "README.md").write_text(model_card(identity, entries), encoding="utf-8")
    shutil.rmtree(out / "adapter", ignore_errors=True)
    place.rename(out / "adapter")
    rows: Any = trainer.train_dataset
    passes = trainer.state.global_step * trainer.args.train_batch_size * trainer.args.gradient_accumulation_steps
    share = passes * trainer.args.world_size / len(rows)  # exact where batches are full
    facts = {
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "tokens": round(share * sum(len(row["input_ids"]) for row in rows)),
        "answer_tokens": round(share * sum(label != IGNORED for row in rows for label in row["labels"])),
    }
    unit = 2**20 if sys.platform != "darwin" else 2**30  # ru_maxrss is in KiB, on macOS in bytes
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    _write(out / "timing.json", json.dumps({"seconds": round(seconds, 1), "peak_gb": round(peak, 2)}))
    _write(out / "result.json", json.dumps(facts, indent=1))


def model_card(identity: dict[str, Any], entries: list[dict[str, float]]) -> str:
    """README.md of an adapter: what it was made from, how, how it went, and what it must not be used for."""
    config, data, records = identity["config"], identity["data"], identity["records"]
    own = config["model"] in NAMES
    base = "google/gemma-3-270m" if config["model"] == "embedded" else config["model"]
    dev = [(int(entry["step"]), entry["dev_loss"]) for entry in entries if "dev_loss" in entry]
    settings = "\n".join(f"| {key} | {value} |" for key, value in config.items())
    losses = "\n".join(f"| {step} | {loss:.3f} | {math.exp(loss):.1f} |" for step, loss in dev)
    return f"""---
base_model: {base}
library_name: peft
pipeline_tag: text-generation
language: zh
license: {"gemma" if own else "other"}
---

# A LoRA adapter for five-part CBT answers in Chinese

A research object from *CBT-LLM, reproduced*. It answers one post with validation, the key thought, a challenge, a
strategy and encouragement. It is not a counsellor: it gives no diagnosis, knows no crisis, makes things up, and nobody
in distress should be handed its output.

## Base and licence

{NOTICE if own else f"Base model: {base}; its own terms apply to what is made from it."}

## Data

{records["train"]} training records (SHA-256 of posts and answers {data["train"]}) and {records["dev"]} dev records
({data["dev"]}). The licence of the records applies to what the adapter repeats of them. The book's own corpus is
invented, written for the book.

## Settings

Loss on answer tokens only; the schedule is a cosine.

| setting | value |
|---|---|
{settings}

## Dev loss

| step | nats a token | perplexity |
|---|---|---|
{losses}
"""


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "missing"
