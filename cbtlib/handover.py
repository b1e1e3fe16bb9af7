"""A training run handed to another trainer: the same rows and settings as LLaMA-Factory's or axolotl's own files.

Notable choices:
- LLaMA-Factory renders the prompt itself, so only a template that it has too can be handed over; ours for the embedded
  model is not among them. Posts and answers go as instruction and output, with the dataset_info.json that lists them.
- axolotl gets the rendered text in two segments, the answer marked as learned (its `input_output` format), so every
  template of ours goes over exactly, special tokens written out.
- A setting that the other side names otherwise is translated; nothing is left to its defaults that ours decides: dev
  losses and checkpoints come at our steps, and `patience` is early stopping there too.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from cbtlib import CbtError, backbones, embedded, models, templates, training
from cbtlib.templates import Row
from cbtlib.training import TrainingConfig
from cbtlib.writing import json_lines, json_text, make_folder, write_text

TRAINERS = ("llama-factory", "axolotl")

LLAMA_FACTORY = {"llama-chinese": "atom", "alpaca-chinese": "alpaca", "qwen": "qwen", "baichuan": "baichuan"}
"""Our template -> LLaMA-Factory's name of the same one. Its 0.9.5 has dropped atom and baichuan."""


def export(rows: Sequence[Row], dev_rows: Sequence[Row], config: TrainingConfig, to: str, out: Path) -> list[Path]:
    """Write data and configuration of a run for trainer `to` into folder `out`; returns the paths.

    Raises CbtError for another trainer, a template that it cannot render, or a record that we would not train on;
    LLaMA-Factory would cut a long one. Its export does without a tokenizer where the model is no folder here, and then
    knows no lengths.
    """
    check(config, to)
    make_folder(out)
    write = _llama_factory if to == "llama-factory" else _axolotl
    return write({"train": rows, "dev": dev_rows}, config, out)


def check(config: TrainingConfig, to: str) -> None:
    """CbtError for another trainer, or a template that it cannot render: known before any row is read."""
    if to not in TRAINERS:
        raise CbtError(f"cannot hand over to {to!r}: choose one of {', '.join(TRAINERS)}")
    if to == "llama-factory" and config.template not in LLAMA_FACTORY:
        raise CbtError(
            f"LLaMA-Factory has no template like {config.template!r}: take one of {', '.join(LLAMA_FACTORY)} "
            "(--set template=...), or hand over to axolotl"
        )


def _llama_factory(parts: dict[str, Sequence[Row]], config: TrainingConfig, out: Path) -> list[Path]:
    if Path(config.model).is_dir() and not backbones.layout(Path(config.model)):
        _checked(parts, config)
    written = []
    for name, rows in parts.items():
        pairs = [{"instruction": row.post.strip(), "input": "", "output": row.answer_text.strip()} for row in rows]
        written.append(_json(out / f"cbt_{name}.json", pairs))
    columns = {"prompt": "instruction", "query": "input", "response": "output"}
    info = {path.stem: {"file_name": path.name, "columns": columns} for path in written}
    written.append(_json(out / "dataset_info.json", info))
    settings = {
        "model_name_or_path": embedded.place(config.model),
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "lora_rank": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "lora_target": "all" if config.targets == "all-linear" else config.targets,
        "use_rslora": config.rslora,
        "use_dora": config.dora,
        "dataset_dir": ".",
        "dataset": "cbt_train",
        "eval_dataset": "cbt_dev",
        "template": LLAMA_FACTORY[config.template],
        "cutoff_len": config.max_length,
        "output_dir": "saves",
        "per_device_eval_batch_size": config.batch_size,
        **_trainer(config, len(parts["train"])),
        "group_by_length": True,
        "warmup_ratio": config.warmup,
        "disable_gradient_checkpointing": not config.gradient_checkpointing,
        "train_on_prompt": False,
        "report_to": "none",
    }
    if config.patience:
        settings["early_stopping_steps"] = config.patience  # counted in dev losses, whatever its name says
    if config.four_bit:
        settings |= {"quantization_bit": 4, "quantization_method": "bnb"}
    if config.template == "qwen":  # there it names a later Qwen
        settings["default_system"] = templates.QWEN_SYSTEM
    command = "llamafactory-cli train cbt_lora.yaml  (LLaMA-Factory 0.9.3 or 0.9.4)"
    return [*written, _yaml(out / "cbt_lora.yaml", settings, command)]


