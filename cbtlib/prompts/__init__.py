"""The CBT prompt as versioned text files, and a builder that keeps a client's post from becoming an instruction.

Each prompt is one `.md` file beside this one: a short header (language, kind, output, about), then the fixed text.
The wording is ours, after the paper's description of the five parts; the paper's own prompt is not public.

Notable choices:

- The fixed text comes first and is the same byte for byte in every request, so that an endpoint can cache it.
  A prompt is named in results by the SHA-256 of its file: a changed comma is another prompt.
- The post is data. It is fenced, and inside the fence no character is left with which a tag, a role mark or an example
  mark could be written: `<`, `>`, `【`, `】` become look-alikes. Nothing is looked up in a list of "bad phrases".
- `kind: chat` prompts are for instruction-tuned models, `kind: completion` prompts show one worked example to a base
  model that only continues text.
- `output: json` prompts ask for the five fields of SCHEMA. An endpoint may ignore a schema, so `parse` checks here.
"""

import hashlib
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from cbtlib import CbtError
from cbtlib.corpus import PARTS
from cbtlib.reading import load_json

HERE = Path(__file__).parent
FENCE = ("<post>", "</post>")

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {part: {"type": "string"} for part in PARTS},
    "required": list(PARTS),
    "additionalProperties": False,
}
"""JSON schema of a five-part answer: five strings, no more, no fewer."""

_LOOKALIKES = str.maketrans({"<": "＜", ">": "＞", "【": "〔", "】": "〕"})
_CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200c\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\uffff\U000e0000-\U000e0fff]|[\ud800-\udfff]"
)
_BRACKET_TOKEN = re.compile(r"\[(/?g?[A-Z_]{3,}\d*)\]")  # role marks such as the [INST] of some chat templates


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt file: `text` is sent as it stands, `sha256` is of the whole file, header included."""

    name: str
    text: str
    sha256: str
    language: str = "zh"
    kind: str = "chat"
    output: str = "text"
    about: str = field(default="", compare=False)

    def messages(self, question: str, description: str) -> list[dict[str, str]]:
        """The request as chat messages: fixed text as `system`, the fenced post as `user`."""
        if self.kind == "completion":
            return [{"role": "user", "content": self._continuation(question, description)}]
        opening, closing = FENCE
        return [
            {"role": "system", "content": self.text},
            {"role": "user", "content": f"{opening}\n{as_data(question)}\n{as_data(description)}\n{closing}"},
        ]

    def request(self, question: str, description: str) -> dict[str, Any]:
        """The part of the request body that this prompt decides: messages or prompt, stop marks, schema."""
        if self.kind == "completion":
            body: dict[str, Any] = {"prompt": self._continuation(question, description), "stop": ["\n【"]}
            return body | {"json_schema": SCHEMA} if self.output == "json" else body
        body = {"messages": self.messages(question, description)}
        if self.output == "json":
            schema = {"name": "cbt_answer", "strict": True, "schema": SCHEMA}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body

    def _continuation(self, question: str, description: str) -> str:
        return f"{self.text}【帖子】{as_data(question)}\n{as_data(description)}\n【回信】"


def as_data(text: str) -> str:
    """`text` with control and direction characters removed and every character of a tag or mark made a look-alike."""
    text = _CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    return _BRACKET_TOKEN.sub(r"［\1］", text.translate(_LOOKALIKES)).strip()


def json_reply(text: str) -> Any:
    """The JSON of a model's reply; ValueError when it is none or a key stands twice: two answers are no answer.

    A Markdown code fence around it is allowed, because many models add one whatever they are told.
    """
    if "```" in text:
        text = text.strip().removeprefix("```json").removeprefix("```").removesuffix("```")
    return load_json(text, strict=True)


def parse(text: str) -> dict[str, str]:
    """The five parts of a JSON answer, in order; ValueError says what is wrong with anything else."""
    try:
        value = json_reply(text)
    except ValueError as error:
        raise ValueError(f"not JSON ({error})") from None
    if not isinstance(value, dict):
        raise ValueError(f"JSON, but {type(value).__name__} where an object was asked for")
    if missing := [part for part in PARTS if not isinstance(value.get(part), str) or not value[part].strip()]:
        raise ValueError(f"no text in {', '.join(missing)}")
    if extra := sorted(set(value) - set(PARTS)):
        raise ValueError(f"fields that were not asked for: {', '.join(extra)[:80]}")
    return {part: value[part].strip() for part in PARTS}


def names() -> list[str]:
    """The prompts there are, sorted."""
    return sorted(path.stem for path in HERE.glob("*.md"))


@cache
def get(name: str) -> Prompt:
    """Read one prompt by name. CbtError for a name that none has."""
    path = HERE / f"{name}.md"
    if name not in names():
        raise CbtError(f"no prompt {name!r}; there are {', '.join(names())} (files in {HERE.name}/ of cbtlib)")
    raw = path.read_bytes().replace(b"\r\n", b"\n")  # an editor on Windows may have saved it
    _, header, text = raw.decode("utf-8").split("---\n", 2)
    fields = dict(line.split(": ", 1) for line in header.strip().splitlines())
    # A chat prompt ends with its last sentence; a continuation needs the empty line after its last example.
    text = text.strip() if fields["kind"] == "chat" else text.lstrip()
    return Prompt(name=name, text=text, sha256=hashlib.sha256(raw).hexdigest(), **fields)
