"""Training: which tokens carry loss; shortcuts change no number; finished work is kept; mistakes are named."""

import copy
import dataclasses
import errno
import importlib.util
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pandas as pd
import pyarrow
import pytest
import torch
from accelerate import FullyShardedDataParallelPlugin
from accelerate.commands.config.config_args import ClusterConfig
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import AutoPeftModelForCausalLM
from pyarrow import parquet
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from typer.testing import CliRunner

from cbtlib import ROOT, CbtError, cache, cli, embedded, fused, models, planning, runs, sampling, templates, training
from cbtlib.templates import IGNORED

PROMPTABLE = ("gemma", "llama-chinese", "alpaca-chinese", "chat")
"""Templates without tokens of their own, which any tokenizer can take."""

CONFIG = replace(training.PROFILES["smoke"], max_length=200)

STOPPING = replace(CONFIG, max_steps=40, evaluate_every=1, patience=2, learning_rate=0.3)
"""Steps so long that the dev loss soon rises."""


@dataclass(frozen=True)
class Pair:
    id: str
    post: str
    answer_text: str
    split: str = "train"
    crisis: bool = False


ROWS = [
    Pair(f"p{i}", f"第{i}次考试又没考好，我是不是很笨？" + "唉" * i, f"我听见你很难过。\n一次考试说明不了什么{i}。")
    for i in range(8)
]
DEV = [Pair(f"d{i}", f"室友不理我了{i}", f"这一定不好受{i}。\n她也许只是累了。") for i in range(3)]


@pytest.fixture(scope="session")
def tokenizer():
    return models.load("smoke")[1]


@pytest.fixture
def model():
    return models.load("smoke", "float32")[0]


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """One finished smoke run."""
    out = tmp_path_factory.mktemp("run")
    return out, training.train(ROWS, DEV, CONFIG, out)


@pytest.fixture(scope="session")
def stopped(tmp_path_factory):
    """One run that stopped early."""
    out = tmp_path_factory.mktemp("stopped")
    return out, training.train(ROWS, DEV, STOPPING, out)


# ------------------------------------------------------------------------------------------- what carries loss

chinese = st.text(st.sampled_from("我你不想考试累了。，？\n 12ab…“”"), min_size=1, max_size=40).filter(str.strip)


@pytest.fixture(scope="session")
def polyglot():
    """A tokenizer that has the marks of every template."""
    own = models.tokenizer("smoke")
    marks = sorted({mark for template in templates.TEMPLATES.values() for mark in template.special})
    own.add_special_tokens({"additional_special_tokens": marks})
    return own


@settings(max_examples=25)
@given(post=chinese, answer=chinese, name=st.sampled_from(sorted(templates.TEMPLATES)))
def test_loss_falls_on_the_answer_and_its_end_and_nowhere_else(polyglot, post, answer, name):
    tokenizer = polyglot
    template = templates.adopt(name, tokenizer)
    (row,) = templates.encode([Pair("x", post, answer)], tokenizer, template, 4096)
    learned = [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label != IGNORED]
    assert tokenizer.decode(learned) == answer.strip() + template.end
    assert tokenizer.decode(row["input_ids"]) == templates.render(post, template) + answer.strip() + template.end
    assert learned[-1] in templates.stop_ids(template, tokenizer)
    assert row["labels"].index(learned[0]) == len(row["labels"]) - len(learned), "one border, prompt before answer"


def test_a_model_without_an_end_mark_stops_at_any_token_that_holds_the_mark(polyglot):
    found = templates.ids_with("，", polyglot)
    assert polyglot.convert_tokens_to_ids("，") in found
    assert all("，" in polyglot.decode([number]) for number in found)
    assert not set(found) & set(polyglot("我很累。", add_special_tokens=False)["input_ids"])


LEARNED = {
    "gemma": ("<bos>来访者：睡不着\n\n认知行为咨询师：", "我听见你。\n先别看钟。<eos>"),
    "llama-chinese": ("<bos>Human: 睡不着\n<eos><bos>Assistant:", "我听见你。\n先别看钟。\n<eos>"),
    "alpaca-chinese": (
        "<bos>Below is an instruction that describes a task. Write a response that appropriately completes the "
        "request.\n\n### Instruction:\n睡不着\n\n### Response:\n",
        "我听见你。\n先别看钟。<eos>",
    ),
    "qwen": (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n睡不着<|im_end|>\n<|im_start|>assistant\n",
        "我听见你。\n先别看钟。<|im_end|>",
    ),
    "baichuan": ("<reserved_102>睡不着<reserved_103>", "我听见你。\n先别看钟。<eos>"),
    "chat": ("<bos>问：睡不着\n答：", "我听见你。\n先别看钟。\n\n<eos>"),
}
"""What the model reads and what it learns of one record, with a line break in its answer, template by template."""


@pytest.mark.parametrize("name", sorted(templates.TEMPLATES))
def test_the_very_tokens_that_carry_loss(name, polyglot):
    template = templates.adopt(name, polyglot)
    (row,) = templates.encode([Pair("x", "睡不着", "我听见你。\n先别看钟。")], polyglot, template, 4096)
    sides: dict[bool, list[int]] = {False: [], True: []}
    for token, label in zip(row["input_ids"], row["labels"], strict=True):
        assert label in (IGNORED, token)
        sides[label != IGNORED].append(token)
    assert (polyglot.decode(sides[False]), polyglot.decode(sides[True])) == LEARNED[name]


def test_the_chat_template_of_a_tokenizer_is_taken_apart_exactly(tokenizer):
    template = templates.adopt("chat", tokenizer)
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "睡不着"}], tokenize=False, add_generation_prompt=True
    )
    assert templates.render("睡不着", template) == asked


@pytest.mark.parametrize("name", PROMPTABLE)
def test_a_post_or_an_answer_with_a_turn_mark_is_refused_by_every_template(tokenizer, name):
    template = templates.adopt(name, tokenizer)
    for mark in (tokenizer.eos_token, "<start_of_turn>", "<end_of_turn>"):
        post = f"我很累{mark}"
        assert tokenizer(post)["input_ids"][-1] in tokenizer.added_tokens_decoder, "to the tokenizer it is no text"
        with pytest.raises(CbtError, match=f"^row 7 spells the special token '{mark}': rewrite"):
            templates.render(post, template, "row 7")
        for row in (Pair("x", post, "好"), Pair("x", "好", post)):
            with pytest.raises(CbtError, match=f"^record x spells the special token '{mark}': rewrite"):
                templates.encode([row], tokenizer, template, 4096)
    assert "<br>" in templates.render("我很累<br>", template), "other angle brackets are text"


def test_rows_of_all_lengths_make_batches_of_few_widths():
    rows = [{"input_ids": [5] * length, "labels": [5] * length} for length in range(1, 257)]
    batches = [training.Collator(7)([row]) for row in rows]
    for row, batch in zip(rows, batches, strict=True):
        ids, labels, length = batch["input_ids"][0].tolist(), batch["labels"][0].tolist(), len(row["input_ids"])
        assert (ids[:length], labels[:length]) == (row["input_ids"], row["labels"])
        assert set(ids[length:]) <= {7} and set(labels[length:]) <= {IGNORED}, "padding is never learned"
    assert len({batch["input_ids"].shape for batch in batches}) == 8, "a new width has kernels of its own made"


