"""Scores that can be believed: every metric signed, with an interval, behind a leak gate.

    score       one system against its references: a `Score` for each metric
    leaks       what of the test stands in the training texts; `score` refuses on it
    compare     several systems on the same items: paired differences, p values
    family      Holm's correction over all comparisons that are reported together

Notable choices
- A metric is a formula over sums of per-item statistics (`surface`, `resampling`): intervals and tests are matrix
  products, and systems are compared on the same resamples of the same items.
- One policy for an empty hypothesis, everywhere: it scores 0 and the signature counts it. A missing hypothesis
  (None) is an error: it has an outcome, and an outcome other than ok is never data.
- A system that was sampled several times gives several texts for an item. Their statistics are averaged within the
  item, which stays one item: dice thrown again are no new posts.
- Nothing is normalised unless asked: `normalise` takes the forms of `formats`, half width and simplified script. The
  signature says which, and how many texts were in traditional characters (hypotheses+references). The leak gate alone
  always reads both sides in these forms: a copy in other characters is a copy.
"""

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import combinations
from typing import Any, Literal

import numpy as np

from cbtlib import CbtError, formats, gates, progress, surface
from cbtlib.resampling import Statistics, bootstrap, check, difference, holm, intervals, paired_shares, randomisation
from cbtlib.surface import References, Texts

Hypotheses = Sequence[str | Sequence[str]]  # for each item a text, or the texts of several samples


class LeakError(CbtError):
    """Texts of the test were found among the training texts."""


@dataclass(frozen=True, slots=True)
class Leak:
    """Test text `test` is like training text `training` (indices): similarity 1 for the same text, else Jaccard's."""

    test: int
    training: int
    similarity: float


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric's function, the part of its signature that never changes, and what it needs besides hypotheses."""

    measure: Callable[[Texts], Statistics]
    signature: str
    needs: Literal["references", "sources", ""] = "references"
    model: bool = False  # it loads a model, so it runs only when named


def _parts(texts: Texts) -> Statistics:
    """Mean number of the five CBT parts in an answer, 0..5, as `structure` reads it."""
    from cbtlib import structure

    return Statistics.mean(structure.coverage(list(texts.hypotheses)).to_numpy().sum(axis=1))


def _named(texts: Texts) -> Statistics:
    """Share of answers that name at least one cognitive distortion without denying it."""
    from cbtlib import distortions

    return Statistics.share_of([bool(distortions.extract(text)) for text in texts.hypotheses])


def _requests(texts: Texts) -> Statistics:
    """Mean number of sentences that put a question to the reader."""
    from cbtlib import structure

    return Statistics.mean([sum("？" in s or "?" in s for s in structure.sentences(text)) for text in texts.hypotheses])


def _suggestions(texts: Texts) -> Statistics:
    """Mean number of sentences that tell the reader what to do: those that `structure` reads as strategy."""
    from cbtlib import structure

    read = structure.read(list(texts.hypotheses))
    return Statistics.mean([sum(part == "strategy" for _, part in one.sentences) for one in read])


def _bertscore(texts: Texts) -> Statistics:
    """BERTScore on the embedded model, layer 4 of 18: the layer that people agree with most (`bertscore.LAYERS`)."""
    from cbtlib import bertscore

    return bertscore.bertscore(texts, bertscore.encoder("embedded"))


OWN = f"cbtlib:{version('cbtlib')}"
"""The version of what this library measures by itself, as sacrebleu signs what is its own."""
_SACREBLEU = f"sacrebleu:{version('sacrebleu')}"
_METEOR = f"match:exact|alpha:0.9|beta:3|gamma:0.5|case:lower|{OWN}"
METRICS: dict[str, Metric] = {
    "bleu": Metric(surface.bleu, f"tok:zh|smooth:exp|case:mixed|{_SACREBLEU}"),
    "chrf": Metric(surface.chrf, f"nc:6|nw:0|beta:2|space:no|case:mixed|{_SACREBLEU}"),
    "meteor_char": Metric(lambda texts: surface.meteor(texts, "character"), f"tok:char|{_METEOR}"),
    "meteor_word": Metric(lambda texts: surface.meteor(texts, "word"), f"tok:rjieba-{version('rjieba')}|{_METEOR}"),
    "distinct_1": Metric(lambda texts: surface.distinct(texts, 1), f"tok:char|space:no|scope:corpus|{OWN}", ""),
    "distinct_2": Metric(lambda texts: surface.distinct(texts, 2), f"tok:char|space:no|scope:corpus|{OWN}", ""),
    "length": Metric(surface.length, f"unit:char|space:no|{OWN}", ""),
    "repetition": Metric(surface.repetition, f"tok:char|n:4|space:no|{OWN}", ""),
    "copied": Metric(surface.copied, f"tok:char|n:4|space:no|from:source|{OWN}", "sources"),
    "parts": Metric(_parts, f"of:5|by:structure|{OWN}", ""),
    "named": Metric(_named, f"by:distortions|negated:no|{OWN}", ""),
    # the answer load: what one letter asks of a reader who is already burdened
    "requests": Metric(_requests, f"by:question-mark|unit:sentence|{OWN}", ""),
    "suggestions": Metric(_suggestions, f"by:structure|unit:sentence|{OWN}", ""),
    "bertscore": Metric(
        _bertscore,
        f"model:embedded|layer:4|idf:no|specials:no|rescaled:no|{OWN}|transformers:{version('transformers')}",
        model=True,
    ),
}
"""Every metric by name. A metric on another model is another entry: `METRICS["bertscore"] = bertscore.metric(…)`."""

