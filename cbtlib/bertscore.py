"""BERTScore (Zhang et al. 2020) on any encoder or decoder: greedy cosine matching of contextual tokens.

Notable choices
- Every distinct text is encoded once, in batches of similar length, and only up to the chosen layer.
- Special tokens are encoded but neither matched nor counted: a decoder's first token is an attention sink whose state
  resembles everything. (bert-score gives them weight 0, but lets other tokens match them.)
- Raw values, not rescaled: there is no published baseline for these encoders. The states of a decoder share a large
  common part, so all values lie close to 1 (and are kept in full precision). Compare systems, not papers.
- A text longer than the encoder's window is an error that names it; nothing is cut.
- An empty text scores 0, as everywhere.
"""

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cbtlib import CbtError
from cbtlib.metrics import Metric
from cbtlib.resampling import Statistics
from cbtlib.surface import Texts

BATCH_TOKENS = 4096  # tokens, padding included, that are encoded at once


class Encoder:
    """Token states of texts at one layer. `layer` counts transformer blocks from 1."""

    def __init__(self, model: Any, tokenizer: Any, layer: int, name: str):
        blocks = model.config.num_hidden_layers
        if not 1 <= layer <= blocks:
            raise CbtError(f"{name} has layers 1 to {blocks}, and layer {layer} was asked for")
        self.body, self.tokenizer, self.layer, self.name = model.base_model.eval(), tokenizer, layer, name
        stacks = (part for part in self.body.modules() if isinstance(part, nn.ModuleList) and len(part) == blocks)
        self.block: nn.Module = next(stacks)[layer - 1]
        self.window = getattr(model.config, "max_position_embeddings", 10**9)
        self.tokens: dict[str, list[int]] = {}
        self.states: dict[str, Tensor] = {}

    def encode(self, texts: Sequence[str]) -> None:
        """Fill `tokens` and `states` (tokens, width; unit length) for texts not seen before."""
        special = set(self.tokenizer.all_special_ids)
        new = [text for text in dict.fromkeys(texts) if text not in self.states]
        ids = {text: self.tokenizer(text)["input_ids"] for text in new}
        for text in new:
            if len(ids[text]) > self.window:
                raise CbtError(
                    f"a text of {len(ids[text])} tokens is longer than {self.name}'s window of {self.window} "
                    f"({text[:20]!r}…); shorten it or take another encoder, nothing is cut here"
                )
        for batch in _batches(sorted(new, key=lambda text: len(ids[text])), lambda text: len(ids[text])):
            width = max(len(ids[text]) for text in batch)
            padded = torch.zeros(len(batch), width, dtype=torch.long)
            mask = torch.zeros_like(padded)
            for row, text in enumerate(batch):
                padded[row, : len(ids[text])] = torch.tensor(ids[text])
                mask[row, : len(ids[text])] = 1
            for text, state in zip(batch, self._forward(padded, mask), strict=True):
                kept = [place for place, token in enumerate(ids[text]) if token not in special]
                self.tokens[text] = [ids[text][place] for place in kept]
                self.states[text] = nn.functional.normalize(state[kept].float(), dim=-1)

    @torch.inference_mode()
    def _forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """(batch, width, size) states after the chosen block; the blocks above it are not computed."""
        caught: list[Tensor] = []

        def catch(_module: nn.Module, _inputs: Any, output: Any) -> None:
            caught.append(output[0] if isinstance(output, tuple) else output)
            raise _Enough

        handle = self.block.register_forward_hook(catch)
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


def match(hypothesis: Tensor, reference: Tensor, weights: tuple[Tensor, Tensor] | None = None) -> float:
    """F1 of greedy matching: (h, size) and (r, size) unit states, weights (h,) and (r,), equal ones when None."""
    if not len(hypothesis) or not len(reference):
        return 0.0
    similarity = hypothesis.float() @ reference.float().T
    mine, theirs = weights or (torch.ones(len(hypothesis)), torch.ones(len(reference)))
    # weights can all be 0, when every reference holds every token of a text
    precision = float((similarity.max(dim=1).values * mine).sum() / mine.sum().clamp(min=1e-9))
    recall = float((similarity.max(dim=0).values * theirs).sum() / theirs.sum().clamp(min=1e-9))
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def bertscore(texts: Texts, encoder: Encoder, idf: bool = False) -> Statistics:
    """Mean BERTScore F1; per item the best reference. `idf` weights tokens by rarity among the references."""
    given = [text for one in texts.references for text in one if text is not None]
    encoder.encode([*(text for text in texts.hypotheses if text.strip()), *given])
    documents = Counter(token for text in given for token in set(encoder.tokens[text]))

    def weights(text: str) -> Tensor:
        return torch.tensor([np.log((len(given) + 1) / (documents[token] + 1)) for token in encoder.tokens[text]])

    values = []
    for item, hypothesis in enumerate(texts.hypotheses):
        best = 0.0
        for one in texts.references if hypothesis.strip() else ():
            reference = one[item]
            if reference is not None:
                weighted = (weights(hypothesis), weights(reference)) if idf else None
                best = max(best, match(encoder.states[hypothesis], encoder.states[reference], weighted))
        values.append(best)
    return Statistics.mean(values)


def metric(encoder: Encoder, idf: bool = False) -> Metric:
    """BERTScore on an encoder as an entry for `metrics.METRICS`."""
    made = f"model:{encoder.name}|layer:{encoder.layer}|idf:{'yes' if idf else 'no'}|specials:no|rescaled:no"
    made += f"|transformers:{version('transformers')}"
    return Metric(lambda texts: bertscore(texts, encoder, idf), made, model=True)


@functools.cache
def encoder(model: str, layer: int) -> Encoder:
    """The encoder of `endpoint.load(model)`, loaded once."""
    from cbtlib import endpoint

    return Encoder(*endpoint.load(model), layer, model)


def _batches(texts: Sequence[str], length: Callable[[str], int]) -> list[list[str]]:
    """Cut texts, sorted by length, into batches of at most BATCH_TOKENS padded tokens."""
    batches: list[list[str]] = []
    for text in texts:
        if not batches or (len(batches[-1]) + 1) * length(text) > BATCH_TOKENS:
            batches.append([])
        batches[-1].append(text)
    return batches