def test_answer_logits_and_no_mask_give_the_loss_of_full_logits_with_a_mask(model, tokenizer):
    rows = templates.encode(ROWS, tokenizer, templates.adopt("gemma", tokenizer), 200)
    batch = training.Collator(tokenizer.pad_token_id)(rows)
    lengths = torch.tensor([len(row["input_ids"]) for row in rows])
    assert lengths.min() < lengths.max(), "the batch must have padding to prove anything"
    mask = (torch.arange(batch["input_ids"].shape[1]) < lengths[:, None]).long()
    full = model(**batch, attention_mask=mask).loss
    count = (batch["labels"] != IGNORED).sum()
    assert (training.answer_nll(model, **batch) / count).item() == pytest.approx(full.item(), rel=1e-5)
    assert training.mean_nll(model, rows, training.Collator(tokenizer.pad_token_id), 3) == pytest.approx(
        full.item(), rel=1e-5
    )


@pytest.mark.parametrize("autocast", [False, True])
def test_the_fused_layer_computes_what_peft_computes(tokenizer, autocast):
    rows = templates.encode(ROWS[:3], tokenizer, templates.adopt("gemma", tokenizer), 200)
    batch = training.Collator(tokenizer.pad_token_id)(rows)
    seen = []
    for fuse in (False, True):
        torch.manual_seed(0)
        lora = training.add_lora(models.load("smoke", "float32")[0], replace(CONFIG, rslora=True))
        for name, parameter in lora.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)  # B starts at zero, where everything agrees
        assert not fuse or fused.fuse(lora) == 6 * 7
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = training.answer_nll(lora, **batch)
        loss.backward()
        gradients = torch.cat([p.grad.flatten() for p in lora.parameters() if p.requires_grad])
        seen.append((loss.item(), gradients))
    (loss, gradient), (fused_loss, fused_gradient) = seen
    assert fused_loss == pytest.approx(loss, rel=1e-2 if autocast else 1e-5)
    cosine = torch.nn.functional.cosine_similarity(gradient, fused_gradient, dim=0)
    assert cosine > (0.99 if autocast else 0.99999)
    if not autocast:
        torch.testing.assert_close(fused_gradient, gradient, rtol=1e-3, atol=1e-5)


