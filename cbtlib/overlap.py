"""How many n-grams two texts share, for a whole corpus at once and exactly.

BLEU, chrF and METEOR all start here. sacrebleu counts with one Python dictionary per text, which takes minutes on
22,327 letters of 600 characters; here every n-gram of a batch gets a dense integer and NumPy does the counting.

Notable choices:
- An n-gram's number is exact, never a hash: the number of (first n-1 tokens, last token) among those that occur.
- The pair is part of the number, so that one sort serves a thousand pairs and texts of two pairs never match.
- Several references: `matches` holds one slice for each, `clipped` clips at the largest count over all (BLEU's rule).
- METEOR sorts each pair by itself, on keys of 32 bits where they fit: there NumPy sorts with the processor's vectors.
"""

import functools
import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

# Tokens in one batch: its arrays stay in the cache; and place (15 bits), side (1) and a code point of the basic plane
# (16) fit into the 32 bits of a key of `align`.
BATCH = 2**15 - 1


@dataclass(frozen=True, slots=True)
class Tokens:
    """Texts as token numbers, end to end: `ids` (tokens,) of 32 bits and `lengths` (texts,)."""

    ids: NDArray[np.uint32]
    lengths: Ints


def characters(texts: Sequence[str], lower: bool = False) -> Tokens:
    """Every text as its code points, white space left out (as chrF does); in lower case (as METEOR does) if asked."""
    if lower:  # of two letters the lower case is more than one character, or depends on the neighbours
        texts = [text.lower() if "İ" in text or "Σ" in text else text for text in texts]
    found = [Tokens(np.zeros(0, np.uint32), np.zeros(0, np.int64))]
    for ids, lengths in _points(texts):
        ids = _letters(lower)[ids]
        spaces = np.flatnonzero(ids == SPACE)
        lengths -= np.bincount(_owners(lengths, spaces), minlength=len(lengths))
        found.append(Tokens(np.delete(ids, spaces), lengths))
    return Tokens(np.concatenate([one.ids for one in found]), np.concatenate([one.lengths for one in found]))


def occurrences(texts: Sequence[str], sought: str) -> Ints:
    """How many characters of each text are among those of `sought`, (n,); fast where few are."""
    member = _class(sought)
    found = [np.zeros(0, np.int64)]
    for ids, lengths in _points(texts):
        found.append(np.bincount(_owners(lengths, np.flatnonzero(member[ids])), minlength=len(lengths)))
    return np.concatenate(found)


TOGETHER = 64
"""Texts whose code points are looked at together: so few stay in the processor's cache."""


def _points(texts: Sequence[str]) -> Iterator[tuple[NDArray[np.uint32], Ints]]:
    """The code points of some texts, end to end, and the texts' lengths; then of the next."""
    for start in range(0, len(texts), TOGETHER):
        some = texts[start : start + TOGETHER]
        joined = "".join(some).encode("utf-32-le", "surrogatepass")
        yield np.frombuffer(joined, np.uint32), np.array([len(text) for text in some], np.int64)


def _owners(lengths: Ints, places: Ints) -> Ints:
    """To which text each place belongs, where texts of these lengths lie end to end."""
    return np.searchsorted(np.cumsum(lengths), places, "right")


@functools.cache
def _class(sought: str) -> NDArray[np.bool_]:
    """Whether each code point is one of these characters."""
    member = np.zeros(sys.maxunicode + 1, bool)
    member[[ord(character) for character in sought]] = True
    return member


SPACE = 2**32 - 1  # no code point