def _axolotl(parts: dict[str, Sequence[Row]], config: TrainingConfig, out: Path) -> list[Path]:
    template = _checked(parts, config)
    written = []
    for name, rows in parts.items():
        lines = [
            {"segments": [
                {"label": False, "text": templates.render(row.post, template)},
                {"label": True, "text": row.answer_text.strip() + template.end},
            ]}
            for row in rows
        ]  # fmt: skip
        written.append(out / f"cbt_{name}.jsonl")
        write_text(written[-1], json_lines(lines))
    data = {name: [{"path": f"cbt_{name}.jsonl", "ds_type": "json", "type": "input_output"}] for name in parts}
    trainer = _trainer(config, len(parts["train"]))
    settings = {
        "base_model": embedded.place(config.model),
        "datasets": data["train"],
        "test_datasets": [{**data["dev"][0], "split": "train"}],  # what a JSON file's only split is called
        "train_on_inputs": False,
        "sequence_len": config.max_length,
        "sample_packing": False,
        "adapter": "qlora" if config.four_bit else "lora",
        "load_in_4bit": config.four_bit,
        "lora_r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "peft_use_rslora": config.rslora,
        "peft_use_dora": config.dora,
        "output_dir": "saves",
        "micro_batch_size": trainer.pop("per_device_train_batch_size"),
        "num_epochs": trainer.pop("num_train_epochs"),
        "lr_scheduler": trainer.pop("lr_scheduler_type"),
        "group_by_length": True,
        "optimizer": "adamw_torch",
        **trainer,
        "warmup_ratio": config.warmup,
        "gradient_checkpointing": config.gradient_checkpointing,
    }
    if config.patience:
        settings["early_stopping_patience"] = config.patience
    if config.targets == "all-linear":
        settings["lora_target_linear"] = True
    else:
        settings["lora_target_modules"] = [name.strip() for name in config.targets.split(",")]
    return [*written, _yaml(out / "cbt_lora.yaml", settings, "axolotl train cbt_lora.yaml")]


def _checked(parts: dict[str, Sequence[Row]], config: TrainingConfig) -> templates.Template:
    """The template for the model's tokenizer, once no record is one that we would not train on."""
    tokenizer = models.tokenizer(config.model)
    template = templates.adopt(config.template, tokenizer)
    for rows in parts.values():
        templates.encode(rows, tokenizer, template, config.max_length)
    return template


def _trainer(config: TrainingConfig, records: int) -> dict[str, Any]:
    """What both call as transformers does."""
    every = training.evaluation_steps(config, records)
    settings = {
        "per_device_train_batch_size": config.batch_size,
        "gradient_accumulation_steps": config.accumulation,
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": "cosine",
        "num_train_epochs": config.epochs,
        "weight_decay": 0.0,
        "seed": config.seed,
        "logging_steps": 1,
        "bf16": config.precision in ("auto", "bfloat16"),
        "fp16": config.precision == "float16",
        "eval_strategy": "steps",
        "eval_steps": every,
        "save_strategy": "steps",
        "save_steps": every,
        "save_total_limit": config.keep,
        "load_best_model_at_end": bool(config.patience),
        "metric_for_best_model": "eval_loss",
    }
    if config.max_steps:
        settings["max_steps"] = config.max_steps
    return settings


def _json(path: Path, content: Any) -> Path:
    write_text(path, json_text(content))
    return path


def _yaml(path: Path, settings: dict[str, Any], command: str) -> Path:
    text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    write_text(path, f"# In this folder:  {command}\n{text}")
    return path
