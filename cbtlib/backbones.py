"""The paper's backbones in the layouts that transformers itself knows: Baichuan-7B as Llama, Qwen-7B as Qwen2.

Both were published with model code of their own, written for an older transformers. The arithmetic is that of Llama
and Qwen2; only names differ, and that query, key and value are one matrix. Notable choices:

- Qwen's own code bends positions and queries (dynamic NTK, log n) in texts beyond its `seq_length`; up to there it does
  nothing of the kind, and `seq_length` is the longest text that the converted model declares.
- Nothing of the model's own code is run, and `.bin` weights are read as tensors only (`weights_only`).
- The names of the written weights are compared with those of the model: a missing file would become random numbers.
- One file of weights at a time, in its own precision: a 7B model needs the memory of its largest file.
- The folder appears whole or not at all. LLaMA- and Alpaca-Chinese are Llama already and need none of this.
- `W_pack` (Baichuan) and `c_attn` (Qwen), the names of the joint matrix in other people's configurations, stand for
  q_proj, k_proj and v_proj afterwards. LoRA then has an A for each of the three instead of one for all.
"""

import base64
import json
import pickle
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from cbtlib import CbtError, cache, progress

PACKED = dict.fromkeys(("W_pack", "c_attn"), ("q_proj", "k_proj", "v_proj"))
"""Names of joint matrices, and what they are called once they are apart."""

DAMAGED = (SafetensorError, pickle.UnpicklingError, EOFError)
"""What reading a file of weights raises that ends early, is another kind of file, or holds more than tensors; a damaged
archive of PyTorch is a RuntimeError."""
DAMAGE = "a file of weights is damaged or holds more than tensors: fetch it again"


def layout(folder: Path) -> str:
    """ "baichuan" or "qwen" when a model folder needs `convert`, "" when transformers loads it as it is."""
    name = str((_config(folder).get("architectures") or [""])[0]).lower()
    return {"baichuanforcausallm": "baichuan", "qwenlmheadmodel": "qwen"}.get(name, "")


def weight_files(folder: Path) -> list[Path]:
    """The files of weights in a model folder: safetensors, or else PyTorch's."""
    return sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))


