"""Cognitive distortions: the taxonomy, and labels read off an answer that names them.

The paper counts a distortion when the CBT answer names one. `extract` does the same with a list of names and aliases in
Chinese and English (`data/taxonomy.csv`), and chapter 03 measures how far that can be believed.

Notable choices
- A mention inside a negation ("这不是读心术", "not labelling") is no label. The negation must stand before the name in
  the same clause; what comes after it is not read.
- The longest name wins where two begin together, so that 夸大和缩小 is one mention.
- A label that could not be had (a failed or unparsed answer) is None, never the empty set: `matrix` refuses to make it
  "no distortion", and says how many there are.
"""

import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cbtlib import ROOT, CbtError
from cbtlib.corpus import TYPES, Record

__all__ = ["TYPES", "Mention", "extract", "matrix", "mentions", "names", "of_records", "taxonomy", "translate"]

Labels = frozenset[str]

SCHEMES = ("socialcd3k", "cbt_bench", "c2d2")
"""Other sets whose labels `data/taxonomy.csv` maps to ours."""


@functools.cache
def _taxonomy() -> pd.DataFrame:
    return pd.read_csv(ROOT / "data" / "taxonomy.csv", dtype=str, keep_default_na=False)


def taxonomy() -> pd.DataFrame:
    """One row a type: id, zh, en, definitions, examples, counter-examples, aliases, and its names in other sets."""
    return _taxonomy().copy()


def names(language: str = "en") -> dict[str, str]:
    """Type id to its name in `en` or `zh`."""
    if language not in ("en", "zh"):
        raise CbtError(f"no names in {language!r}: choose en or zh")
    table = _taxonomy()
    return dict(zip(table["id"], table[language], strict=True))


def translate(scheme: str) -> dict[str, str]:
    """Label of another set (`socialcd3k`, `cbt_bench` or `c2d2`, in lower case) to our type id."""
    if scheme not in SCHEMES:
        raise CbtError(f"no mapping from {scheme!r}: choose one of {', '.join(SCHEMES)}")
    rows = zip(_taxonomy()["id"], _taxonomy()[scheme], strict=True)
    return {label.lower(): kind for kind, cell in rows for label in cell.split("|") if label}


def known(label: str) -> str | None:
    """Our type for a label of any set the taxonomy maps; None when it maps none to it."""
    found = {translate(scheme).get(label.strip().lower()) for scheme in SCHEMES} - {None}
    return found.pop() if len(found) == 1 else None


# ------------------------------------------------------------------ labels from an answer


@dataclass(frozen=True, slots=True)
class Mention:
    """text[start:end] names `type`; `negated` when its clause denies it."""

    type: str
    start: int
    end: int
    negated: bool


_NEGATION = re.compile(
    r"(?:不是|并非|不算|算不上|谈不上|不属于|不等于|不叫|别|不要|没有|没法|没人能|谁也不能|无法|不能|不会|而非|从不|未必是|不必)"
    r"[^，。！？；：、,.!?;:\n]{0,8}$"
    r"|\b(?:not|no|never|isn't|isn’t|wasn't|without|cannot|can't|neither|nor)\b[^,.!?;:\n]{0,24}$",
    re.IGNORECASE,
)
_AFFIRMED = re.compile(r"(?:是不是|能不能|会不会|不是.{0,12}(?:而是|，是))[^，。！？；]{0,8}$")


@functools.cache
def _names() -> tuple[re.Pattern[str], dict[str, str]]:
    """One pattern of every name and alias in lower case, the longest first, and the type each stands for.

    Nothing but literals: Python then skips to characters that can begin one, ten times as fast as with flags or edges.
    """
    kinds: dict[str, str] = {}
    for row in _taxonomy().to_dict("records"):
        for cell in (row["zh"], row["en"], row["aliases_zh"], row["aliases_en"]):
            kinds.update({name.strip().lower(): row["id"] for name in cell.split("|") if name.strip()})
    return re.compile("|".join(re.escape(name) for name in sorted(kinds, key=len, reverse=True))), kinds


def mentions(text: str) -> list[Mention]:
    """Every place of a text that names a distortion, in order."""
    lower = text.lower()
    if len(lower) != len(text):  # a few capitals (İ) grow in lower case, and offsets would no longer hold
        lower = "".join(char.lower() if len(char.lower()) == 1 else char for char in text)
    pattern, kinds = _names()
    found = []
    for match in pattern.finditer(lower):
        beside = lower[match.start() - 1 : match.start()] + lower[match.end() : match.end() + 1]
        if match[0].isascii() and re.search("[a-z]", beside):
            continue  # part of a longer English word
        before = lower[max(0, match.start() - 40) : match.start()]
        negated = bool(_NEGATION.search(before)) and not _AFFIRMED.search(before)
        found.append(Mention(kinds[match[0]], match.start(), match.end(), negated))
    return found


def extract(text: str) -> Labels:
    """The types that a text names at least once without denying it."""
    return frozenset(mention.type for mention in mentions(text) if not mention.negated)


# ------------------------------------------------------------------ labels as a matrix


def of_records(records: Iterable[Record]) -> NDArray[np.bool_]:
    """Gold labels (records, 11)."""
    return matrix([record.types for record in records])


def matrix(labels: Sequence[Iterable[str] | None], types: Sequence[str] = TYPES) -> NDArray[np.bool_]:
    """Label sets to a boolean matrix (items, types); CbtError for a missing (None) or an unknown label."""
    missing = sum(item is None for item in labels)
    if missing:
        raise CbtError(
            f"{missing} of {len(labels)} items have no labels (failed or unparsed): leave them out and print their "
            f"number; they are not 'no distortion'"
        )
    column = {name: index for index, name in enumerate(types)}
    out = np.zeros((len(labels), len(types)), bool)
    for row, item in enumerate(labels):
        for name in item or ():
            if name not in column:
                raise CbtError(f"item {row + 1} has the label {name!r}; known are {', '.join(types)}")
            out[row, column[name]] = True
    return out
