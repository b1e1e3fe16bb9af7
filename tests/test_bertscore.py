"""BERTScore: bert-score's values on a small fixed model, each text encoded once, nothing cut in silence."""

import itertools
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertConfig, BertModel, Gemma3ForCausalLM, Gemma3TextConfig

from cbtlib import ROOT, CbtError, bertscore, metrics
from cbtlib.bertscore import Encoder, match
from cbtlib.surface import Texts

LETTERS = ["我总是搞砸事情", "你说总是，真的每次都是吗", "好", "上个月的报告主管夸过你，这件事也是真的"]


class Characters:
    """A tokenizer with one id for a character and a start token, as a decoder has it."""

    all_special_ids = (1,)

    def __call__(self, text):
        return {"input_ids": [1, *(2 + ord(character) % 90 for character in text)]}


class BertCharacters:
    """The same as an encoder has it: [CLS] and [SEP] around the characters."""

    all_special_ids = (1, 2)
    cls_token_id = 1

    def __call__(self, text):
        return {"input_ids": [1, *(4 + ord(character) % 90 for character in text), 2]}


def fixed_bert():
    """A small BERT whose weights follow from their places, so that it is the same model everywhere."""
    config = {"vocab_size": 100, "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 3}
    model = BertModel(BertConfig(**config, intermediate_size=32, max_position_embeddings=40))
    with torch.no_grad():
        for number, weight in enumerate(one for one in model.parameters() if one.dim() == 2):
            places = torch.arange(weight.numel(), dtype=torch.float64)
            weight.copy_(torch.frac(torch.sin(places * 12.9898 + number) * 437.5453).reshape(weight.shape))
    return model


@pytest.mark.parametrize(
    ("idf", "published"),
    [
        (False, [0.980342, 0.772279, 0.675306, 0.748432]),
        (True, [0.990483, 0.792994, 0.716308, 0.787404]),
    ],
)
def test_on_an_encoder_the_values_are_those_of_bert_score(idf, published):
    # what bert_cos_score_idf of bert-score 0.3.13 gives for this model, cut to its first two layers, pair by pair (in
    # batches, the padding of bert-score is a token of similarity 0, which beats the negative ones of a random model)
    encoder = Encoder(fixed_bert(), BertCharacters(), 2, "tiny")
    ours = bertscore.bertscore(Texts(LETTERS, [LETTERS[1:] + LETTERS[:1]]), encoder, idf).items
    assert ours == pytest.approx(published, abs=2e-6)


def models():
    torch.manual_seed(0)
    size = {
        "vocab_size": 100,
        "hidden_size": 16,
        "num_attention_heads": 2,
        "num_hidden_layers": 3,
        "intermediate_size": 32,
    }
    yield BertModel(BertConfig(**size, max_position_embeddings=40))
    yield Gemma3ForCausalLM(Gemma3TextConfig(**size, num_key_value_heads=1, head_dim=8, max_position_embeddings=40))


def by_hand(model, hypothesis, reference, layer, weight=lambda token: 1.0):
    """F1 of greedy matching, text by text and token by token, from the model's own list of hidden states."""
    sides = []
    for text in (hypothesis, reference):
        ids = Characters()(text)["input_ids"]
        with torch.inference_mode():
            body = model.base_model.eval()
            states = body(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states[layer][0][1:]
        sides.append([(token, state / state.norm()) for token, state in zip(ids[1:], states, strict=True)])
    means = []
    one, two = sides
    for own, other in ((one, two), (two, one)):
        total = sum(weight(token) * max(float(state @ found) for _, found in other) for token, state in own)
        means.append(total / sum(weight(token) for token, _ in own))
    return 2 * means[0] * means[1] / (means[0] + means[1])


@pytest.mark.parametrize("model", list(models()), ids=lambda model: type(model).__name__)
def test_equal_to_the_formula_computed_by_hand(model):
    encoder = Encoder(model, Characters(), 2, "tiny")
    hypotheses, references = LETTERS, LETTERS[1:] + LETTERS[:1]
    ours = bertscore.bertscore(Texts(hypotheses, [references]), encoder).items
    hand = [by_hand(model, h, r, 2) for h, r in zip(hypotheses, references, strict=True)]
    assert ours == pytest.approx(hand, abs=1e-5)


def test_idf_weights_are_those_of_the_paper():
    model = next(models())
    encoder = Encoder(model, Characters(), 2, "tiny")
    references = LETTERS[1:] + LETTERS[:1]
    documents = [set(Characters()(text)["input_ids"][1:]) for text in references]

    def weight(token):
        return np.log((len(documents) + 1) / (sum(token in one for one in documents) + 1))

    ours = bertscore.bertscore(Texts(LETTERS, [references]), encoder, idf=True).items
    hand = [by_hand(model, h, r, 2, weight) for h, r in zip(LETTERS, references, strict=True)]
    assert ours == pytest.approx(hand, abs=1e-5)


def test_a_text_against_itself_is_one_an_empty_one_is_zero_and_the_best_reference_counts():
    encoder = Encoder(next(models()), Characters(), 3, "tiny")
    values = bertscore.bertscore(
        Texts([LETTERS[0], " ", LETTERS[1]], [LETTERS[:3], [None, None, LETTERS[1]]]), encoder
    ).items
    assert values[0] == pytest.approx(1, abs=1e-5) and values[1] == 0 and values[2] == pytest.approx(1, abs=1e-5)


def test_each_distinct_text_is_encoded_once(monkeypatch):
    encoder = Encoder(next(models()), Characters(), 2, "tiny")
    seen = []
    forward = encoder._forward
    monkeypatch.setattr(encoder, "_forward", lambda ids, mask: seen.append(int(mask.sum())) or forward(ids, mask))
    for _ in range(2):
        bertscore.bertscore(Texts([LETTERS[0]] * 5, [[LETTERS[1]] * 5]), encoder)
    assert sum(seen) == len(LETTERS[0]) + len(LETTERS[1]) + 2


def test_batches_do_not_change_a_value(monkeypatch):
    values = []
    for tokens in (4096, 1):
        monkeypatch.setattr(bertscore, "BATCH_TOKENS", tokens)
        encoder = Encoder(next(models()), Characters(), 2, "tiny")
        values.append(bertscore.bertscore(Texts(LETTERS, [LETTERS[::-1]]), encoder).items)
    assert values[0] == pytest.approx(values[1], abs=1e-5)


@given(st.integers(1, 200), st.integers(8, 40), st.booleans())
def test_windows_keep_every_token_once_and_in_order(length, size, closed):
    special = {1, 2}
    ids = [1, *range(10, 10 + length), *([2] if closed else [])]
    windows = bertscore._windows(ids, special, size)
    assert [token for window in windows for token in window.ids[window.kept]] == ids
    assert all(len(window.ids) <= size and window.ids[0] == 1 for window in windows)
    for before, after in itertools.pairwise(windows):
        assert after.start == before.start + len(before.ids[before.kept])


def test_a_text_longer_than_the_window_is_read_whole_and_counted():
    encoder = Encoder(fixed_bert(), BertCharacters(), 2, "tiny")
    long = "这封信比窗口长得多，" * 12
    measured = bertscore.bertscore(Texts([long, LETTERS[0]], [[long, LETTERS[0]]]), encoder)
    assert measured.items == pytest.approx([1, 1], abs=1e-5) and measured.note == "in-windows:1"
    assert len(encoder.tokens[long]) == len(long) + 2
    metrics.METRICS["tiny"] = bertscore.metric(encoder)
    try:
        assert "|in-windows:1|" in metrics.score([long], [[LETTERS[1]]], metrics=["tiny"])[0].signature
        assert "in-windows" not in metrics.score(LETTERS[:1], [LETTERS[1:2]], metrics=["tiny"])[0].signature
    finally:
        del metrics.METRICS["tiny"]


def test_a_layer_comes_by_name_or_by_number():
    model = fixed_bert()
    with pytest.raises(CbtError, match="layers 1 to 3, and layer 4"):
        Encoder(model, BertCharacters(), 4, "tiny")
    with pytest.raises(CbtError, match="no layer is known to be good for me/unheard-of: give one of 1 to 3"):
        Encoder(model, BertCharacters(), 0, "me/unheard-of")
    assert Encoder(model, BertCharacters(), 0, "me/smoke").layer == bertscore.LAYERS["smoke"]


def test_an_encoder_in_a_folder_is_loaded_as_one(tmp_path):
    fixed_bert().save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"我很累好"]), "utf-8")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}', "utf-8")
    encoder = bertscore.encoder(str(tmp_path), 2)
    assert encoder.bidirectional and "specials:matched" in bertscore.metric(encoder).signature
    assert bertscore.bertscore(Texts(["我很累"], [["我很累"]]), encoder).value == pytest.approx(1, abs=1e-5)
    with pytest.raises(CbtError, match="cannot load"):
        bertscore.encoder(str(tmp_path / "nowhere"), 2)


