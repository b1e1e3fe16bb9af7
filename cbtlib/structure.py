"""Which of the five CBT parts an answer contains: a part, or None, for every sentence; coverage; order.

    analyse(text)        one answer -> Structure(sentences, coverage, order)
    coverage(texts)      many answers -> table of booleans, one column a part

How right that is: `structure_accuracy`.

Notable choices:

- A sentence is judged by its own words (character n-grams and a few cues, logistic regression over the five parts and
  None). Its place in the letter is not a feature. Line breaks end a sentence and mean nothing more, so an answer in
  one block and an answer in five paragraphs are read alike.
- Order enters only as transition probabilities between neighbours (a hidden Markov model, read with Viterbi). They are
  counted on train letters whole, thinned, shuffled and interrupted, so order is a hint that words can overrule.
- Coverage needs evidence: a part counts if its presence has a probability of at least CERTAIN over all readings of the
  letter (forward algorithm); that it would be its turn is not enough.
- None is learned from what is no answer: posts, headings, letters in shuffled characters, letters whose "you" is "I".
  Three things are None by rule: text that is hardly Chinese, a sentence that is a loop, a sentence said before.
- The weights are fitted at first use from data/corpus/train.jsonl and kept in memory: no file beside the corpus that
  could be stale, and nothing to unpickle.
"""

import functools
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cbtlib import CbtError, corpus
from cbtlib.corpus import PARTS

Labelled = list[tuple[str, str | None]]
"""An answer as sentences with their parts."""

CLASSES = (*PARTS, None)
NONE = len(PARTS)
CERTAIN = 0.8
"""Probability from which a part counts as covered: lower finds parts that are not there, higher loses short endings."""

TITLES = ("验证", "共情", "识别关键思维", "关键想法", "提出挑战", "反思", "提供策略", "建议", "鼓励", "前瞻")
_SENTENCE = re.compile("(?:“[^“”\n]{0,120}”|[^。！？!?\n])*(?:[。！？!?]+[…”’」』）)]*|\n|$)")
_HAN = re.compile("[\u3400-\u9fff]")
_INK = re.compile(r"[\w{}\[\]<>\":=]")  # letters, digits and the marks of code
_BLOCK = 1000  # answers whose features are held at once


@dataclass(frozen=True, slots=True)
class Structure:
    """Each sentence with its part or None; which parts are there; the parts as they follow each other, a run once."""

    sentences: Labelled
    coverage: dict[str, bool]
    order: list[str]


def analyse(text: str) -> Structure:
    """Read one answer; an empty one has no sentences and covers nothing."""
    return next(read([text]))


def coverage(texts: Sequence[str]) -> pd.DataFrame:
    """Which parts each answer covers: (len(texts), 5) booleans, columns PARTS.

    CbtError for one text in place of a list.
    """
    if isinstance(texts, str):
        raise CbtError("coverage wants a list of answers and got one text; use analyse for one, or put it in a list")
    return pd.DataFrame([found.coverage for found in read(texts)], columns=list(PARTS), dtype=bool)


def evidence(sentence: str, part: str) -> list[str]:
    """The words of a sentence that speak most for a part, strongest first; at most three, all of positive weight.

    A word's weight is the sum over its character pairs and characters of tf-idf value times (coefficient of the part -
    mean coefficient over the classes). It explains how this linear reader sees the sentence, not why it was written.
    """
    import rjieba

    reader = _reader()
    weight = reader.classifier.coef_[CLASSES.index(part)] - reader.classifier.coef_.mean(axis=0)
    row = reader.vectoriser.transform([f"^{sentence}$"])
    value = {int(at): float(v) * float(weight[at]) for at, v in zip(row.indices, row.data, strict=True)}
    known = reader.vectoriser.vocabulary_

    def weighed(word: str) -> float:
        grams = [word[at : at + size] for size in (1, 2) for at in range(len(word) - size + 1)]
        return sum(value.get(known[gram], 0.0) for gram in grams if gram in known)

    words = [word for word in dict.fromkeys(rjieba.cut(sentence)) if len(_words(word)) > 1]
    return [word for word in sorted(words, key=weighed, reverse=True)[:3] if weighed(word) > 0]


def sentences(text: str) -> list[str]:
    """Cut at 。！？ and line breaks, but not inside of closed quotation marks; nothing but blanks is lost."""
    return [part for found in _SENTENCE.findall(text) if (part := found.strip())]


