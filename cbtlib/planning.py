"""What a training run will take, before it starts: parameters, memory, tokens, minutes, and whether it can fit.

Notable choices:
- The model is built on PyTorch's meta device: shapes without weights, so a 7B plan takes seconds and no memory, and a
  model of the hub is planned by its configuration before it is fetched.
- Each figure has its formula or source in the table; a rate that was not measured here is called an assumption.
- Minutes on this machine come from three steps of the real model on records of middling length, after one to warm up.
  Minutes on other machines come from a datasheet and SHARE, an assumption.
"""

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from cbtlib import CbtError, duration, embedded, fused, models, runs, templates, training
from cbtlib.templates import IGNORED, Row

SHARE = 0.4
"""Of a datasheet's rate that LoRA training is assumed to reach; benchmarks/gpu_lora.py measures it where a GPU is."""


@dataclass(frozen=True)
class Gpu:
    """A card: memory in GB, dense 16-bit TFLOP/s by its datasheet."""

    name: str
    memory: float
    tflops: float
    source: str


GPUS = (
    Gpu("V100-32G", 32, 125, "NVIDIA V100 datasheet, tensor cores, fp16"),
    Gpu("A100-80G", 80, 312, "NVIDIA A100 datasheet, bf16 dense"),
    Gpu("H100-80G", 80, 989, "NVIDIA H100 SXM datasheet, bf16 dense"),
)

BACKBONES = {
    # Published configurations: hidden, intermediate, layers, vocabulary.
    "LLaMA-Chinese-7B": (4096, 11008, 32, 32_000),
    "Alpaca-Chinese-7B": (4096, 11008, 32, 49_954),
    "Qwen-7B": (4096, 11008, 32, 151_936),
    "Baichuan-7B": (4096, 11008, 32, 64_000),
}
"""The paper's four: dense decoders with three MLP matrices each, so one formula fits them. Vocabulary sizes are from
the published config.json files as we know them; they move the sums by a few per cent."""


def memory_gb(
    weights: float,
    trainable: float,
    tokens: int,
    width: int,
    layers: int,
    vocabulary: int,
    each: int,
    checkpointing: bool,
) -> float:
    """GB at the peak, for `tokens` at once and `each` bytes a number: weights, adapter, activations, logits.

    Adapter: 16 B a parameter (fp32 copy, gradient, Adam's two). Activations: 34 B x width a token and layer at 16 bit
    (Korthikanti et al. 2022, arXiv 2205.05198, without the attention matrix); with checkpointing 2 B x width a layer,
    and one layer whole. Logits: 8 B (fp32, and their gradient), as if every token carried loss.
    """
    kept = layers + 17 if checkpointing else 17 * layers
    return (weights * each + trainable * 16 + tokens * (kept * width * each + vocabulary * 8)) / 1e9


def plan(rows: Sequence[Row], dev_rows: Sequence[Row], config: training.TrainingConfig) -> str:
    """The plan as text. Raises CbtError for records that training refuses, and when a model that is on this machine
    cannot be trained in its memory."""
    training.check(rows, dev_rows, config)
    try:
        tokenizer, shape = models.tokenizer(config.model), models.shape(config.model)
    except CbtError as error:
        if _is_here(config.model):
            raise
        why = str(error).splitlines()[0]
        first = (
            f"{config.model} is not on this machine and its configuration cannot be had ({why}): its own figures need "
            "that; those of a 7B are below"
        )
    else:
        template = templates.adopt(config.template, tokenizer)
        data = templates.encode(rows, tokenizer, template, config.max_length)
        templates.encode(dev_rows, tokenizer, template, config.max_length)
        first = own(data, *shape, config)
    return f"{first}\n\n{backbones(rows, config)}"


def own(data: Sequence[dict[str, list[int]]], shape: Any, settings: Any, config: training.TrainingConfig) -> str:
    """Parameters, memory and minutes of the model itself, on encoded rows; `shape` holds no weights."""
    frozen = sum(p.numel() for p in shape.parameters())
    trainable = sum(p.numel() for p in training.add_lora(shape, config).parameters() if p.requires_grad)
    tokens = sum(len(row["input_ids"]) for row in data)
    learned = sum(label != IGNORED for row in data for label in row["labels"])
    kind = models.best_dtype() if config.precision == "auto" else config.precision
    longest = max(len(row["input_ids"]) for row in data) * config.batch_size
    need = memory_gb(
        frozen, trainable, longest, settings.hidden_size, settings.num_hidden_layers, settings.vocab_size,
        getattr(torch, kind).itemsize, config.gradient_checkpointing,
    )  # fmt: skip
    on_gpu = torch.cuda.is_available() and config.device != "cpu"
    have = (torch.cuda.mem_get_info()[1] if on_gpu else psutil.virtual_memory().total) / 1e9
    too_much = f"the run needs about {need:.1f} GB and this machine has {have:.1f} GB"
    a_step = config.batch_size * config.accumulation
    steps = config.max_steps or math.ceil(len(data) / a_step) * config.epochs
    epochs = steps * a_step / len(data)
    if not _is_here(config.model):
        held = "" if need <= have else f"; {too_much}"
        time = "not measured: the weights are not on this machine"
    elif need > have:
        raise CbtError(f"{too_much}: take a smaller batch_size, gradient_checkpointing=true or a smaller model")
    else:
        with training.memory(config):
            rate, peak = probe(data, config, "cuda" if on_gpu else "cpu")
        held = f"; {peak:.1f} GB were really held in the three steps below" + ("" if on_gpu else ", Python among them")
        time = (
            f"about {duration(tokens * epochs / rate)} here: {rate:.0f} tokens/s, measured just now on three "
            f"steps in {kind}; without dev losses and sampling"
        )
    lines = [
        f"model              {config.model}: {frozen:,} parameters, frozen",
        f"trainable          {trainable:,} ({trainable / frozen:.2%}): rank x (inputs + outputs), over the layers",
        f"data               {len(data)} records, {tokens:,} tokens an epoch, {learned:,} of them with loss",
        f"steps              {steps:g} of {a_step} records = {epochs:.2f} epochs",
        f"memory             {need:.1f} GB of {have:.1f}: weights + 16 B a trainable parameter + activations{held}",
        f"time               {time}",
    ]
    return "\n".join(lines)