SHOWN = 3
"""Leaks that an error names before it counts the rest."""

OVERLAP = ("bleu", "chrf", "meteor_char", "meteor_word")


@dataclass(frozen=True, slots=True)
class Score:
    """One metric of one system: value, interval (NaN where there is none), items scored, and how it was made."""

    name: str
    value: float
    low: float
    high: float
    n: int
    signature: str


@dataclass(frozen=True, slots=True)
class Difference:
    """`system` minus `base` on the same items: paired bootstrap interval, p of approximate randomisation, Holm's p.

    `p_holm` is corrected over all differences that were computed together; `family` corrects over more of them. The
    signature is that of the system's score, with how the two were compared.
    """

    name: str
    system: str
    base: str
    value: float
    low: float
    high: float
    p: float
    p_holm: float
    n: int
    signature: str


def measure(
    hypotheses: Hypotheses,
    references: References = (),
    *,
    metrics: Sequence[str] = OVERLAP,
    sources: Sequence[str] = (),
    normalise: Sequence[str] = (),
) -> dict[str, tuple[Statistics, str]]:
    """Per-item statistics and signature of each metric; `references[set][item]`, None where a later set has none.

    Raises CbtError that names the item for a missing or non-text hypothesis, an empty reference, unequal lengths.
    """
    samples = _samples(hypotheses)
    texts = _checked(samples, references, sources, normalise)
    sizes = np.array([len(item) for item in samples])
    starts = np.cumsum(sizes) - sizes
    empties = sum(not text.strip() for text in texts.hypotheses)
    scripts = f"{surface.traditional(texts.hypotheses)}+{sum(map(surface.traditional, texts.references))}"
    several = f"samples:{sizes.min()}-{sizes.max()}|" if sizes.max() > 1 else ""
    width, script = (
        "half" if "width" in normalise else "as-is",
        "simplified" if "simplified" in normalise else "as-is",
    )
    shared = f"{several}width:{width}|script:{script}|traditional:{scripts}|empty:0|empties:{empties}"
    numbers = {sum(text is not None for text in item) for item in zip(*texts.references, strict=True)}
    nrefs = f"nrefs:{numbers.pop() if len(numbers) == 1 else 'var'}|"
    measured = {}
    for name in progress.bar(metrics, desc="scoring", unit="metric", leave=False):
        if name not in METRICS:
            raise CbtError(f"there is no metric {name!r}; the metrics are {', '.join(METRICS)}")
        metric = METRICS[name]
        if metric.needs and not getattr(texts, metric.needs):
            raise CbtError(f"the metric {name!r} needs {metric.needs}, and there are none; pass them or leave it out")
        used = nrefs if metric.needs == "references" else ""
        one = metric.measure(texts)
        if several:
            one = replace(one, rows=np.add.reduceat(one.rows, starts, axis=0) / sizes[:, None])
        note = f"|{one.note}" if one.note else ""
        measured[name] = (one, f"{metric.signature}{note}|{used}{shared}")
    return measured


