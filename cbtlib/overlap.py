"""How many n-grams two texts share, for a whole corpus at once and exactly.

BLEU, chrF and METEOR all start here. sacrebleu counts with one Python dictionary per text, which takes minutes on
22,327 letters of 600 characters; here every n-gram of a batch gets a dense integer and NumPy does the counting.

Notable choices:
- An n-gram's number is exact, never a hash: the number of (first n-1 tokens, last token) among those that occur.
- The pair is part of the number, so that one sort serves a thousand pairs and texts of two pairs never match.
- Several references: `matches` holds one slice for each, `clipped` clips at the largest count over all (BLEU's rule).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

BATCH = 1_000_000  # tokens in one batch: a few hundred MB at most, and sorts that stay near the cache


@dataclass(frozen=True, slots=True)
class Tokens:
    """Texts as token numbers, end to end: `ids` (tokens,) and `lengths` (texts,)."""

    ids: Ints
    lengths: Ints

    @classmethod
    def of(cls, texts: Sequence[Sequence[int] | Ints]) -> "Tokens":
        """Join one sequence of token numbers (>= 0) for each text."""
        lengths = np.array([len(text) for text in texts], np.int64)
        parts = [np.asarray(text, np.int64) for text in texts if len(text)]
        return cls(np.concatenate(parts) if parts else np.zeros(0, np.int64), lengths)

    def __getitem__(self, span: slice) -> "Tokens":
        ends = np.concatenate([[0], np.cumsum(self.lengths)])
        return Tokens(self.ids[ends[span.start] : ends[span.stop]], self.lengths[span])


def characters(texts: Sequence[str]) -> Tokens:
    """Every text as its code points, white space left out (as chrF does)."""
    points = [
        np.frombuffer("".join(text.split()).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.int64)
        for text in texts
    ]
    return Tokens.of(points)


@dataclass(frozen=True, slots=True)
class Counts:
    """N-gram counts of n pairs with k references each, for the orders 1..o.

    `hypothesis` (n, o), `references` (k, n, o), `matches` (k, n, o), `clipped` (n, o).
    """

    hypothesis: Ints
    references: Ints
    matches: Ints
    clipped: Ints


def count(hypotheses: Tokens, references: Sequence[Tokens], order: int) -> Counts:
    """Count n-grams of every order up to `order`, and how many of each pair's the references hold too."""
    sides = [hypotheses, *references]
    totals = np.stack([np.maximum(side.lengths[:, None] - np.arange(order), 0) for side in sides])
    matches = np.zeros((len(references), len(hypotheses.lengths), order), np.int64)
    clipped = np.zeros(matches.shape[1:], np.int64)
    for span in _batches(sides):
        for size, ids, side, pair in _ngrams([texts[span] for texts in sides], order):
            found = np.zeros((len(sides), int(ids.max(initial=-1)) + 1), np.int64)
            for index in range(len(sides)):
                found[index] = np.bincount(ids[side == index], minlength=found.shape[1])
            owner = np.zeros(found.shape[1], np.int64)
            owner[ids] = pair
            shared = np.minimum(found[0], found[1:])
            width = span.stop - span.start
            for index, row in enumerate(shared):
                matches[index, span, size - 1] = np.bincount(owner, row, width)
            clipped[span, size - 1] = np.bincount(owner, shared.max(axis=0), width)
    return Counts(totals[0], totals[1:], matches, clipped)


