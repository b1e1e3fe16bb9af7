"""A reader's own table: columns asked for by name, or a sentence that says which is missing and what is there instead.

    table = tables.read("mine.csv", {"question": "question", "answer": "reply"}, optional=["id", "outcome"])
    table["outcome"] = tables.outcomes(table, "answer")

Takes JSON Lines, a JSON list, CSV, TSV and the semicolon CSV of some spreadsheets, in UTF-8 (with or without a
byte-order mark) or GBK. Notable choices
- Nothing is guessed. A column that is not there is an error with the two nearest names, and the reader says which.
- Every row that cannot be used is named; a table with silently fewer rows is another table.
- An empty answer is no text and no error: it is an answer that failed, and is counted as one. So is an error message
  that stands where an answer should, whatever its outcome says; a refusal is refused.
"""

import difflib
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from cbtlib import ROOT, CbtError, reading
from cbtlib.answers import OUTCOMES, outcome_of, told
from cbtlib.reading import Problem

ALIASES = {
    "question": ("question", "post", "query", "prompt", "input", "instruction", "text", "问题", "提问", "来信"),
    "answer": ("answer", "reply", "response", "output", "completion", "text", "回答", "回复", "回信"),
}
"""What other people call a column: used to suggest a name, never to take one."""
SHOWN = 10
"""Bad rows that an error names before it counts the rest."""


def read(path: Path | str, columns: Mapping[str, str], optional: Sequence[str] = ()) -> pd.DataFrame:
    """The columns {our name: name in the file} as text, and those of `optional` that are there; index: line.

    An optional `outcome` is what a row tells of itself in any field (`answers.told`), `cbt_outcome` in those of cbt.

    A relative path is looked for in the repository. Without a column `id`, PsyQA's questionID or else the line number
    is the id. Raises CbtError for a file that is no table, a column that is not there, an id that comes twice, a
    question or id that is no text.
    """
    path = ROOT / path
    rows = read_rows(path)
    if not rows:
        raise CbtError(f"{path} holds no rows: it needs the columns {', '.join(columns.values())}")
    names = list(dict.fromkeys(name for _, row in rows for name in row))
    there = {reading.folded(name): name for name in names}
    absent = {ours: name for ours, name in columns.items() if reading.folded(name) not in there}
    if absent:
        raise CbtError("\n".join(_missing(path, ours, name, names) for ours, name in absent.items()))
    wanted = {ours: there[reading.folded(name)] for ours, name in columns.items()}
    wanted |= {name: there[name] for name in optional if name in there and name not in wanted}
    if "id" in optional and (called := next((name for name in reading.ID_FIELDS if name in names), None)):
        wanted.setdefault("id", called)
    table = pd.DataFrame(
        [{ours: row.get(name) for ours, name in wanted.items()} for _, row in rows],
        index=pd.Index([line for line, _ in rows], name="line"),
        dtype=object,
    )
    if "id" in table:
        table["id"] = [str(name) if isinstance(name, int) else name for name in table["id"]]
    elif "id" in optional:
        table.insert(0, "id", [str(line) for line in table.index])
    _check(path, table, wanted)
    for name in optional:
        if name.endswith("outcome"):  # of the row, or of the system whose name stands before it
            n = len(name) - len("outcome")
            found = [told({key[n:]: cell for key, cell in row.items() if key[:n] == name[:n]}) for _, row in rows]
            if set(found) != {"ok"}:
                table[name] = found
    return table


def join(questions: pd.DataFrame, answers: pd.DataFrame) -> pd.DataFrame:
    """The columns of both tables, lined up by id; CbtError names an id that only one of them has."""
    for has, lacks, what in ((questions, answers, "answer"), (answers, questions, "question")):
        known = set(lacks["id"])
        if lone := [name for name in has["id"] if name not in known]:
            raise CbtError(
                f"{len(lone)} of {len(has)} ids have no {what}, {lone[0]!r} first: both files need the same ids"
            )
    return questions.merge(answers, on="id", validate="one_to_one")


def posts(table: pd.DataFrame) -> pd.Series:
    """The post of each row: its question and, where the table has one, its description."""
    described = table["description"].fillna("") if "description" in table else ""
    return (table["question"] + "\n" + described).str.strip()


def outcomes(table: pd.DataFrame, column: str, given: str = "outcome") -> list[str]:
    """The outcome of each row: what column `given` says, where the table has it; else ok.

    Of ok, failed or refused where the text is no answer (see `answers.outcome_of`). CbtError for a word that is no
    outcome.
    """
    found: list[str] = []
    for line, row in table.iterrows():
        text, outcome = row[column], row.get(given) or "ok"
        if outcome not in OUTCOMES:
            raise CbtError(f"line {line}, column {given}: {outcome!r} is none of {', '.join(OUTCOMES)}")
        found.append(outcome_of(text, outcome))
    return found


def nearest(name: str, known: Sequence[str]) -> list[str]:
    """The two names of `known` most like `name` or like what others call it, best first."""

    def likeness(candidate: str) -> float:
        plain = candidate.strip().casefold()
        return max(
            difflib.SequenceMatcher(None, other, plain).ratio() - 0.1 * (other != name.casefold())
            for other in (name.casefold(), *ALIASES.get(name, ()))
        )

    return sorted(known, key=likeness, reverse=True)[:2]


def _missing(path: Path, ours: str, name: str, names: list[str]) -> str:
    close = nearest(ours if name == ours else name, names)
    it = " and ".join(repr(one) for one in close)
    told = f"the nearest names are {it}" if len(close) > 1 else f"its only column is {it}"
    return (
        f"{path}: column {name!r} is missing; {told}. Rename one, or give its name: -p {ours}_column={_word(close[0])}"
    )


def _word(name: str) -> str:
    """A name as a shell takes it: it comes from somebody's file, and the reader may paste it."""
    return name if re.fullmatch(r"[\w-]+", name) else shlex.quote(name)


def _check(path: Path, table: pd.DataFrame, wanted: Mapping[str, str]) -> None:
    """Every cell is text (or nothing); a question and an id are there and the id is there once."""
    problems = []
    seen: dict[str, int] = {}
    for line, row in zip(table.index.tolist(), table.to_dict("records"), strict=True):
        for ours, value in row.items():
            called = wanted.get(str(ours), str(ours))
            if value is not None and not isinstance(value, str):
                problems.append(f"line {line}, column {called}: is {type(value).__name__}, not text")
            elif ours in ("id", "question") and not (value or "").strip():
                problems.append(f"line {line}, column {called}: is empty")
            elif ours == "id" and value in seen:
                problems.append(f"line {line}, column {called}: {value!r} stands on line {seen[value]} already")
            elif ours == "id" and isinstance(value, str):
                seen[value] = line
    _refuse(path, problems)


def _refuse(path: Path, problems: Sequence[str]) -> None:
    if problems:
        more = [f"… and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        raise CbtError("\n  ".join([f"{path}: {len(problems)} rows cannot be used", *problems[:SHOWN], *more]))


def read_rows(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """(line, row) of a file in any of the forms above; CbtError names every line that is no row."""
    found = list(reading.rows(path))
    _refuse(path, [str(row) for _, row in found if isinstance(row, Problem)])
    return [(line, row) for line, row in found if not isinstance(row, Problem)]
