"""How right `structure` is: on gold letters whole and damaged, and on model answers with labelled sentences.

    evaluate(records)     letters that the reader was not fitted to, as written and damaged in known ways
    agreement(answers)    any answers with labelled sentences
    labelled_answers()    model answers whose sentences a language model labelled, {source: answers}, for `agreement`

Notable choices:

- Every sentence of a gold letter has its label for nothing, since the parts are separate fields.
- A gold letter has one paragraph for each part, so a reader that used line breaks would be measured on nothing. This
  one does not, and is shown a line break after every sentence.
- The floor is a reader that looks at the place of a sentence and at no word. On whole letters it is hard to beat,
  because their parts come in order and in like lengths; but it claims every part of any text.
- Damage tells whether coverage looks at the words: with one part left out, `coverage invented` is how often the absent
  part is claimed all the same.
- Answers are resampled, not sentences: those of one answer stand or fall together. So do two letters that are glued,
  in both orders, to each other and to no third.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cbtlib import ROOT, CbtError, corpus
from cbtlib.corpus import PARTS
from cbtlib.reading import Problem, objects
from cbtlib.resampling import Statistics, intervals, ratio
from cbtlib.structure import CLASSES, Labelled, Structure, labelled, read, runs, sentences

LABELS = ROOT / "data" / "structure_labels.jsonl"


def evaluate(records: Sequence[corpus.Record], resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """`agreement` on the gold letters of records (index: case, measure), and in column `floor` that of place alone.

    Cases: whole; one part left out (each in turn); parts in random order; another letter glued on; the post in place of
    an answer; characters shuffled. Raises CbtError for a letter that the reader was trained on, or a single one.
    """
    if len(records) < 2:
        raise CbtError("it takes two letters to glue one to another; give at least two records")
    train = {record.answer_text for record in corpus.load_split("train")}
    if seen := [record.id for record in records if record.answer_text in train]:
        raise CbtError(f"record {seen[0]} is in the train split; a reader is not measured on letters it was fitted to")
    generator = np.random.default_rng(seed)
    letters = [labelled(record.answer) for record in records]
    pairs = list(zip(letters[::2], letters[1::2], strict=False))  # of an odd number the last is not glued
    orders = [{part: place for place, part in enumerate(generator.permutation(PARTS))} for _ in letters]
    cases: dict[str, list[Labelled]] = {
        "whole": letters,
        "one part left out": [[p for p in letter if p[1] != part] for part in PARTS for letter in letters],
        "parts shuffled": [sorted(x, key=lambda p: o[p[1]]) for x, o in zip(letters, orders, strict=True)],
        "two letters glued": [one + two for one, two in pairs] + [two + one for one, two in pairs],
        "the post": [[(sentence, None) for sentence in sentences(record.post)] for record in records],
        "characters shuffled": [
            [(cut, None) for sentence, _ in letter for cut in sentences("".join(generator.permutation([*sentence])))]
            for letter in letters
        ],
    }
    tables = {}
    for case, answers in cases.items():
        texts = ["\n".join(sentence for sentence, _ in answer) for answer in answers]
        # Versions of one letter, or of one pair, are resampled together, so their counts are added up.
        units = len(pairs) if case == "two letters glued" else len(records)
        counts, floor = (
            _counts(answers, readings).reshape(-1, units, _WIDTH).sum(axis=0)
            for readings in (read(texts), by_place(texts))
        )
        tables[case] = _table(counts, resamples, seed).assign(floor=_table(floor, resamples, seed).value)
    return pd.concat(tables, names=["case", "measure"])


def agreement(answers: Sequence[Labelled], resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """How far `analyse` agrees with labelled answers; the answers are resampled for the intervals.

    Columns value, low, high, n (what a measure counts). Measures: `macro-F1` over the labels that occur; F1, precision
    and recall of each; `coverage`, agreement over answers x parts, split into `coverage found` (share of the parts that
    are there) and `coverage invented` (share of those that are not); `order`: the parts follow each other as labelled.
    """
    texts = ["\n".join(sentence for sentence, _ in answer) for answer in answers]
    return _table(_counts(answers, read(texts)), resamples, seed)


def by_place(texts: Sequence[str]) -> Iterator[Structure]:
    """Readings that give each sentence the part most train letters have at its place, whatever it says."""
    votes = np.zeros((15, len(PARTS)))
    for record in corpus.load_split("train"):
        answer = labelled(record.answer)
        for place, (_, part) in enumerate(answer):
            votes[place * len(votes) // len(answer), PARTS.index(part)] += 1
    usual = [PARTS[index] for index in votes.argmax(axis=1)]
    for text in texts:
        cut = sentences(text)
        parts = [usual[place * len(usual) // len(cut)] for place in range(len(cut))]
        yield Structure(list(zip(cut, parts, strict=True)), {part: part in parts for part in PARTS}, runs(parts))


def labelled_answers(path: Path = LABELS) -> dict[str, list[Labelled]]:
    """Model answers with labelled sentences; a line: {"source", "id" (post), "sentences": [[text, part/null]]}."""
    answers: dict[str, list[Labelled]] = {}
    for line, item in objects(path):
        if isinstance(item, Problem):
            raise corpus.CorpusError(path, [item])
        answer = [(text, part) for text, part in item["sentences"]]
        if stray := [part for _, part in answer if part not in CLASSES]:
            raise CbtError(f"{path}, line {line}: {stray[0]!r} is no part; use {', '.join(PARTS)} or null")
        answers.setdefault(item["source"], []).append(answer)
    return answers


_WIDTH = len(CLASSES) ** 2 + 5


def _counts(answers: Sequence[Labelled], readings: Iterable[Structure]) -> NDArray[np.float64]:
    """For each answer (n, _WIDTH): sentences by label and reading, parts by being there and found, order right."""
    confusion, parts = np.zeros((len(answers), len(CLASSES), len(CLASSES))), np.zeros((len(answers), 2, 2))
    order = np.zeros((len(answers), 1))
    for number, (answer, found) in enumerate(zip(answers, readings, strict=True)):
        if [sentence for sentence, _ in answer] != [sentence for sentence, _ in found.sentences]:
            raise CbtError(
                f"labelled answer {number + 1} is not cut as `sentences` cuts it; label the sentences it gives"
            )
        gold = [part for _, part in answer]
        for label, (_, reading) in zip(gold, found.sentences, strict=True):
            confusion[number, CLASSES.index(label), CLASSES.index(reading)] += 1
        for part, covered in found.coverage.items():
            parts[number, int(part in gold), int(covered)] += 1
        order[number] = found.order == runs(gold)
    return np.concatenate([confusion.reshape(len(answers), -1), parts.reshape(len(answers), -1), order], axis=1)


def _table(counts: NDArray[np.float64], resamples: int, seed: int) -> pd.DataFrame:
    confusion = counts[:, :-5].reshape(-1, len(CLASSES), len(CLASSES))
    given, got, both = confusion.sum(axis=2), confusion.sum(axis=1), confusion.diagonal(axis1=1, axis2=2)
    left, invented, missed, found = counts[:, -5:-1].T
    occur = [index for index in range(len(CLASSES)) if given[:, index].any()]
    shares: dict[str, tuple[Any, Any]] = {}
    for index in occur:
        name = CLASSES[index] or "none"
        shares[f"F1 {name}"] = 2 * both[:, index], given[:, index] + got[:, index]
        shares[f"precision {name}"] = both[:, index], got[:, index]
        shares[f"recall {name}"] = both[:, index], given[:, index]
    every = left + invented + missed + found
    shares["coverage"] = left + found, every
    shares["coverage found"] = found, missed + found
    shares["coverage invented"] = invented, left + invented
    shares["order"] = counts[:, -1], every / len(PARTS)
    rows = {name: np.stack(pair, axis=1) for name, pair in shares.items() if pair[1].any()}
    f1 = np.concatenate([rows[name] for name in rows if name.startswith("F1")], axis=1)
    measures = {"macro-F1": Statistics(f1, lambda sums: ratio(sums.reshape(*sums.shape[:-1], -1, 2)).mean(axis=-1))}
    measures |= {name: Statistics(pair) for name, pair in rows.items()}
    table = pd.DataFrame(intervals([*measures.values()], resamples, seed=seed), list(measures), ["low", "high"])
    table.insert(0, "value", [measure.value for measure in measures.values()])
    table["n"] = [int(given.sum()), *(int(pair[:, 1].sum()) for pair in rows.values())]
    return table.rename_axis("measure")