def _config(folder: Path) -> dict[str, Any]:
    """The config.json of a model folder; empty where there is none."""
    place = folder / "config.json"
    if not place.exists():
        return {}
    try:
        config = json.loads(place.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise CbtError(f"{place} cannot be read as JSON in UTF-8 ({error}): fetch it again") from None
    if not isinstance(config, dict) or not isinstance(config.get("architectures") or [], list):
        raise CbtError(f"{place} holds no settings of a model, whose architectures are a list: fetch it again")
    return config


def convert(folder: Path | str, out: Path | str) -> Path:
    """Write the Baichuan-7B or Qwen-7B checkpoint of `folder` to `out` as Llama or Qwen2: safetensors and tokenizer.

    Raises CbtError when the layout is another one, a file or weight is missing or damaged, or `out` exists.
    """
    folder, out = Path(folder), Path(out)
    kind = layout(folder)
    if not kind:
        raise CbtError(
            f"{folder} is no Baichuan-7B or Qwen-7B in its own layout: if transformers loads it, train on it"
        )
    files = weight_files(folder)
    if not files:
        raise CbtError(f"the model folder {folder} holds no weights (*.safetensors, pytorch_model*.bin)")
    published = _config(folder)
    settings, rename = {"baichuan": (_llama, _from_baichuan), "qwen": (_qwen2, _from_qwen)}[kind]
    with cache.folder(out) as place:
        config = settings(published, folder)
        config.save_pretrained(place)
        _tokenizer(kind, folder).save_pretrained(place)
        missing = sorted(_names(config) - _weights(files, rename, place))
        if missing:
            raise CbtError(
                f"{folder} lacks {len(missing)} of the model's weights, {missing[0]} first: it holds {len(files)} "
                "files of them; fetch the others"
            )
    return out


def _names(config: Any) -> set[str]:
    """What the weights of a model are called; nothing is allocated."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return set(AutoModelForCausalLM.from_config(config).state_dict())


def _weights(files: list[Path], rename: Callable[[str, Tensor], Iterator[tuple[str, Tensor]]], place: Path) -> set[str]:
    """Write each file's weights under their new names, and an index; returns the names."""
    import torch
    from safetensors.torch import load_file, save_file

    index: dict[str, str] = {}
    for number, path in enumerate(progress.bar(files, desc="converting", unit="file"), 1):
        try:
            held = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
        except (*DAMAGED, RuntimeError) as error:
            raise CbtError(f"{path}: {DAMAGE} ({type(error).__name__})") from error
        tensors = {to: value.contiguous() for name, old in held.items() for to, value in rename(name, old)}
        to = f"model-{number:05}-of-{len(files):05}.safetensors"
        save_file(tensors, place / to, metadata={"format": "pt"})
        index |= dict.fromkeys(tensors, to)
    text = json.dumps({"metadata": {}, "weight_map": index}, indent=1)
    (place / "model.safetensors.index.json").write_text(text, encoding="utf-8")
    return set(index)


# ------------------------------------------------------------------------------------------- Baichuan-7B


def _llama(config: dict[str, Any], folder: Path) -> Any:
    from transformers import LlamaConfig

    if "max_position_embeddings" not in config or config["vocab_size"] == 125_696:
        raise CbtError(f"{folder} is Baichuan2 or a 13B: neither is Llama in other names; Baichuan-7B is")
    same = (
        "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads rms_norm_eps "
        "max_position_embeddings bos_token_id eos_token_id pad_token_id"
    )
    return LlamaConfig(
        **{key: config[key] for key in same.split() if key in config}, architectures=["LlamaForCausalLM"]
    )


def _from_baichuan(name: str, value: Tensor) -> Iterator[tuple[str, Tensor]]:
    if "W_pack" in name:
        yield from ((name.replace("W_pack", part), third) for part, third in _apart("W_pack", value))
    elif not name.endswith("rotary_emb.inv_freq"):
        yield name, value


# ------------------------------------------------------------------------------------------- Qwen-7B


def _qwen2(config: dict[str, Any], folder: Path) -> Any:
    from transformers import Qwen2Config

    if "hidden_size" not in config:
        raise CbtError(f"{folder} has the config.json of Qwen-7B's first days (n_embd, n_layer): take today's")
    return Qwen2Config(
        vocab_size=config["vocab_size"],
        hidden_size=config["hidden_size"],
        intermediate_size=config["intermediate_size"] // 2,  # Qwen counts gate and value together
        num_hidden_layers=config["num_hidden_layers"],
        num_attention_heads=config["num_attention_heads"],
        num_key_value_heads=config["num_attention_heads"],
        max_position_embeddings=config["seq_length"],
        rms_norm_eps=config["layer_norm_epsilon"],
        rope_parameters={"rope_type": "default", "rope_theta": config.get("rotary_emb_base", 10_000)},
        tie_word_embeddings=False,
        architectures=["Qwen2ForCausalLM"],
    )


QWEN = {
    "attn.c_proj": "self_attn.o_proj",
    "mlp.w1": "mlp.up_proj",
    "mlp.w2": "mlp.gate_proj",  # the one that goes through SiLU
    "mlp.c_proj": "mlp.down_proj",
    "ln_1": "input_layernorm",
    "ln_2": "post_attention_layernorm",
}
OUTSIDE = {"transformer.wte.weight": "model.embed_tokens.weight", "transformer.ln_f.weight": "model.norm.weight"}


def _from_qwen(name: str, value: Tensor) -> Iterator[tuple[str, Tensor]]:
    inside = re.fullmatch(r"transformer\.h\.(\d+)\.(.+)\.(weight|bias)", name)
    if not inside:
        if "rotary_emb" not in name:
            yield OUTSIDE.get(name, name), value
        return
    layer, part, what = inside.groups()
    if part == "attn.c_attn":
        yield from ((f"model.layers.{layer}.self_attn.{to}.{what}", third) for to, third in _apart("c_attn", value))
    else:
        yield f"model.layers.{layer}.{QWEN[part]}.{what}", value


def _apart(name: str, value: Tensor) -> Iterator[tuple[str, Tensor]]:
    return zip(PACKED[name], value.chunk(3), strict=True)


# ------------------------------------------------------------------------------------------- tokenizers


def _tokenizer(kind: str, folder: Path) -> Any:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    own = folder / {"baichuan": "tokenizer.model", "qwen": "qwen.tiktoken"}[kind]
    try:
        if own.exists():
            return _from_sentencepiece(own) if kind == "baichuan" else _from_tiktoken(own)
        if (folder / "tokenizer.json").exists():
            return PreTrainedTokenizerFast.from_pretrained(folder)
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, ImportError, TypeError, LookupError, struct.error) as error:
        raise CbtError(
            f"the tokenizer of {folder} cannot be read ({str(error).splitlines()[0]}): is its {own.name} there, "
            "and whole?"
        ) from error


