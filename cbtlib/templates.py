"""How a post and its answer become the one string a causal language model is trained on, and which tokens carry loss.

Notable choices:
- A template is text with three slots, {bos}, {eos} and {post}; everything before the answer is the prompt, everything
  from the answer to the end mark is learned. `chat` takes the tokenizer's own chat template instead.
- Prompt and answer are tokenised apart. The border is exact then, and at generation time the model sees the very
  prompt tokens it was trained behind.
- A text that is too long is named with its token count and refused; nothing is cut.
- A post or answer that spells a special token (`<eos>`, `<end_of_turn>`) would end the turn inside the text. It is
  refused, in training and in a prompt alike.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from cbtlib import CbtError

IGNORED = -100
"""The label of a token that carries no loss (PyTorch's `ignore_index`)."""


class Row(Protocol):
    """What training needs of a record; `corpus.Record` is one."""

    @property
    def id(self) -> str: ...
    @property
    def post(self) -> str: ...
    @property
    def answer_text(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Template:
    """`prompt` holds {post}, `end` follows the answer, the tokenizer must know `special`; `source` says whose it is.

    `marks` finds the special tokens that no text may spell; `adopt` collects them.
    """

    name: str
    prompt: str
    end: str
    special: tuple[str, ...] = ()
    source: str = "ours"
    marks: re.Pattern[str] = re.compile("(?!)")


QWEN_SYSTEM = "You are a helpful assistant."
"""What Qwen-7B's own fine-tuning says first."""

TEMPLATES = {
    template.name: template
    for template in (
        Template("gemma", "{bos}来访者：{post}\n\n认知行为咨询师：", "{eos}"),
        Template(
            "llama-chinese",
            "{bos}Human: {post}\n{eos}{bos}Assistant:",
            "\n{eos}",
            source="FlagAlpha Llama2-Chinese; LLaMA-Factory calls it atom",
        ),
        Template(
            "alpaca-chinese",
            "{bos}Below is an instruction that describes a task. Write a response that appropriately completes the "
            "request.\n\n### Instruction:\n{post}\n\n### Response:\n",
            "{eos}",
            # Stanford's ends behind "### Response:", Chinese-LLaMA-Alpaca's own training adds a space there.
            source="Stanford Alpaca with LLaMA-Factory's line break at the end; it calls it alpaca",
        ),
        Template(
            "qwen",
            f"<|im_start|>system\n{QWEN_SYSTEM}<|im_end|>\n"
            "<|im_start|>user\n{post}<|im_end|>\n<|im_start|>assistant\n",
            "<|im_end|>",
            special=("<|im_start|>", "<|im_end|>"),
            source="ChatML, as Qwen-7B's own finetune.py builds it",
        ),
        Template(
            "baichuan",
            "<reserved_102>{post}<reserved_103>",
            "{eos}",
            special=("<reserved_102>", "<reserved_103>"),
            source="Baichuan-13B-Chat's user and assistant marks; LLaMA-Factory calls it baichuan",
        ),
        Template("chat", "", "", source="the tokenizer's own chat template"),
    )
}


def adopt(name: str, tokenizer: Any) -> Template:
    """The template as text for this tokenizer: {bos} and {eos} filled in, {post} left open, `marks` collected.

    Raises CbtError when there is no such template or the tokenizer lacks what it needs.
    """
    if name not in TEMPLATES:
        raise CbtError(f"no template {name!r}: take one of {', '.join(TEMPLATES)}")
    template = TEMPLATES[name]
    if tokenizer.eos_token is None:
        raise CbtError(f"the tokenizer has no end-of-sequence token, so template {name!r} could never stop")
    if name == "chat":
        prompt, end = _chat(tokenizer)
    else:
        unknown = [token for token in template.special if not _is_one_token(tokenizer, token)]
        if unknown:
            raise CbtError(
                f"template {name!r} needs the tokens {', '.join(unknown)}, which this tokenizer does not have; "
                f"take another template ({', '.join(TEMPLATES)})"
            )
        fill = {"{bos}": tokenizer.bos_token or "", "{eos}": tokenizer.eos_token}
        prompt, end = template.prompt, template.end
        for slot, token in fill.items():
            prompt, end = prompt.replace(slot, token), end.replace(slot, token)
    # `all_special_tokens` are those with a role (EOS, padding); turn marks are often special without one.
    added = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    marks = sorted({*tokenizer.all_special_tokens, *template.special, *added})
    return Template(name, prompt, end, template.special, template.source, re.compile("|".join(map(re.escape, marks))))


def stop_ids(template: Template, tokenizer: Any) -> list[int]:
    """Ids that end an answer: the tokenizer's end of sequence and the template's own end mark."""
    last = tokenizer(template.end, add_special_tokens=False)["input_ids"][-1:]
    return sorted({tokenizer.eos_token_id, *last})


def ids_with(mark: str, tokenizer: Any) -> list[int]:
    """Ids of all tokens whose text holds `mark`: stops for a model that was taught no end mark."""
    pieces = tokenizer.batch_decode([[number] for number in range(len(tokenizer))])
    return [number for number, piece in enumerate(pieces) if mark in piece]


def render(post: str, template: Template, name: str = "the post") -> str:
    """The prompt of an adopted template for one post, special tokens written out.

    Raises CbtError when the post spells a special token; `name` says there which post it is.
    """
    _check_marks(post, template, name)
    return template.prompt.replace("{post}", post.strip())


def encode(rows: Iterable[Row], tokenizer: Any, template: Template, max_length: int) -> list[dict[str, list[int]]]:
    """Token ids and labels of each row; labels are IGNORED on the prompt and the token itself on answer and end mark.

    Raises CbtError when a row has no post or answer, spells a special token, or is longer than `max_length`.
    """
    encoded, too_long = [], []
    for row in rows:
        if not row.post.strip() or not row.answer_text.strip():
            empty = "answer" if row.post.strip() else "post"
            raise CbtError(f"record {row.id} has no {empty}: give it one or leave the record out")
        _check_marks(row.answer_text, template, f"record {row.id}")
        prompt = tokenizer(render(row.post, template, f"record {row.id}"), add_special_tokens=False)["input_ids"]
        answer = tokenizer(row.answer_text.strip() + template.end, add_special_tokens=False)["input_ids"]
        if len(prompt) + len(answer) > max_length:
            too_long.append((len(prompt) + len(answer), row.id))
        encoded.append({"input_ids": prompt + answer, "labels": [IGNORED] * len(prompt) + answer})
    if too_long:
        over = sum(length - max_length for length, _ in too_long)
        longest, where = max(too_long)
        raise CbtError(
            f"{len(too_long)} of {len(encoded)} records are longer than max_length={max_length}: {over} tokens would "
            f"not fit, the longest is {where} with {longest}; nothing is cut: raise max_length to {longest} or leave "
            "these records out"
        )
    if not encoded:
        raise CbtError("no records to train on: the file is empty")
    return encoded


def _check_marks(text: str, template: Template, name: str) -> None:
    inside = template.marks.search(text)
    if inside:
        raise CbtError(f"{name} spells the special token {inside[0]!r}: rewrite that text")


def _is_one_token(tokenizer: Any, text: str) -> bool:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return len(ids) == 1 and ids[0] != tokenizer.unk_token_id


def _chat(tokenizer: Any) -> tuple[str, str]:
    """Prompt and end mark, read off the chat template by rendering one exchange with placeholders."""
    if not tokenizer.chat_template:
        raise CbtError("template 'chat' needs a chat template and this tokenizer has none; name another template")
    user, reply = {"role": "user", "content": "{post}"}, {"role": "assistant", "content": "{answer}"}
    prompt = tokenizer.apply_chat_template([user], tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template([user, reply], tokenize=False)
    if not whole.startswith(prompt + "{answer}"):
        raise CbtError(
            "this tokenizer's chat template changes the prompt once an answer follows; name another template"
        )
    end = whole[len(prompt) + len("{answer}") :]
    # What follows the end of sequence (a line break) is never generated, so it is not learned either.
    before, eos, _ = end.partition(tokenizer.eos_token)
    return prompt, before + (eos or tokenizer.eos_token)
