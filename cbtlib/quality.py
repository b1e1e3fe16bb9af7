"""How good a corpus is as text: lengths, labels, variety, and whether each letter answers its own post.

`measure` gives the numbers, `card` the tables of the data card made from them. `aggregates` gives the figures that any
set of posts and answers has, so that a set which may not be passed on can still be set beside the book's (`beside`).
Notable choices:

- Variety is counted on characters, so that no word segmenter has a say: distinct-4 and runs of 12 characters.
- A run of 12 that stands in the answer's own post is a quotation and is not counted as a stock phrase.
- Self-BLEU (Zhu et al. 2018) is each answer's BLEU-4 against all the others, without brevity penalty (an answer has
  some reference of its own length as soon as there are a few), averaged; lower is more varied.
- Both depend on how much text is counted. Across sets they are taken on an equal footing: 200 answers drawn by a fixed
  seed, the first 300 characters of each.
"""

import math
import random
import re
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from cbtlib import CbtError, gates
from cbtlib.answers import outcome_of
from cbtlib.corpus import SPLITS, TOPICS, TYPES, Record
from cbtlib.formats import Sample

RUN = 12
"""Characters of a run that may stand in two answers, not in three."""
QUOTE = 4
"""Characters that a key thought must have in common with its post to count as quoting it."""
FOOTING = (200, 300)
"""Answers, and characters of each, on which the variety of different sets is compared."""
BIN = 50
"""Characters in a bin of the length histograms."""


@dataclass(frozen=True, slots=True)
class Quality:
    """What `measure` found in records; shares are fractions of the answers unless said otherwise."""

    records: int
    without_distortion: float
    question_length: tuple[int, int, int]  # shortest, median, longest, in characters
    description_length: tuple[int, int, int]
    answer_length: tuple[int, int, int]
    distinct_4: float  # different runs of 4 characters / all runs of 4
    self_bleu: float
    repeated_runs: int  # runs of 12 characters in more than two answers
    commonest_opening: float  # share of answers that begin with the commonest 6 characters
    near_duplicates: int  # pairs of posts or of answers with 5-gram Jaccard >= 0.3
    quoting: float  # key thoughts that share 4 characters in a row with their post
    asking: float  # challenges that hold a question


def measure(records: Sequence[Record]) -> Quality:
    """Measure records that are answered by a letter (crisis records are left out); CbtError when there is none."""
    records = [record for record in records if not record.crisis]
    if len(records) < 2:
        raise CbtError("quality needs at least two records with a letter; name a file that has them")
    answers = [record.answer_text for record in records]
    openings = Counter(answer[:6] for answer in answers)
    grams = Counter(gram for answer in answers for gram in _runs(answer, 4))
    pairs = [gates.near_duplicates(texts) for texts in ([record.post for record in records], answers)]
    return Quality(
        records=len(records),
        without_distortion=_share(not record.distortions for record in records),
        question_length=_lengths([record.question for record in records]),
        description_length=_lengths([record.description for record in records]),
        answer_length=_lengths(answers),
        distinct_4=len(grams) / grams.total(),
        self_bleu=self_bleu(answers),
        repeated_runs=len(repeated_runs(records)),
        commonest_opening=openings.most_common(1)[0][1] / len(answers),
        near_duplicates=sum(map(len, pairs)),
        quoting=_share(_common_run(x.answer["key_thought"], x.post) >= QUOTE for x in records),
        asking=_share(bool(re.search("[？?]", x.answer["challenge"])) for x in records),
    )


def repeated_runs(records: Sequence[Record]) -> dict[str, int]:
    """Runs of 12 characters that stand in more than two answers, own quotations left out, with how many."""
    counts: Counter[str] = Counter()
    for record in records:
        counts.update(run for run in set(_runs(record.answer_text, RUN)) if run not in record.post)
    return {run: count for run, count in counts.most_common() if count > 2}


def self_bleu(texts: Sequence[str]) -> float:
    """Mean BLEU-4 on characters of each text against all the others as references, 0-100."""
    logs = [0.0] * len(texts)
    for n in range(1, 5):
        counts = [Counter(_runs(text, n)) for text in texts]
        best: dict[str, tuple[int, int]] = {}  # n-gram -> (largest count, text that has it)
        second: dict[str, int] = {}  # n-gram -> largest count in any other text
        for index, counter in enumerate(counts):
            for gram, count in counter.items():
                top = best.get(gram, (0, -1))[0]
                if count > top:
                    best[gram], second[gram] = (count, index), top
                else:
                    second[gram] = max(second.get(gram, 0), count)
        for index, counter in enumerate(counts):
            clipped = sum(
                min(count, best[gram][0] if best[gram][1] != index else second.get(gram, 0))
                for gram, count in counter.items()
            )
            logs[index] += math.log(max(clipped, 1e-9) / max(counter.total(), 1)) / 4
    return 100 * statistics.fmean(map(math.exp, logs))