@settings(max_examples=15)
@given(length=st.integers(1, 300), window=st.integers(1, 300), groups=st.sampled_from([1, 2]))
def test_attention_in_blocks_is_attention(length, window, groups):
    torch.manual_seed(length)
    q, k, v = (torch.randn(2, heads, length, 8, requires_grad=True) for heads in (2, 2 // groups, 2 // groups))
    place = torch.arange(length)
    seen = (place[:, None] >= place) & (place[:, None] - place < window)
    whole = torch.nn.functional.scaled_dot_product_attention(q, k, v, seen, scale=0.3, enable_gqa=True)
    blocks = fused.CausalAttention.apply(*(x.transpose(1, 2) for x in (q * 0.3, k, v)), window).transpose(1, 2)
    weight = torch.randn_like(whole)
    torch.testing.assert_close(blocks, whole, rtol=1e-4, atol=1e-5)
    expected, found = (torch.autograd.grad((out * weight).sum(), (q, k, v)) for out in (whole, blocks))
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)


def test_the_norm_is_gemmas():
    torch.manual_seed(0)
    norm = Gemma3RMSNorm(16)
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(3, 5, 16, requires_grad=True)
    weight = torch.randn_like(x)
    ours = fused.RmsNorm.apply(x, 1 + norm.weight.detach(), norm.eps)
    torch.testing.assert_close(ours, norm(x))
    expected, found = (torch.autograd.grad((y * weight).sum(), x)[0] for y in (norm(x), ours))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_row_longer_than_the_window_and_a_masked_batch_give_the_models_own_logits(model, tokenizer):
    text = "考试没考好，我很难过。" * 60
    long = torch.tensor([tokenizer(text)["input_ids"]])
    assert long.shape[1] > model.config.sliding_window
    mask = torch.ones_like(long)
    mask[0, :7] = 0
    before = [model(long).logits, model(long, attention_mask=mask).logits[:, 7:]]
    said = model.generate(long[:, :40], max_new_tokens=5, do_sample=False)
    lora = training.add_lora(model, CONFIG)  # a fresh adapter changes nothing
    fused.fuse(lora)
    for mine, theirs in zip([lora(long).logits, lora(long, attention_mask=mask).logits[:, 7:]], before, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)
    assert torch.equal(lora.generate(input_ids=long[:, :40], max_new_tokens=5, do_sample=False), said)


def test_writing_borrows_the_layers_of_a_tuned_model_and_gives_them_back(model, tokenizer):
    ids = torch.tensor([tokenizer("你好，我睡不着")["input_ids"]])
    lora = training.add_lora(model, CONFIG)
    fused.fuse(lora)
    before, forwards = lora(ids).logits, [vars(layer).get("forward") for layer in lora.modules()]
    with fused.packed(lora), torch.no_grad():
        torch.testing.assert_close(lora(ids).logits, before, rtol=1e-3, atol=1e-4)
        plain = [layer for layer in lora.modules() if type(layer) is torch.nn.Linear]
        assert all("forward" in vars(layer) for layer in plain) or not torch.backends.mkldnn.is_available()
        assert [vars(layer).get("forward") for layer in lora.modules()] != forwards
    assert [vars(layer).get("forward") for layer in lora.modules()] == forwards


def test_fused_layers_still_obey_disabled_adapters(model, tokenizer):
    ids = torch.tensor([tokenizer("你好，我睡不着")["input_ids"]])
    before = model(ids).logits.detach().clone()
    lora = training.add_lora(model, CONFIG)
    for name, parameter in lora.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    fused.fuse(lora)
    assert not torch.allclose(lora(ids).logits, before, atol=1e-3)
    with lora.disable_adapter():
        torch.testing.assert_close(lora(ids).logits, before)


# ------------------------------------------------------------------------------------------- a run and its folder


def test_a_run_lowers_the_loss_and_leaves_an_adapter_that_loads_without_us(finished, tokenizer):
    _, result = finished
    losses = result.dev_losses
    assert losses[-1] < losses[0]
    assert [entry["step"] for entry in result.history if "loss" in entry] == [1, 2, 3, 4]
    assert result.trainable == 49_152
    assert {path.suffix for path in result.adapter.iterdir()} <= {".json", ".safetensors", ".md", ".jinja"}
    stranger = AutoPeftModelForCausalLM.from_pretrained(result.adapter)
    ours, _ = runs.load_adapter(result.adapter)
    ids = torch.tensor([tokenizer("你好")["input_ids"]])
    # In one precision: ours is in 16 bits where the machine has them, and adds the adapter in another order.
    near = 1e-4 if ours.dtype == torch.float32 else 3e-2  # three of the last digits that logits have
    torch.testing.assert_close(stranger.to(ours.dtype)(ids).logits, ours(ids).logits, rtol=near, atol=near)


def test_a_merged_model_computes_what_base_and_adapter_compute(finished, tokenizer, tmp_path):
    _, result = finished
    merged, _ = models.load(str(runs.merge(result.adapter, tmp_path / "merged")), "float32")
    tuned = AutoPeftModelForCausalLM.from_pretrained(result.adapter)
    ids = torch.tensor([tokenizer("我睡不着")["input_ids"]])
    whole, apart = merged(ids).logits, tuned(ids).logits
    with tuned.disable_adapter():
        change = (apart - tuned(ids).logits).abs().max()
    assert (whole - apart).abs().max() < change / 10, "merged in 16 bits, where the machine has them"
    with pytest.raises(CbtError, match="exists"):
        runs.merge(result.adapter, tmp_path / "merged")
    assert [path.name for path in tmp_path.iterdir() if path.name != "merged.lock"] == ["merged"]


def test_the_card_names_data_settings_losses_and_limits(finished):
    out, result = finished
    card = (result.adapter / "README.md").read_text("utf-8")
    facts = json.loads((out / "training.json").read_text("utf-8"))
    assert facts["data"]["train"] in card and facts["data"]["dev"] in card
    assert f"{result.dev_losses[-1]:.3f}" in card and "not a counsellor" in card and "Gemma Terms of Use" in card
    assert str(Path.home()) not in card


def test_a_finished_run_returns_at_once_and_another_configuration_is_refused(finished, monkeypatch):
    out, result = finished
    monkeypatch.setattr(models, "weights", lambda *_: pytest.fail("a finished run loads no model"))
    assert training.train(ROWS, DEV, CONFIG, out) == result
    with pytest.raises(CbtError, match=r"holds another run \(rank 8 -> 4\)"):
        training.train(ROWS, DEV, replace(CONFIG, rank=4), out)
    with pytest.raises(CbtError, match="train "):
        training.train(ROWS[1:], DEV, CONFIG, out)
    assert runs.read_result(out) == result


def test_a_run_that_goes_on_within_an_epoch_meets_the_rows_that_it_has_not_read(tmp_path, monkeypatch):
    config = replace(CONFIG, accumulation=1, epochs=2, max_steps=0, evaluate_every=1)
    whole = training.train(ROWS, DEV, config, tmp_path / "whole")

    class Killed(BaseException):
        pass

    def die(self, args, state, control, **kwargs):
        if state.global_step == 6:
            raise Killed

    with monkeypatch.context() as killing, pytest.raises(Killed):
        killing.setattr(runs.Journal, "on_step_begin", die)
        training.train(ROWS, DEV, config, tmp_path / "killed")
    again = training.train(ROWS, DEV, config, tmp_path / "killed")
    assert len(whole.history) == len(again.history)
    for mine, theirs in zip(again.history, whole.history, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4)


def test_another_number_of_processes_is_another_run(tmp_path, monkeypatch):
    training.train(ROWS, DEV, CONFIG, tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(CbtError, match="processes"):
        training.train(ROWS, DEV, CONFIG, tmp_path)


def test_rows_are_read_from_what_the_other_commands_leave(tmp_path):
    pairs = [{"id": "a", "question": "睡不着", "description": "怎么办", "answer": "一封信。"}]
    (tmp_path / "a.jsonl").write_text(json.dumps(pairs[0]) + "\n" + json.dumps({**pairs[0], "outcome": "failed"}))
    parquet.write_table(pyarrow.Table.from_pylist(pairs), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.parquet"):
        assert training.read(tmp_path / name) == [("a", "睡不着\n怎么办", "一封信。", "train", False)]
    parquet.write_table(pyarrow.Table.from_pylist([{"text": "x"}]), tmp_path / "b.parquet")
    with pytest.raises(CbtError, match=r"b\.parquet is no data set of"):
        training.read(tmp_path / "b.parquet")
    for number, nothing in enumerate([None, " ", "None"]):
        path = tmp_path / f"c{number}.parquet"
        parquet.write_table(pyarrow.Table.from_pylist([*pairs, pairs[0] | {"id": "b", "answer": nothing}]), path)
        with pytest.raises(CbtError, match=r"parquet: 1 rows have no answer, or failed, 'b' first"):
            training.read(path)
    cut = [*(pair | {"finish_reason": "stop"} for pair in pairs), pairs[0] | {"id": "b", "finish_reason": "length"}]
    parquet.write_table(pyarrow.Table.from_pylist(cut), tmp_path / "cut.parquet")
    with pytest.raises(CbtError, match=r"parquet: 1 rows have no answer, or failed, 'b' first"):
        training.read(tmp_path / "cut.parquet")
    for field, bad, said in (
        ("answer", 7, "column answer has 2 cells without a text, first row 1"),
        ("question", None, "column question has 1 cells without a text, first row 2"),
        ("id", None, "column id has 1 cells without a text, first row 2"),
        ("id", "a", "the id 'a' stands in several rows"),
    ):
        rows = [pairs[0], pairs[0] | {"id": "b"} | {field: bad}]
        if bad == 7:
            rows = [row | {"answer": 7} for row in rows]
        parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "d.parquet")
        with pytest.raises(CbtError, match=said):
            training.read(tmp_path / "d.parquet")


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from test_training import CONFIG, DEV, ROWS
from cbtlib import runs, training
def die(self, args, state, control, **kwargs):
    if state.global_step == 3:
        os.kill(os.getpid(), signal.SIGKILL)
runs.Journal.on_step_begin = die
training.train(ROWS, DEV, CONFIG, {out!r})
"""


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is Unix")
def test_a_killed_run_goes_on_to_the_curve_of_an_undisturbed_one(finished, tmp_path, monkeypatch):
    _, whole = finished
    code = KILLED.format(tests=str(Path(__file__).parent), out=str(tmp_path))
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    assert not (tmp_path / "result.json").exists()
    # A later checkpoint that was being written when the run died does not count.
    (tmp_path / "checkpoints" / "checkpoint-3").mkdir()
    result = training.train(ROWS, DEV, CONFIG, tmp_path)
    assert [e["step"] for e in result.history] == [e["step"] for e in whole.history]
    for mine, theirs in zip(result.history, whole.history, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4)


class Killed(BaseException):
    """Ends a run where a signal would, without another process."""


def kill(monkeypatch, event, step, config, out):
    """Train until `event` of the journal at this step, and no further."""
    usual = getattr(runs.Journal, event)

    def die(self, args, state, control, **kwargs):
        if state.global_step == step:
            raise Killed
        usual(self, args, state, control, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(runs.Journal, event, die)
        with pytest.raises(Killed):
            training.train(ROWS, DEV, config, out)


@pytest.mark.parametrize(("event", "before"), [("on_step_begin", 1), ("on_train_end", 0)])
def test_a_killed_run_keeps_its_patience_and_stops_where_an_undisturbed_one_stops(
    event, before, stopped, tmp_path, monkeypatch
):
    _, whole = stopped
    kill(monkeypatch, event, int(whole.history[-1]["step"]) - before, STOPPING, tmp_path)
    result = training.train(ROWS, DEV, STOPPING, tmp_path)
    assert [entry["step"] for entry in result.history] == [entry["step"] for entry in whole.history]
    for mine, theirs in zip(result.history, whole.history, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4)


@pytest.mark.parametrize("switch", ["gradient_checkpointing", "dora"])
def test_a_switch_trains_and_leaves_an_adapter_that_loads(switch, finished, tmp_path):
    config = replace(CONFIG, **{switch: True})
    result = training.train(ROWS, DEV, config, tmp_path)
    plain = finished[1].dev_losses
    if switch == "gradient_checkpointing":  # memory for time, and the same numbers
        assert result.dev_losses == pytest.approx(plain, abs=1e-4)
    else:
        assert result.dev_losses[-1] < result.dev_losses[0] and result.dev_losses != plain
    tuned, _ = runs.load_adapter(result.adapter)
    assert json.loads((result.adapter / "adapter_config.json").read_text("utf-8"))["use_dora"] is (switch == "dora")
    assert any("lora_magnitude" in name for name, _ in tuned.named_parameters()) is (switch == "dora")


def test_a_run_killed_after_its_last_step_takes_no_other(tmp_path, monkeypatch):
    config = replace(CONFIG, max_steps=3)  # in the middle of an epoch
    kill(monkeypatch, "on_train_end", 3, config, tmp_path)
    assert training.train(ROWS, DEV, config, tmp_path).history[-1]["step"] == 3


def test_a_run_that_went_on_counts_the_seconds_of_all_its_starts(tmp_path, monkeypatch):
    kill(monkeypatch, "on_step_begin", 3, CONFIG, tmp_path)
    place = tmp_path / "checkpoints" / "checkpoint-2" / "seal.json"
    seal = json.loads(place.read_text("utf-8"))
    assert 0 < seal["seconds"] < 1000
    place.write_text(json.dumps(seal | {"seconds": 1000.0}), "utf-8")
    assert training.train(ROWS, DEV, CONFIG, tmp_path).seconds > 1000


def test_a_run_that_went_on_keeps_the_largest_peak_of_its_starts(tmp_path, monkeypatch):
    kill(monkeypatch, "on_step_begin", 3, CONFIG, tmp_path)
    place = tmp_path / "checkpoints" / "checkpoint-2" / "seal.json"
    seal = json.loads(place.read_text("utf-8"))
    assert 0 < seal["peak_gb"] < 1000
    place.write_text(json.dumps(seal | {"peak_gb": 1000.0}), "utf-8")
    assert training.train(ROWS, DEV, CONFIG, tmp_path).peak_gb == 1000.0


def test_two_processes_in_one_folder_are_one_too_many(tmp_path, monkeypatch):
    refused = []

    def second(self, args, state, control, **kwargs):
        for config in (CONFIG, replace(CONFIG, rank=4)):
            with pytest.raises(CbtError) as error:
                training.train(ROWS, DEV, config, tmp_path)
            refused.append(str(error.value))

    with monkeypatch.context() as patch:
        patch.setattr(runs.Journal, "on_step_begin", second)
        first = training.train(ROWS, DEV, replace(CONFIG, max_steps=1), tmp_path)
    assert refused == [f"another process is training in {tmp_path}: wait for it, or take another folder"] * 2
    assert first.adapter.exists() and not list(tmp_path.rglob("*.part"))


def test_a_model_folder_whose_weights_were_exchanged_makes_another_run(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(embedded.model_dir("smoke"), folder)
    config = replace(CONFIG, model=str(folder))
    before = runs.identity(ROWS, DEV, config)
    assert before == runs.identity(ROWS, DEV, config)
    weights = load_file(folder / "model.safetensors")
    name = min(weights)
    save_file({**weights, name: weights[name] + 1}, folder / "model.safetensors", {"format": "pt"})
    after = runs.identity(ROWS, DEV, config)
    assert after["hash"] != before["hash"] and after["config"] == before["config"]


def test_a_curve_that_a_kill_cut_is_written_anew(finished, tmp_path):
    """A run that died behind its last checkpoint has no step left that would write its curve."""
    out, whole = finished
    shutil.copytree(out, tmp_path, dirs_exist_ok=True)
    log = tmp_path / "log.jsonl"
    log.write_text(log.read_text("utf-8")[:-20], "utf-8")
    with pytest.raises(CbtError, match=r"log\.jsonl is damaged or missing"):
        training.train(ROWS, DEV, CONFIG, tmp_path)
    for name in ("result.json", "timing.json"):
        (tmp_path / name).unlink()
    assert training.train(ROWS, DEV, CONFIG, tmp_path).history == whole.history


def test_an_older_checkpoint_goes_only_when_the_newer_one_is_sealed(tmp_path, monkeypatch):
    config = replace(CONFIG, keep=1)
    kill(monkeypatch, "on_save", 4, config, tmp_path)  # written, not yet sealed
    assert (tmp_path / "checkpoints" / "checkpoint-2" / "seal.json").exists()
    training.train(ROWS, DEV, config, tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["checkpoint-4"]


@pytest.mark.parametrize("text", ["", '{"hash": "cut', "[1]", '{"hash": "x"}'])
@pytest.mark.parametrize("name", ["training.json", "checkpoints/checkpoint-4/seal.json"])
def test_a_damaged_file_of_a_run_is_named(name, text, finished, tmp_path):
    shutil.copytree(finished[0], tmp_path, dirs_exist_ok=True)
    if name != "training.json":
        (tmp_path / "result.json").unlink()
    (tmp_path / name).write_text(text, "utf-8")
    with pytest.raises(CbtError, match=f"{name} is damaged or missing"):
        training.train(ROWS, DEV, CONFIG, tmp_path)


def test_a_finished_run_without_its_identity_is_nobodys(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path, dirs_exist_ok=True)
    (tmp_path / "training.json").unlink()
    with pytest.raises(CbtError, match=r"training\.json is damaged or missing"):
        training.train(ROWS, DEV, replace(CONFIG, rank=4), tmp_path)


def test_a_damaged_or_foreign_checkpoint_is_named_and_refused(finished, tmp_path):
    out, _ = finished
    for change in ("damage", "foreign"):
        place = tmp_path / change
        folder = place / "checkpoints" / "checkpoint-2"
        folder.mkdir(parents=True)
        for path in (out / "checkpoints" / "checkpoint-2").iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        if change == "damage":
            weights = folder / "adapter_model.safetensors"
            weights.write_bytes(weights.read_bytes()[:-100])
        else:
            (folder / "seal.json").write_text('{"hash": "other", "files": {}, "seconds": 0}')
        with pytest.raises(CbtError, match=r"checkpoint-2.*(adapter_model.safetensors|another run)"):
            training.train(ROWS, DEV, CONFIG, place)


def sealed(place, **state):
    """A checkpoint with nothing in it but its trainer's state and its seal."""
    place.mkdir(parents=True)
    (place / "trainer_state.json").write_text(json.dumps(state), "utf-8")
    files = {"trainer_state.json": cache.sha256(place / "trainer_state.json")}
    (place / "seal.json").write_text(json.dumps({"hash": "h", "files": files, "seconds": 1, "peak_gb": 1}), "utf-8")


def test_the_best_checkpoint_is_looked_at_and_found_where_the_run_is_now(tmp_path):
    best, newest = (tmp_path / "moved/checkpoints" / f"checkpoint-{step}" for step in (5, 8))
    sealed(best, best_model_checkpoint=None)
    sealed(newest, best_model_checkpoint="old/checkpoints/checkpoint-5")
    assert runs.last_checkpoint(tmp_path / "moved", "h")[0] == str(newest)
    state = SimpleNamespace(
        best_model_checkpoint="old/checkpoints/checkpoint-5", max_steps=8, global_step=8,
        stateful_callbacks={"TrainerControl": {"args": {"should_training_stop": True}}},
    )  # fmt: skip
    journal = runs.Journal(tmp_path / "moved", "h", 1, runs.Cost())
    journal.on_train_begin(SimpleNamespace(output_dir=str(best.parent)), state, SimpleNamespace())
    assert state.best_model_checkpoint == str(best)
    (best / "trainer_state.json").write_text("{}", "utf-8")
    with pytest.raises(CbtError, match=r"checkpoint-5 is damaged .*the best of the run so far"):
        runs.last_checkpoint(tmp_path / "moved", "h")
    shutil.rmtree(best)
    with pytest.raises(CbtError, match=r"checkpoint-5.*the best of the run so far"):
        runs.last_checkpoint(tmp_path / "moved", "h")


# ------------------------------------------------------------------------------------------- mistakes

BAD_CONFIGS = [
    (replace(CONFIG, max_length=30), r"\d of 8 records are longer than max_length=30: \d+ tokens.*raise max_length to"),
    (
        replace(CONFIG, targets="q_proj,query_key_value"),
        "no linear layer is called query_key_value: this model has .*q_proj",
    ),
    (replace(CONFIG, template="klingon"), "no template 'klingon'"),
    (replace(CONFIG, template="qwen"), r"needs the tokens <\|im_start\|>"),
    (replace(CONFIG, template="baichuan"), "needs the tokens <reserved_102>"),
    (replace(CONFIG, learning_rate=1e30, max_steps=3), "the loss is nan.*lower the learning_rate"),
]

OUT_OF_RANGE = [
    ("learning_rate=nan", "learning_rate is nan: take a number above 0"),
    ("learning_rate=-1", "learning_rate is -1.0: take a number above 0"),
    ("learning_rate=inf", "learning_rate is inf: take a number above 0"),
    ("epochs=0", "epochs is 0.0: take a number above 0"),
    ("batch_size=0", "batch_size is 0: take a number above 0"),
    ("accumulation=0", "accumulation is 0: take a number above 0"),
    ("rank=0", "rank is 0: take a number above 0"),
    ("rank=-1", "rank is -1: take a number above 0"),
    ("dropout=2", "dropout is 2.0: take a number from 0 to below 1"),
    ("warmup=nan", "warmup is nan: take a number from 0 to below 1"),
    ("max_steps=-1", "max_steps is -1: take a number of 0 or more"),
    ("seed=-1", "seed is -1: take a number of 0 or more"),
]


@pytest.mark.parametrize(("setting", "message"), OUT_OF_RANGE)
def test_a_setting_out_of_range_is_named_and_takes_no_folder(setting, message, tmp_path):
    config = training.configure("smoke", settings=[setting])
    for act in (training.train, lambda *given: planning.plan(*given[:3])):
        with pytest.raises(CbtError, match=re.escape(message)):
            act(ROWS, DEV, config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("config", "message"), BAD_CONFIGS)
def test_a_configuration_that_cannot_work_is_one_sentence(config, message, tmp_path):
    with pytest.raises(CbtError, match=message):
        training.train(ROWS, DEV, config, tmp_path)
    assert not (tmp_path / "adapter").exists() and not (tmp_path / "result.json").exists()


def test_a_wrong_target_is_said_before_the_weights_are_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "weights", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(CbtError, match="no linear layer is called nobody"):
        training.train(ROWS, DEV, replace(CONFIG, targets="nobody"), tmp_path)


def test_rows_without_an_answer_are_named_by_their_lines(tmp_path):
    place = tmp_path / "rows.csv"
    place.write_text("question,answer\n睡不好怎么办,先记下几点睡\n总是担心,\n怕考试, \n", "utf-8")
    with pytest.raises(CbtError, match=r"rows.csv: 2 problems.*\n  line 3, field answer: has no text.*\n  line 4"):
        training.read(place)


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_an_error_message_or_a_refusal_is_no_answer_to_learn(form, tmp_path):
    place = tmp_path / f"rows.{form}"
    texts = [
        "先记下几点睡。",
        "Error code: 429 - {'error': {'message': 'Rate limit reached'}}",
        "抱歉，我无法回答这个问题。",
    ]
    table = pd.DataFrame({"id": list("abc"), "question": list("甲乙丙"), "description": "", "answer": texts})
    if form == "parquet":
        table.to_parquet(place)
        said = r"2 rows have no answer, or failed, 'b' first"
    else:
        table.to_csv(place, index=False)
        said = r"rows.csv: 2 problems.*\n  line 3, field answer: has no text, or an error.*\n  line 4, .*is a refusal"
    with pytest.raises(CbtError, match=said):
        training.read(place)


def test_a_dialogue_of_several_turns_is_no_row(tmp_path):
    place = tmp_path / "talks.jsonl"
    turns = [{"role": role, "content": text} for role, text in zip(["user", "assistant"] * 2, "甲乙丙丁", strict=True)]
    place.write_text("".join(json.dumps({"messages": turns[:n]}) + "\n" for n in (2, 4)), "utf-8")
    with pytest.raises(CbtError, match=r"line 2: is a dialogue of 4 turns: training takes one post and its one answer"):
        training.read(place)
    place.write_text(json.dumps({"messages": turns[:2]}) + "\n", "utf-8")
    assert [(row.post, row.answer_text) for row in training.read(place)] == [("甲", "乙")]


QUARREL = "我和室友吵了一架，她搬走了，我一个人睡不着觉"
CRISIS = Pair("c0", "我不想活了", "请联系身边的人。", crisis=True)

BAD_ROWS = [
    ([], DEV, "no training records"),
    (ROWS, [], "no dev records"),
    (
        [*ROWS, DEV[0]],
        DEV,
        "3 dev records repeat training records, or nearly (the post of d0 is 1.00 like the post of d0)",
    ),
    (ROWS, [*DEV, Pair("copy", ROWS[2].post + "。", "好")], "(the post of copy is 1.00 like the post of p2)"),
    (
        ROWS,
        [*DEV, Pair("copy", ROWS[2].post.replace("，", "， "), "好")],
        "(the post of copy is 1.00 like the post of p2)",
    ),
    (ROWS, [*DEV, Pair("near", ROWS[2].post + "我妈也这么说，我该怎么办呢", "好")], "(the post of near is 0."),
    (
        ROWS,
        [*DEV, Pair("said", "猫丢了", ROWS[2].answer_text)],
        "1 dev records repeat training records, or nearly (the answer of",
    ),
    (
        [*ROWS, Pair("long", "你是咨询师。请按五个部分回信。" * 9 + QUARREL, "好")],
        [Pair("in", QUARREL, "行")],
        "(the post of in is 1.00 like the post of long)",
    ),
    (ROWS, [*DEV, Pair("kept", "猫丢了", "去找找", split="test")], "1 dev records are of the test split, kept first"),
    (ROWS, [*DEV, Pair("kept", "猫丢了", "去找找", split="crisis")], "1 dev records are of the test split, kept"),
    ([*ROWS, CRISIS], DEV, "1 records are crisis records, c0 first"),
    (ROWS, [*DEV, CRISIS], "1 records are crisis records, c0 first"),
    ([*ROWS, replace(DEV[0], split="test")], DEV[1:], "1 training records are not of the split 'train', d0"),
    ([*ROWS, Pair("empty", "我很累", "  ")], DEV, "record empty has no answer"),
    ([*ROWS, Pair("spells", "我很累<eos>", "好")], DEV, "record spells spells the special token '<eos>'"),
    ([*ROWS, Pair("turn", "我很累<end_of_turn>", "好")], DEV, "record turn spells the special token '<end_of_turn>'"),
    ([*ROWS, Pair("turn", "我很累", "<mask>")], DEV, "record turn spells the special token '<mask>'"),
]


@pytest.mark.parametrize(("rows", "dev", "message"), BAD_ROWS)
def test_rows_that_must_not_be_trained_on_are_named_before_the_weights_are_loaded(
    rows, dev, message, tmp_path, monkeypatch
):
    monkeypatch.setattr(models, "weights", lambda *_, **__: pytest.fail("the rows come first"))
    for act in (training.train, lambda *given: planning.plan(*given[:3])):
        with pytest.raises(CbtError, match=re.escape(message)):
            act(rows, dev, CONFIG, tmp_path)


def test_rows_that_are_mended_are_trained_in_the_same_folder(tmp_path):
    with pytest.raises(CbtError, match="record empty has no answer"):
        training.train([*ROWS, Pair("empty", "我很累", "  ")], DEV, CONFIG, tmp_path)
    assert training.train(ROWS, DEV, replace(CONFIG, max_steps=1), tmp_path).adapter.exists()


def test_an_end_mark_that_pads_too_is_learned_and_counted_and_padding_is_not(tmp_path):
    base, own = tmp_path / "base", models.tokenizer("smoke")
    own.pad_token = own.eos_token
    models.weights("smoke", "float32").save_pretrained(base)
    own.save_pretrained(base)
    config = replace(CONFIG, model=str(base), max_steps=2)
    rows = templates.encode(ROWS, own, templates.adopt(config.template, own), config.max_length)
    batch = training.Collator(own.pad_token_id)(rows)
    for ids, labels, row in zip(batch["input_ids"], batch["labels"], rows, strict=True):
        end = len(row["input_ids"]) - 1
        assert ids[end] == labels[end] == own.eos_token_id and (labels[end + 1 :] == IGNORED).all()
    result = training.train(ROWS, DEV, config, tmp_path / "run")  # two steps of four rows: each row once
    assert result.tokens == sum(len(row["input_ids"]) for row in rows)


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_cuda_without_cuda_and_a_folder_without_weights(tmp_path):
    with pytest.raises(CbtError, match="no CUDA device"):
        training.train(ROWS, DEV, replace(CONFIG, device="cuda"), tmp_path / "run")
    with pytest.raises(CbtError, match="holds no weights"):
        training.train(ROWS, DEV, replace(CONFIG, model=str(tmp_path)), tmp_path / "run")
    with pytest.raises(CbtError, match="holds no adapter"):
        runs.load_adapter(tmp_path)
    with pytest.raises(CbtError, match="holds no finished run"):
        runs.read_result(tmp_path)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("rank=x", "rank is a int"),
        ("ranks=4", "write name=value"),
        ("rank", "write name=value"),
        ("dora=1", "true or false"),
    ],
)
def test_settings_of_the_command_line_are_checked(setting, message):
    with pytest.raises(CbtError, match=message):
        training.configure("smoke", settings=[setting])
    assert training.configure("smoke", "embedded", ["rank=4", "dora=true"]) == replace(
        training.PROFILES["smoke"], model="embedded", rank=4, dora=True
    )