def test_a_text_without_a_token_matches_nothing():
    class Words(Characters):
        """A tokenizer that drops what it does not know, and adds no special token."""

        all_special_ids = ()

        def __call__(self, text):
            return {"input_ids": [2 + ord(character) % 90 for character in text if character.isalpha()]}

    encoder = Encoder(list(models())[1], Words(), 2, "tiny")
    assert bertscore.bertscore(Texts(["，。", LETTERS[0]], [[LETTERS[0], "？"]]), encoder).items.tolist() == [0, 0]


def test_nothing_matches_nothing():
    assert match(torch.zeros(0, 4), torch.ones(1, 4), (torch.zeros(0), torch.ones(1))) == 0


def test_the_embedded_models_layer_is_the_one_that_people_agree_with_most():
    """Chosen on the first file; on the second it is at least better than what knows no meaning."""
    chosen, other = json.loads((ROOT / "data/layers.json").read_text("utf-8"))["files"]
    curve = {one["layer"]: one["spearman"] for one in chosen["layers"]}
    assert bertscore.LAYERS["embedded"] == max(curve, key=curve.get)
    assert other["layers"][bertscore.LAYERS["embedded"] - 1]["spearman"] > other["chrf"]["spearman"]
    source = (ROOT / "notebooks/05_evaluation.py").read_text("utf-8")
    assert f"bertscore_layer: int = {bertscore.LAYERS['embedded']} " in source
    assert f"|layer:{bertscore.LAYERS['embedded']}|" in metrics.METRICS["bertscore"].signature
