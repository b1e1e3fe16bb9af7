"""BLEU, chrF, METEOR and descriptive measures of Chinese text, as per-item sufficient statistics.

Notable choices
- sacrebleu decides what a token is (`zh`), how BLEU is smoothed and what chrF's formula is; `overlap` only counts
  faster. chrF has word_order=0: Chinese has no spaces, so its word n-grams would be whole sentences.
- METEOR matches exactly, on characters and on jieba's words: nltk's algorithm with an empty WordNet and no stemmer.
- An empty hypothesis scores 0 in everything. Nothing is normalised here: full-width and half-width forms differ, and so
  do traditional and simplified characters. `traditional` counts the texts for which the latter matters.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import chain, count
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sacrebleu.tokenizers.tokenizer_re import TokenizerRegexp
from sacrebleu.tokenizers.tokenizer_zh import TokenizerZh

from cbtlib import overlap
from cbtlib.resampling import Floats, Statistics

References = Sequence[Sequence[str | None]]  # one list for each reference set, as in sacrebleu: references[set][item]


@dataclass(frozen=True, slots=True)
class Texts:
    """What a metric may look at: hypotheses (n), reference sets (k x n, None where absent), sources (n) or nothing."""

    hypotheses: Sequence[str]
    references: References
    sources: Sequence[str] = ()

    @property
    def absent(self) -> NDArray[np.bool_]:
        """(sets, n): where an item has no such reference."""
        return np.array([[text is None for text in one] for one in self.references])


# --- BLEU (Papineni et al. 2002), sacrebleu's definition ---------------------------------------------------------


@cache
def _runs() -> re.Pattern[str]:
    """Runs of characters that sacrebleu's zh tokeniser does not make a token each."""
    single = (chr(point) for point in range(0x10000) if TokenizerZh._is_chinese_char(chr(point)))
    return re.compile("[^" + "".join(character for character in single if not character.isspace()) + "]+")


@lru_cache(maxsize=2**16)
def _split(run: str) -> list[str]:
    return TokenizerRegexp()(run).split()


def zh_tokens(text: str) -> list[str]:
    """sacrebleu's `zh` tokens; only the runs between Chinese characters pass through its regular expressions."""
    text, end = text.strip(), 0
    tokens: list[str] = []
    for run in _runs().finditer(text):
        tokens += text[end : run.start()]
        end = run.end()
        # what touches a Chinese character gets the space that sacrebleu puts around it
        tokens += _split(" " * (run.start() > 0) + run.group() + " " * (end < len(text)))
    return tokens + list(text[end:])


def _vocabulary() -> defaultdict[str, int]:
    """The next number for every token that is new."""
    return defaultdict(count().__next__)


def _numbered(texts: Sequence[Sequence[str]], vocabulary: defaultdict[str, int]) -> overlap.Tokens:
    lengths = np.array([len(text) for text in texts], np.int64)
    numbers = map(vocabulary.__getitem__, chain.from_iterable(texts))
    return overlap.Tokens(np.fromiter(numbers, np.uint32, int(lengths.sum())), lengths)


def bleu_formula(sums: Floats) -> Floats:
    """(..., 10) sums of hypothesis length, reference length, 4 matches, 4 totals to BLEU in 0..100, smoothing `exp`.

    Matches that are means over samples may be fractions: one below the smoothed count of no match is raised to it, or
    samples of which one matches would score below samples of which none does.
    """
    hypothesis, reference, correct, total = sums[..., 0], sums[..., 1], sums[..., 2:6], sums[..., 6:10]
    with np.errstate(divide="ignore", invalid="ignore"):
        brevity = np.where(hypothesis < reference, np.exp(1 - reference / hypothesis), 1.0)
        # every order without a match halves a smoothed count, as in mteval-v13a
        least = np.where(correct < 1, 0.5 ** np.cumsum(correct < 1, axis=-1), 0)
        precision = 100 * np.maximum(correct, least) / total
        value = brevity * np.exp(np.log(precision).sum(axis=-1) / 4)
    return np.where((correct.sum(axis=-1) == 0) | (total[..., 3] == 0), 0.0, value)


def bleu(texts: Texts) -> Statistics:
    """Corpus BLEU-4 in 0..100 on sacrebleu's `zh` tokens (characters, and words of other scripts)."""
    vocabulary = _vocabulary()
    hypotheses = _numbered([zh_tokens(text) for text in texts.hypotheses], vocabulary)
    references = [_numbered([zh_tokens(text or "") for text in one], vocabulary) for one in texts.references]
    counts = overlap.count(hypotheses, references, 4)
    lengths = np.stack([one.lengths for one in references]).astype(np.float64)
    lengths[texts.absent] = np.inf
    # the closest reference length, the shorter one on a tie
    closest = np.lexsort((lengths, np.abs(lengths - hypotheses.lengths)), axis=0)[0]
    nearest = np.take_along_axis(lengths, closest[None], axis=0)[0]
    return Statistics(np.column_stack([hypotheses.lengths, nearest, counts.clipped, counts.hypothesis]), bleu_formula)


# --- chrF (Popović 2015), sacrebleu's definition -----------------------------------------------------------------


