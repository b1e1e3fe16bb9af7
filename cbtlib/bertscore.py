"""BERTScore (Zhang et al. 2020) on any encoder or decoder: greedy cosine matching of contextual tokens.

Notable choices
- Every distinct text is encoded once, in batches of similar length, and only up to the chosen layer.
- The layer is the one that is known to be good for a model of this name (`LAYERS`), or the one you say.
- On an encoder, special tokens are treated as bert-score treats them: they weigh nothing, and other tokens may match
  them. On a decoder they take no part at all: its first token is an attention sink that resembles everything.
- Raw values, not rescaled: there is no published baseline for these encoders. The states of a decoder share a large
  common part, so all values lie close to 1 (and are kept in full precision). Compare systems, not papers.
- A text longer than the model's window is read in windows that overlap by half, each token in the one where it has most
  text around it. Nothing is cut, and the signature counts such texts.
- An empty text scores 0, as everywhere.
"""

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cbtlib import CbtError, embedded, models
from cbtlib.metrics import OWN, Metric
from cbtlib.resampling import Statistics
from cbtlib.surface import Texts

BATCH_TOKENS = 2048  # tokens, padding included, that are encoded at once

LAYERS = {"embedded": 4, "smoke": 1, "bert-base-chinese": 8, "bert-base-multilingual-cased": 9,
          "xlm-roberta-base": 9, "xlm-roberta-large": 17}  # fmt: skip
"""Layers by a model's name without its owner: those that correlate best with human judgement. Of the embedded model we
measured it (`benchmarks/layers.py`, on Chinese pairs that people graded); the others are bert-score 0.3.13's."""


class Encoder:
    """Token states of texts at one layer, which counts transformer blocks from 1; 0 chooses it by the model's name."""

    def __init__(self, model: Any, tokenizer: Any, layer: int, name: str):
        blocks = model.config.num_hidden_layers
        if not layer and (short := name.rstrip("/").rsplit("/", 1)[-1]) not in LAYERS:
            raise CbtError(
                f"no layer is known to be good for {name}: give one of 1 to {blocks} (benchmarks/layers.py compares)"
            )
        layer = layer or LAYERS[short]
        if not 1 <= layer <= blocks:
            raise CbtError(f"{name} has layers 1 to {blocks}, and layer {layer} was asked for")
        self.body, self.tokenizer, self.layer, self.name = model.base_model.eval(), tokenizer, layer, name
        stacks = (part for part in self.body.modules() if isinstance(part, nn.ModuleList) and len(part) == blocks)
        self.blocks: nn.ModuleList = next(stacks)[:layer]
        self.window = min(getattr(part, key, 10**9) for part, key in (
            (model.config, "max_position_embeddings"), (tokenizer, "model_max_length")))  # fmt: skip
        self.bidirectional = getattr(tokenizer, "cls_token_id", None) is not None
        self.tokens: dict[str, list[int]] = {}
        self.states: dict[str, Tensor] = {}
        self.counted: dict[str, Tensor] = {}  # True for a token that has weight, False for a special one
        self.windowed: set[str] = set()

    def encode(self, texts: Sequence[str]) -> None:
        """Fill `tokens`, `states` (tokens, width; unit length) and `counted` for texts not seen before."""
        special = set(self.tokenizer.all_special_ids)
        new = [text for text in dict.fromkeys(texts) if text not in self.states]
        ids = {text: self.tokenizer(text)["input_ids"] for text in new}
        # a tokenizer that drops what it does not know can leave nothing of a text
        pieces = [(text, piece) for text in new if ids[text] for piece in _windows(ids[text], special, self.window)]
        self.windowed |= {text for text in new if len(ids[text]) > self.window}
        found: dict[str, list[tuple[int, Tensor]]] = {text: [] for text in new}
        for batch in _batches(sorted(pieces, key=lambda one: len(one[1].ids)), lambda one: len(one[1].ids)):
            padded = models.batch([piece.ids for _, piece in batch], 0, self.window)
            for (text, piece), state in zip(batch, self._forward(*padded), strict=True):
                found[text].append((piece.start, state[piece.kept].float()))
        for text in new:
            parts = [state for _, state in sorted(found[text], key=lambda one: one[0])]
            states = torch.cat(parts) if parts else torch.zeros(0, self.body.config.hidden_size)
            counted = torch.tensor([token not in special for token in ids[text]], dtype=torch.bool)
            if not self.bidirectional:
                states, counted = states[counted], counted[counted]
            self.tokens[text] = [token for token in ids[text] if self.bidirectional or token not in special]
            self.states[text], self.counted[text] = nn.functional.normalize(states, dim=-1), counted

    @torch.inference_mode()
    def _forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """(batch, width, size) states after the last of `blocks`; the blocks above it are not computed."""
        caught: list[Tensor] = []

        def catch(_module: nn.Module, _inputs: Any, output: Any) -> None:
            caught.append(output[0] if isinstance(output, tuple) else output)
            raise _Enough

        handle = self.blocks[-1].register_forward_hook(catch)
        try:
            device = next(self.body.parameters()).device
            self.body(input_ids=ids.to(device), attention_mask=mask.to(device))
        except _Enough:
            pass
        finally:
            handle.remove()
        return caught[0].cpu()