def gain(pairs: Sequence[tuple[str, str, str]]) -> tuple[float, float, float] | None:
    """Parts that second answers cover more than first ones: (value, low, high), 95%; None for fewer than five posts.

    A pair is (post, one answer, another answer to it). Pairs of one post are averaged, and posts are resampled.
    """
    if not pairs:
        return None
    from cbtlib import resampling

    posts, first, second = (list(column) for column in zip(*pairs, strict=True))
    more = coverage(second).sum(axis=1) - coverage(first).sum(axis=1)
    statistic = resampling.Statistics.mean(more.groupby(posts).mean())
    ((low, high),) = resampling.intervals([statistic], 2000)
    if not np.isfinite([low, high]).all():
        return None
    return statistic.value, min(float(low), statistic.value), max(float(high), statistic.value)


# ------------------------------------------------------------------ the reader


@dataclass(frozen=True)
class _Reader:
    """The fitted model. Index 0-4 are the PARTS, 5 is None."""

    vectoriser: Any
    classifier: Any
    prior: NDArray[np.float64]  # (6,) share of each class among the training sentences
    start: NDArray[np.float64]  # (6,) the class of the first sentence
    move: NDArray[np.float64]  # (6, 6) from one sentence's class to the next one's
    end: NDArray[np.float64]  # (6,) that a letter ends after a sentence of this class

    def emissions(self, found: list[str]) -> NDArray[np.float64]:
        """Sentences to likelihoods (n, 6), each row up to a factor: p(words | class) ~ p(class | words) / p(class)."""
        return self.classifier.predict_proba(_features(self.vectoriser, found)) / self.prior


def read(texts: Sequence[str]) -> Iterator[Structure]:
    """`analyse` for many answers, each block of them at once. CbtError for an answer without a text."""
    for number, text in enumerate(texts, 1):
        if not isinstance(text, str):
            what = "missing (None)" if text is None else f"a {type(text).__name__}, not a text"
            raise CbtError(f"answer {number} is {what}; count it as an outcome and leave it out")
    reader = _reader()
    for start in range(0, len(texts), _BLOCK):
        cut = [sentences(text) for text in texts[start : start + _BLOCK]]
        judged = list(dict.fromkeys(sentence for found in cut for sentence in found if not _is_noise(sentence)))
        rows = dict(zip(judged, reader.emissions(judged), strict=True)) if judged else {}
        yield from (_structure(found, rows, reader) for found in cut)


def _structure(found: list[str], rows: dict[str, NDArray[np.float64]], reader: _Reader) -> Structure:
    # Noise and what was said before are no steps of the letter: the sentences around them are neighbours.
    first = {_words(sentence): place for place, sentence in reversed([*enumerate(found)]) if sentence in rows}
    places = sorted(first.values())
    emissions = np.array([rows[found[place]] for place in places])
    labels: list[str | None] = [None] * len(found)
    for place, index in zip(places, _path(emissions, reader), strict=True):
        labels[place] = CLASSES[index]
    present = _present(emissions, reader) >= CERTAIN
    covered = {part: bool(present[index]) and part in labels for index, part in enumerate(PARTS)}
    return Structure(list(zip(found, labels, strict=True)), covered, runs(labels))


def _is_noise(sentence: str) -> bool:
    """None by rule: hardly Han (fewer than two, or half of what is no punctuation), or a loop of few characters."""
    han = _words(sentence)
    return len(han) < max(2, len(_INK.findall(sentence)) / 2) or (len(han) >= 24 and len(set(han)) < len(han) / 3)


def _words(sentence: str) -> str:
    """The Han characters alone: a repeat is one whatever its punctuation."""
    return "".join(_HAN.findall(sentence))


def _path(emissions: NDArray[np.float64], reader: _Reader) -> list[int]:
    """The most probable class of each sentence, taken together (Viterbi)."""
    if not len(emissions):
        return []
    with np.errstate(divide="ignore"):
        likelihood, start, move, end = map(np.log, (emissions, reader.start, reader.move, reader.end))
    score, back = start + likelihood[0], []
    for row in likelihood[1:]:
        steps = score[:, None] + move
        back.append(steps.argmax(axis=0))
        score = steps.max(axis=0) + row
    path = [int((score + end).argmax())]
    for came_from in reversed(back):
        path.append(int(came_from[path[-1]]))
    return path[::-1]


