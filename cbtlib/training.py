"""LoRA instruction tuning on one path: the same call trains 270M on a laptop's CPU and 7B on eight GPUs.

peft on `transformers.Trainer`; `accelerate launch` scales it out. Notable choices:

- Loss and logits for answer tokens only. A hook on the output layer drops every other position, so the vocabulary-wide
  matmul (a third of a small model's work) is done where something is learned and nowhere else; the loss is the mean
  over all answer tokens of an optimizer step, whatever micro-batches and processes they were in.
- No attention mask: rows are padded on the right, so a causal model never sees padding from a real token, and attention
  without a mask takes the fast kernel. Batches hold rows of similar length.
- Finished work is kept: a killed run continues from its last whole checkpoint, a finished one returns at once, and
  another configuration never overwrites (`cbtlib.runs`).
- What cannot work is said before the weights are loaded, what went wrong (NaN, memory) as a sentence with a remedy.
- The paper names the cosine schedule, accumulation over 4 batches and 16-bit precision; all else is ours
  (LLaMA-Factory's defaults of the time), or measured (the embedded profile).
"""

import contextlib
import dataclasses
import importlib.util
import math
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from accelerate.utils import extract_model_from_parallel
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from torch import Tensor, nn
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_pt_utils import LengthGroupedSampler

from cbtlib import (
    CbtError,
    answers,
    backbones,
    cache,
    corpus,
    formats,
    fused,
    metrics,
    models,
    reading,
    runs,
    tables,
    templates,
)
from cbtlib.embedded import NAMES
from cbtlib.runs import TrainingResult
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
    four_bit: bool = False  # QLoRA: the frozen weights in 4 bits (needs bitsandbytes)
    precision: str = "auto"  # "float32", "float16", "bfloat16"; auto: 16-bit (the paper's) where it is native
    gradient_checkpointing: bool = False
    device: str = "auto"  # "cpu", "cuda"
    evaluate_every: int = 0  # optimizer steps between dev losses and checkpoints; 0: once an epoch
    keep: int = 2  # checkpoints kept
    patience: int = 0  # dev losses without improvement before stopping; 0: never
    seed: int = 42


POSITIVE = ("max_length", "epochs", "batch_size", "accumulation", "learning_rate", "rank", "alpha")
SHARES = ("warmup", "dropout")
"""Settings that must be above 0, and those from 0 to below 1; every other number is 0 or more."""

PROFILES = {
    "smoke": TrainingConfig(
        model="smoke",
        max_steps=4,
        batch_size=2,
        accumulation=2,
        learning_rate=1e-2,
        dropout=0.0,
        evaluate_every=2,
        max_length=2048,
    ),
    # Two passes over the book's corpus, some minutes on two cores; the chapter on training makes less than one.
    "embedded": TrainingConfig(epochs=2.0, batch_size=1, learning_rate=1e-3, dropout=0.0, evaluate_every=70),
    "gpu": TrainingConfig(
        model="Qwen/Qwen2.5-0.5B", template="chat", batch_size=8, learning_rate=1e-4, dropout=0.0, max_length=2048
    ),
    "paper": TrainingConfig(
        model="baichuan-inc/Baichuan-7B", template="baichuan", max_length=2048, gradient_checkpointing=True
    ),
}


def configure(profile: str, model: str | None = None, settings: Sequence[str] = ()) -> TrainingConfig:
    """A profile's configuration with another model and `name=value` settings laid over it.

    CbtError for another profile, and for a setting that is none.
    """
    if profile not in PROFILES:
        raise CbtError(f"no profile {profile!r}: training has {', '.join(PROFILES)}")
    changes: dict[str, Any] = {"model": model} if model else {}
    defaults = dataclasses.asdict(PROFILES[profile])
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or name not in defaults:
            raise CbtError(f"--set {setting}: write name=value with one of {', '.join(defaults)}")
        kind = type(defaults[name])
        if kind is bool and text not in ("true", "false"):
            raise CbtError(f"--set {setting}: {name} is true or false")
        try:
            changes[name] = text == "true" if kind is bool else kind(text)
        except ValueError as error:
            raise CbtError(f"--set {setting}: {name} is a {kind.__name__}") from error
    return dataclasses.replace(PROFILES[profile], **changes)