def chrf_formula(sums: Floats) -> Floats:
    """(..., 18) sums of 6 hypothesis counts, 6 reference counts, 6 matches to chrF (beta 2) in 0..100."""
    hypothesis, reference, match = sums[..., :6], sums[..., 6:12], sums[..., 12:]
    both = (hypothesis > 0) & (reference > 0)
    orders = np.maximum(both.sum(axis=-1), 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.where(both, match / hypothesis, 0.0).sum(axis=-1) / orders
        recall = np.where(both, match / reference, 0.0).sum(axis=-1) / orders
        value = 100 * 5 * precision * recall / (4 * precision + recall)
    return np.where(precision + recall == 0, 0.0, value)


def chrf(texts: Texts) -> Statistics:
    """Corpus chrF in 0..100: character 1- to 6-grams without white space; per item the reference with the best F."""
    references = [overlap.characters([text or "" for text in one]) for one in texts.references]
    counts = overlap.count(overlap.characters(texts.hypotheses), references, 6)
    rows = np.stack(
        [
            # sacrebleu counts no hypothesis n-gram of an order that the reference does not have
            np.hstack([np.where(reference > 0, counts.hypothesis, 0), reference, match])
            for reference, match in zip(counts.references, counts.matches, strict=True)
        ]
    ).astype(np.float64)
    values = np.where(texts.absent, -1.0, chrf_formula(rows))
    return Statistics(rows[values.argmax(axis=0), np.arange(rows.shape[1])], chrf_formula)


# --- METEOR (Banerjee and Lavie 2005; parameters of Lavie and Agarwal 2007), exact matches only ------------------


def words(text: str) -> list[str]:
    """jieba's words (rjieba), white space dropped."""
    import rjieba

    return [word for word in rjieba.cut(text) if not word.isspace()]


def meteor(texts: Texts, unit: Literal["character", "word"]) -> Statistics:
    """Mean METEOR in 0..1 (alpha 0.9, beta 3, gamma 0.5), lower-cased; per item the best reference."""
    vocabulary = _vocabulary()

    def tokens(side: Sequence[str | None]) -> overlap.Tokens:
        given = [text or "" for text in side]
        if unit == "character":
            return overlap.characters(given, lower=True)
        return _numbered([words(text.lower()) for text in given], vocabulary)

    hypotheses = tokens(texts.hypotheses)
    best = np.zeros(len(texts.hypotheses))
    for one in texts.references:
        references = tokens(one)
        matched, chunks = overlap.align(hypotheses, references)
        with np.errstate(divide="ignore", invalid="ignore"):
            precision, recall = matched / hypotheses.lengths, matched / references.lengths
            mean = precision * recall / (0.9 * precision + 0.1 * recall)
            value = mean * (1 - 0.5 * (chunks / matched) ** 3)
        best = np.maximum(best, np.where(matched == 0, 0.0, value))
    return Statistics.mean(best)


# --- measures of one text, or of a text and its source -----------------------------------------------------------


def distinct(texts: Texts, order: int) -> Statistics:
    """Corpus-level distinct-n (Li et al. 2016) on characters, for corpora of this many texts: it falls with more."""
    share, total = overlap.distinct_share(overlap.characters(texts.hypotheses), order)
    return Statistics(np.column_stack([share, total]))


def length(texts: Texts) -> Statistics:
    """Mean number of characters, white space left out."""
    return Statistics.mean(overlap.characters(texts.hypotheses).lengths)


def repetition(texts: Texts) -> Statistics:
    """Mean share of a text's character 4-grams that it has already used (Welleck et al. 2020, seq-rep-4)."""
    return Statistics.mean([repeated(text, 4) for text in texts.hypotheses])


def repeated(text: str, order: int = 8) -> float:
    """Share of a text's character n-grams, white space left out, that it has already used; 0 for a shorter text.

    A text of which more than half repeats in pieces of eight characters is a loop.
    """
    grams = _grams(text, order)
    return 1 - _share(grams, len(set(grams)), 1.0)


def copied(texts: Texts) -> Statistics:
    """Mean share of a text's character 4-grams that stand in its source (the question)."""
    values = []
    for hypothesis, source in zip(texts.hypotheses, texts.sources, strict=True):
        grams, known = _grams(hypothesis), set(_grams(source))
        values.append(_share(grams, sum(gram in known for gram in grams), 0.0))
    return Statistics.mean(values)


_HAN = re.compile("[\u4e00-\u9fff]")


@cache
def _traditional_only() -> str:
    """Han characters that Taiwan's Big5 has and the mainland's GB 2312 has not."""

    def encodes(character: str, charset: str) -> bool:
        try:
            return bool(character.encode(charset))
        except UnicodeEncodeError:
            return False

    han = "".join(map(chr, range(0x4E00, 0xA000)))
    return "".join(one for one in han if encodes(one, "big5") and not encodes(one, "gb2312"))


def traditional(texts: Sequence[str | None]) -> int:
    """How many texts are in traditional characters: a tenth or more of their Han characters are no simplified ones."""
    given = [text or "" for text in texts]
    only = overlap.occurrences(given, _traditional_only())
    return sum(len(_HAN.findall(given[index])) <= 10 * only[index] for index in np.flatnonzero(only))


def _grams(text: str, order: int = 4) -> list[str]:
    text = "".join(text.split())
    return [text[start : start + order] for start in range(len(text) - order + 1)]


def _share(grams: list[str], count: int, otherwise: float) -> float:
    return count / len(grams) if grams else otherwise
