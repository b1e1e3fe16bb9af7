"""What became of each question, as files: answers.jsonl, and the data set that only `ok` answers enter.

Notable choices:

- A file is written whole or not at all.
- `export` writes a folder that `datasets.load_dataset` reads as it is: one parquet file, and a card whose header names
  it. The card is made from the manifest, so it says which prompt, model, parameters and prices made the answers.
- Row by row: a set of any size takes the memory of one row group.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from cbtlib import CbtError, replies
from cbtlib.corpus import PARTS
from cbtlib.questions import Question, digest
from cbtlib.reading import Problem, load_json, objects, says_nothing
from cbtlib.safety import LEVELS, Level
from cbtlib.writing import make_folder, whole

Outcome = Literal["ok", "refused", "unparsed", "truncated", "filtered", "failed", "crisis"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
ROW_GROUP = 1000


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a question. `text` is empty and `parts` None unless `outcome` is ok; `detail` says why it is not.

    Tokens are those of the reply that stands; `cost_micro` is its price in micro-dollars, None when it is not known.
    `triage` is the level of the post, `post` its `Question.digest`: an id is a line's number where a file has none.
    """

    id: str
    outcome: Outcome
    text: str
    parts: dict[str, str] | None
    finish_reason: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    cost_micro: int | None
    detail: str
    triage: Level
    post: str


_FIELDS = tuple(field.name for field in fields(Answer))


def to_line(answer: Answer) -> str:
    """An answer as a line of answers.jsonl."""
    # Not `asdict`: it copies what is written out the next moment.
    return json.dumps({name: getattr(answer, name) for name in _FIELDS}, ensure_ascii=False)


def read_answers(
    path: Path | str, cure: str = "the same `cbt generate` writes the file anew, no answer is asked twice"
) -> Iterator[Answer]:
    """The answers of an answers.jsonl; CbtError with line, field and cure for what no run can have written."""
    lines: dict[str, int] = {}
    for line, row in objects(path):
        found = row if isinstance(row, Problem) else _answer(line, row, lines)
        if isinstance(found, Problem):
            raise CbtError(f"{path}, {found}; {cure}")
        lines[found.id] = line
        yield found


def _answer(line: int, row: dict[str, Any], lines: dict[str, int]) -> Answer | Problem:
    """The answer of a line, or what is wrong with it; `lines` are those of the ids before it."""
    if lacking := [name for name in _FIELDS if name not in row]:
        return Problem(line, lacking[0], "is missing")
    if strange := row.keys() - set(_FIELDS):
        return Problem(line, min(strange), "is no field of an answer")
    name, outcome, text, parts = (row[field] for field in ("id", "outcome", "text", "parts"))
    if not isinstance(name, str) or not name.strip():
        return Problem(line, "id", f"{name!r} names nothing")
    if name in lines:
        return Problem(line, "id", f"{name!r} stands on line {lines[name]} already")
    if outcome not in OUTCOMES:
        return Problem(line, "outcome", f"{outcome!r} is none of {', '.join(OUTCOMES)}")
    if not isinstance(text, str) or (outcome == "ok" and not text.strip()):
        return Problem(line, "text", f"{text!r} is no text, and the outcome is {outcome}")
    if parts is not None and not (isinstance(parts, dict) and parts.keys() == set(PARTS)):
        return Problem(line, "parts", f"is not {', '.join(PARTS)}")
    if mute := [part for part, words in (parts or {}).items() if not isinstance(words, str)]:
        return Problem(line, f"parts.{mute[0]}", "is no text")
    if row["triage"] not in LEVELS:
        return Problem(line, "triage", f"{row['triage']!r} is none of {', '.join(LEVELS)}")
    return Answer(**row)


# What servers call an answer that ended by itself: names of OpenAI, TGI, Together, Anthropic and Cohere, or no name.
_ENDED = {"stop", "eos", "eos_token", "stop_token", "stop_sequence", "end_turn"}
_ENDED |= {"complete", "completed", "finished"}
_CUT: dict[str, Outcome] = {
    **dict.fromkeys(("length", "max_tokens"), "truncated"),
    **dict.fromkeys(("content_filter", "safety"), "filtered"),
    "refusal": "refused",
}


def ending(finish: str | None) -> Outcome:
    """What an endpoint's word for the end of a reply makes of it; failed for a word that is no natural end."""
    word = str(finish).strip().lower().removeprefix("finishreason.")
    return "ok" if finish is None or word in _ENDED else _CUT.get(word, "failed")