def _from_tiktoken(path: Path) -> Any:
    """Qwen's byte-level BPE: a line a token (base64, rank). What is not in the file: text is brought into NFC first,
    the pattern that splits it, and the special tokens, whose ids follow the last rank. No BOS, and no EOS of its own:
    `<|endoftext|>` ends a document."""
    from tokenizers import normalizers
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import TikTokenConverter

    class Converter(TikTokenConverter):
        @staticmethod
        def load_tiktoken_bpe(tiktoken_url: str) -> dict[bytes, int]:
            lines = (line.split() for line in Path(tiktoken_url).read_bytes().splitlines() if line)
            return {base64.b64decode(token): int(rank) for token, rank in lines}

    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
        r"\s+(?!\S)|\s+"
    )
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{number}|>" for number in range(205))]
    converted = Converter(vocab_file=str(path), pattern=pattern, extra_special_tokens=special).converted()
    converted.normalizer = normalizers.NFC()
    return PreTrainedTokenizerFast(tokenizer_object=converted, eos_token="<|endoftext|>", pad_token="<|endoftext|>")


NORMAL, UNKNOWN, CONTROL, USER = 1, 2, 3, 4
"""Types of pieces in a SentencePiece model."""


def _from_sentencepiece(path: Path) -> Any:
    """Baichuan's SentencePiece BPE with byte fallback; neither BOS nor EOS is added.

    Read here, not by LlamaTokenizer, which differs in two ways. Baichuan's file has user-defined symbols, to judge by
    the ids "?" among them (81, where the reserved ones begin at 93), and LlamaTokenizer takes each for a special token,
    which no record may spell. And a text gets a space in front, as the file asks. A text begins anew behind a special
    token, be it `</s>` or a reserved one that stands for a role (Baichuan-13B-Chat and LLaMA-Factory tokenise each turn
    by itself), but not behind a question mark.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from transformers.tokenization_utils_base import generate_merges

    model = _fields(path.read_bytes())
    pieces = []  # (text, score, type)
    for piece in map(_fields, model[1]):
        score = struct.unpack("<f", piece[2][0])[0] if 2 in piece else 0.0
        pieces.append((piece[1][0].decode("utf-8"), score, piece.get(3, [NORMAL])[0]))
    text_rules = _fields(model[3][0]) if 3 in model else {}
    vocabulary = {text: number for number, (text, _, _) in enumerate(pieces)}
    merges = generate_merges(vocabulary, {text: score for text, score, kind in pieces if kind == NORMAL})
    special = [
        text
        for text, _, kind in pieces
        if kind in (UNKNOWN, CONTROL) or (kind == USER and re.fullmatch(r"<reserved_\d+>", text))
    ]
    symbols = sorted((text for text, _, kind in pieces if kind == USER and text not in special), key=len, reverse=True)

    tokenizer = Tokenizer(models.BPE(vocabulary, merges, fuse_unk=True, byte_fallback=True, ignore_merges=True))
    steps: list[Any] = [normalizers.Precompiled(text_rules[2][0])] if text_rules.get(2, [b""])[0] else []
    if text_rules.get(4, [1])[0]:  # extra spaces go; a line break is none
        steps += [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if text_rules.get(3, [1])[0]:
        steps.append(normalizers.Prepend("▁"))
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    splits = []
    if symbols:
        either = "|".join("".join(f"\\x{{{ord(char):x}}}" for char in text) for text in symbols)
        splits.append(pre_tokenizers.Split(Regex(either), "isolated"))
    # With `ignore_merges`, which finds the symbols, a part of a text that spells a byte's token would become that byte.
    splits.append(pre_tokenizers.Split(Regex(r"\A<(?=0x[0-9A-F]{2}>\z)"), "isolated"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splits)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", add_bos_token=False
    )


def _fields(data: bytes) -> dict[int, list[Any]]:
    """The fields of a protobuf message by number: an int for a varint, bytes for anything else."""
    found: dict[int, list[Any]] = {}
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        key = varint()
        if key & 7 == 0:
            value: Any = varint()
        else:
            size = {1: 8, 5: 4}.get(key & 7) or varint()
            value = data[at : at + size]
            if len(value) < size:
                raise ValueError("the file ends too early")
            at += size
        found.setdefault(key >> 3, []).append(value)
    return found