def _present(emissions: NDArray[np.float64], reader: _Reader) -> NDArray[np.float64]:
    """Probability (5,) that a part serves at least one sentence: 1 - p(letter, part forbidden) / p(letter)."""
    # One forward run for each forbidden part and, in the last row, one with none forbidden, side by side: (6, 6).
    allowed = 1 - np.eye(NONE + 1)
    allowed[NONE] = 1
    state, logs = np.ones((NONE + 1, 1)), np.zeros(NONE + 1)
    for place, row in enumerate(emissions):
        state = (state @ reader.move if place else reader.start) * row * allowed
        total = state.sum(axis=1)
        state, logs = state / total[:, None], logs + np.log(total)
    if len(emissions):
        logs += np.log(state @ reader.end)
    return 1 - np.exp(logs[:NONE] - logs[NONE])


def _features(vectoriser: Any, found: list[str]) -> Any:
    import rjieba
    from scipy import sparse

    cues = [
        [
            sentence.endswith(("？", "?", "？”")),
            "？" in sentence,
            "“" in sentence,
            "：“" in sentence,
            min(sentence.count("，"), 10) / 5,
            min(len(sentence), 100) / 50,
            "你" in sentence or "您" in sentence,
            "我" in sentence,
            # Words of two characters and more, as a dictionary knows them: few in shuffled text.
            4 * sum(len(word) > 1 for word in rjieba.cut(sentence)) / len(sentence),
        ]
        for sentence in found
    ]
    grams = vectoriser.transform(f"^{sentence}$" for sentence in found)
    return sparse.hstack([grams, sparse.csr_matrix(np.array(cues, dtype=float))]).tocsr()


# ------------------------------------------------------------------ fitting


@functools.cache
def _reader() -> _Reader:
    return _fit(corpus.load_split("train"))


def _fit(records: Sequence[corpus.Record]) -> _Reader:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    generator = np.random.default_rng(0)
    letters = [labelled(record.answer) for record in records]
    strangers = _strangers(records, letters, generator)
    known = [pair for letter in letters for pair in letter] + [(sentence, None) for sentence in strangers]
    known = [(sentence, part) for sentence, part in known if not _is_noise(sentence)]
    found, target = [sentence for sentence, _ in known], np.array([CLASSES.index(part) for _, part in known])
    vectoriser = TfidfVectorizer(analyzer="char", ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    vectoriser.fit(f"^{sentence}$" for sentence in found)
    classifier = LogisticRegression(C=30, solver="saga", tol=2e-3, random_state=0)
    classifier.fit(_features(vectoriser, found), target)
    prior = np.bincount(target, minlength=NONE + 1) / len(target)
    start, move = np.ones(NONE + 1), np.ones((NONE + 1, NONE + 2))
    for letter in letters:
        for variant in (letter, *_damaged(letter, strangers, generator)):
            classes = [CLASSES.index(part) for _, part in variant]
            start[classes[0]] += 1
            np.add.at(move, (classes, [*classes[1:], NONE + 1]), 1)
    move /= move.sum(axis=1, keepdims=True)
    return _Reader(vectoriser, classifier, prior, start / start.sum(), move[:, :-1], move[:, -1])


def labelled(answer: dict[str, str]) -> Labelled:
    """The sentences of an answer whose parts are known."""
    return [(sentence, part) for part, text in answer.items() for sentence in sentences(text)]


def runs(labels: Iterable[str | None]) -> list[str]:
    """The parts as they follow each other, each run once and None left out."""
    return [part for part, _ in itertools.groupby(part for part in labels if part)]


def _strangers(records: Sequence[corpus.Record], letters: list[Labelled], generator: np.random.Generator) -> list[str]:
    """Sentences that serve no part: posts, letters about the writer, letters in shuffled characters, headings."""
    posts = [sentence for record in records for sentence in sentences(record.post)]
    whole = [sentence for letter in letters for sentence, _ in letter]
    shuffled = ["".join(generator.permutation(list(sentence))) for sentence in whole]
    of_oneself = [re.sub("[你您]", "我", sentence) for sentence in whole[::2] if re.search("[你您]", sentence)]
    return posts + of_oneself + shuffled + [f"{title}：" for title in TITLES]


def _damaged(letter: Labelled, strangers: list[str], generator: np.random.Generator) -> Iterator[Labelled]:
    """What else an answer may look like: parts missing, parts out of order, strangers in between."""
    kept = set(generator.choice(PARTS, generator.integers(1, len(PARTS)), replace=False))
    yield [pair for pair in letter if pair[1] in kept]
    places = {part: place for place, part in enumerate(generator.permutation(PARTS))}
    yield sorted(letter, key=lambda pair: places[pair[1]])
    cut, length = generator.integers(0, len(letter) + 1), generator.integers(1, 6)
    yield letter[:cut] + [(str(stranger), None) for stranger in generator.choice(strangers, length)] + letter[cut:]