FAILED = re.compile(
    r"(?:http\W*)?[45]\d\d(?:\W.*)?|[a-z]*(?:error|timeout|exception)|(?:api|connection|json|parse|server)[-_ ]error"
    r"|(?:fail(?:ed|ure)?|errored|timed[-_ ]?out|cancell?ed|aborted|expired|incomplete|blocked)(?:\W.*)?"
    r"|(?:失败|错误|超时)(?:\W.*)?",
    re.DOTALL,
)
"""The words, in lower case, by which a status says that a call failed."""
_NO_ERROR = {"false", "f", "no", "n", "none", "no error", "ok", "success", "[]", "{}", '""', "-"}
_NO_ERROR |= {"无", "否", "没有", "无错误"}


def told(row: Mapping[Any, Any]) -> Any:
    """What a row says became of it: its `outcome`, whatever that is; where that is ok or none, what other files write.

    They say how the reply ended (finish_reason, Anthropic's stop_reason, Ollama's done_reason), keep an `error`, or a
    `status` (a word, or HTTP's number), or flags (success, is_error). ok where nothing tells of a failure: a status
    that is none (married) may be about something else.
    """
    said = {re.sub(r"[\W_]+", "", str(name).lower()): value for name, value in row.items()}
    if (outcome := said.get("outcome")) not in (None, "", "ok"):
        return outcome
    for name in ("finishreason", "stopreason", "donereason"):
        finish = said.get(name)
        if not says_nothing(str(finish or "")) and (end := ending(finish)) != "ok":
            return end
    for name in ("status", "statuscode", "httpstatus"):
        word = str(said.get(name) or "").strip().lower()
        if word in set(OUTCOMES) - {"ok", "crisis"}:
            return word
        if word in _CUT or FAILED.fullmatch(word):
            return _CUT.get(word, "failed")
    flags = {name: str(said.get(name)).strip().lower() for name in ("success", "ok", "iserror", "failed")}
    lost = {flags["success"], flags["ok"]} & {"false", "no", "否"} or {flags["iserror"], flags["failed"]} & {
        "true",
        "yes",
    }
    errors = (said.get(name) for name in ("error", "errors", "errormessage", "exception"))
    return "failed" if lost or any(map(_error, errors)) else "ok"


def _error(value: Any) -> bool:
    """Whether a field of that name holds an error: no empty object, and of numbers 1 (yes) and those of HTTP."""
    if isinstance(value, Mapping | list):
        return any(map(_error, value.values() if isinstance(value, Mapping) else value))
    word = str(value if value is not None else "").strip().lower()
    if re.fullmatch(r"-?\d+(\.\d+)?", word):
        return word in ("1", "1.0") or FAILED.fullmatch(word) is not None
    return not (says_nothing(word) or word in _NO_ERROR)


def outcome_of(text: str | None, given: Outcome) -> Outcome:
    """What became of an answer: what its row says, or what the text of an ok one is.

    Such a text may be none, or nan or N/A for one (failed), an error message (failed) or a refusal (refused).
    """
    if given != "ok":
        return given
    return "failed" if says_nothing(text or "") else replies.kind(text or "")