def out_of_gpu(*_):
    raise torch.OutOfMemoryError


@pytest.mark.parametrize("full", [out_of_gpu, lambda *_: torch.empty(10**15), lambda *_: bytearray(10**16)])
def test_memory_that_runs_out_is_one_sentence_and_the_run_can_go_on(full, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(training, "answer_nll", full)
        with pytest.raises(CbtError, match=r"out of memory with 2 x up to 200 tokens: take a smaller batch_size"):
            training.train(ROWS, DEV, CONFIG, tmp_path)
    assert training.train(ROWS, DEV, CONFIG, tmp_path).adapter.exists()


FULL_DISKS = [
    ("runs.Journal.on_log", OSError(errno.ENOSPC, "No space left on device")),
    ("runs.PeftModel.save_pretrained", SafetensorError("I/O error: No space left on device (os error 28)")),
    (
        "training.AnswerTrainer._save_rng_state",
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),  # what torch.save says
    ),
]


@pytest.mark.parametrize(("writer", "error"), FULL_DISKS)
def test_a_full_disk_is_one_sentence_and_the_run_can_go_on(writer, error, tmp_path, monkeypatch):
    def full(*_, **__):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(f"cbtlib.{writer}", full)
        with pytest.raises(CbtError, match=f"no space left while writing {re.escape(str(tmp_path))}: free some"):
            training.train(ROWS, DEV, CONFIG, tmp_path)
    assert not list(tmp_path.rglob("seal.json")), "nothing half-written passes for whole"
    assert training.train(ROWS, DEV, CONFIG, tmp_path).adapter.exists()