class Pair(NamedTuple):
    """What training needs of a row in any form of `formats`."""

    id: str
    post: str
    answer_text: str
    split: str
    crisis: bool


def read(path: Path | str) -> list[Row]:
    """Rows of a file in any form of `formats`, those that are ok, or of the Parquet file of `cbt generate gates`.

    Raises CorpusError with every line that is no row: one post and one answer, which is no error message or refusal.
    """
    if Path(path).suffix == ".parquet":
        try:
            whole = pd.read_parquet(path)
            table = whole[["id", "question", "description", "answer"]]
        except (OSError, ValueError, KeyError) as error:
            raise CbtError(f"{path} is no data set of `cbt generate`: {error}") from None
        for name in table:  # an answer may be missing, a description too
            cells = table[name] if name in ("id", "question") else table[name].dropna()
            if strange := [row for row, cell in enumerate(cells, 1) if not isinstance(cell, str)]:
                raise CbtError(f"{path}: column {name} has {len(strange)} cells without a text, first row {strange[0]}")
        if (twice := table["id"].duplicated()).any():
            raise CbtError(f"{path}: the id {table['id'][twice].iloc[0]!r} stands in several rows")
        said = map(answers.told, whole.to_dict("records"))
        given = zip(table["answer"].fillna(""), said, strict=True)
        made = pd.Series([answers.outcome_of(*one) for one in given], index=table.index)
        if silent := list(table["id"][made.ne("ok")]):
            raise CbtError(
                f"{path}: {len(silent)} rows have no answer, or failed, {str(silent[0])!r} first; take them out"
            )
        texts = zip(table["id"], tables.posts(table), table["answer"], strict=True)
        return [Pair(name, post, answer, "train", False) for name, post, answer in texts]
    found = [one for one in formats.load(path) if one.outcome == "ok"]
    outcomes = [(one.line, answers.outcome_of(one.answer, "ok")) for one in found]
    if none := [(line, outcome) for line, outcome in outcomes if outcome != "ok"]:
        why = {"failed": "has no text, or an error message for one", "refused": "is a refusal"}
        cure = "give the record an answer, or take it out"
        problems = [reading.Problem(line, "answer", f"{why[outcome]}: {cure}") for line, outcome in none]
        raise corpus.CorpusError(Path(path), problems)
    dialogues = [(one.line, one.turns) for one in found if one.turns]
    if long := [
        (line, len(turns)) for line, turns in dialogues if [role for role, _ in turns] != ["client", "counsellor"]
    ]:
        what = "is a dialogue of {} turns: training takes one post and its one answer, so cut it or take it out"
        raise corpus.CorpusError(Path(path), [reading.Problem(line, "", what.format(count)) for line, count in long])
    return [Pair(one.id, one.text, one.answer or "", one.split or "train", one.crisis) for one in found]


def train(rows: Iterable[Row], dev_rows: Iterable[Row], config: TrainingConfig, out: Path | str) -> TrainingResult:
    """Tune an adapter on `rows`, watch `dev_rows`, leave everything in `out`; continue or return what is there already.

    `cbtlib.runs` says what is in that folder. Raises CbtError, before the model is loaded where that is possible.
    """
    rows, dev_rows, out = list(rows), list(dev_rows), Path(out)
    check(rows, dev_rows, config)
    identity = runs.identity(rows, dev_rows, config)
    with cache.room(out), runs.claim(out, identity):
        if not (out / "result.json").exists():
            _run(rows, dev_rows, config, out, identity)
    return runs.read_result(out)