def check(id: str, post: str, answered: str, path: Path | str) -> None:
    """CbtError when the digest of the post that a file `answered` under an id is not that of `post`."""
    if answered != digest(post):
        raise CbtError(
            f"{path} answers another post under the id {id}: give the very file of questions that was answered"
        )


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write a product of a run whole or not at all; CbtError where that cannot be."""
    try:
        with whole(path) as file:
            file.writelines(f"{line}\n" for line in lines)
    except OSError as error:
        raise CbtError(
            f"cannot write {path}: {error.strerror}; what was done is kept, the same command goes on"
        ) from None


# ---------------------------------------------------------------- the data set


_MANIFEST = {
    "prompt": ("name", "sha256"),
    "endpoint": ("model", "name", "fingerprint"),
    "sampling": (),
    "price": ("as_of", "source"),
    "outcomes": OUTCOMES[:1],
    "spend": ("attempts", "lower_micro", "upper_micro"),
}
"""What is read of a manifest."""


def read_manifest(folder: Path | str) -> dict[str, Any]:
    """The manifest of a finished run."""
    try:
        found = load_json((Path(folder) / "manifest.json").read_text("utf-8"), strict=True)
        if not isinstance(found, dict) or "triage" not in found:
            raise ValueError("manifest.json is no object with a field triage")
        for name, inner in _MANIFEST.items():
            value = found.get(name)
            unpriced = (name, value) == ("price", "unpriced")
            if not unpriced and (not isinstance(value, dict) or set(inner) - value.keys()):
                raise ValueError(f"manifest.json, field {name}: is no object with {', '.join(inner) or 'fields'}")
        if not all(type(count) is int for count in found["outcomes"].values()):
            raise ValueError("manifest.json, field outcomes: has what is no count")
        return found
    except (OSError, ValueError) as error:
        raise CbtError(f"{folder} holds no finished run ({error}); run `cbt generate` into it first") from None


def of_run(folder: Path | str, manifest: dict[str, Any]) -> Iterator[Answer]:
    """The answers of a finished run; CbtError at their end when they are not as many as its manifest counts."""
    path, count = Path(folder) / "answers.jsonl", 0
    for answer in read_answers(path):
        count += 1
        yield answer
    if count != (told := sum(manifest["outcomes"].values())):
        raise CbtError(
            f"{path} holds {count} answers, and manifest.json counts {told}; the same `cbt generate` writes both anew, "
            "no answer is asked twice"
        )


def export(questions: Iterable[Question], folder: Path | str, stopped: Set[str] | None = None) -> Path:
    """From answers.jsonl and manifest.json in `folder`, make `folder`/dataset with the ok answers; returns it.

    With the ids of the answers that gates have `stopped` (see `screening`), it is `folder`/accepted, without those.
    Columns: id, question, description, answer, and the five parts where the prompt asked for them as fields (else
    null). CbtError when the questions are not those that were answered.
    """
    import pyarrow as pa
    from pyarrow import parquet

    folder = Path(folder)
    manifest = read_manifest(folder)
    out = folder / ("dataset" if stopped is None else "accepted")
    schema = pa.schema([(name, pa.string()) for name in ("id", "question", "description", "answer", *PARTS)])
    data = make_folder(out / "data")
    path = data / "train-00000-of-00001.parquet"
    part = path.with_suffix(".part")
    try:
        with parquet.ParquetWriter(part, schema, compression="zstd") as writer:
            rows: list[dict[str, Any]] = []
            for row in _rows(questions, of_run(folder, manifest), folder / "answers.jsonl"):
                if row["id"] in (stopped or ()):
                    continue
                rows.append(row)
                if len(rows) == ROW_GROUP:
                    writer.write_table(pa.Table.from_pylist(rows, schema))
                    rows = []
            writer.write_table(pa.Table.from_pylist(rows, schema))
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise CbtError(f"cannot write {path}: {error}; answers.jsonl is whole, free some space and try again") from None
    write_lines(out / "README.md", [_card(manifest, stopped)])
    return out


def _rows(questions: Iterable[Question], found: Iterator[Answer], path: Path) -> Iterator[dict[str, Any]]:
    """One row an ok answer of `path`. A shard answers some of the questions, in their order."""
    answer = next(found, None)
    for question in questions:
        if answer is None or answer.id != question.id:
            continue
        check(answer.id, question.post, answer.post, path)
        if answer.outcome == "ok":
            parts = answer.parts or dict.fromkeys(PARTS)
            texts = {"question": question.question, "description": question.description, "answer": answer.text}
            yield {"id": question.id, **texts, **parts}
        answer = next(found, None)
    if answer is not None:
        raise CbtError(f"{path} has an answer to {answer.id}, which is not among the questions; give the same file")


def _card(manifest: dict[str, Any], stopped: Set[str] | None) -> str:
    prompt, asked, price = manifest["prompt"], manifest["endpoint"], manifest["price"]
    spend, counts = manifest["spend"], manifest["outcomes"]
    paid = "unpriced" if price == "unpriced" else f"prices of {price['as_of']} ({price['source']})"
    cost = "unknown" if spend["lower_micro"] is None else f"{spend['lower_micro']} to {spend['upper_micro']}"
    sampling = ", ".join(f"{name} {value}" for name, value in manifest["sampling"].items())
    rows = "\n".join(f"| {outcome} | {count} |" for outcome, count in counts.items())
    gates = "No gate has looked at them (`cbt generate gates` does)."
    if stopped is not None:
        gates = f"Of these, {len(stopped)} are left out, because a gate stopped them (gates.csv of the run says which)."
    return f"""---
language: zh
pretty_name: Generated CBT answers
task_categories: [text-generation]
configs:
- config_name: default
  data_files: data/*.parquet
---

# Generated CBT answers

Answers of a language model to posts that seek help, in the five parts of cognitive behavioural therapy. Research only:
no clinician has read them. The licence of the questions, and the terms of the model, are for you to add.

| made with | |
|---|---|
| model | {asked["model"]} |
| endpoint | {asked["name"]}, fingerprint {asked["fingerprint"]} |
| prompt | {prompt["name"]}, SHA-256 {prompt["sha256"]} |
| parameters | {sampling} |
| triage before sending | {manifest["triage"]} |
| spend | {spend["attempts"]} attempts, {cost} micro-dollars, {paid} |

Only `ok` answers are in the file. {gates} What became of all questions:

| outcome | questions |
|---|---|
{rows}"""
