"""What goes out beside the data: the card's statistics, a Croissant description and checksums, all made from the files.

`renew` writes the three, and a test asserts that they agree with the corpus as it is: nothing in them is typed by hand.

    data/README.md       the data card; its statistics stand between two marks
    data/croissant.json  Croissant 1.0 JSON-LD (Akhtar et al. 2024), which `mlcroissant` loads and validates
    data/checksums.sha256  `sha256sum -c` reads it
"""

import json
import math
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from cbtlib import CbtError, cache, corpus, formats, quality, second_pass

MARKS = ("<!-- statistics: written by `cbt corpus card` -->", "<!-- end of statistics -->")

NAME = "CBT letters: Chinese posts with gold distortion spans and five-part answers"
DESCRIPTION = (
    "Invented help-forum posts in Simplified Chinese, each with cognitive distortions labelled as spans of text and "
    "with a letter in five parts that answers it in the manner of cognitive behavioural therapy. Written by a large "
    "language model from a written brief; not reviewed by clinicians; not for use in care."
)
LICENSE = "https://creativecommons.org/licenses/by/4.0/"


def renew(folder: Path) -> list[Path]:
    """Write statistics, Croissant file and checksums of the corpus in `folder`; returns what was written."""
    card = folder / "README.md"
    card.write_text(with_statistics(card), encoding="utf-8", newline="\n")
    described = folder / "croissant.json"
    text = json.dumps(croissant(folder), ensure_ascii=False, indent=2)
    described.write_text(text + "\n", encoding="utf-8", newline="\n")
    sums = folder / "checksums.sha256"
    sums.write_text(checksums(folder), encoding="utf-8", newline="\n")
    return [card, described, sums]


def with_statistics(card: Path) -> str:
    """The card's text with the statistics of the corpus beside it; CbtError when the card has no place for them."""
    old = card.read_text(encoding="utf-8")
    before, mark, rest = old.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not mark or not end:
        raise CbtError(f"{card} has no place for the statistics: it needs the lines {MARKS[0]} and {MARKS[1]}")
    records = [record for path in corpus.own_files(card.parent) for record in corpus.load(path)]
    text = quality.card(records)
    second, psyqa = card.parent / "second_labels.jsonl", card.parent / "psyqa_sample.json"
    if second.exists():
        labels = second_pass.read(second, records)
        text += "\n\n" + _agreement(second_pass.compare(records, labels)) + "\n\n"
        text += _spans(second_pass.spans(records, labels))
    if psyqa.exists():
        own = quality.aggregates([formats.of_record(record) for record in records])
        sets = {"the book's": own, "public PsyQA sample": json.loads(psyqa.read_text(encoding="utf-8"))}
        text += "\n\n" + quality.markdown(quality.beside(sets))
    return f"{before}{mark}\n\n{text}\n\n{end}{after}"


def _agreement(table: pd.DataFrame) -> str:
    lines = ["| agreement with a second pass | first | second | both | kappa | alpha | F1 |", "|---" * 7 + "|"]
    for name in (*corpus.TYPES, "any"):
        row: Any = table.loc[name]
        numbers = []
        for key in ("kappa", "alpha"):
            value, low, high = row[[key, f"{key}_low", f"{key}_high"]]
            interval = "" if math.isnan(low) else f" ({low:.2f} to {high:.2f})"
            numbers.append("undefined" if math.isnan(value) else f"{value:.2f}{interval}")
        counts = [f"{row[key]:.0f}" for key in ("first", "second", "both")]
        lines.append(f"| {name} | " + " | ".join([*counts, *numbers, f"{row['f1']:.2f}"]) + " |")
    mean: Any = table.loc["macro", "f1"]
    return "\n".join([*lines, f"| *mean of the types* | | | | | | {mean:.2f} |"])


def _spans(table: pd.DataFrame) -> str:
    equal = int((table["jaccard"] == 1).sum())
    half = int((table["jaccard"] >= 0.5).sum())
    return (
        f"Of the {len(table)} types that both passes saw in a post, the marked words are the same in {equal} and share "
        f"at least half of their characters in {half}; on average they share {table['jaccard'].mean():.2f} (Jaccard)."
    )


def croissant(folder: Path) -> dict[str, Any]:
    """The Croissant description: a file and a record set for each split, with the fields that tools can use flat."""
    import mlcroissant as mlc

    files, sets = [], []
    for path in corpus.own_files(folder):
        name = path.stem
        files.append(
            mlc.FileObject(
                id=f"{name}.jsonl",
                name=f"{name}.jsonl",
                content_url=f"corpus/{path.name}",
                encoding_formats=["application/jsonlines"],
                sha256=cache.sha256(path),
            )
        )
        fields = [
            mlc.Field(
                id=f"{name}/{column}",
                name=column,
                description=what,
                data_types=[mlc.DataType.BOOL if column == "crisis" else mlc.DataType.TEXT],
                source=mlc.Source(file_object=f"{name}.jsonl", extract=mlc.Extract(column=column)),
            )
            for column, what in _COLUMNS.items()
        ]
        sets.append(mlc.RecordSet(id=name, name=name, description=_NESTED, fields=fields))
    metadata = mlc.Metadata(
        name=NAME,
        description=DESCRIPTION,
        license=[LICENSE],
        version="1.0.0",
        date_published=datetime(2026, 11, 25),
        cite_as="See CITATION.cff of the repository.",
        distribution=files,
        record_sets=sets,
    )
    return json.loads(json.dumps(metadata.to_json(), default=str))


_NESTED = "Each line also has the nested fields distortions, answer, gloss and second_answer: see README.md."
_COLUMNS = {
    "id": "identifier of the record",
    "topic": "one of nine topics",
    "question": "title of the post",
    "description": "the post; distortion spans index its characters",
    "crisis": "whether the post carries a risk signal",
}


def checksums(folder: Path) -> str:
    """`sha256  path` lines of the corpus files, taxonomy and second labels, relative to `folder`."""
    paths = [*corpus.own_files(folder), folder / "taxonomy.csv", folder / "second_labels.jsonl"]
    paths = [path for path in paths if path.exists()]
    return "".join(f"{cache.sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in paths)
