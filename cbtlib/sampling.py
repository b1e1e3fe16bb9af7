"""Batched sampling: many prompts to texts, on whatever device the model is.

Notable choices:
- Prompts of similar length share a batch of 48: little is spent on padding, and a step costs a small model far less
  than its rows one by one. A row that has ended leaves its batch; `generate` would carry it to the end of the longest.
- Temperature, nucleus (Holtzman et al. 2020, arXiv 1904.09751) and a mild repetition penalty, since a small base model
  loops under greedy decoding. A text that did not end by itself says so: it is cut off, not an answer.
- A prompt that is answered several times is read once.
- Keys and values have room for the tokens to come (`Room`). transformers' cache copies all of them for each new token.
- The draw looks at the 256 likeliest tokens. `generate` sorts the whole vocabulary and draws from it all: a third of a
  small model's step on a CPU.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import DynamicCache, RepetitionPenaltyLogitsProcessor
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from cbtlib import CbtError, fused

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
    stop: Sequence[int] = (),
) -> list[Sample]:
    """`replies` texts for each rendered prompt: the prompts in order with `seed`, then again with `seed + 1`, …

    The same prompt and seed give the same text, whatever else is asked; what shares its batch changes no more than
    rounding does. Temperature 0 is greedy. Raises CbtError when the model's numbers overflow.
    """
    ends = {tokenizer.eos_token_id, *stop}
    ids = [tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts] * replies
    order = sorted(range(len(ids)), key=lambda i: (len(ids[i]), i))
    choose = chooser(temperature, top_p, repetition_penalty)
    samples: dict[int, Sample] = {}
    was_training = model.training
    model.eval()
    with fused.packed(model), tqdm(total=len(ids), desc="sampling", disable=None) as bar:
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            dice = [_dice(seed + i // len(prompts), prompts[i % len(prompts)], model.device) for i in batch]
            found = decode(model, [ids[i] for i in batch], choose, dice, ends, tokenizer.pad_token_id, max_new_tokens)
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
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.rooms: list[Tensor] = []
        if not self.rooms or len(self.rooms[0]) != len(key_states) or self.rooms[0].shape[-2] < length:
            batch, heads, _new, _size = key_states.shape  # `reorder_cache` leaves fewer rows, out of their room
            shapes = [(batch, heads, length + self.SPARE, one.shape[-1]) for one in (key_states, value_states)]
            self.rooms = [key_states.new_empty(shape) for shape in shapes]
            if held:
                self.rooms[0][..., :held, :], self.rooms[1][..., :held, :] = self.keys, self.values  # type: ignore
        for room, states in zip(self.rooms, (key_states, value_states), strict=True):
            room[..., held:length, :] = states
        self.keys, self.values = (room[..., :length, :] for room in self.rooms)
        return self.keys, self.values


@torch.inference_mode()
def decode(
    model: Any,
    rows: list[list[int]],
    choose: Choose,
    dice: Sequence[torch.Generator],
    ends: set[int],
    pad: int,
    limit: int,
) -> list[tuple[list[int], bool]]:
    """The tokens that follow each row, without the one that ended it, and whether one did within `limit` tokens.

    Rows are tokens of a prompt, each with its dice; `choose` is made by `chooser`.
    """
    width = max(map(len, rows))
    prompts = list(dict.fromkeys(map(tuple, rows)))
    owner: Any = torch.tensor([prompts.index(tuple(row)) for row in rows], device=model.device)
    text = torch.tensor([[pad] * (width - len(one)) + [*one] for one in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in prompts], device=model.device)
    padded = not mask.all()  # the model masks what is to come by itself
    cache = DynamicCache(config=model.config)
    roomy = (DynamicLayer, DynamicSlidingWindowLayer)
    cache.layers = [Room() if type(layer) in roomy else layer for layer in cache.layers]
    found: list[tuple[list[int], bool]] = [([], False)] * len(rows)
    going = list(range(len(rows)))
    read = 0  # columns of `text` that the cache holds
    for _ in range(limit):
        places = (mask.cumsum(-1) - 1).clamp(min=0)[:, read:]
        logits = model(
            input_ids=text[:, read:], attention_mask=mask if padded else None, position_ids=places,
            past_key_values=cache, logits_to_keep=1,
        ).logits[:, -1]  # fmt: skip
        if not read and len(prompts) < len(rows):
            text, mask, logits = text[owner], mask[owner], logits[owner]
            cache.reorder_cache(owner)
        read = text.shape[1]
        said = text.where(mask.bool(), text[:, -1:])  # padding is no text, and may be the end mark
        text = torch.cat([text, choose(said, logits, [dice[at] for at in going])[:, None]], dim=1)
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        left = [at for at, token in enumerate(text[:, -1].tolist()) if token not in ends]
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