def probe(data: Sequence[dict[str, list[int]]], config: training.TrainingConfig, device: str) -> tuple[float, float]:
    """Tokens a second of training on encoded rows, the median of three micro-batches of middling length, and the
    memory that it took: GB of the GPU, or of this process."""
    kind = models.best_dtype() if config.precision == "auto" else config.precision
    model, tokenizer = models.load(config.model, kind, four_bit=config.four_bit)
    fused.keep_memory()
    lora = training.add_lora(model if config.four_bit else model.to(device), config)
    fused.fuse(lora)
    if config.gradient_checkpointing:
        lora.activation_checkpointing_enable()  # as the Trainer does
    lora.train()
    ordered = sorted(data, key=lambda row: len(row["input_ids"]))
    middle = max(0, (len(ordered) - config.batch_size) // 2)
    batch = training.Collator(tokenizer.pad_token_id)(ordered[middle : middle + config.batch_size])
    ids, labels = (batch[name].to(device) for name in ("input_ids", "labels"))
    seconds = []
    for _ in range(4):
        began = time.perf_counter()
        with torch.autocast(device, getattr(torch, kind), enabled=kind != "float32"):
            loss = training.answer_nll(lora, ids, labels)
        loss.backward()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    peak = torch.cuda.max_memory_allocated() / 1e9 if device == "cuda" else runs.peak_gb()
    return ids.numel() / statistics.median(seconds[1:]), peak


def backbones(rows: Sequence[Row], config: training.TrainingConfig) -> str:
    """The four 7B backbones on three kinds of GPU, one GPU each, as a table with its assumptions below."""
    characters = sum(len(row.post) + len(row.answer_text) for row in rows)
    batch_tokens, checkpointing = config.batch_size * config.max_length, config.gradient_checkpointing
    room = False
    lines = [f"{'backbone':18} {'parameters':>10} {'GPU':9} {'memory':>8} {'fits':>5} {'minutes an epoch':>17}"]
    for name, (width, inner, layers, vocabulary) in BACKBONES.items():
        body = layers * (4 * width**2 + 3 * width * inner)
        weights = body + 2 * vocabulary * width
        trainable = layers * config.rank * (4 * 2 * width + 3 * (width + inner))
        for gpu in GPUS:
            need = memory_gb(weights, trainable, batch_tokens, width, layers, vocabulary, 2, checkpointing)
            work = (6 if checkpointing else 4) * body + 4 * vocabulary * width
            minutes = work * characters / (gpu.tflops * 1e12 * SHARE) / 60
            fits = need < gpu.memory * 0.95
            room = room or fits
            word = "yes" if fits else "no"
            lines.append(f"{name:18} {weights / 1e9:8.1f} B {gpu.name:9} {need:5.0f} GB {word:>5} {minutes:17.1f}")
    if not room:
        lines.append(
            "None of them fits on one of these GPUs: take a smaller batch_size, gradient_checkpointing=true, or shard "
            "the weights over several GPUs (workflow/accelerate)"
        )
    lines += [
        f"assumed: one GPU, {config.batch_size} x {config.max_length} tokens at once, one token a character "
        f"({characters:,} characters in {len(rows)} records), {SHARE:.0%} of the datasheet rate",
        f"memory = 2 B a weight + 16 B a trainable parameter (rank {config.rank}) + activations "
        f"({'checkpointed' if checkpointing else 'all kept'}, arXiv 2205.05198) + 8 B a logit",
        *(f"{gpu.name}: {gpu.tflops:g} TFLOP/s, {gpu.source}" for gpu in GPUS),
    ]
    return "\n".join(lines)


def _is_here(model: str) -> bool:
    """Whether a model's weights are on this machine: our own, a folder, or in the hub's cache."""
    names = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
    local = model in embedded.NAMES or Path(model).is_dir()
    try:
        return local or any(isinstance(try_to_load_from_cache(model, name), str) for name in names)
    except HFValidationError:  # a folder that is not there: the hub has no such name
        return False
