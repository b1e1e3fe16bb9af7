"""Evaluation at the paper's size: BLEU, chrF and METEOR with intervals, BERTScore, and whether intervals cover.

    python benchmarks/metrics.py [--quick] [--only overlap|coverage|bertscore] [--json OUT]

Letters are put together from sentences of the book's corpus. The peers run in the same process on the same pairs:
sacrebleu (its own statistics), nltk's METEOR with an empty WordNet, and BERTScore pair by pair, with and without
stopping at the layer. Values must agree to 1e-9. Peers are timed on a slice of the pairs, by turns with ours.
"""

import argparse
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
from nltk.translate.meteor_score import single_meteor_score
from sacrebleu.metrics import BLEU, CHRF

from cbtlib import agreement, corpus, metrics, resampling, surface
from cbtlib.resampling import Statistics

PAIRS = 22_327  # the paper's data set
CHARACTERS = 600


def letters(count: int, seed: int) -> list[str]:
    """Letters of CHARACTERS characters from shuffled sentences of the training answers."""
    pool = [s + "。" for r in corpus.load_split("train") for s in r.answer_text.replace("\n", "").split("。") if s]
    generator = np.random.default_rng(seed)
    longest = 2 * CHARACTERS // min(20, statistics.median(map(len, pool)))
    return ["".join(pool[i] for i in generator.integers(0, len(pool), int(longest)))[:CHARACTERS] for _ in range(count)]


class NoStems:
    """A stemmer for a language without stems."""

    def stem(self, word: str) -> str:
        """The word."""
        return word


class EmptyWordNet:
    """A WordNet without a synset, so that no data is downloaded."""

    def synsets(self, _word: str) -> list:
        """None."""
        return []


def nltk_meteor(hypothesis: str, reference: str) -> float:
    """nltk's METEOR on characters."""
    one, two = (list("".join(text.lower().split())) for text in (hypothesis, reference))
    return single_meteor_score(two, one, preprocess=str, stemmer=NoStems(), wordnet=EmptyWordNet())


def seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """Median seconds of a few runs."""
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def times_faster(ours: Callable[[], object], peer: Callable[[], object], rounds: int = 5) -> float:
    """Median ratio of seconds; each round runs ours before the peer and after it, so that both meet the same host."""
    ratios = []
    for _ in range(rounds):
        before, theirs, after = seconds(ours, 1), seconds(peer, 1), seconds(ours, 1)
        ratios.append(2 * theirs / (before + after))
    return statistics.median(ratios)


def overlap_metrics(pairs: int, peers: int) -> dict[str, float]:
    """Our three metrics with intervals on all pairs; each peer on the first `peers` of them."""
    hypotheses, references = letters(pairs, 1), letters(pairs, 2)
    names = ["bleu", "chrf", "meteor_char"]
    found = {"pairs": pairs}
    found["BLEU + chrF + METEOR with 1,000 resamples, s"] = seconds(
        lambda: metrics.score(hypotheses, [references], metrics=names, resamples=1000), 1
    )
    few, gold = hypotheses[:peers], references[:peers]

    def ours(name: str) -> Statistics:
        return metrics.measure(few, [gold], metrics=[name])[name][0]

    for name, make in (("bleu", lambda: BLEU(tokenize="zh")), ("chrf", lambda: CHRF(word_order=0))):
        assert abs(make().corpus_score(few, [gold]).score - ours(name).value) < 1e-9, name
        # a fresh metric each time: sacrebleu keeps tokenised lines
        found[f"{name} (sacrebleu), times faster"] = times_faster(
            lambda name=name: ours(name), lambda make=make: make()._extract_corpus_statistics(few, [gold])
        )
    few, gold = hypotheses[: 5 * peers], references[: 5 * peers]
    assert np.abs(ours("meteor_char").items - list(map(nltk_meteor, few, gold))).max() < 1e-9
    found[f"meteor_char (nltk {version('nltk')}), times faster"] = times_faster(
        lambda: ours("meteor_char"), lambda: list(map(nltk_meteor, few, gold))
    )
    return found