def _run(rows: list[Row], dev_rows: list[Row], config: TrainingConfig, out: Path, identity: dict[str, Any]) -> None:
    """Train in a folder that is ours, from its last checkpoint if it has one."""
    fused.keep_memory()
    set_seed(config.seed)
    tokenizer = models.tokenizer(config.model)
    template = templates.adopt(config.template, tokenizer)
    data = templates.encode(rows, tokenizer, template, config.max_length)
    dev = templates.encode(dev_rows, tokenizer, template, config.max_length)
    checkpoint, earlier = runs.last_checkpoint(out, identity["hash"])
    journal = runs.Journal(out, identity["hash"], config.keep, earlier)
    precision = None if config.precision == "auto" else config.precision
    if config.four_bit and torch.cuda.is_available():  # they are packed on the current device
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if config.targets != "all-linear":  # a wrong name is said before the weights are loaded
        targets(models.shape(config.model)[0], config)
    model = models.weights(config.model, precision, four_bit=config.four_bit)
    with memory(config):
        trainer = AnswerTrainer(
            model=add_lora(model, config),
            args=arguments(config, out / "checkpoints", len(data), resuming=checkpoint is not None),
            train_dataset=data,  # type: ignore[arg-type]
            eval_dataset=dev,  # type: ignore[arg-type]
            data_collator=Collator(tokenizer.pad_token_id),
            processing_class=tokenizer,
            callbacks=[journal, Tidy()],
        )
        for chatter in (ProgressCallback, PrinterCallback):
            trainer.remove_callback(chatter)
        if config.patience:
            trainer.add_callback(EarlyStoppingCallback(config.patience))
        if not trainer.is_fsdp_enabled:  # sharded weights are only whole inside their own module's forward
            fused.fuse(trainer.model)  # type: ignore[arg-type]
        if trainer.is_world_process_zero():
            runs.sign(out, identity)
        trainer.train(resume_from_checkpoint=checkpoint)
        cost = journal.cost
        tuned = extract_model_from_parallel(trainer.model)
        adapter = runs.gathered(tuned)
        trainer.accelerator.wait_for_everyone()
        if trainer.is_world_process_zero():
            runs.finish(tuned, adapter, tokenizer, trainer.state, identity, out, cost)
        trainer.accelerator.wait_for_everyone()


