"""What a reader sees for the names that files use: `METEOR (characters)` for `meteor_char`.

    shown("p_holm")     "p (Holm)"; a name that is not listed stands as it is
    table(frame)        the same for the rows and columns of a table

Notable choices
- Files keep the machine names, because programs read them; `report.Page.table` renames what it shows, not what it
  writes.
- Every name is listed. None is guessed from its underscores: a name that came with a reader's data is left alone.
"""

from collections.abc import Sequence
from functools import cache

import pandas as pd

METRICS = {
    "bleu": "BLEU",
    "chrf": "chrF",
    "meteor_char": "METEOR (characters)",
    "meteor_word": "METEOR (words)",
    "bertscore": "BERTScore",
    "bleurt": "BLEURT",
    "distinct_1": "distinct-1",
    "distinct_2": "distinct-2",
    "length": "length (characters)",
    "copied": "copied from the post",
    "parts": "CBT parts",
    "named": "names a distortion",
}
"""The metrics of `metrics.METRICS` whose name is not plain English already."""

PARTS = {"key_thought": "key thought"}

STATISTICS = {
    "p_holm": "p (Holm)",
    "f1": "F1",
    "auc": "AUC",
    "ece": "ECE",
    "any f1": "any: F1",
    "any low": "any: low",
    "any high": "any: high",
    "macro f1": "macro: F1",
    "macro low": "macro: low",
    "macro high": "macro: high",
    "macro, supported": "macro, supported types",
    "recall_low": "recall: low",
    "recall_high": "recall: high",
    "precision_low": "precision: low",
    "precision_high": "precision: high",
    "50%": "median",
}

METHODS = {"rogan-gladen": "Rogan-Gladen", "ppi++": "PPI++"}

OTHERS = {
    "sha256": "SHA-256",
    "crisis_posts": "crisis posts",
    "false_calm": "false calm",
    "false_alarm": "false alarm",
    "told_apart": "told apart",
    "stopped_by": "stopped by",
}


VERBATIM = {"id", "gate", "fault", "prompt"}
"""Indexes whose names stand in the text and on the command line too: they are shown as they are."""


def shown(name: object) -> object:
    """The plain name of a row, column or cell that holds a machine name; anything else as it is."""
    return _names().get(name, name) if isinstance(name, str) else name


def table(frame: pd.DataFrame, cells: Sequence[str] = ()) -> pd.DataFrame:
    """A table with plain names on rows and columns, and in the cells of the columns `cells`, where `|` divides them."""
    view = frame.assign(**{column: frame[column].map(_listed, na_action="ignore") for column in cells})
    view = view.rename(columns=shown)
    return view if VERBATIM & set(view.index.names) else view.rename(index=shown)


def _listed(cell: str) -> str:
    return ", ".join(str(shown(name)) for name in cell.split("|"))


@cache
def _names() -> dict[str, str]:
    from cbtlib import distortions

    methods = {f"{key} {word}": f"{name} {word}" for key, name in METHODS.items() for word in ("share", "low", "high")}
    return METRICS | PARTS | STATISTICS | METHODS | methods | OTHERS | distortions.names("en")