def bertscore(pairs: int) -> dict[str, float]:
    """Encoding speed on the embedded model, and the ratio to encoding pair by pair."""
    from cbtlib import bertscore as module
    from cbtlib import models

    model, tokenizer = models.load("embedded")
    layer, last = module.LAYERS["embedded"], model.config.num_hidden_layers
    gold = letters(max(2, pairs // 4), 3)  # several systems answer the same posts
    texts = surface.Texts(letters(pairs, 4), [[gold[i % len(gold)] for i in range(pairs)]])

    def batched() -> int:
        encoder = module.Encoder(model, tokenizer, layer, "embedded")
        module.bertscore(texts, encoder)
        return sum(map(len, encoder.tokens.values()))

    def pair_by_pair(layer: int) -> None:
        for hypothesis, reference in zip(texts.hypotheses, texts.references[0], strict=True):
            module.bertscore(
                surface.Texts([hypothesis], [[reference]]), module.Encoder(model, tokenizer, layer, "embedded")
            )

    tokens, ours = batched(), seconds(batched)
    kept, whole = (seconds(lambda one=one: pair_by_pair(one), 1) for one in (layer, last))
    return {
        "BERTScore, tokens/s": tokens / ours,
        "BERTScore, times faster than pair by pair, stopping at the layer": kept / ours,
        "BERTScore, times faster than pair by pair, whole model": whole / ours,
    }


def coverage(trials: int, first: int | None = None, items: int = 100) -> dict[str, float]:
    """Share of 95% intervals from `items` items that hold the value of the population they were drawn from.

    Three populations: the test letters against the second letter to the same post, as a good system would stand to its
    reference; all letters against another post's, where 4-grams that match are rare and BLEU has its hardest case; and
    letters put together from one pool of sentences, where two now and then share a whole sentence. The three answer
    for different data; an interval that misses on one of them is reported with the others, and with what explains it:
    how much of the variance the most influential hundredth of the pairs holds. No interval knows of pairs that its
    sample does not hold, so the third population is also sampled at 1,600. BERTScore takes part where its letters are
    few enough to encode; the descriptive measures are those of all letters, or of the `first` so many.
    """
    records = [record for split in ("test", "dev", "train") for record in corpus.load_split(split)][:first]
    twice = [(record.answer_text, record.second_answer_text) for record in records if record.second_answer]
    own = [record.answer_text for record in records]
    populations = {"second letter": twice, "another post's letter": list(zip(own, own[1:] + own[:1], strict=True))}
    populations["pooled sentences"] = list(zip(letters(3000, 5), letters(3000, 6), strict=True))
    found: dict[str, float] = {}
    tails: dict[str, float] = {}
    for kind, pairs in populations.items():
        hypotheses, references = map(list, zip(*pairs, strict=True))
        named = [*metrics.OVERLAP, *["bertscore"] * (kind != "pooled sentences")]
        population = {name: s for name, (s, _) in metrics.measure(hypotheses, [references], metrics=named).items()}
        found |= {f"{name}, {kind}": share for name, share in _held(population, trials, items).items()}
        if kind == "pooled sentences":
            many = _held(population, trials, 1600)
            found |= {f"{name}, {kind}, 1,600 at once": share for name, share in many.items()}
        tails |= {f"variance in the first 1% of pairs, {name}, {kind}": _tail(s) for name, s in population.items()}
    described = [name for name, one in metrics.METRICS.items() if one.needs != "references" and "distinct" not in name]
    population = {
        name: s for name, (s, _) in metrics.measure(own, sources=[r.post for r in records], metrics=described).items()
    }
    found |= {f"{name}, letters": share for name, share in _held(population, trials, items).items()}
    for order in (1, 2):
        found[f"distinct_{order}, 40 letters"] = _distinct_held(own, order, trials, min(40, len(own) // 2))
    generator = np.random.default_rng(7)
    quality = generator.normal(1, 0.6, (3000, 1))
    scores = np.clip(np.rint(quality + generator.normal(0, 0.5, (3000, 3))), 0, 2)
    scores[generator.random(scores.shape) < 0.05] = np.nan
    alike = {
        "Krippendorff's alpha": agreement.krippendorff_alpha(scores, 3),
        "Gwet's AC2": agreement.gwet_ac(scores, 3),
    }
    found |= _held(alike, trials, items)
    return {f"coverage of 95 % intervals, {name}": share for name, share in found.items()} | tails


def _tail(population: Statistics) -> float:
    """Share of a value's variance that the most influential hundredth of the items holds (at least one item)."""
    squares = np.sort((population.jackknife - population.jackknife.mean()) ** 2)[::-1]
    return float(squares[: max(1, len(squares) // 100)].sum() / squares.sum())


def _distinct_held(texts: list[str], order: int, trials: int, items: int) -> float:
    """The same for distinct-n, which falls with the number of texts: of `items` of them, measured anew in each draw."""
    generator, statistics = np.random.default_rng(11), []
    for _ in range(trials):
        drawn = generator.choice(len(texts), items, replace=False)
        statistics.append(surface.distinct(surface.Texts([texts[index] for index in drawn], []), order))
    mean = float(np.mean([one.value for one in statistics]))
    bounds = [resampling.intervals([one], 1000, seed=trial)[0] for trial, one in enumerate(statistics)]
    return float(np.mean([low <= mean <= high for low, high in bounds]))


def _held(population: dict[str, Statistics], trials: int, items: int) -> dict[str, float]:
    """Draw `items` items `trials` times; how often the interval of the draw holds the population's value."""
    generator, size = np.random.default_rng(11), len(next(iter(population.values())).rows)
    held = dict.fromkeys(population, 0)
    for trial in range(trials):
        drawn = generator.integers(0, size, items)
        samples = [replace(s, rows=s.rows[drawn]) for s in population.values()]
        bounds = resampling.intervals(samples, 1000, seed=trial)
        for (name, whole), (low, high) in zip(population.items(), bounds, strict=True):
            held[name] += low <= whole.value <= high
    return {name: count / trials for name, count in held.items()}


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes: does it run, not how fast is it")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the numbers here")
    parser.add_argument("--only", choices=["overlap", "coverage", "bertscore"], help="this part alone")
    chosen = parser.parse_args()
    found: dict[str, float] = {}
    if chosen.only in (None, "overlap"):
        found |= overlap_metrics(300 if chosen.quick else PAIRS, 20 if chosen.quick else 200)
        found["peak memory so far, GB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
            2**30 if sys.platform == "darwin" else 2**20
        )
    if chosen.only in (None, "coverage"):
        found |= coverage(20, 20) if chosen.quick else coverage(1000)
    if chosen.only in (None, "bertscore"):
        found |= bertscore(4 if chosen.quick else 64)
    for name, value in found.items():
        print(f"{name:80} {value:12,.3f}")
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
