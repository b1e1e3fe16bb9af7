"""Batched sampling: many prompts to texts, on whatever device the model is.

Notable choices:
- Prompts of similar length share a batch of 48: little is spent on padding, and a step costs a small model far less
  than its rows one by one. A row that has ended leaves its batch; `generate` would carry it to the end of the longest.
- Temperature, nucleus (Holtzman et al. 2020, arXiv 1904.09751) and a mild repetition penalty, since a small base model
  loops under greedy decoding. A text that did not end by itself says so: it is cut off, not an answer.
- A prompt that is answered several times is read once, and what prompts have in common at their beginning too.
- Keys and values have room for the tokens to come (`Room`). transformers' cache copies all of them for each new token.
- The draw looks at the 256 likeliest tokens. `generate` sorts the whole vocabulary and draws from it all: a third of a
  small model's step on a CPU.
"""

import hashlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import DynamicCache, RepetitionPenaltyLogitsProcessor
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from cbtlib import CbtError, fused, progress

CANDIDATES = 256


@dataclass(frozen=True, slots=True)
class Sample:
    """A generated text; `truncated` says that it ran into the token limit before it ended."""

    text: str
    truncated: bool

    @property
    def outcome(self) -> str:
        """`ok`, `truncated`, or `unparsed` where the model was done before it had said anything."""
        return "truncated" if self.truncated else "ok" if self.text else "unparsed"


@torch.inference_mode()
def sample(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    max_new_tokens: int = 512,
    batch_size: int = 48,
    temperature: float = 0.7,
    seed: int = 0,
    *,
    replies: int = 1,
    top_p: float = 0.9,
    repetition_penalty: float = 1.1,
    stop: Sequence[int] | Sequence[Sequence[int]] = (),
) -> list[Sample]:
    """`replies` texts for each rendered prompt: the prompts in order with `seed`, then again with `seed + 1`, …

    A text ends at the tokenizer's end mark or at a token of `stop`: one list for all prompts, or one for each of them.
    The same prompt and seed give the same text, whatever else is asked; what shares its batch changes no more than
    rounding does. Temperature 0 is greedy. Raises CbtError when the model's numbers overflow, and for a model that has
    no keys and values to keep.
    """
    stops: Any = stop if stop and not isinstance(stop[0], int) else [stop] * len(prompts)
    ends = [{tokenizer.eos_token_id, *one} for _, one in zip(prompts, stops, strict=True)] * replies
    ids = [tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts] * replies
    order = sorted(range(len(ids)), key=lambda i: (len(ids[i]), i))
    choose = chooser(temperature, top_p, repetition_penalty)
    samples: dict[int, Sample] = {}
    was_training = model.training
    model.eval()
    with fused.packed(model), progress.bar(total=len(ids), desc="sampling", unit="text") as bar:
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            dice = [_dice(seed + i // len(prompts), prompts[i % len(prompts)], model.device) for i in batch]
            given, over = [ids[i] for i in batch], [ends[i] for i in batch]
            found = decode(model, given, choose, dice, over, tokenizer.pad_token_id, max_new_tokens)
            for i, (new, ended) in zip(batch, found, strict=True):
                text = tokenizer.decode(new, skip_special_tokens=True)
                samples[i] = Sample(text.strip(), truncated=not ended)
            bar.update(len(batch))
    model.train(was_training)
    return [samples[i] for i in range(len(ids))]


def _dice(seed: int, prompt: str, device: torch.device) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}\n{prompt}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:7], "big"))


Choose = Callable[[Tensor, Tensor, Sequence[torch.Generator]], Tensor]


def chooser(temperature: float, top_p: float, repetition_penalty: float) -> Choose:
    """A function of texts (batch, length), logits (batch, vocabulary) and dice that gives each text's next token."""
    penalty = RepetitionPenaltyLogitsProcessor(float(repetition_penalty))

    def choose(text: Tensor, logits: Tensor, dice: Sequence[torch.Generator]) -> Tensor:
        scores = penalty(text, logits.float())
        if scores.isnan().any():
            raise CbtError("the model's logits are not numbers: load it in bfloat16 or float32")
        return draw(scores / temperature, top_p, dice) if temperature else scores.argmax(-1)

    return choose


def draw(scores: Tensor, top_p: float, dice: Sequence[torch.Generator]) -> Tensor:
    """A token for each row of scores (batch, vocabulary), from the smallest likely set that holds `top_p`.

    The scores are logits divided by the temperature. Of a set of more than CANDIDATES tokens the likeliest are kept.
    """
    best, tokens = scores.topk(min(CANDIDATES, scores.shape[-1]))
    shares = (best - scores.logsumexp(-1, keepdim=True)).exp()
    inside = shares.cumsum(-1) - shares < max(top_p, 1e-9)  # the likeliest always is
    # The first to arrive, if each arrives after an exponential time at the rate of its share, is a draw by shares.
    waits = torch.stack([torch.empty_like(best[0]).exponential_(generator=one) for one in dice])
    return tokens.gather(1, (shares * inside / waits).argmax(-1, keepdim=True))[:, 0]