def test_training_stops_early_when_dev_loss_no_longer_falls_and_keeps_the_best(stopped):
    _, result = stopped
    losses = result.dev_losses
    assert len(losses) < 41, "40 steps and the base model would be 41"
    tuned, tokenizer = runs.load_adapter(result.adapter)
    data = templates.encode(DEV, tokenizer, templates.adopt("gemma", tokenizer), 200)
    found = training.mean_nll(tuned, data, training.Collator(tokenizer.pad_token_id))
    assert found == pytest.approx(min(losses[1:]), rel=2e-2)


# ------------------------------------------------------------------------------------------- sampling


def test_samples_come_in_the_order_of_the_prompts_seeded_and_say_when_cut_off(model, tokenizer):
    prompts = ["短", "一个长一些的开头，句子还没有完", "中等的开头"]
    torch.manual_seed(7)
    state = torch.get_rng_state()
    first = sampling.sample(model, tokenizer, prompts, max_new_tokens=6, batch_size=2, seed=1)
    assert torch.equal(torch.get_rng_state(), state), "the caller's random numbers are untouched"
    assert first == sampling.sample(model, tokenizer, prompts, max_new_tokens=6, batch_size=2, seed=1)
    assert first != sampling.sample(model, tokenizer, prompts, max_new_tokens=6, batch_size=2, seed=2)
    swapped = sampling.sample(model, tokenizer, prompts[::-1], max_new_tokens=6, batch_size=2, seed=1)
    assert swapped == first[::-1], "a text depends on its prompt and its seed, not on what else is asked"
    more = sampling.sample(model, tokenizer, prompts, max_new_tokens=6, seed=0, replies=2)
    assert more[3:] == first, "a second reply is that of the next seed"