def aggregates(samples: Sequence[Sample]) -> dict[str, Any]:
    """Figures of any set that hold none of its text, as a JSON object.

    Counts of posts and answers; their lengths (shortest, median, longest) and histograms (lower edge of a bin of 50
    characters: count); shares of the answers with the commonest first 6 characters, with a run of 8 characters of their
    post, with a question; pairs of near duplicates; distinct-4 and self-BLEU on an equal footing (None where the set
    has not 200 answers of 300 characters). CbtError when there is no answer.
    """
    answered = [
        (x.text, x.answer) for x in samples if x.answer and not x.crisis and outcome_of(x.answer, x.outcome) == "ok"
    ]
    if not answered:
        raise CbtError("there is no answer in it: name a set of posts with answers")
    posts, answers = list(dict.fromkeys(post for post, _ in answered)), [answer for _, answer in answered]
    drawn = _footing(answers)
    grams = Counter(gram for answer in drawn for gram in _runs(answer, 4))
    return {
        "posts": len(posts),
        "answers": len(answers),
        "post_length": _lengths(posts),
        "answer_length": _lengths(answers),
        "post_histogram": _histogram(posts),
        "answer_histogram": _histogram(answers),
        "commonest_opening": Counter(answer[:6] for answer in answers).most_common(1)[0][1] / len(answers),
        "near_duplicates": sum(len(gates.near_duplicates(texts)) for texts in (posts, answers)),
        "quoting": _share(_common_run(answer, post) >= 8 for post, answer in answered),
        "asking": _share(bool(re.search("[？?]", answer)) for answer in answers),
        "distinct_4": len(grams) / grams.total() if drawn else None,
        "self_bleu": self_bleu(drawn) if drawn else None,
    }


def beside(sets: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """The `aggregates` of several sets as text, one column a set."""
    rows = {
        "posts": "posts",
        "answers": "answers",
        "post_length": "post, characters (shortest / median / longest)",
        "answer_length": "answer, characters",
        "commonest_opening": "share of answers with the commonest first 6 characters",
        "near_duplicates": "pairs of near duplicates (5-gram Jaccard 0.3 or more)",
        "quoting": "share of answers with 8 characters in a row of their post",
        "asking": "share of answers that ask something",
        "distinct_4": f"distinct-4, {FOOTING[0]} answers of {FOOTING[1]} characters",
        "self_bleu": f"self-BLEU, {FOOTING[0]} answers of {FOOTING[1]} characters",
    }
    table = {name: [_cell(figures[key]) for key in rows] for name, figures in sets.items()}
    return pd.DataFrame(table, index=pd.Index(rows.values(), name="measure"))


def markdown(table: pd.DataFrame) -> str:
    """A table of texts in Markdown."""
    lines = [" | ".join([str(table.index.name), *table.columns]), "|".join(["---"] * (len(table.columns) + 1))]
    lines += [" | ".join([str(name), *row]) for name, row in zip(table.index, table.to_numpy(), strict=True)]
    return "\n".join(f"| {line} |" for line in lines)


def card(records: Sequence[Record]) -> str:
    """The statistics of the data card in Markdown: quality, labels and topics by split."""
    quality = asdict(measure(records))
    lines = ["| measure | value |", "|---|---|"]
    lines += [f"| {_TITLES[name]} | {_cell(value)} |" for name, value in quality.items()]
    splits = [split for split in SPLITS if any(record.split == split for record in records)]
    for title, names, holds in (
        ("distortion", (*TYPES, "none"), lambda x, name: name in x.types if name != "none" else not x.types),
        ("topic", TOPICS, lambda x, name: x.topic == name),
    ):
        lines += ["", f"| {title} | " + " | ".join([*splits, "all"]) + " |", "|---" * (len(splits) + 2) + "|"]
        for name in names:
            row = [sum(holds(x, name) for x in records if x.split == split) for split in splits]
            lines.append(f"| {name} | " + " | ".join(map(str, [*row, sum(row)])) + " |")
        sizes = [sum(x.split == split for x in records) for split in splits]
        lines.append("| *records* | " + " | ".join(map(str, [*sizes, sum(sizes)])) + " |")
    return "\n".join(lines)


_TITLES = {
    "records": "records",
    "without_distortion": "share without a distortion",
    "question_length": "question, characters (shortest / median / longest)",
    "description_length": "description, characters",
    "answer_length": "answer, characters",
    "distinct_4": "distinct-4 of the answers, characters",
    "self_bleu": "self-BLEU of the answers, characters, 0-100",
    "repeated_runs": "runs of 12 characters in more than two answers",
    "commonest_opening": "share of answers with the commonest first 6 characters",
    "near_duplicates": "pairs of near duplicates (5-gram Jaccard 0.3 or more)",
    "quoting": "share of key thoughts that quote their post",
    "asking": "share of challenges that ask something",
}


def _cell(value: Any) -> str:
    if isinstance(value, tuple | list):
        return " / ".join(map(str, value))
    return "—" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


def _footing(answers: Sequence[str]) -> list[str]:
    """The same number of answers of the same length from any set; none where there are too few."""
    count, length = FOOTING
    long = [answer for answer in answers if len(answer) >= length]
    return [answer[:length] for answer in random.Random(0).sample(long, count)] if len(long) >= count else []


def _histogram(texts: Sequence[str]) -> dict[str, int]:
    """{lower edge of a bin: texts in it}, as text so that JSON keeps it."""
    counts = Counter(len(text) // BIN * BIN for text in texts)
    return {str(edge): counts[edge] for edge in range(0, max(counts) + 1, BIN)}


def _runs(text: str, n: int) -> list[str]:
    return [text[i : i + n] for i in range(len(text) - n + 1)]


def _share(flags: object) -> float:
    values = list(flags)  # type: ignore[call-overload]
    return sum(values) / len(values)


def _lengths(texts: Sequence[str]) -> tuple[int, int, int]:
    lengths = sorted(map(len, texts))
    return lengths[0], round(statistics.median(lengths)), lengths[-1]


def _common_run(a: str, b: str) -> int:
    """Length of the longest run of letters and digits that stands in both."""
    a, b = ("".join(filter(str.isalnum, text)) for text in (a, b))
    best = 0
    for i in range(len(a)):
        while i + best < len(a) and a[i : i + best + 1] in b:
            best += 1
    return best
