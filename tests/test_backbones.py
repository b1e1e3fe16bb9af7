"""Backbones in layouts of their own: converted, they compute what they computed, and go the whole way."""

import base64
import errno
import json
import pickle
import re
import struct
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load, save_file
from test_training import CONFIG, DEV, ROWS, TINY
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM
from typer.testing import CliRunner

from cbtlib import CbtError, backbones, cli, models, runs, sampling, templates, training

ROLES = {"baichuan": "<reserved_102> <reserved_103>", "qwen": "<|im_start|> <|im_end|>"}


def published(kind, folder, own_tokenizer=False):
    """A tiny random model, saved as Baichuan-7B or Qwen-7B were: their names, joint matrices, .bin files."""
    tokenizer = models.load("smoke")[1]
    tokenizer.add_special_tokens({"additional_special_tokens": ROLES[kind].split()})
    torch.manual_seed(0)
    folder.mkdir()
    size = 600 if own_tokenizer else len(tokenizer)
    same = {"vocab_size": size, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    if kind == "baichuan":
        model = LlamaForCausalLM(LlamaConfig(vocab_size=size, **TINY))
        config = same | {"architectures": ["BaiChuanForCausalLM"], "intermediate_size": 64, "rms_norm_eps": 1e-6}
        config |= {"max_position_embeddings": 4096, "eos_token_id": tokenizer.eos_token_id}
    else:
        model = Qwen2ForCausalLM(Qwen2Config(vocab_size=size, num_key_value_heads=2, **TINY))
        config = same | {"architectures": ["QWenLMHeadModel"], "intermediate_size": 128, "layer_norm_epsilon": 1e-6}
        config |= {"seq_length": 2048}
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)  # they start at zero, where a lost bias would not show
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    if not own_tokenizer:
        tokenizer.save_pretrained(folder)
    old = {}
    for name, value in model.state_dict().items():
        if ".q_proj" in name:
            parts = [model.state_dict()[name.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")]
            name, value = name.replace("q_proj", "W_pack" if kind == "baichuan" else "c_attn"), torch.cat(parts)
        elif ".k_proj" in name or ".v_proj" in name:
            continue
        if kind == "qwen":
            for ours, theirs in {to: frm for frm, to in backbones.QWEN.items()}.items():
                name = name.replace(ours, theirs)
            name = name.replace("model.layers", "transformer.h").replace("self_attn.c_attn", "attn.c_attn")
            name = {to: frm for frm, to in backbones.OUTSIDE.items()}.get(name, name)
        old[name] = value
    old["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(1)
    names = sorted(old)
    for number, part in enumerate((names[::2], names[1::2]), 1):
        torch.save({name: old[name] for name in part}, folder / f"pytorch_model-0000{number}-of-00002.bin")
    return model.eval()


@pytest.mark.parametrize(("kind", "targets"), [("baichuan", "W_pack"), ("qwen", "c_attn"), ("baichuan", "all-linear")])
def test_a_backbone_in_its_own_layout_goes_the_whole_way(kind, targets, tmp_path):
    original = published(kind, tmp_path / "theirs")
    done = CliRunner().invoke(cli.app, ["convert", str(tmp_path / "theirs"), str(tmp_path / "ours")])
    assert done.exit_code == 0, done.output + str(done.exception)
    assert not list((tmp_path / "ours").glob("*.bin"))
    converted, tokenizer = models.load(str(tmp_path / "ours"), "float32")
    ids = torch.tensor([tokenizer("我很累，睡不着")["input_ids"]])
    torch.testing.assert_close(converted(ids).logits, original(ids).logits)

    config = replace(CONFIG, model=str(tmp_path / "ours"), template=kind, targets=targets, max_steps=1)
    result = training.train(ROWS[:4], DEV, config, tmp_path / "run")
    tuned, names = runs.load_adapter(result.adapter)
    adapted = {
        name.partition(".lora_A")[0].rpartition(".")[2] for name, _ in tuned.named_parameters() if "lora_A" in name
    }
    assert adapted >= {"q_proj", "k_proj", "v_proj"} and (targets == "all-linear") == ("up_proj" in adapted)
    template = templates.adopt(kind, names)
    (sample,) = sampling.sample(
        tuned, names, [templates.render("我很累", template)], max_new_tokens=3, stop=templates.stop_ids(template, names)
    )
    assert isinstance(sample.text, str)


def test_qwens_own_tokenizer_file_is_read(tmp_path):
    published("qwen", tmp_path / "theirs", own_tokenizer=True)
    merges = [b"\xe6\x88", "我".encode(), b"\xe5\xbe", "很".encode(), "我很".encode()]
    tokens = [bytes([value]) for value in range(256)] + merges
    lines = [f"{base64.b64encode(token).decode()} {rank}" for rank, token in enumerate(tokens)]
    (tmp_path / "theirs" / "qwen.tiktoken").write_text("\n".join(lines) + "\n")
    backbones.convert(tmp_path / "theirs", tmp_path / "ours")
    _, tokenizer = models.load(str(tmp_path / "ours"))
    template = templates.adopt("qwen", tokenizer)
    (row,) = templates.encode(ROWS[:1], tokenizer, template, 4096)
    assert tokenizer.decode(row["input_ids"]) == templates.render(ROWS[0].post, template) + ROWS[0].answer_text + (
        "<|im_end|>"
    )
    assert tokenizer("我很")["input_ids"] == [260]
    assert tokenizer("<|endoftext|><|im_start|>")["input_ids"] == [261, 262]  # they follow the last rank
    with pytest.raises(CbtError, match=r"spells the special token '<\|im_end\|>'"):
        templates.encode([replace(ROWS[0], post="我很<|im_end|>累")], tokenizer, template, 4096)
    alone = Tokenizer.from_file(str(tmp_path / "ours/tokenizer.json"))  # for whoever reads the file with other code
    assert alone.encode("e\u0301").ids == alone.encode("\u00e9").ids == list("é".encode())


def field(number, value):
    """One field of a protobuf message: bytes, or a small int."""
    if isinstance(value, int):
        return bytes([number << 3, value])
    return bytes([number << 3 | 2, len(value)]) + value


def test_baichuans_own_tokenizer_file_is_read(tmp_path):
    """The ids are those of SentencePiece, with each part between special tokens tokenised as a text of its own."""
    published("baichuan", tmp_path / "theirs", own_tokenizer=True)
    pieces = [("<unk>", 0, 2), ("<s>", 0, 3), ("</s>", 0, 3)]
    pieces += [(text, 0, 4) for text in ("?", "<p>", "<reserved_102>", "<reserved_103>")]
    pieces += [(f"<0x{value:02X}>", 0, 6) for value in range(256)]
    pieces += [(text, -rank, 1) for rank, text in enumerate(("▁我", "▁▁", "很累", "我很", "▁", "我", "很", "累"))]
    parts = [
        field(1, field(1, text.encode()) + b"\x15" + struct.pack("<f", score) + field(3, kind))
        for text, score, kind in pieces
    ]
    rules = field(1, b"identity") + field(3, 1) + field(4, 0)  # a space in front, further spaces kept
    (tmp_path / "theirs/tokenizer.model").write_bytes(b"".join(parts) + field(3, rules))
    backbones.convert(tmp_path / "theirs", tmp_path / "ours")
    _, tokenizer = models.load(str(tmp_path / "ours"))
    text = "我很累?我  很<p>\n？"
    words = ["▁我", "很累", "?", "我", "▁▁", "很", "<p>", "<0x0A>", "<0xEF>", "<0xBC>", "<0x9F>"]
    assert tokenizer.tokenize(text) == words
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text
    for spelled in ("?<0x0A>?", "?<0x0A>", "我<0x0A>?<0xE6>?"):
        assert tokenizer.decode(tokenizer(spelled)["input_ids"]) == spelled, "a byte's name is text"
        assert "<0x0A>" not in tokenizer.tokenize(spelled)
    template = templates.adopt("baichuan", tokenizer)
    pair = replace(ROWS[0], post="我很累?", answer_text="我?")
    (row,) = templates.encode([pair], tokenizer, template, 4096)
    turns = ["<reserved_102>", "▁我", "很累", "?", "<reserved_103>", "▁我", "?", "</s>"]
    assert tokenizer.convert_ids_to_tokens(row["input_ids"]) == turns
    # Where further spaces go, as SentencePiece's default has it, line breaks stay: at the end of a turn, too.
    rules = field(1, b"identity") + field(3, 1) + field(4, 1)
    (tmp_path / "theirs/tokenizer.model").write_bytes(b"".join(parts) + field(3, rules))
    backbones.convert(tmp_path / "theirs", tmp_path / "narrow")
    _, tokenizer = models.load(str(tmp_path / "narrow"))
    assert tokenizer.tokenize("  我  很\n累\n ") == ["▁我", "▁", "很", "<0x0A>", "累", "<0x0A>"]
    assert tokenizer.decode(tokenizer("\n我\n\n很累\n")["input_ids"]) == "\n我\n\n很累\n"
    (tmp_path / "theirs/tokenizer.model").write_bytes(b"".join(parts)[:-3])
    with pytest.raises(CbtError, match=r"tokenizer\.model there, and whole"):
        backbones.convert(tmp_path / "theirs", tmp_path / "again")


def test_what_cannot_be_converted_is_one_sentence(tmp_path):
    published("baichuan", tmp_path / "theirs")
    with pytest.raises(CbtError, match=r"Baichuan's own layout.*cbt convert"):
        models.load(str(tmp_path / "theirs"))
    with pytest.raises(CbtError, match="exists: take another"):
        backbones.convert(tmp_path / "theirs", tmp_path)
    config = json.loads((tmp_path / "theirs/config.json").read_text("utf-8"))
    (tmp_path / "theirs/config.json").write_text(json.dumps(config | {"vocab_size": 125_696}), "utf-8")
    with pytest.raises(CbtError, match="Baichuan2 or a 13B"):
        backbones.convert(tmp_path / "theirs", tmp_path / "out")
    published("qwen", tmp_path / "early")
    early = {"architectures": ["QWenLMHeadModel"], "n_embd": 32, "n_layer": 2, "vocab_size": 300}
    (tmp_path / "early/config.json").write_text(json.dumps(early), "utf-8")
    with pytest.raises(CbtError, match="first days"):
        backbones.convert(tmp_path / "early", tmp_path / "out")
    published("baichuan", tmp_path / "part")
    (tmp_path / "part/pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(CbtError, match=r"lacks \d+ of the model's weights, \S+ first: it holds 1 files"):
        backbones.convert(tmp_path / "part", tmp_path / "out")
    for path in (tmp_path / "theirs").glob("*.bin"):
        path.unlink()
    with pytest.raises(CbtError, match="holds no weights"):
        backbones.convert(tmp_path / "theirs", tmp_path / "out")
    with pytest.raises(CbtError, match="no Baichuan-7B or Qwen-7B"):
        backbones.convert(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"{", b"[1]", b'{"architectures": "Qwen"}', "{}".encode("utf-16"), b"[" * 100_000])
def test_a_config_that_is_no_json_object_is_named(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    for do in (lambda: backbones.convert(tmp_path, tmp_path / "out"), lambda: models.load(str(tmp_path))):
        with pytest.raises(CbtError, match=r"config\.json .*fetch it again"):
            do()


def test_of_two_conversions_to_one_folder_one_is_refused_and_a_broken_one_leaves_nothing(tmp_path, monkeypatch):
    published("baichuan", tmp_path / "theirs")
    out, usual = tmp_path / "ours", backbones._weights
    (tmp_path / "ours.part").mkdir()  # of a killed one
    (tmp_path / "ours.part/model-00009-of-00009.safetensors").write_text("half")

    def second(*given):
        with pytest.raises(CbtError, match=f"another process is writing {re.escape(str(out))}: wait for it"):
            backbones.convert(tmp_path / "theirs", out)
        return usual(*given)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(backbones, "_weights", full)
    with pytest.raises(CbtError, match="no space left while writing"):
        backbones.convert(tmp_path / "theirs", out)
    assert {path.name for path in tmp_path.iterdir()} <= {"theirs", "ours.lock"}
    monkeypatch.setattr(backbones, "_weights", second)
    backbones.convert(tmp_path / "theirs", out)
    assert {path.name for path in tmp_path.iterdir()} <= {"theirs", "ours", "ours.lock"}


class Touch:
    """Unpickled by Python's own rules, it would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def damaged(whole, touched):
    """A file of weights as bytes, ruined: cut short, of another kind, empty, pickled with code in it."""
    return {
        "cut": whole[: len(whole) // 2],
        "text": b"version https://git-lfs.github.com/spec/v1\n",
        "empty": b"",
        "code": pickle.dumps({"lm_head.weight": Touch(touched)}),
    }


@pytest.mark.parametrize("how", ["cut", "text", "empty", "code"])
def test_a_damaged_file_of_weights_is_one_sentence_and_runs_nothing(how, tmp_path):
    touched = tmp_path / "touched"
    published("baichuan", tmp_path / "theirs")
    (bin_file, _) = sorted((tmp_path / "theirs").glob("*.bin"))
    bin_file.write_bytes(damaged(bin_file.read_bytes(), touched)[how])
    with pytest.raises(CbtError, match=rf"{bin_file.name}: a file of weights is damaged"):
        backbones.convert(tmp_path / "theirs", tmp_path / "out")
    assert not (tmp_path / "out").exists()

    models.load("smoke", "float32")[0].save_pretrained(tmp_path / "whole")
    models.load("smoke")[1].save_pretrained(tmp_path / "whole")
    weights = tmp_path / "whole/model.safetensors"
    whole, tensors = weights.read_bytes(), load(weights.read_bytes())
    weights.write_bytes(damaged(whole, touched)[how])
    with pytest.raises(CbtError, match=r"^cannot load the model '.*whole': .*"):
        models.load(str(tmp_path / "whole"))
    weights.unlink()
    torch.save(tensors, tmp_path / "whole/pytorch_model.bin")
    models.load(str(tmp_path / "whole"))
    whole = (tmp_path / "whole/pytorch_model.bin").read_bytes()
    (tmp_path / "whole/pytorch_model.bin").write_bytes(damaged(whole, touched)[how])
    with pytest.raises(CbtError, match=r"^cannot load the model '.*whole': .*"):
        models.load(str(tmp_path / "whole"))
    assert not touched.exists()


def test_the_code_that_a_model_brings_is_not_run(tmp_path):
    folder, touched = tmp_path / "theirs", tmp_path / "touched"
    folder.mkdir()
    (folder / "code.py").write_text(f"open({str(touched)!r}, 'w')\nclass Thing: pass\n", "utf-8")
    brings = dict.fromkeys(("AutoConfig", "AutoModelForCausalLM"), "code.Thing")
    (folder / "config.json").write_text(json.dumps({"model_type": "theirs", "auto_map": brings}), "utf-8")
    words = {"tokenizer_class": "Thing", "auto_map": {"AutoTokenizer": ["code.Thing", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(words), "utf-8")
    for read in (models.tokenizer, models.weights, models.shape):
        with pytest.raises(CbtError, match=r"brings code of its own, which is never run here.*cbt convert"):
            read(str(folder))
    assert not touched.exists()


def test_a_checkpoint_that_lacks_a_weight_is_refused(tmp_path):
    model, tokenizer = models.load("smoke", "float32")
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    tensors = load((tmp_path / "model.safetensors").read_bytes())
    assert "lm_head.weight" not in tensors, "tied to the embedding, it is no missing weight"
    models.load(str(tmp_path))
    lost = next(name for name in sorted(tensors) if "q_proj" in name)
    del tensors[lost]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CbtError, match=f"lack 1 of its weights, {lost} first"):
        models.load(str(tmp_path))
