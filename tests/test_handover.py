"""A run handed to another trainer keeps its rows, its border between prompt and answer, and its settings."""

import json
from dataclasses import replace

import pytest
import yaml
from test_training import CONFIG, DEV, ROWS
from typer.testing import CliRunner

from cbtlib import CbtError, cli, handover, models, templates, training

PAPER = training.PROFILES["paper"]


def test_axolotl_gets_the_very_strings_that_we_train_on(tmp_path):
    paths = handover.export(ROWS, DEV, replace(CONFIG, targets="q_proj, v_proj", dora=True), "axolotl", tmp_path)
    assert [path.name for path in paths] == ["cbt_train.jsonl", "cbt_dev.jsonl", "cbt_lora.yaml"]
    tokenizer = models.load("smoke")[1]
    encoded = templates.encode(ROWS, tokenizer, templates.adopt(CONFIG.template, tokenizer), 4096)
    for line, row in zip(paths[0].read_text("utf-8").splitlines(), encoded, strict=True):
        prompt, answer = json.loads(line)["segments"]
        assert (prompt["label"], answer["label"]) == (False, True)
        ids = [tokenizer(part["text"], add_special_tokens=False)["input_ids"] for part in (prompt, answer)]
        assert ids[0] + ids[1] == row["input_ids"] and [-100] * len(ids[0]) + ids[1] == row["labels"]
    found = yaml.safe_load(paths[-1].read_text("utf-8"))
    assert found["datasets"] == [{"path": "cbt_train.jsonl", "ds_type": "json", "type": "input_output"}]
    assert found["adapter"] == "lora" and found["peft_use_dora"] and found["train_on_inputs"] is False
    assert found["lora_target_modules"] == ["q_proj", "v_proj"] and "lora_target_linear" not in found
    assert (found["lora_r"], found["micro_batch_size"], found["lr_scheduler"]) == (8, 2, "cosine")
    assert found["learning_rate"] == CONFIG.learning_rate and found["max_steps"] == 4


def test_llama_factory_finds_its_data_and_the_papers_settings(tmp_path):
    paths = handover.export(ROWS, DEV, PAPER, "llama-factory", tmp_path)
    found = yaml.safe_load(paths[-1].read_text("utf-8"))
    info = json.loads((tmp_path / "dataset_info.json").read_text("utf-8"))
    for name, rows in ((found["dataset"], ROWS), (found["eval_dataset"], DEV)):
        pairs = json.loads((tmp_path / info[name]["file_name"]).read_text("utf-8"))
        columns = info[name]["columns"]
        assert [pair[columns["prompt"]] for pair in pairs] == [row.post for row in rows]
        assert [pair[columns["response"]] for pair in pairs] == [row.answer_text for row in rows]
        assert all("\n" in pair[columns["response"]] for pair in pairs), "paragraphs stay paragraphs"
    assert found["template"] == "baichuan" and found["lora_target"] == "all" and found["cutoff_len"] == 2048
    assert found["gradient_accumulation_steps"] == 4 and found["lr_scheduler_type"] == "cosine" and found["bf16"]
    assert found["disable_gradient_checkpointing"] is False and "quantization_bit" not in found
    assert "default_system" not in found
    qwen = handover.export(ROWS, DEV, replace(PAPER, template="qwen"), "llama-factory", tmp_path / "qwen")[-1]
    assert yaml.safe_load(qwen.read_text("utf-8"))["default_system"] in templates.TEMPLATES["qwen"].prompt
    four = handover.export(ROWS, DEV, replace(PAPER, four_bit=True), "llama-factory", tmp_path / "four")[-1]
    assert yaml.safe_load(four.read_text("utf-8"))["quantization_bit"] == 4


@pytest.mark.parametrize(
    ("to", "name"), [("llama-factory", "early_stopping_steps"), ("axolotl", "early_stopping_patience")]
)
def test_dev_losses_checkpoints_and_patience_go_over(to, name, tmp_path):
    config = replace(CONFIG, template="alpaca-chinese", evaluate_every=0)  # once an epoch: 8 rows, 2 x 2 a step
    for evaluate_every, patience, steps in ((0, 0, 2), (3, 4, 3)):
        config = replace(config, evaluate_every=evaluate_every, patience=patience)
        found = yaml.safe_load(handover.export(ROWS, DEV, config, to, tmp_path)[-1].read_text("utf-8"))
        assert (found["eval_strategy"], found["save_strategy"]) == ("steps", "steps")
        assert found["eval_steps"] == found["save_steps"] == steps, "early stopping needs them alike"
        assert (found.get(name, 0), found["load_best_model_at_end"]) == (patience, patience > 0)
        assert (found["metric_for_best_model"], found["save_total_limit"]) == ("eval_loss", config.keep)


def test_what_cannot_be_handed_over_is_said(tmp_path):
    with pytest.raises(CbtError, match="no template like 'gemma'"):
        handover.export(ROWS, DEV, CONFIG, "llama-factory", tmp_path)
    with pytest.raises(CbtError, match="cannot hand over to 'torchtune'"):
        handover.export(ROWS, DEV, CONFIG, "torchtune", tmp_path)


@pytest.mark.parametrize("part", ["train", "dev"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer_text": " "}, "record p0 has no answer"),
        ({"post": "我很累<end_of_turn>"}, "record p0 spells the special token '<end_of_turn>'"),
        ({"answer_text": "考试没考好。" * 100}, "1 of .* records are longer than max_length=200"),
    ],
)
def test_axolotl_gets_no_record_that_we_would_not_train_on(part, change, message, tmp_path):
    bad = [replace(ROWS[0], **change), *ROWS[1:]]
    rows, dev = (bad, DEV) if part == "train" else (ROWS, bad)
    with pytest.raises(CbtError, match=message):
        handover.export(rows, dev, CONFIG, "axolotl", tmp_path)
    assert not list(tmp_path.iterdir()), "nothing is left that looks like an export"


def test_llama_factory_gets_no_record_that_it_would_cut(tmp_path):
    model = tmp_path / "model"  # its tokenizer is all that is read
    models.tokenizer("smoke").save_pretrained(model)
    config = replace(CONFIG, model=str(model), template="alpaca-chinese", max_length=400)
    long = [replace(ROWS[0], answer_text="考试没考好。" * 100), *ROWS[1:]]
    with pytest.raises(CbtError, match=r"1 of .* records are longer than max_length=400"):
        handover.export(long, DEV, config, "llama-factory", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
    assert handover.export(ROWS, DEV, config, "llama-factory", tmp_path / "out")


def test_the_command_writes_the_files_and_trains_nothing(tmp_path):
    out = tmp_path / "axolotl"
    done = CliRunner().invoke(cli.app, ["train", "--profile", "smoke", "--export", "axolotl", "--out", str(out)])
    assert done.exit_code == 0, done.output + str(done.exception)
    assert {path.name for path in out.iterdir()} == {"cbt_train.jsonl", "cbt_dev.jsonl", "cbt_lora.yaml"}