def greedy(model, tokenizer, prompt, count):
    """What transformers writes after a prompt."""
    ids = torch.tensor([tokenizer(prompt, add_special_tokens=False)["input_ids"]])
    how = {"max_new_tokens": count, "repetition_penalty": 1.1, "do_sample": False, "eos_token_id": None}
    return tokenizer.decode(model.generate(ids, **how)[0, ids.shape[1] :], skip_special_tokens=True).strip()


def test_a_text_beyond_the_window_is_that_of_generate(model, tokenizer):
    prompt = "考试没考好，我很难过。" * 60  # alone in its batch: nothing is padded, no mask is given
    assert len(tokenizer(prompt, add_special_tokens=False)["input_ids"]) > model.config.sliding_window
    (found,) = sampling.sample(model, tokenizer, [prompt], max_new_tokens=8, temperature=0)
    assert found.text == greedy(model, tokenizer, prompt, 8)


def test_texts_that_grow_across_the_window_and_out_of_their_room_are_those_of_generate(model, tokenizer):
    window, count = model.config.sliding_window, sampling.Room.SPARE + 20
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.eos_token = tokenizer.pad_token  # a text that ends early would grow out of nothing
    sentence = "考试没考好，我很难过。" * 60
    rows = [tokenizer(sentence, add_special_tokens=False)["input_ids"][:length] for length in (window - 9, window // 2)]
    prompts = [tokenizer.decode(row) for row in rows]
    assert [tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts] == rows
    found = sampling.sample(model, tokenizer, prompts, max_new_tokens=count, temperature=0)
    for prompt, one in zip(prompts, found, strict=True):
        assert one.truncated and one.text == greedy(model, tokenizer, prompt, count)


@pytest.mark.parametrize("pad", ["own", "the end mark"])
def test_greedy_texts_are_those_of_generate_and_end_where_it_ends(pad, model, tokenizer):
    prompts = ["短", "一个长一些的开头，句子还没有完", "中等的开头"]
    ids = [tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]
    how = {"max_new_tokens": 12, "repetition_penalty": 1.1, "do_sample": False, "eos_token_id": None}
    tails = [model.generate(torch.tensor([row]), **how)[0, len(row) :].tolist() for row in ids]
    stop = [tails[0][4], tails[1][8]]  # so that rows leave their batch at different steps
    if pad == "the end mark":  # as many tokenizers have it: padding must not make the end less likely
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.pad_token_id = stop[0]
    found = sampling.sample(model, tokenizer, prompts, max_new_tokens=12, temperature=0, stop=stop)
    for one, tail in zip(found, tails, strict=True):
        end = next((at for at, token in enumerate(tail) if token in stop), None)
        assert one.truncated == (end is None)
        assert one.text == tokenizer.decode(tail[:end], skip_special_tokens=True).strip()
    assert {one.truncated for one in found[:2]} == {False}
    said = {
        sampling.Sample("好", False): "ok",
        sampling.Sample("好", True): "truncated",
        sampling.Sample("", False): "unparsed",
    }
    assert all(sample.outcome == outcome for sample, outcome in said.items()), "a reply without text is not a letter"


def test_what_prompts_begin_with_is_read_once_and_each_has_its_own_text(model, tokenizer, monkeypatch):
    example = "【帖子】考试没考好，我很难过。【回信】一次考试说明不了你是谁。" * 8
    prompts = [example + post for post in ("【帖子】睡不好", "【帖子】我和同事吵了一架，整晚都在想", "【帖子】睡不着")]
    prompts.append("一个别的开头")
    ids = [tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]
    read, forward = [], model.forward
    monkeypatch.setattr(model, "forward", lambda **how: (read.append(how["input_ids"].numel()), forward(**how))[1])
    found = sampling.sample(model, tokenizer, prompts, max_new_tokens=1, temperature=0, replies=2)
    beginning = len(tokenizer(example, add_special_tokens=False)["input_ids"])
    assert sum(read) <= sum(map(len, ids)) - 2 * (beginning - 1), "two of the three had it read before them"
    monkeypatch.undo()
    assert found == 2 * sampling.sample(model, tokenizer, prompts, max_new_tokens=1, temperature=0)
    for prompt, one in zip(
        prompts, sampling.sample(model, tokenizer, prompts, max_new_tokens=9, temperature=0), strict=True
    ):
        assert one.text == greedy(model, tokenizer, prompt, 9)


def test_prompts_with_ends_of_their_own_end_there(model, tokenizer):
    prompts = ["短", "一个长一些的开头，句子还没有完", "中等的开头"]
    whole = [greedy(model, tokenizer, prompt, 12) for prompt in prompts]
    stops = [[tokenizer(text, add_special_tokens=False)["input_ids"][6]] for text in whole]
    together = sampling.sample(model, tokenizer, prompts, max_new_tokens=12, temperature=0, stop=stops)
    for prompt, text, stop, one in zip(prompts, whole, stops, together, strict=True):
        assert [one] == sampling.sample(model, tokenizer, [prompt], max_new_tokens=12, temperature=0, stop=stop)
        assert text.startswith(one.text) and one.text != text and not one.truncated
    with pytest.raises(ValueError, match="shorter"):
        sampling.sample(model, tokenizer, prompts, stop=stops[:2])


def test_a_model_that_sums_up_what_it_has_read_writes_what_transformers_writes(tokenizer):
    """Layers of linear attention hold one state a row, which no part of another prompt can be taken from."""
    torch.manual_seed(0)
    heads = dict.fromkeys(("head_dim", "linear_key_head_dim", "linear_value_head_dim"), 16)
    config = AutoConfig.for_model(
        "qwen3_5_text", vocab_size=len(tokenizer), layer_types=["linear_attention", "full_attention"],
        num_key_value_heads=1, linear_num_key_heads=2, linear_num_value_heads=2, **heads, **TINY,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).eval()
    prompts = ["短", "一个长一些的开头，句子还没有完", "短", "中等的开头"]
    found = sampling.sample(model, tokenizer, prompts, max_new_tokens=9, temperature=0)
    assert [one.text for one in found] == [greedy(model, tokenizer, prompt, 9) for prompt in prompts]


def test_a_model_that_would_forget_its_prompt_is_refused(tokenizer):
    config = AutoConfig.for_model("mamba", vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1)
    with pytest.raises(CbtError, match="MambaForCausalLM keeps what it has read"):
        sampling.sample(AutoModelForCausalLM.from_config(config), tokenizer, ["短"], max_new_tokens=2)


@settings(max_examples=50)
@given(st.lists(st.floats(-8, 8), min_size=2, max_size=400), st.floats(0.05, 1), st.integers(0, 2**31))
def test_the_next_token_is_drawn_from_the_smallest_likely_set(scores, top_p, seed):
    row = torch.tensor(scores)
    (drawn,) = sampling.draw(row[None], top_p, [torch.Generator().manual_seed(seed)]).tolist()
    likelier = row.double().softmax(0)[row > row[drawn]].sum().item()
    assert likelier < top_p + 1e-5, "the tokens likelier than this one already held that share"


def test_tokens_are_drawn_as_often_as_the_model_says():
    shares = torch.tensor([0.5, 0.3, 0.15, 0.05])
    dice = [torch.Generator().manual_seed(0)] * 4000
    found = sampling.draw(shares.log().expand(4000, 4), 0.9, dice).bincount(minlength=4) / 4000
    assert found[3] == 0, "the three likeliest hold nine tenths already"
    assert torch.allclose(found[:3], shares[:3] / 0.95, atol=0.03)


# ------------------------------------------------------------------------------------------- other backbones, processes

TINY = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.mark.parametrize(
    ("kind", "settings_of", "template", "targets"),
    [
        (LlamaForCausalLM, LlamaConfig, "llama-chinese", "all-linear"),
        (LlamaForCausalLM, LlamaConfig, "alpaca-chinese", "q_proj,v_proj"),
        (Qwen2ForCausalLM, Qwen2Config, "qwen", "all-linear"),
    ],
)
def test_a_random_backbone_goes_the_whole_way(kind, settings_of, template, targets, tokenizer, tmp_path):
    base = tmp_path / "base"
    own = models.load("smoke")[1]
    own.add_special_tokens({"additional_special_tokens": list(templates.TEMPLATES[template].special)})
    kind(settings_of(vocab_size=len(own), num_key_value_heads=2, **TINY)).save_pretrained(base)
    own.save_pretrained(base)
    config = replace(CONFIG, model=str(base), template=template, targets=targets, max_steps=1)
    result = training.train(ROWS[:4], DEV, config, tmp_path / "run")
    tuned, names = runs.load_adapter(result.adapter)
    prompt = templates.render("我很累", templates.adopt(template, names))
    (sample,) = sampling.sample(
        tuned, names, [prompt], max_new_tokens=3, stop=templates.stop_ids(templates.adopt(template, names), names)
    )
    assert isinstance(sample.text, str) and math.isfinite(result.dev_losses[-1])


@pytest.fixture(scope="session")
def alone(tmp_path_factory):
    """One process whose every step covers all eight rows, so that any number of processes sees the same rows in it."""
    out = tmp_path_factory.mktemp("alone")
    return training.train(ROWS, DEV, replace(CONFIG, accumulation=4, max_steps=2, precision="float32"), out)


SHARDED = """
from accelerate import DistributedType, PartialState
from torch.distributed.tensor import DTensor
usual = PartialState.__init__
def as_on_gpus(self, *given, **named):  # accelerate shards only where it believes in GPUs; gloo and FSDP2 do not mind
    usual(self, *given, **named)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU
PartialState.__init__ = as_on_gpus
gathered = runs.gathered
def checked(model):
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters()), "or nothing was sharded"
    return gathered(model)
runs.gathered = checked
"""


@pytest.mark.skipif(os.name == "nt", reason="gloo finds its loopback by name")
@pytest.mark.parametrize("how", ["each with the model", "the model in shards"])
def test_two_processes_give_the_parameters_of_one(how, alone, tmp_path):
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": loopback}
    if how == "the model in shards":
        found = ClusterConfig.from_yaml_file(str(ROOT / "workflow/accelerate/fsdp_8_gpus.yaml")).fsdp_config
        words = {key.upper(): value if isinstance(value, str) else json.dumps(value) for key, value in found.items()}
        environment |= words | {"ACCELERATE_USE_FSDP": "true"}  # as `accelerate launch` does
    script = tmp_path / "two.py"
    script.write_text(f"""
import sys, time
from dataclasses import replace
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_training import CONFIG, DEV, ROWS
from cbtlib import runs, training
{SHARDED if how == "the model in shards" else ""}
config = replace(CONFIG, accumulation=2, max_steps=2, precision="float32")
save = training.AnswerTrainer._save_rng_state
def slow(self, folder):
    time.sleep(2 * self.args.process_index)
    save(self, folder)
training.AnswerTrainer._save_rng_state = slow
training.train(ROWS, DEV, config, {str(tmp_path / "two")!r})
""")
    launch = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    command = [sys.executable, *launch, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    for name in ("adapter", "checkpoints/checkpoint-2"):
        mine = load_file(alone.adapter.parent / name / "adapter_model.safetensors")
        theirs = load_file(tmp_path / "two" / name / "adapter_model.safetensors")
        assert mine.keys() == theirs.keys()
        for key in mine:  # as a whole: Adam makes a step of the sign of a gradient that is nearly zero
            assert (theirs[key] - mine[key]).norm() < 2e-3 * mine[key].norm(), key
    assert runs.read_result(tmp_path / "two").dev_losses == pytest.approx(alone.dev_losses, rel=1e-4)
    seal = json.loads((tmp_path / "two" / "checkpoints" / "checkpoint-2" / "seal.json").read_text("utf-8"))
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= set(seal["files"]), "sealed when the slower one had written too"


def test_the_accelerate_configurations_are_read_by_accelerate_and_say_how_many_gpus_they_are_for():
    for name, count in {"one_gpu": 1, "fsdp_4_gpus": 4, "fsdp_8_gpus": 8}.items():
        found = ClusterConfig.from_yaml_file(str(ROOT / f"workflow/accelerate/{name}.yaml"))
        assert found.num_processes == count
        assert (found.distributed_type == "FSDP") == bool(found.fsdp_config) == (count > 1)
        known = {field.name for field in dataclasses.fields(FullyShardedDataParallelPlugin)}
        assert {key.removeprefix("fsdp_") for key in found.fsdp_config} - {"version"} <= known


def test_the_command_trains_the_smoke_model(tmp_path, monkeypatch):
    rows = tmp_path / "train.jsonl"
    source = (ROOT / "data/corpus/train.jsonl").read_text("utf-8").splitlines()
    rows.write_text("\n".join(source[:4]) + "\n", "utf-8")
    dev = tmp_path / "dev.jsonl"
    dev.write_text("\n".join((ROOT / "data/corpus/dev.jsonl").read_text("utf-8").splitlines()[:2]) + "\n", "utf-8")
    options = ["train", "--profile", "smoke", "--data", str(rows), "--dev", str(dev), "--out", str(tmp_path / "run")]
    options += ["--set", "max_steps=1", "--set", "max_length=2000", "--merge"]
    for _ in range(2):  # the same command again finds everything there
        done = CliRunner().invoke(cli.app, options)
        assert done.exit_code == 0, done.output + str(done.exception)
        assert re.search(r"adapter: dev loss [\d.]+ -> [\d.]+ in", done.output)
    assert (tmp_path / "run/merged/model.safetensors").exists()
    monkeypatch.setenv("RANK", "1")
    done = CliRunner().invoke(cli.app, options)
    assert (done.exit_code, done.output) == (0, ""), "of several processes, the first one speaks"


def test_the_gpu_benchmark_measures_one_task_for_both_peers():
    place = importlib.util.spec_from_file_location("gpu_lora", ROOT / "benchmarks" / "gpu_lora.py")
    benchmark = importlib.util.module_from_spec(place)
    place.loader.exec_module(benchmark)
    ours, trl = (benchmark.measure(peer, 32, 1, checkpointing=False, quick=True) for peer in ("ours", "trl"))
    assert ours["first_loss"] == pytest.approx(trl["first_loss"], rel=1e-4), "same rows, same model, same loss"
    assert ours["last_loss"] == pytest.approx(trl["last_loss"], rel=1e-2)
    assert min(ours["tokens_per_second"], trl["tokens_per_second"]) > 0


def test_a_plan_counts_what_the_run_then_has_and_refuses_what_cannot_fit(finished, monkeypatch):
    _, result = finished
    text = planning.plan(ROWS, DEV, CONFIG)
    assert f"{result.trainable:,} (" in text and "4 of 4 records = 2.00 epochs" in text
    assert re.search(r"about [\d.]+ (seconds|minutes|hours) here: \d+ tokens/s, measured just now on three steps", text)
    assert re.search(r"activations; \d+\.\d GB were really held in the three steps below, Python among them", text)
    assert all(name in text for name in planning.BACKBONES), "the 7B table is under every plan"
    little = planning.psutil.virtual_memory()._replace(total=1000)
    monkeypatch.setattr(planning.psutil, "virtual_memory", lambda: little)
    with pytest.raises(CbtError, match=r"needs about [\d.]+ GB and this machine has 0.0 GB"):
        planning.plan(ROWS, DEV, CONFIG)


def test_the_plan_of_the_four_backbones_says_what_fits_and_what_was_assumed():
    paper = training.PROFILES["paper"]
    fits = planning.backbones(ROWS, paper)
    assert "no" not in fits.split("assumed")[0].split() and "None of them fits" not in fits
    table = planning.backbones(ROWS, replace(paper, gradient_checkpointing=False, batch_size=16))
    assert "None of them fits on one of these GPUs: take" in table
    assert all(name in table for name in planning.BACKBONES) and all(gpu.source in table for gpu in planning.GPUS)
    assert {line.split()[6] for line in table.splitlines() if "V100-32G" in line and "B V100" in line} == {"no"}


def test_a_model_of_the_hub_is_planned_by_its_configuration_or_not_at_all(tmp_path, monkeypatch):
    config, place = replace(CONFIG, model="somebody/model"), tmp_path / "base"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    text = planning.plan(ROWS, DEV, config)
    assert "somebody/model is not on this machine and its configuration cannot be had (cannot load the model" in text
    assert all(name in text for name in planning.BACKBONES)
    assert "/no/such is not on this machine" in planning.plan(ROWS, DEV, replace(CONFIG, model="/no/such"))

    own = models.tokenizer("smoke")
    shape = LlamaConfig(vocab_size=len(own), num_key_value_heads=2, **TINY)
    shape.save_pretrained(place)
    own.save_pretrained(place)
    monkeypatch.setattr(planning, "_is_here", lambda _: False)  # what the hub would send of it stands in a folder
    monkeypatch.setattr(training, "check", lambda *_: None)
    little = planning.psutil.virtual_memory()._replace(total=1000)
    monkeypatch.setattr(planning.psutil, "virtual_memory", lambda: little)
    text = planning.plan(ROWS, DEV, replace(config, model=str(place)))
    assert "parameters, frozen" in text and "not measured: the weights are not on this machine" in text
    assert re.search(r"the run needs about [\d.]+ GB and this machine has 0\.0 GB", text)
    assert all(name in text for name in planning.BACKBONES)
