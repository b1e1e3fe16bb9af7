"""The folder of a training run: whose it is, what is finished, what can be continued, and the adapter it leaves.

    training.json    configuration, hashes of the data, and the hash of all that: the run's identity
    log.jsonl        the curve, an entry a step or dev loss
    checkpoints/     adapter, optimizer and random state; each with seal.json, written last: the SHA-256 of its files,
                     and what the run has cost up to it
    adapter/         PEFT's format, tokenizer, model card
    run.lock         held by the process that trains
    result.json      written when all else is there; timing.json holds its clocks

Notable choices: files appear whole (written beside, then renamed), so a kill leaves a state that can be continued. An
older checkpoint goes only when the newer one is sealed. A folder never changes hands: another configuration or other
data are refused, and so is a second process while one is training.
"""

import contextlib
import hashlib
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from accelerate import PartialState
from peft import PeftModel
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback
from transformers.trainer_utils import rotate_checkpoints

from cbtlib import CbtError, cache, fused, models, progress
from cbtlib.embedded import NAMES, NOTICE
from cbtlib.reading import read_json
from cbtlib.templates import Row
from cbtlib.writing import make_folder, write_text


@dataclass(frozen=True)
class Cost:
    """What training has taken over all starts of a run: seconds without loading, and the memory of its process."""

    seconds: float = 0.0
    peak_gb: float = 0.0

    @classmethod
    def read(cls, path: Path) -> "Cost":
        """From a seal or timing.json."""
        held = _read(path, "seconds", "peak_gb")
        return cls(held["seconds"], held["peak_gb"])


@dataclass(frozen=True)
class TrainingResult:
    """Where a finished run left its adapter, its curve, and what it cost."""

    adapter: Path
    history: list[dict[str, float]]  # one entry a step (loss) or evaluation (dev_loss)
    trainable: int  # parameters
    tokens: int  # read in training, without padding
    seconds: float  # of the training that those tokens took, without loading
    peak_gb: float  # memory of the process, the largest of all starts

    @property
    def dev_losses(self) -> list[float]:
        """Mean negative log-likelihood a dev answer token, before training first (nats)."""
        return [entry["dev_loss"] for entry in self.history if "dev_loss" in entry]


def identity(rows: list[Row], dev_rows: list[Row], config: Any) -> dict[str, Any]:
    """What a run is of: its configuration, the hashes of data and weights, and in `hash` that of all this."""
    data = {
        name: hashlib.sha256(json.dumps([[r.post, r.answer_text] for r in part]).encode()).hexdigest()
        for name, part in (("train", rows), ("dev", dev_rows))
    }
    data["weights"] = models.checksum(config.model)  # a name says little: the files behind it can change
    run = {
        "config": asdict(config),
        "data": data,
        "processes": int(os.environ.get("WORLD_SIZE", "1")),  # records a step, and steps an epoch, hang on it
        "records": {"train": len(rows), "dev": len(dev_rows)},
    }
    return run | {"hash": hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()}


def first_process() -> bool:
    """Whether this is the only process of a run, or the first of those that `accelerate launch` has started."""
    return os.environ.get("RANK", "0") == "0"


@contextlib.contextmanager
def claim(out: Path, run: dict[str, Any]) -> Iterator[None]:
    """Hold `out` as this run's folder, or refuse when it is another run's or another process is training there.

    A finished run is only read, so nobody holds it. Of the processes of one run, the first one holds it for all.
    """
    make_folder(out)
    first, finished = first_process(), (out / "result.json").exists()
    busy = f"another process is training in {out}: wait for it, or take another folder"
    with cache.alone(out / "run.lock", busy) if first and not finished else contextlib.nullcontext():
        place = out / "training.json"
        if place.exists() or finished:
            there = _read(place, "hash", "config", "data")
            if there["hash"] != run["hash"]:
                old, new = ({**one["config"], **one["data"], "processes": one.get("processes")} for one in (there, run))
                changed = [f"{key} {old.get(key)} -> {new[key]}" for key in new if old.get(key) != new[key]]
                raise CbtError(
                    f"{out} holds another run ({'; '.join(changed)}): take another folder, or remove that one"
                )
        yield


