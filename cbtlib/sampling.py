"""Batched sampling: many prompts to texts, on whatever device the model is.

Notable choices:
- Prompts of similar length share a batch of 16: one decoding step costs a small model nearly the same for 1 row as for
  16, and little is spent on padding.
- Temperature, nucleus (Holtzman et al. 2020, arXiv 1904.09751) and a mild repetition penalty, since a small base model
  loops under greedy decoding. A text that did not end by itself says so: it is cut off, not an answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tqdm.auto import tqdm


@dataclass(frozen=True, slots=True)
class Sample:
    """A generated text; `truncated` says that it ran into the token limit before it ended."""

    text: str
    truncated: bool


@torch.no_grad()
def sample(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    max_new_tokens: int = 512,
    batch_size: int = 16,
    temperature: float = 0.7,
    seed: int = 0,
    *,
    top_p: float = 0.9,
    repetition_penalty: float = 1.1,
    stop: Sequence[int] = (),
) -> list[Sample]:
    """One text for each rendered prompt, in their order; temperature 0 is greedy. Seeded, the caller's RNG untouched.

    Prompts of similar length share a batch, so the result depends on the list as a whole, and not on its order alone.
    """
    stop = sorted({tokenizer.eos_token_id, *stop})
    ids = [tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]
    order = sorted(range(len(ids)), key=lambda i: (len(ids[i]), i))
    how = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0} if temperature else {}
    samples: dict[int, Sample] = {}
    was_training = model.training
    model.eval()
    with torch.random.fork_rng(), tqdm(total=len(ids), desc="sampling", disable=None) as bar:
        torch.manual_seed(seed)
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            width = max(len(ids[i]) for i in batch)
            padded = [[tokenizer.pad_token_id] * (width - len(ids[i])) + ids[i] for i in batch]
            mask = [[0] * (width - len(ids[i])) + [1] * len(ids[i]) for i in batch]
            tokens = model.generate(
                input_ids=torch.tensor(padded, device=model.device),
                attention_mask=torch.tensor(mask, device=model.device),
                max_new_tokens=max_new_tokens,
                repetition_penalty=repetition_penalty,
                eos_token_id=stop,
                pad_token_id=tokenizer.pad_token_id,
                **(how or {"do_sample": False}),
            )[:, width:].tolist()
            for i, new in zip(batch, tokens, strict=True):
                end = next((at for at, token in enumerate(new) if token in stop), None)
                text = tokenizer.decode(new[:end], skip_special_tokens=True)
                samples[i] = Sample(text.strip(), truncated=end is None)
            bar.update(len(batch))
    model.train(was_training)
    return [samples[i] for i in range(len(ids))]
