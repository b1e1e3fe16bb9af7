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
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

BATCH = 100_000  # tokens in one batch: its arrays stay in the cache; ten times as many take half as long again


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

    The k-th last occurrence of a token in the hypothesis is matched to its k-th last in the reference, as in nltk; a
    chunk is a run of matches that is contiguous on both sides.
    """
    matched = np.zeros(len(hypotheses.lengths), np.int64)
    chunks = np.zeros_like(matched)
    for span in _batches([hypotheses, references]):
        sides = [hypotheses[span], references[span]]
        width, first = span.stop - span.start, len(sides[0].ids)
        pair = _short(np.concatenate([np.repeat(np.arange(width), side.lengths) for side in sides]))
        token = _short(_dense(np.concatenate([side.ids for side in sides])))
        # hypothesis before reference and each from front to back, in groups of one pair and one token
        order = np.argsort(token, kind="stable")
        order = order[np.argsort(pair[order], kind="stable")]
        new = np.ones(len(order), bool)
        new[1:] = _changes(pair[order]) | _changes(token[order])
        start = np.flatnonzero(new)
        size = np.diff(start, append=len(order))
        ours = np.add.reduceat(order < first, start, dtype=np.int64) if len(start) else size
        shared = np.minimum(ours, size - ours)
        # the last `shared` places of each side of a group belong together
        step = np.arange(int(shared.sum())) - np.repeat(np.cumsum(shared) - shared, shared)
        mine, theirs = (order[np.repeat(end - shared, shared) + step] for end in (start + ours, start + size))
        partner = np.full(first, -1)
        partner[mine] = theirs
        left = np.flatnonzero(partner >= 0)
        owner = pair[left]
        follows = (np.diff(left) == 1) & (np.diff(partner[left]) == 1) & ~_changes(owner)
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


def _dense(ids: Ints) -> Ints:
    """Numbers 0..distinct-1 in the order of `ids`, by a table instead of a sort: for ids like code points."""
    present = np.zeros(int(ids.max(initial=-1)) + 1, bool)
    present[ids] = True
    return (np.cumsum(present) - 1)[ids]


def _changes(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Where a value differs from the one before it, from the second on."""
    return values[1:] != values[:-1]


def _short(numbers: Ints) -> NDArray[Any]:
    """The same numbers in 16 bits where they fit: NumPy sorts those by radix, in linear time."""
    return numbers.astype(np.uint16) if numbers.max(initial=0) < 2**16 else numbers


def _batches(sides: Sequence[Tokens]) -> Iterator[slice]:
    """Cut the pairs into runs of about BATCH tokens."""
    ends = np.cumsum(sum(side.lengths for side in sides))
    start = 0
    while start < len(ends):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + BATCH, "right")))
        yield slice(start, stop)
        start = stop