def sign(out: Path, run: dict[str, Any]) -> None:
    """Make `out` this run's own, once it is about to train: what failed before may come back with other settings."""
    write_text(out / "training.json", json.dumps(run, indent=1, ensure_ascii=False) + "\n")


def last_checkpoint(out: Path, run_hash: str) -> tuple[str | None, Cost]:
    """The newest whole checkpoint and what training up to it has cost, or (None, nothing).

    One that a kill left without a seal is removed, a damaged or foreign one is refused (CbtError).
    """
    folders = sorted((out / "checkpoints").glob("checkpoint-*"), key=lambda path: -int(path.name.rpartition("-")[2]))
    for folder in folders:
        if not (folder / "seal.json").exists():
            print(f"cbt: {folder} was being written when its run ended; going on from the one before", file=sys.stderr)
            shutil.rmtree(folder, ignore_errors=True)
            continue
        _check(folder, run_hash, "remove it to go on from the one before")
        if best := _read(folder / "trainer_state.json", "best_model_checkpoint")["best_model_checkpoint"]:
            # the path is of where the run's folder was then
            _check(folder.with_name(Path(best).name), run_hash, f"it is the best of the run so far; remove {out}")
        return str(folder), Cost.read(folder / "seal.json")
    return None, Cost()


def _check(folder: Path, run_hash: str, cure: str) -> None:
    """CbtError, with what to do, for a checkpoint of another run or one that is not as it was sealed."""
    seal = read_json(folder / "seal.json", ["hash", "files"], cure)
    if seal["hash"] != run_hash:
        raise CbtError(f"{folder} belongs to another run: remove it, or take another folder")
    damaged = [
        name
        for name, digest in seal["files"].items()
        if not (folder / name).exists() or cache.sha256(folder / name) != digest
    ]
    if damaged:
        raise CbtError(f"{folder} is damaged ({', '.join(damaged)}): {cure}")


class Journal(TrainerCallback):
    """Writes the curve after every step, seals checkpoints and keeps the last `keep`, shows progress, keeps account
    (`earlier` is the cost of the checkpoint it goes on from), stops on a loss that is no number."""

    def __init__(self, out: Path, run_hash: str, keep: int, earlier: Cost):
        self.out, self.hash, self.keep, self.earlier = out, run_hash, keep, earlier
        self.began = time.perf_counter()
        self.bar: Any = None

    @property
    def cost(self) -> Cost:
        """Of training up to now, over all starts of the run; work after the last checkpoint of a killed one is lost."""
        seconds = self.earlier.seconds + time.perf_counter() - self.began
        return Cost(round(seconds, 3), max(self.earlier.peak_gb, round(peak_gb(), 2)))

    def on_train_begin(self, args, state, control, **kwargs):
        self.began = time.perf_counter()
        if best := state.best_model_checkpoint:  # a path of where the run's folder was when it stopped
            state.best_model_checkpoint = str(Path(args.output_dir) / Path(best).name)
        # A run that was killed after its last checkpoint has no step left to take.
        control.should_training_stop = state.stateful_callbacks["TrainerControl"]["args"]["should_training_stop"]
        self.bar = progress.bar(
            total=state.max_steps, initial=state.global_step, desc="training", unit="step", disable=not first_process()
        )

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
            write_curve(self.out, state.log_history)

    def on_save(self, args, state, control, **kwargs):
        PartialState().wait_for_everyone()  # each process writes its own random state
        if state.is_world_process_zero:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            files = {path.name: cache.sha256(path) for path in sorted(folder.iterdir()) if path.is_file()}
            seal = {"hash": self.hash, "files": files} | asdict(self.cost)
            write_text(folder / "seal.json", json.dumps(seal, indent=1))
            rotate_checkpoints(args.output_dir, self.keep, state.best_model_checkpoint)

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


def write_curve(out: Path, history: list[dict[str, float]]) -> None:
    """Write the `curve` of the Trainer's log to log.jsonl."""
    write_text(out / "log.jsonl", "".join(json.dumps(entry) + "\n" for entry in curve(history)))


