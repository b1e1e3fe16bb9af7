"""Cognitive distortions: the taxonomy, and labels read off an answer that names them.

`extract` counts a distortion when an answer names one, by a list of names and aliases in Chinese and English
(`data/taxonomy.csv`), and chapter 03 measures how far that can be believed. How the paper assigned its labels is not
known here.

Notable choices
- A mention inside a negation ("这不是读心术", "not labelling") is no label, nor is the rest of a list that begins so
  ("不是读心术、贴标签"); two negations cancel ("不能说没有以偏概全"). The negation must stand before the name in the
  same clause. Of what comes after it only a form's entry is read ("灾难化：无").
- Traditional characters, full-width letters and capitals are read like the names in the table.
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

from cbtlib import ROOT, CbtError, formats
from cbtlib.corpus import TYPES, Record

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
    """Type id to its name in `en` or `zh`. CbtError for another language."""
    if language not in ("en", "zh"):
        raise CbtError(f"no names in {language!r}: choose en or zh")
    table = _taxonomy()
    return dict(zip(table["id"], table[language], strict=True))


def translate(scheme: str) -> dict[str, str]:
    """Label of another set (`socialcd3k`, `cbt_bench` or `c2d2`, in lower case) to our type id.

    CbtError for another set.
    """
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


# In simplified characters and lower case, with straight apostrophes.
_NEGATION = re.compile(
    r"不(?:是(?![只光])|算|属于|等于|叫|像|太像|见得|存在|包?含|构成|应|至于|要|必|会|能|再)|并非|而非|未必|从不|算不上|谈不[上到]"
    r"|没有(?!.{0,2}(?:证据|根据|依据|理由|意识|察觉|觉察|注意))|没(?:[在见法]|看[到出]|发现|出现|人能)|看不[到出见]|无法"
    r"|(?<![识特分类级个区差性告派辨])别(?![人的处名扭致])|[不没无非]$"
    r"|\b(?:(?:not|never|cannot|\w+n't)(?! (?:only|just|merely|simply|help|stop|notic|realis|realiz|aware))"
    r"|no(?! (?:doubt|wonder))|without(?! (?:any )?(?:evidence|proof|reason))|hardly|neither|nor"
    r"|rather than|instead of)\b"
)
_BREAK = re.compile(
    r"[，。！？；：、,.!?;:\n…]|而是|\bbut\b|([是能会])不\1|有(?:没有|无)|不[能得]不|无非|莫非|除非|whether or not"
)
"""Where a denial ends: punctuation, a turn, and words that look like denials and are none (是不是, 不得不)."""
_MARKS = r"[^\w，。！？；：.!?;:\n]*"  # brackets, quotes, stars
_JOINED = re.compile(rf"{_MARKS}(?:[、/,（(]|,? ?\b(?:or|nor|and)\b|[，、]?(?:或者?|和|与|及|以及)){_MARKS}")
"""What may stand between two names of one list, the first of which is denied (不是读心术、贴标签或灾难化)."""
_ABSENT = re.compile(
    rf"{_MARKS}(?:[（(][^（）()\n]*[）)]{_MARKS})?[：:|]{_MARKS}(?:无|否|没有|不存在|no|none)[*\s]*(?:[，。；,.;|]|$)",
    re.MULTILINE,
)
"""A form's line that says no: 灾难化：无."""
_OTHER_WORD = re.compile(r"读心[理得情态灵声事]|[每一两几多整这那]个人化")
"""Words that only look like a name: 攻读心理学 is no mind reading, 一个人化妆 no personalisation."""
_QUOTES = ("“”", "‘’", "「」", "『』", '""', "''")


@functools.cache
def _names() -> tuple[re.Pattern[str], dict[str, str]]:
    """One pattern of every name and alias in lower case, the longest first, and the type each stands for.

    A name begins with a literal: Python then skips to characters that can begin one, ten times as fast as with flags or
    edges. Space and hyphen are one, and quotation marks within a name may be of any kind.
    """
    kinds: dict[str, str] = {}
    for row in _taxonomy().to_dict("records"):
        for cell in (row["zh"], row["en"], row["aliases_zh"], row["aliases_en"]):
            for name in filter(None, map(_folded, cell.lower().split("|"))):
                kinds |= {name.replace("“", pair[0]).replace("”", pair[1]): row["id"] for pair in _QUOTES}
    literals = (re.escape(name).replace(r"\ ", r"(?:[-‐‑]|\s+)") for name in sorted(kinds, key=len, reverse=True))
    return re.compile("|".join(literals)), kinds


def _folded(name: str) -> str:
    return re.sub(r"[-‐‑\s]+", " ", name).strip()


def _plain(text: str) -> str:
    """A text of the same length in lower case, simplified characters, half-width letters and straight apostrophes."""
    text = re.sub("[\ud800-\udfff]", "\ufffd", text)  # half a character, as broken JSON has it: OpenCC would fail
    text = formats.plain(text)
    lower = text.lower().replace("’", "'")
    if len(lower) != len(text):  # a few capitals (İ) grow in lower case, and offsets would no longer hold
        lower = "".join(char.lower() if len(char.lower()) == 1 else char for char in text)
    return lower


def mentions(text: str) -> list[Mention]:
    """Every place of a text that names a distortion, in order."""
    plain = _plain(text)
    pattern, kinds = _names()
    found: list[Mention] = []
    for match in pattern.finditer(plain):
        start, end = match.span()
        around = plain[max(0, start - 1) : end + 1]
        if (match[0].isascii() and re.search("[a-z]", around.replace(match[0], "", 1))) or _OTHER_WORD.search(around):
            continue  # part of a longer word
        listed = found and found[-1].negated and _JOINED.fullmatch(plain, found[-1].end, start)
        negated = bool(listed or _denied(plain[max(0, start - 40) : start]) or _ABSENT.match(plain, end))
        found.append(Mention(kinds[_folded(match[0])], start, end, negated))
    return found


def _denied(before: str) -> bool:
    """Whether what stands before a name denies it: an odd number of negations close by in the same clause."""
    clause = before[max((match.end() for match in _BREAK.finditer(before)), default=0) :]
    count, edge = 0, len(clause)
    for match in reversed(list(_NEGATION.finditer(clause))):
        chinese, english = (8, 24) if not count else (3, 16)  # characters from a negation to what it denies
        if edge - match.end() > (english if match[0].isascii() else chinese):
            break
        count, edge = count + 1, match.start()
    return count % 2 == 1


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