class Room(DynamicLayer):
    """Keys and values of one layer (batch, heads, length, size): what is held, in front of free room.

    A layer with a window is one of these too: all is kept, and the mask says how far back a token sees.
    """

    SPARE = 128  # tokens

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write the new states behind those held; return all."""
        held, length = self.get_seq_length(), self.get_seq_length() + key_states.shape[-2]
        fits = self.is_initialized and len(self.rooms[0]) == len(key_states) and self.rooms[0].shape[-2] >= length
        if not fits:  # `reorder_cache` leaves fewer rows, out of their room
            before: Any = (self.keys, self.values) if held else ()
            self.make(length, key_states, value_states)
            for room, states in zip(self.rooms, before, strict=False):
                room[..., :held, :] = states
        for room, states in zip(self.rooms, (key_states, value_states), strict=True):
            room[..., held:length, :] = states
        self.keys, self.values = (room[..., :length, :] for room in self.rooms)
        return self.keys, self.values

    def make(self, length: int, *like: Tensor) -> None:
        """Hold `length` tokens, all zeros for now, in as many rows of keys and values as those given have."""
        self.lazy_initialization(*like)
        self.rooms = [one.new_zeros(*one.shape[:2], length + self.SPARE, one.shape[-1]) for one in like]
        self.keys, self.values = (room[..., :length, :] for room in self.rooms)


@torch.inference_mode()
def decode(
    model: Any,
    rows: list[list[int]],
    choose: Choose,
    dice: Sequence[torch.Generator],
    ends: Sequence[set[int]],
    pad: int,
    limit: int,
) -> list[tuple[list[int], bool]]:
    """The tokens that follow each row, without the one that ended it, and whether one did within `limit` tokens.

    Rows are tokens of a prompt, each with its dice and the tokens that end it; `choose` is made by `chooser`.
    """
    width = max(map(len, rows))
    text = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=model.device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=model.device)
    padded = not mask.all()  # the model masks what is to come by itself
    found: list[tuple[list[int], bool]] = [([], False)] * len(rows)
    going = list(range(len(rows)))
    cache, logits = prefill(model, rows, text, mask)
    for step in range(limit):
        if step:
            logits = model(
                input_ids=text[:, -1:], attention_mask=mask if padded else None,
                position_ids=mask.sum(-1, keepdim=True) - 1, past_key_values=cache,
            ).logits[:, -1]  # fmt: skip
        said = text.where(mask.bool(), text[:, -1:])  # padding is no text, and may be the end mark
        text = torch.cat([text, choose(said, logits, [dice[at] for at in going])[:, None]], dim=1)
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        last = text[:, -1].tolist()
        left = [at for at, (row, token) in enumerate(zip(going, last, strict=True)) if token not in ends[row]]
        for at in set(range(len(going))).difference(left):
            found[going[at]] = text[at, width:-1].tolist(), True
        if len(left) < len(going):
            going = [going[at] for at in left]
            if not going:
                break
            chosen: Any = torch.tensor(left, device=model.device)
            text, mask = text[chosen], mask[chosen]
            cache.reorder_cache(chosen)
    for at, row in enumerate(going):
        found[row] = text[at, width:].tolist(), False
    return found


def prefill(model: Any, rows: list[list[int]], text: Tensor, mask: Tensor) -> tuple[DynamicCache, Tensor]:
    """The cache of rows that are padded in front as in `text` and `mask`, and the logits (rows, vocabulary) after each.

    A row is read alone, without its padding, from where it leaves the one before: in the order of their tokens, rows
    that begin alike are neighbours.
    """
    cache, alone = _cache(model), _cache(model)
    if not all(type(layer) is Room for layer in cache.layers):  # states that sum up a text cannot be taken apart
        places = (mask.cumsum(-1) - 1).clamp(min=0)
        how = {"attention_mask": mask, "position_ids": places, "past_key_values": cache, "logits_to_keep": 1}
        return cache, model(input_ids=text, **how).logits[:, -1]
    logits: dict[int, Tensor] = {}
    before: list[int] = []
    for row in sorted(map(list, set(map(tuple, rows)))):
        same = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(before, row[:-1], strict=False))))
        alone.crop(same - len(before))
        ids = torch.tensor([row[same:]], device=model.device)
        after = model(input_ids=ids, past_key_values=alone, logits_to_keep=1).logits[0, -1]
        owned = [at for at, one in enumerate(rows) if one == row]
        logits.update(dict.fromkeys(owned, after))
        for layer, own in zip(cache.layers, alone.layers, strict=True):
            if not layer.is_initialized:
                layer.make(text.shape[1], *(states.expand(len(rows), -1, -1, -1) for states in (own.keys, own.values)))
            layer.keys[owned, :, -len(row) :] = own.keys
            layer.values[owned, :, -len(row) :] = own.values
        before = row
    return cache, torch.stack([logits[at] for at in range(len(rows))])


def _cache(model: Any) -> Any:
    own = model.get_base_model() if isinstance(model, PeftModel) else model
    if "past_key_values" not in inspect.signature(type(own).forward).parameters:  # it would take no notice of the cache
        raise CbtError(f"{type(own).__name__} keeps what it has read in a way of its own: take a model with attention")
    cache = DynamicCache(config=model.config)
    roomy = (DynamicLayer, DynamicSlidingWindowLayer)
    cache.layers = [Room() if type(layer) in roomy else layer for layer in cache.layers]
    return cache