def peak_gb() -> float:
    """The most memory that this process has held so far, in GB."""
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset / 1e9
    import resource

    unit = 1024 if sys.platform != "darwin" else 1  # ru_maxrss is in KiB, on macOS in bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def read_result(out: Path | str) -> TrainingResult:
    """The result of a finished run in `out`. CbtError for a run that is not finished or is damaged."""
    out = Path(out)
    if not (out / "result.json").exists():
        raise CbtError(f"{out} holds no finished run (no result.json): run `cbt train --out {out}` again to finish it")
    facts = _read(out / "result.json", "trainable", "tokens")
    cost = Cost.read(out / "timing.json")
    try:
        history = [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):
        raise CbtError(f"{out / 'log.jsonl'} is damaged or missing: put the file back, or remove {out}") from None
    return TrainingResult(out / "adapter", history, **facts, **asdict(cost))


def gathered(model: Any) -> dict[str, Tensor]:
    """The adapter's weights, whole on every process. FSDP leaves each a shard, so all of them must call this."""
    held = {name: value for name, value in model.state_dict().items() if "lora_" in name}
    return {name: value.full_tensor() if isinstance(value, DTensor) else value for name, value in held.items()}


def finish(
    model: Any, adapter: dict[str, Tensor], tokenizer: Any, state: Any, run: dict[str, Any], out: Path, cost: Cost
) -> None:
    """Write adapter, tokenizer, card, curve and result of a trained peft model; `state` is the Trainer's."""
    place = out / "adapter.part"
    shutil.rmtree(place, ignore_errors=True)
    model.save_pretrained(place, save_embedding_layers=False, state_dict=adapter)
    tokenizer.save_pretrained(place)
    (place / "README.md").write_text(model_card(run, curve(state.log_history)), encoding="utf-8")
    shutil.copyfile(out / "training.json", place / "training.json")
    shutil.rmtree(out / "adapter", ignore_errors=True)
    place.rename(out / "adapter")
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    # A run that took no step since it was killed has logged nothing; its curve may be cut.
    write_curve(out, state.log_history)
    write_text(out / "timing.json", json.dumps(asdict(cost)))
    write_text(out / "result.json", json.dumps({"trainable": trainable, "tokens": int(state.num_input_tokens_seen)}))


def load_adapter(folder: Path | str, model: str | None = None, device: str = "cpu") -> tuple[PeftModel, Any]:
    """Base model with the adapter of `folder` on it, on a device, and its tokenizer.

    `model` overrides the base named there. CbtError for a folder without an adapter.
    """
    folder = Path(folder)
    if not (folder / "adapter_config.json").exists():
        raise CbtError(f"{folder} holds no adapter (no adapter_config.json): train one with `cbt train`")
    own, peft = folder / "training.json", folder / "adapter_config.json"  # ours names "embedded", peft's a path
    named = _read(own, "config")["config"]["model"] if own.exists() else ""
    named = named or _read(peft, "base_model_name_or_path")["base_model_name_or_path"]
    base, tokenizer = models.load(model or named)
    tuned = PeftModel.from_pretrained(base.to(device), str(folder))
    fused.fuse(tuned)
    return tuned.eval(), tokenizer


def merge(adapter: Path | str, out: Path | str) -> Path:
    """Write the base model with the adapter added into its weights to `out`, with tokenizer and the adapter's card."""
    adapter, out = Path(adapter), Path(out)
    with cache.folder(out) as place:
        tuned, tokenizer = load_adapter(adapter)
        whole: Any = tuned.merge_and_unload()  # type: ignore[operator]
        whole.save_pretrained(place)
        tokenizer.save_pretrained(place)
        if (adapter / "README.md").exists():
            shutil.copyfile(adapter / "README.md", place / "README.md")
    return out


def model_card(run: dict[str, Any], entries: list[dict[str, float]]) -> str:
    """README.md of an adapter: what it was made from, how, how it went, and what it must not be used for."""
    config, data, records = run["config"], run["data"], run["records"]
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


def _read(path: Path, *fields: str) -> dict[str, Any]:
    return read_json(path, fields, f"put the file back, or remove {path.parent}")