def align(hypotheses: Tokens, references: Tokens) -> tuple[Ints, Ints]:
    """METEOR's exact alignment: matched tokens and chunks of every pair, both (n,).

    The k-th last occurrence of a token in the hypothesis is matched to its k-th last in the reference, which is the
    order nltk's nested loops take; a chunk is a run of matches that is contiguous on both sides.
    """
    matched = np.zeros(len(hypotheses.lengths), np.int64)
    chunks = np.zeros_like(matched)
    for span in _batches([hypotheses, references]):
        _, ids, side, pair = next(_ngrams([hypotheses[span], references[span]], 1))
        places = [np.flatnonzero(side == index) for index in (0, 1)]
        longest = int(max(hypotheses.lengths[span].max(initial=0), references.lengths[span].max(initial=0))) + 1
        keys = [ids[place] * longest + _occurrence_from_end(ids[place]) for place in places]
        _, left, right = np.intersect1d(keys[0], keys[1], assume_unique=True, return_indices=True)
        by_position = np.argsort(left)
        left, right = left[by_position], right[by_position]
        owner = pair[places[0]][left]
        follows = (np.diff(left) == 1) & (np.diff(right) == 1) & (np.diff(owner) == 0)
        width = span.stop - span.start
        matched[span] = np.bincount(owner, minlength=width)
        chunks[span] = matched[span] - np.bincount(owner[1:][follows], minlength=width)
    return matched, chunks


def distinct_share(texts: Tokens, order: int) -> tuple[NDArray[np.float64], Ints]:
    """Every text's share in the corpus's distinct n-grams, and its number of n-grams, both (n,).

    An n-gram that the corpus holds c times adds 1/c for each occurrence, so the shares sum to the number of distinct
    n-grams: corpus-level distinct-n (Li et al. 2016) becomes a ratio of two sums over texts.
    """
    whole = Tokens(texts.ids, np.array([len(texts.ids)]))
    text = np.repeat(np.arange(len(texts.lengths)), texts.lengths)
    offset = _offsets(texts.lengths)
    inside = (texts.lengths[text] - offset) >= order
    *_, (_, ids, _, _) = _ngrams([whole], order)
    kept = inside[: len(ids)]  # an n-gram that straddles two texts was numbered too
    ids, text = ids[kept], text[: len(ids)][kept]
    share = np.bincount(text, 1 / np.bincount(ids, minlength=1)[ids], len(texts.lengths))
    return share.astype(np.float64), np.maximum(texts.lengths - order + 1, 0)


def _ngrams(sides: Sequence[Tokens], order: int) -> Iterator[tuple[int, Ints, Ints, Ints]]:
    """For each order: the n-gram's number at every place that has one, and that place's side and pair."""
    pair = np.concatenate([np.repeat(np.arange(len(s.lengths)), s.lengths) for s in sides])
    side = np.concatenate([np.full(len(s.ids), index) for index, s in enumerate(sides)])
    left = np.concatenate(
        [s.lengths[np.repeat(np.arange(len(s.lengths)), s.lengths)] - _offsets(s.lengths) for s in sides]
    )
    tokens = np.concatenate([s.ids for s in sides])
    first = _number(pair * (int(tokens.max(initial=0)) + 1) + tokens)
    vocabulary = int(first.max(initial=0)) + 1
    place = np.arange(len(tokens))
    ids = first
    yield 1, ids, side, pair
    for size in range(2, order + 1):
        longer = left[place] >= size
        place, ids = place[longer], ids[longer]
        ids = _number(ids * vocabulary + first[place + size - 1])
        yield size, ids, side[place], pair[place]


def _number(keys: Ints) -> Ints:
    """Replace keys by dense numbers 0..distinct-1."""
    return np.unique(keys, return_inverse=True)[1]


def _offsets(lengths: Ints) -> Ints:
    """Position of every token in its own text."""
    starts = np.cumsum(lengths) - lengths
    return np.arange(int(lengths.sum())) - np.repeat(starts, lengths)


def _occurrence_from_end(ids: Ints) -> Ints:
    """0 for a number's last occurrence, 1 for the one before it, and so on; (tokens,)."""
    order = np.argsort(ids, kind="stable")
    ends = np.cumsum(np.bincount(ids, minlength=1))
    rank = np.empty(len(ids), np.int64)
    rank[order] = ends[ids[order]] - 1 - np.arange(len(ids))
    return rank


def _batches(sides: Sequence[Tokens]) -> Iterator[slice]:
    """Cut the pairs into runs of about BATCH tokens."""
    ends = np.cumsum(sum(side.lengths for side in sides))
    start = 0
    while start < len(ends):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + BATCH, "right")))
        yield slice(start, stop)
        start = stop