def score(
    hypotheses: Hypotheses,
    references: References = (),
    *,
    metrics: Sequence[str] = OVERLAP,
    sources: Sequence[str] = (),
    training: Sequence[str] | None = None,
    allow_leak: bool = False,
    normalise: Sequence[str] = (),
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> list[Score]:
    """Score one system, a `Score` for each metric, with BCa bootstrap intervals over items (Wilson's for a share).

    `training` holds the texts trained on: when references or sources are among them, LeakError, unless `allow_leak`,
    which the signature then says. Without `training` it says `leak:unchecked`.
    """
    gate = leak_gate(training, [*sources, *(text for one in references for text in one if text)], allow_leak)
    measured = measure(hypotheses, references, metrics=metrics, sources=sources, normalise=normalise)
    bounds = intervals([statistics for statistics, _ in measured.values()], resamples, confidence, seed)
    made = {"bca": f"bca-{resamples}-seed-{seed}", "wilson": "wilson"}
    return [
        Score(
            name, one.value, low, high, len(hypotheses),
            f"{name}|{signature}|{gate}|ci:{f'{confidence:g}-{made[one.method]}' if low == low else 'none'}",
        )
        for (name, (one, signature)), (low, high) in zip(measured.items(), bounds, strict=True)
    ]  # fmt: skip


def leaks(training: Sequence[str], test: Sequence[str]) -> list[Leak]:
    """Pairs of a test text and a training text that it repeats: the same, a near duplicate, or inside it (`gates`).

    White space, full-width letters and traditional characters make no text another, nor does the punctuation of a text
    of a few letters.
    """
    for side, texts in (("training text", training), ("test text", test)):
        _several(texts)
        for number, text in enumerate(texts, 1):
            _text(text, f"{side} {number}")
    return list(_leaks(tuple(training), tuple(test)))


@functools.lru_cache(maxsize=4)  # several systems on one test are one question to the gate
def _leaks(training: Sequence[str], test: Sequence[str]) -> tuple[Leak, ...]:
    training, test = [formats.plain(text) for text in training], [formats.plain(text) for text in test]
    places = {gates.content(text): index for index, text in reversed(list(enumerate(training)))}
    same = {index: places[key] for index, text in enumerate(test) if (key := gates.content(text)) in places}
    both, part = [*training, *test], np.arange(len(training) + len(test)) >= len(training)
    asked = part & [index not in same for index in range(-len(training), len(test))]
    found = [Leak(index, other, 1.0) for index, other in same.items()]
    found += [Leak(i - len(training), j, value) for i, j, value in gates.repeated(both, part, asked)]
    return tuple(sorted(found, key=lambda leak: (leak.test, leak.training)))


def leak_gate(
    training: Sequence[str] | None,
    test: Sequence[str],
    allow_leak: bool = False,
    places: tuple[Sequence[str], Sequence[str]] | None = None,
) -> str:
    """What the signature says of leaks; LeakError when there are some and they are not allowed.

    `places` says for each training and each test text where it stands, for the error; without it they are numbered.
    """
    if training is None:
        return "leak:unchecked"
    found = leaks(training, test)
    if not found:
        return "leak:none"
    texts = len({leak.test for leak in found})
    if allow_leak:
        return f"leak:ALLOWED-{texts}-of-{len(test)}"
    learnt, asked = places or (
        [f"training text {number}" for number in range(1, len(training) + 1)],
        [f"test text {number}" for number in range(1, len(test) + 1)],
    )
    first = list({leak.test: leak for leak in reversed(found)}.values())[::-1][:SHOWN]
    like = "; ".join(f"{asked[leak.test]} is {leak.similarity:.2f} like {learnt[leak.training]}" for leak in first)
    more = f"; and {texts - len(first)} more" if texts > len(first) else ""
    raise LeakError(
        f"{texts} of {len(test)} test texts were trained on ({like}{more}), so this would be no test; take them out of "
        "either file, or pass --allow-leak (allow_leak=True) to have the leak printed into the signature"
    )


def compare(
    systems: Mapping[str, Hypotheses],
    references: References = (),
    *,
    base: str | None = None,
    metrics: Sequence[str] = OVERLAP,
    sources: Sequence[str] = (),
    training: Sequence[str] | None = None,
    allow_leak: bool = False,
    normalise: Sequence[str] = (),
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> list[Difference]:
    """Every system against `base` (every pair when None), on the same items; all differences are one `family`.

    The leak gate is that of `score`.
    """
    check(resamples, confidence)
    if base is not None and base not in systems:
        raise CbtError(f"there is no system {base!r} to compare with; the systems are {', '.join(systems)}")
    pairs = [(one, base) for one in systems if one != base] if base else [(b, a) for a, b in combinations(systems, 2)]
    gate = leak_gate(training, [*sources, *(text for one in references for text in one if text)], allow_leak)
    test = f"p:randomisation-{resamples}|seed:{seed}"
    measured = {
        system: measure(texts, references, metrics=metrics, sources=sources, normalise=normalise)
        for system, texts in systems.items()
    }
    differences = []
    for metric in metrics:
        statistics = {system: measured[system][metric][0] for system in systems}
        values = dict(zip(systems, bootstrap(list(statistics.values()), resamples, seed).T, strict=True))
        for one, two in pairs:
            n = len(systems[one])
            p = randomisation(statistics[one], statistics[two], resamples, seed)
            apart = statistics[one].value - statistics[two].value
            drawn = np.stack([values[one], values[two]], axis=1)
            low, high = difference(statistics[one], statistics[two], drawn, confidence)
            how = "agresti-min" if paired_shares(statistics[one], statistics[two]) else f"bca-{resamples}"
            signature = f"{metric}|{measured[one][metric][1]}|{gate}|paired|ci:{confidence:g}-{how}|{test}"
            differences.append(Difference(metric, one, two, apart, low, high, p, p, n, signature))
    return family(differences)


def family(differences: Sequence[Difference]) -> list[Difference]:
    """The same differences with `p_holm` corrected over all of them: those that are reported together belong together.

    A p value that is none (a metric undefined for one of the systems) stays none and takes no part.
    """
    given = [index for index, one in enumerate(differences) if np.isfinite(one.p)]
    adjusted = dict(zip(given, holm([differences[index].p for index in given]), strict=True))
    return [replace(one, p_holm=float(adjusted.get(index, np.nan))) for index, one in enumerate(differences)]


def outcomes(answers: Mapping[str, Mapping[str, tuple[str, str]]]) -> tuple[list[str], dict[str, Counter[str]]]:
    """Of `answers[system][item] = (outcome, text)`: the items that every system answered ok, and each one's outcomes.

    Systems are compared on those items only: a refusal or a failure is counted, never scored.
    """
    counts = {system: Counter(outcome for outcome, _ in items.values()) for system, items in answers.items()}
    good = [{item for item, (outcome, _) in items.items() if outcome == "ok"} for items in answers.values()]
    shared = set.intersection(*good) if good else set()
    return [item for item in next(iter(answers.values()), {}) if item in shared], counts


def _samples(hypotheses: Hypotheses) -> list[list[str]]:
    """The texts of each item, one or several."""
    _several(hypotheses)
    if not len(hypotheses):
        raise CbtError("there is nothing to score: the list of hypotheses is empty")
    samples = [list(item) if isinstance(item, list | tuple) else [item] for item in hypotheses]
    if [] in samples:
        raise CbtError(f"item {samples.index([]) + 1} has no sample; count its outcome and leave the item out")
    return samples  # type: ignore[return-value]


def _checked(
    samples: Sequence[Sequence[str]], references: References, sources: Sequence[str], normalise: Sequence[str]
) -> Texts:
    """All samples in one row, with the references and sources of their items beside them; CbtError for what is none."""
    for several in (references, sources, *references):
        _several(several)
    owners = [item for item, texts in enumerate(samples) for _ in texts]
    hypotheses = [text for texts in samples for text in texts]
    _sound("hypothesis", [item + 1 for item in owners], hypotheses)
    sides: dict[str, Sequence[str | None]] = {"source": sources}
    sides |= {f"reference {number}": one for number, one in enumerate(references, 1)}
    for side, texts in sides.items():
        if len(texts) != len(samples) and not (side == "source" and not texts):
            raise CbtError(f"{len(samples)} hypotheses, but {len(texts)} of {side}: every item needs one of each")
        given = {item: text for item, text in enumerate(texts, 1) if text is not None or side == "source"}
        _sound(side, list(given), list(given.values()))
        for item, text in given.items():
            if side != "source" and not (text or "").strip():
                raise CbtError(f"{side} of item {item} is empty; give its text, or None when this set has none")
    for item, sets in enumerate(zip(*references, strict=True), 1):
        if all(text is None for text in sets):
            raise CbtError(f"item {item} has no reference in any set; leave the item out")
    converters = [formats.converter(form) for form in normalise]

    def fold(texts: Sequence[Any]) -> list[Any]:
        for convert in converters:
            texts = [text if text is None else convert(text) for text in texts]
        return list(texts)

    return Texts(
        fold(hypotheses),
        [fold([one[item] for item in owners]) for one in references],
        fold([sources[item] for item in owners]) if sources else (),
    )


def _several(texts: Any) -> None:
    if isinstance(texts, str):
        raise CbtError("a list of texts was expected, one for each item, and a single text was given; put it in a list")


def _sound(side: str, items: Sequence[int], texts: Sequence[Any]) -> None:
    """CbtError for the first text of a side that is none, or holds half a character."""
    try:
        "".join(texts).encode("utf-32-le")  # all at once: seldom is one unsound
    except (TypeError, UnicodeEncodeError):
        for item, text in zip(items, texts, strict=True):
            _text(text, f"{side} of item {item}")


def _text(text: Any, what: str) -> None:
    if not isinstance(text, str):
        found = "missing (None)" if text is None else f"a {type(text).__name__}, not a text"
        raise CbtError(f"{what} is {found}; count it as an outcome and leave the item out")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"half a character ({text[error.start]!r})"
        raise CbtError(
            f"{what} holds {half} at place {error.start + 1}; mend the text, or leave the item out"
        ) from None