@contextlib.contextmanager
def memory(config: TrainingConfig) -> Iterator[None]:
    """Say in one sentence that memory ran out, and what to change."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        # On a GPU it has its own type; on a CPU PyTorch raises a plain RuntimeError.
        if not isinstance(error, (torch.OutOfMemoryError, MemoryError)) and "DefaultCPUAllocator" not in str(error):
            raise
        raise CbtError(
            f"out of memory with {config.batch_size} x up to {config.max_length} tokens: take a smaller batch_size "
            "(and more accumulation), gradient_checkpointing, or a smaller model"
        ) from error


def targets(model: nn.Module, config: TrainingConfig) -> str | list[str]:
    """The names of the layers that get an adapter; CbtError for one that the model lacks."""
    if config.targets == "all-linear":
        return config.targets
    known = sorted({name.rpartition(".")[2] for name, part in model.named_modules() if isinstance(part, nn.Linear)})
    asked = [name.strip() for name in config.targets.split(",")]
    # The joint matrix of Baichuan and Qwen goes by its three parts once it is apart.
    found = [part for name in asked for part in ([name] if name in known else backbones.PACKED.get(name, [name]))]
    unknown = [name for name in found if name not in known]
    if unknown:
        raise CbtError(f"no linear layer is called {', '.join(unknown)}: this model has {', '.join(known)}")
    return found


def add_lora(model: nn.Module, config: TrainingConfig) -> PeftModel:
    """The model with a fresh LoRA adapter, its weights in fp32, everything else frozen."""
    settings = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=targets(model, config),
        use_rslora=config.rslora,
        use_dora=config.dora,
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        if config.four_bit:
            model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=config.gradient_checkpointing)
        warnings.simplefilter("ignore", FutureWarning)  # peft asks for an attribute that transformers has renamed
        return get_peft_model(model, settings)  # type: ignore[arg-type]


def evaluation_steps(config: TrainingConfig, records: int, processes: int = 1) -> int:
    """Optimizer steps between dev losses and checkpoints."""
    return config.evaluate_every or math.ceil(records / (config.batch_size * config.accumulation * processes))


def arguments(config: TrainingConfig, folder: Path, records: int, resuming: bool = False) -> TrainingArguments:
    """The Trainer's arguments for a configuration."""
    every = evaluation_steps(config, records, int(os.environ.get("WORLD_SIZE", "1")))
    precision = models.best_dtype() if config.precision == "auto" else config.precision
    found = TrainingArguments(
        output_dir=str(folder),
        seed=config.seed,
        num_train_epochs=config.epochs,
        max_steps=config.max_steps or -1,
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=config.batch_size,
        gradient_accumulation_steps=config.accumulation,
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
        eval_on_start=not resuming,  # the curve has it already
        save_strategy="steps",
        save_steps=every,
        restore_callback_states_from_checkpoint=True,  # the patience spent so far
        load_best_model_at_end=bool(config.patience),
        metric_for_best_model="loss",
        logging_steps=1,
        logging_nan_inf_filter=False,  # a loss that is no number must be seen
        include_num_input_tokens_seen="non_padding",
        ddp_find_unused_parameters=False,
        report_to=[],
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    found._n_gpu = min(found.n_gpu, 1)  # several GPUs are several processes: DataParallel cannot carry our hooks
    return found


class Tidy(TrainerCallback):
    """Returns the memory that an optimizer step has freed, so that a long run needs no more than a short one."""

    def on_step_end(self, *_: Any, **__: Any) -> None:
        fused.return_memory()


# ------------------------------------------------------------------------------------------- the loss


class AnswerTrainer(Trainer):
    """A Trainer whose loss is the mean negative log-likelihood of answer tokens, and whose dev loss is exact."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = True  # makes the Trainer count the labels of a whole step
        self.loss_is_scaled_for_ga = True

    def _get_train_sampler(self, train_dataset: Any = None) -> "ByLength":
        return ByLength(self, self.args.train_batch_size * self.args.gradient_accumulation_steps)

    def _run_epoch(self, *args: Any, **kwargs: Any):
        """The Trainer would take a step before it sees that the run was over at its last checkpoint."""
        if not self.control.should_training_stop:
            super()._run_epoch(*args, **kwargs)

    def _track_num_input_tokens(self, inputs):
        """Count tokens without padding; the Trainer would not count an end mark that pads too. A row ends learning."""
        place = torch.arange(1, inputs["labels"].shape[1] + 1, device=inputs["labels"].device)
        lengths = (place * (inputs["labels"] != IGNORED)).amax(1, keepdim=True)
        super()._track_num_input_tokens({**inputs, "attention_mask": place <= lengths})

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Sum over this micro-batch / answer tokens of the step; times processes, since DDP averages gradients."""
        loss = answer_nll(model, inputs["input_ids"], inputs["labels"])
        return loss / num_items_in_batch * self.accelerator.num_processes

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        """Dev loss over all rows, weighted by token; every process computes the same number."""
        rows = self.args.per_device_eval_batch_size
        metrics = {"eval_loss": mean_nll(self.model_wrapped, self.eval_dataset, self.data_collator, rows)}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class ByLength(LengthGroupedSampler):
    """Rows of like lengths together, in an order that seed and epoch fix.

    The Trainer's own draws the order anew when a run goes on within an epoch: some rows would come twice, others never.
    """

    def __init__(self, trainer: AnswerTrainer, size: int):
        super().__init__(size, lengths=[len(row["input_ids"]) for row in trainer.train_dataset])  # type: ignore
        self.trainer = trainer

    def __iter__(self) -> Iterator[int]:
        seed = self.trainer.args.seed + int(self.trainer.state.epoch or 0)
        self.generator = torch.Generator().manual_seed(seed)
        return super().__iter__()


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
def mean_nll(model: nn.Module, encoded: Any, collator: Any, batch_size: int = 1) -> float:
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
    """Encoded rows to tensors (batch, width), padded on the right to `models.padded` of the longest."""

    pad: int

    def __call__(self, rows: Sequence[dict[str, list[int]]]) -> dict[str, Tensor]:
        width = models.padded(max(len(row["input_ids"]) for row in rows))
        fill = {"input_ids": self.pad, "labels": IGNORED}
        return {
            key: torch.tensor([row[key] + [value] * (width - len(row[key])) for row in rows])
            for key, value in fill.items()
        }


def check(rows: Sequence[Row], dev_rows: Sequence[Row], config: TrainingConfig) -> None:
    """Raise CbtError for what is wrong with rows or configuration, as far as it shows without the model."""
    for name, value in dataclasses.asdict(config).items():
        if isinstance(value, str):
            continue
        wanted = "above 0" if name in POSITIVE else "from 0 to below 1" if name in SHARES else "of 0 or more"
        fits = 0 < value < math.inf if name in POSITIVE else 0 <= value < (1 if name in SHARES else math.inf)
        if not fits:
            raise CbtError(f"{name} is {value}: take a number {wanted} (--set {name}=...)")
    if config.device == "cuda" and not torch.cuda.is_available():
        raise CbtError("device is 'cuda' and PyTorch finds no CUDA device here: take device 'cpu' or 'auto'")
    if config.four_bit and importlib.util.find_spec("bitsandbytes") is None:
        raise CbtError("four_bit (QLoRA) needs the package bitsandbytes: pip install bitsandbytes")
    if config.template not in templates.TEMPLATES:
        raise CbtError(f"no template {config.template!r}: take one of {', '.join(templates.TEMPLATES)}")
    if not rows or not dev_rows:
        raise CbtError(f"no {'training' if not rows else 'dev'} records: training needs both kinds")
    held_out = [row.id for row in rows if getattr(row, "split", "train") != "train"]
    if held_out:
        raise CbtError(f"{len(held_out)} training records are not of the split 'train', {held_out[0]} first: leave out")
    tested = [row.id for row in dev_rows if getattr(row, "split", "dev") in ("test", "crisis")]
    if tested:  # the dev loss says when to stop
        raise CbtError(f"{len(tested)} dev records are of the test split, {tested[0]} first: give --dev another file")
    # A referral is no letter to learn, nor to watch: whoever is in danger is answered by rule.
    crisis = [row.id for row in (*rows, *dev_rows) if getattr(row, "crisis", False)]
    if crisis:
        raise CbtError(f"{len(crisis)} records are crisis records, {crisis[0]} first: leave out")
    learnt, watched = ([text for row in side for text in (row.post, row.answer_text)] for side in (rows, dev_rows))
    leaks = metrics.leaks(learnt, watched)
    if leaks:
        worst = max(leaks, key=lambda leak: leak.similarity)
        one, other = (
            f"the {('post', 'answer')[place % 2]} of {side[place // 2].id}"
            for side, place in ((dev_rows, worst.test), (rows, worst.training))
        )
        raise CbtError(
            f"{len({leak.test // 2 for leak in leaks})} dev records repeat training records, or nearly ({one} is "
            f"{worst.similarity:.2f} like {other}): leave out"
        )
    local = Path(config.model)
    if config.model not in NAMES and local.is_dir() and not backbones.weight_files(local):
        raise CbtError(f"the model folder {local} holds no weights (*.safetensors, pytorch_model*.bin)")