@functools.cache
def _letters(lower: bool) -> NDArray[np.uint32]:
    """What every code point counts as: itself or its lower case, and SPACE for white space."""
    every = "".join(map(chr, range(sys.maxunicode + 1)))
    spaces = [place for place, character in enumerate(every[: 2**16]) if character.isspace()]
    if lower:
        every = every.replace("İ", "i").lower()  # each is one character now
    letters = np.frombuffer(every.encode("utf-32-le", "surrogatepass"), np.uint32).copy()
    letters[spaces] = SPACE
    return letters


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
    for span, batch in _batches(sides):
        for size, ids, side, pair in _ngrams(batch, order):
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
    for span, (ours, theirs) in _batches([hypotheses, references]):
        sizes = ours.lengths + theirs.lengths
        width, size = len(sizes), int(sizes.sum())
        # pair by pair, the hypothesis and then its reference: token, side and place in one number, to be sorted by them
        sides = _cut(ours.ids << 1, ours.lengths), _cut(theirs.ids << 1 | 1, theirs.lengths)
        run = np.concatenate([text for pair in zip(*sides, strict=True) for text in pair])
        bits = size.bit_length()
        fits = int(run.max(initial=0)) < 2 ** (32 - bits)
        key: NDArray[Any] = run.astype(np.uint32 if fits else np.int64)
        key <<= bits
        key |= np.arange(size, dtype=key.dtype)
        for letters in _cut(key, sizes):
            letters.sort()
        run, place = key >> bits, key & ((1 << bits) - 1)
        new = np.ones(size + 1, bool)
        new[1:-1] = _changes(run)
        new[np.cumsum(sizes)] = True
        bounds = np.flatnonzero(new)
        start, end = bounds[:-1], bounds[1:]
        pair = np.repeat(np.arange(width), sizes)
        run, owner = run[start], pair[start]
        # where a token's run in the hypothesis has its run in the reference behind it, their last `shared` places match
        both = np.flatnonzero((run[1:] == run[:-1] | 1) & ~_changes(owner))
        mine, yours = end[both], end[both + 1]
        shared = np.minimum(mine - start[both], yours - mine)
        before, step = np.cumsum(shared), np.arange(int(shared.sum()))
        partner = np.full(size, -2, np.int32)  # of a place without a partner, which neither follows nor is followed
        partner[place[np.repeat(mine - before, shared) + step]] = place[np.repeat(yours - before, shared) + step]
        follows = np.flatnonzero(np.diff(partner) == 1)
        matched[span] = np.bincount(owner[both], shared, width)
        chunks[span] = matched[span] - np.bincount(pair[follows], minlength=width)
    return matched, chunks


def distinct_share(texts: Tokens, order: int) -> tuple[NDArray[np.float64], Ints]:
    """Every text's part in the corpus's distinct n-grams, and its number of n-grams, both (n,).

    A text's part is the n-grams that no other text has, which leave with it, and an equal portion of all the others.
    The parts sum to the number of distinct n-grams, so corpus-level distinct-n (Li et al. 2016) becomes a ratio of two
    sums over texts; and they differ as the jackknife's values do (Efron and Stein 1981), so its interval is as wide.
    """
    size = len(texts.lengths)
    whole = Tokens(texts.ids, np.array([len(texts.ids)]))
    text = np.repeat(np.arange(size), texts.lengths)
    inside = (texts.lengths[text] - _offsets(texts.lengths)) >= order
    *_, (_, ids, _, _) = _ngrams([whole], order)
    kept = inside[: len(ids)]  # an n-gram that straddles two texts was numbered too
    ids, text = ids[kept], text[: len(ids)][kept]
    first, last = np.full((2, int(ids.max(initial=-1)) + 1), -1)
    last[ids], first[ids[::-1]] = text, text[::-1]  # of a place that is written twice the last value stays
    alone = np.bincount(first[(first == last) & (first >= 0)], minlength=size)
    shared = int((first != last).sum())
    return (alone + shared / size).astype(np.float64), np.maximum(texts.lengths - order + 1, 0)


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


def _changes(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Where a value differs from the one before it, from the second on."""
    return values[1:] != values[:-1]


def _cut(values: NDArray[Any], lengths: Ints) -> list[NDArray[Any]]:
    """The parts of `values` that have these lengths, as views."""
    return [values[start:end] for start, end in itertools.pairwise([0, *np.cumsum(lengths).tolist()])]


def _batches(sides: Sequence[Tokens]) -> Iterator[tuple[slice, list[Tokens]]]:
    """Cut the pairs into spans of at most BATCH tokens, or one pair: each span, and its texts of every side."""
    bounds = [np.concatenate([[0], np.cumsum(side.lengths)]) for side in sides]
    total = np.sum(bounds, axis=0)
    start, pairs = 0, len(total) - 1
    while start < pairs:
        stop = max(start + 1, int(np.searchsorted(total, total[start] + BATCH, "right")) - 1)
        span = slice(start, stop)
        cut = zip(sides, bounds, strict=True)
        yield span, [Tokens(side.ids[bound[start] : bound[stop]], side.lengths[span]) for side, bound in cut]
        start = stop