class _Enough(Exception):
    """The state that was wanted is there."""


@dataclass(frozen=True, slots=True)
class _Window:
    """Token ids that are encoded together, and the places among them whose states are kept: the text's from `start`."""

    ids: list[int]
    kept: slice
    start: int


def _windows(ids: list[int], special: set[int], size: int) -> list[_Window]:
    """A text's ids, whole or in windows of `size` that overlap by half, each with the text's own special tokens."""
    if len(ids) <= size:
        return [_Window(ids, slice(0, len(ids)), 0)]
    plain = [place for place, token in enumerate(ids) if token not in special]
    first, last = plain[0], plain[-1] + 1
    before, body, after = ids[:first], ids[first:last], ids[last:]
    room = size - len(before) - len(after)
    starts = [*range(0, len(body) - room, max(1, room // 2)), len(body) - room]
    # neighbours meet in the middle of what they share; the first keeps the opening tokens, the last the closing ones
    edges = [0, *((left + room + right) // 2 for left, right in itertools.pairwise(starts)), len(body)]
    windows = []
    for number, start in enumerate(starts):
        low, high = edges[number], edges[number + 1]
        opening, closing = number == 0, number == len(starts) - 1
        kept = slice(0 if opening else first + low - start, first + high - start + (len(after) if closing else 0))
        windows.append(_Window([*before, *body[start : start + room], *after], kept, 0 if opening else first + low))
    return windows


def match(hypothesis: Tensor, reference: Tensor, weights: tuple[Tensor, Tensor]) -> float:
    """F1 of greedy matching: (h, size) and (r, size) unit states, weights (h,) and (r,)."""
    if not len(hypothesis) or not len(reference):
        return 0.0
    similarity = hypothesis @ reference.T
    mine, theirs = weights
    # weights can all be 0, when every reference holds every token of a text
    precision = float((similarity.max(dim=1).values * mine).sum() / mine.sum().clamp(min=1e-9))
    recall = float((similarity.max(dim=0).values * theirs).sum() / theirs.sum().clamp(min=1e-9))
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def bertscore(texts: Texts, encoder: Encoder, idf: bool = False) -> Statistics:
    """Mean BERTScore F1; per item the best reference. `idf` weights tokens by rarity among the references."""
    given = [text for one in texts.references for text in one if text is not None]
    read = [*(text for text in texts.hypotheses if text.strip()), *given]
    encoder.encode(read)
    documents = Counter(token for text in given for token in set(encoder.tokens[text]))

    def weights(text: str) -> Tensor:
        if not idf:
            return encoder.counted[text].float()
        rarity = [np.log((len(given) + 1) / (documents[token] + 1)) for token in encoder.tokens[text]]
        return torch.tensor(rarity) * encoder.counted[text]

    values = []
    for item, hypothesis in enumerate(texts.hypotheses):
        best = 0.0
        for one in texts.references if hypothesis.strip() else ():
            reference = one[item]
            if reference is not None:
                both = weights(hypothesis), weights(reference)
                best = max(best, match(encoder.states[hypothesis], encoder.states[reference], both))
        values.append(best)
    cut = len(encoder.windowed.intersection(read))
    return replace(Statistics.mean(values), note=f"in-windows:{cut}" if cut else "")


def metric(encoder: Encoder, idf: bool = False) -> Metric:
    """BERTScore on an encoder as an entry for `metrics.METRICS`."""
    made = f"model:{encoder.name}|layer:{encoder.layer}|idf:{'yes' if idf else 'no'}"
    made += f"|specials:{'matched' if encoder.bidirectional else 'no'}|rescaled:no"
    made += f"|{OWN}|transformers:{version('transformers')}"
    return Metric(lambda texts: bertscore(texts, encoder, idf), made, model=True)


@functools.cache
def encoder(model: str, layer: int = 0) -> Encoder:
    """The encoder of a model ("embedded", a folder, a hub id), loaded once; layer 0 is chosen by its name."""
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    if model not in embedded.NAMES:
        try:
            if "CausalLM" not in str(AutoConfig.from_pretrained(model).architectures):
                return Encoder(AutoModel.from_pretrained(model), AutoTokenizer.from_pretrained(model), layer, model)
        except (OSError, ValueError) as error:
            raise CbtError(f"cannot load the encoder {model!r}: {error}") from error
    return Encoder(*models.load(model), layer, model)


def _batches(rows: Sequence[Any], length: Callable[[Any], int]) -> list[list[Any]]:
    """Cut rows, sorted by length, into batches of at most BATCH_TOKENS padded tokens."""
    batches: list[list[Any]] = []
    for row in rows:
        if not batches or (len(batches[-1]) + 1) * length(row) > BATCH_TOKENS:
            batches.append([])
        batches[-1].append(row)
    return batches
