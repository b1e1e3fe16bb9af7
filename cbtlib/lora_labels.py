"""LoRA classification: the language model itself is tuned to tell the types, and a linear head reads its states.

`fit` tunes one member on some posts, `logits` reads texts with members; `detectors` calibrates and saves. A unit is a
sentence or a whole text, as there.

Notable choices
- Attention goes both ways: nothing is generated here, and a word may be read in the light of what follows it
  (BehnamGhader et al. 2024, LLM2Vec). LoRA takes the change in its stride; a frozen model would not.
- A unit is the mean of its tokens' last hidden states, read in the whole post's context.
- Adapter and head are plain arrays, saved like those of every other detector. The base model is not copied.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cbtlib import CbtError, models, progress

Floats = NDArray[np.float64]
Units = Sequence[Sequence[tuple[int, int]]]

RANK, ALPHA = 16, 32
RATE, HEAD_RATE = 4e-4, 2e-3  # peak learning rates of adapter and head; linear warm-up and decay
WARMUP = 0.1  # share of the steps
BATCH = 16  # texts


class Network(nn.Module):
    """A base model with LoRA on every linear layer, and a linear head: token ids to logits (units, columns)."""

    def __init__(self, model: str, columns: int):
        from peft import LoraConfig, inject_adapter_in_model

        from cbtlib import fused

        super().__init__()
        causal, self.tokenizer = models.load(model)
        base = causal.model
        base.config.use_bidirectional_attention = True
        for layer in base.layers:
            layer.self_attn.is_causal = False
        config = LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules="all-linear")
        self.base = inject_adapter_in_model(config, base)
        fused.fuse(self.base)
        for name, weight in self.base.named_parameters():
            weight.requires_grad = "lora_" in name
            if weight.requires_grad:
                weight.data = weight.data.float()
        self.head = nn.Linear(base.config.hidden_size, columns)

    def learnt(self) -> dict[str, nn.Parameter]:
        """The parameters that are tuned, by name."""
        return {name: weight for name, weight in self.named_parameters() if weight.requires_grad}

    def forward(self, texts: Sequence[str], units: Units) -> Tensor:
        coded = models.with_offsets(self.tokenizer, texts)
        ids, mask = models.batch(coded["input_ids"], self.tokenizer.pad_token_id)
        pool = torch.zeros(sum(map(len, units)), *ids.shape)  # one row a unit: its share of each token
        row = 0
        for k, (tokens, offsets) in enumerate(zip(coded["input_ids"], coded["offset_mapping"], strict=True)):
            for start, end in units[k]:
                inside = [t for t, (a, b) in enumerate(offsets) if a < end and b > start] or [len(tokens) - 1]
                pool[row, k, inside] = 1 / len(inside)
                row += 1
        states = self.base(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state.float()
        return self.head(torch.einsum("ukt,ktd->ud", pool, states))


def fit(
    texts: Sequence[str], units: Units, target: NDArray[np.bool_], model: str, epochs: int, seed: int
) -> dict[str, NDArray]:
    """Tune one member on the units' labels (units, columns): its arrays by name. Raises CbtError on a loss of NaN."""
    torch.manual_seed(seed)
    network = Network(model, target.shape[1])
    head, adapter = list(network.head.parameters()), [w for n, w in network.learnt().items() if "lora_" in n]
    optimiser = torch.optim.AdamW(
        [{"params": adapter, "lr": RATE}, {"params": head, "lr": HEAD_RATE}], weight_decay=0.0
    )
    steps = epochs * math.ceil(len(texts) / BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / max(1, WARMUP * steps), (steps - step) / (steps * (1 - WARMUP)))
    )
    first = np.r_[0, np.cumsum([len(row) for row in units])]
    generator = np.random.default_rng(seed)
    with progress.bar(total=steps, desc=f"LoRA, seed {seed}", unit="step") as bar:
        for batch in (batch for _ in range(epochs) for batch in _batches(texts, generator)):
            rows = np.concatenate([np.arange(first[i], first[i + 1]) for i in batch])
            logits = network([texts[i] for i in batch], [units[i] for i in batch])
            wanted = torch.tensor(target[rows], dtype=torch.float32)
            loss = nn.functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none").sum(1).mean()
            if not torch.isfinite(loss):
                raise CbtError("the loss is no number: the detector was not made; take another seed")
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(head + adapter, 1.0)
            optimiser.step()
            schedule.step()
            bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
            bar.update()
    return {name: weight.detach().numpy().astype(np.float32) for name, weight in network.learnt().items()}


@torch.inference_mode()
def logits(texts: Sequence[str], units: Units, members: Sequence[dict[str, NDArray]], model: str) -> Floats:
    """Mean logits of the members: (units, columns)."""
    network = Network(model, len(members[0]["head.bias"]))
    total: Any = 0.0
    for member in members:
        own = network.learnt()
        if {name: tuple(weight.shape) for name, weight in own.items()} != {n: a.shape for n, a in member.items()}:
            raise CbtError(f"the saved detector does not fit the model {model!r}: it was made with another one")
        for name, weight in own.items():
            weight.data.copy_(torch.tensor(member[name]))
        out: list[Floats] = [np.empty(0)] * len(texts)
        for batch in _by_length(texts, 2048):
            found = network([texts[i] for i in batch], [units[i] for i in batch]).numpy().astype(np.float64)
            for i, part in zip(batch, np.split(found, np.cumsum([len(units[i]) for i in batch])[:-1]), strict=True):
                out[i] = part
        total = total + np.concatenate(out) / len(members)
    return total


def _batches(texts: Sequence[str], generator: np.random.Generator) -> Iterator[list[int]]:
    """All texts once in random batches; texts of one batch are of similar length, so that little is padding."""
    order = generator.permutation(len(texts))
    pools = [
        sorted(pool, key=lambda i: len(texts[i])) for pool in np.split(order, range(8 * BATCH, len(order), 8 * BATCH))
    ]
    batches = [pool[k : k + BATCH] for pool in pools for k in range(0, len(pool), BATCH)]
    yield from (batches[k] for k in generator.permutation(len(batches)))


def _by_length(texts: Sequence[str], characters: int) -> Iterator[list[int]]:
    """All texts once, the longest first, as many as fit together in a number of characters."""
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
    while order:
        size = max(1, characters // max(1, len(texts[order[0]])))
        yield order[:size]
        order = order[size:]
