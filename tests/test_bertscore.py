"""BERTScore: the published formula on tiny random models, each text encoded once, nothing cut in silence."""

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, Gemma3ForCausalLM, Gemma3TextConfig

from cbtlib import CbtError, bertscore
from cbtlib.bertscore import Encoder, match
from cbtlib.surface import Texts

LETTERS = ["我总是搞砸事情", "你说总是，真的每次都是吗", "好", "上个月的报告主管夸过你，这件事也是真的"]


class Characters:
    """A tokenizer with one id for a character and a start token, as a decoder has it."""

    all_special_ids = (1,)

    def __call__(self, text):
        return {"input_ids": [1, *(2 + ord(character) % 90 for character in text)]}


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


def test_what_the_encoder_cannot_take_is_named():
    model = next(models())
    with pytest.raises(CbtError, match="51 tokens is longer than tiny's window of 40"):
        Encoder(model, Characters(), 2, "tiny").encode(["长" * 50])
    with pytest.raises(CbtError, match="layers 1 to 3, and layer 4"):
        Encoder(model, Characters(), 4, "tiny")


def test_nothing_matches_nothing():
    assert match(torch.zeros(0, 4), torch.ones(1, 4)) == 0
