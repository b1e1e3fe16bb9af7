"""How good a corpus is as text: lengths, labels, variety, and whether each letter answers its own post.

`measure` gives the numbers, `card` the tables of the data card made from them. Notable choices:

- Variety is counted on characters, so that no word segmenter has a say: distinct-4 and runs of 12 characters.
- A run of 12 that stands in the answer's own post is a quotation and is not counted as a stock phrase.
- Self-BLEU (Zhu et al. 2018) is each answer's BLEU-4 against all the others, without brevity penalty (an answer has
  some reference of its own length as soon as there are a few), averaged; lower is more varied.
"""

import math
import re
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from cbtlib import CbtError, gates
from cbtlib.corpus import SPLITS, TOPICS, TYPES, Record

RUN = 12
"""Characters of a run that may stand in two answers, not in three."""
QUOTE = 4
"""Characters that a key thought must have in common with its post to count as quoting it."""


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


def repeated_runs(records: Sequence[Record], least: int = 3) -> dict[str, int]:
    """Runs of 12 characters that stand in `least` answers or more, own quotations left out, with how many."""
    counts: Counter[str] = Counter()
    for record in records:
        counts.update(run for run in set(_runs(record.answer_text, RUN)) if run not in record.post)
    return {run: count for run, count in counts.most_common() if count >= least}


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


def card(records: Sequence[Record]) -> str:
    """The statistics of the data card in Markdown: quality, labels and topics by split."""
    quality = asdict(measure(records))
    lines = ["| measure | value |", "|---|---|"]
    for name, value in quality.items():
        shown = (
            " / ".join(map(str, value))
            if isinstance(value, tuple)
            else f"{value:.3f}"
            if isinstance(value, float)
            else value
        )
        lines.append(f"| {_TITLES[name]} | {shown} |")
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
