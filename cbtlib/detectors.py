"""Detectors of distortions in a post, learnt from gold spans: sentence by sentence, calibrated, small enough to save.

A post of 130 characters holds one or two distorted sentences among seven. A classifier of whole posts has to find them
by itself in a few hundred examples; one of sentences is told by the spans where to look. Here a sentence is the unit of
learning, and a post's score is that of its worst sentence.

Three kinds, each made of one head or more that turn a unit into one number a column:

    characters  TF-IDF of runs of 1-3 characters and a logistic regression: no model, seconds
    probe       that, and a logistic regression on the embedded model's hidden states of a middle layer
    lora        both, and the model itself tuned with LoRA (`lora_labels`)

Notable choices
- One regularised logistic regression a type, and one for `any`. A last one combines the heads and makes probabilities
  of them (Platt 1999). It, and the thresholds, are chosen on predictions for posts that the head of that fold had not
  seen: the test split has no say.
- Thresholds serve one figure: each type's own F1 ("macro"), or the F1 over all labels ("micro"; then one threshold for
  all types is best, Lipton et al. 2014).
- Texts without spans (public sets of single sentences) are one unit each; a detector trained so also reads so.
- A type that no training post has cannot be learnt: a CbtError, never a column of zeros.
- Saved as JSON and one .npz of arrays, with a model card; nothing is unpickled on loading.
- The checksum of the model that it reads with is saved too: over other weights its scores would mean nothing.
"""

import contextlib
import json
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from cbtlib import CbtError, formats, progress
from cbtlib.corpus import TYPES, Record

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Span = tuple[str, int, int]  # type, start, end
Units = Sequence[Sequence[tuple[int, int]]]  # (start, end) of each unit of each text

KINDS = {"characters": ("characters",), "probe": ("characters", "hidden"), "lora": ("characters", "hidden", "lora")}
"""The heads of each kind of detector."""
FOLDS = 5
LAYERS = (9,)
"""Layers of the embedded model that the probe reads: of 18, the middle one told the types best."""
_SENTENCE = re.compile(r"[^。！？!?；;…\n]+[。！？!?；;…”’」\n]*")


@dataclass(frozen=True, slots=True)
class Post:
    """A text with the gold types it holds, and where (None: only the whole text is labelled)."""

    text: str
    types: frozenset[str] = frozenset()
    spans: tuple[Span, ...] | None = None


def of_records(records: Iterable[Record]) -> list[Post]:
    """The descriptions of records, in which their spans stand."""
    return [Post(x.description, x.types, tuple((d.type, d.start, d.end) for d in x.distortions)) for x in records]


def sentences(text: str) -> list[tuple[int, int]]:
    """(start, end) of each sentence of a text; the whole text when it has none."""
    return [match.span() for match in _SENTENCE.finditer(text) if match[0].strip()] or [(0, len(text))]


@dataclass(slots=True)
class Detector:
    """A fitted detector; scores are calibrated probabilities.

    `columns` are its types and, last, `any`, which is missing where all training posts hold some type or none does.
    `trained_on` counts its training posts in all ("posts") and with each column. `checksum` is the model's, "" where no
    head reads with it.
    """

    kind: str
    columns: tuple[str, ...]
    by_sentence: bool
    model: str
    layers: tuple[int, ...]
    average: str
    trained_on: dict[str, int]
    thresholds: Floats
    checksum: str = ""
    vocabulary: list[str] = field(default_factory=list)
    arrays: dict[str, NDArray] = field(default_factory=dict)  # weights of the heads, and how they are combined

    def scores(self, texts: Sequence[str]) -> Floats:
        """Probability of each column for each text: (texts, columns). CbtError for a score that is no number."""
        if not texts:
            return np.zeros((0, len(self.columns)))
        units = cut(texts, self.by_sentence)
        heads = [_worst(_HEADS[name].raw(self, texts, units), units) for name in KINDS[self.kind]]
        found = _combine(np.stack(heads), self.arrays["combination"])
        if not np.isfinite(found).all():  # below every threshold, it would be called "no distortion"
            raise CbtError("the detector gives scores that are no numbers: make it anew")
        return found

    def labels(self, texts: Sequence[str]) -> Bools:
        """Whether each column reaches its threshold: (texts, columns)."""
        return self.scores(texts) >= self.thresholds

    def save(self, folder: Path) -> None:
        """Write detector.json, detector.npz and a model card (README.md) into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        facts = {name: getattr(self, name) for name in _FACTS} | {"thresholds": self.thresholds.tolist(), "form": FORM}
        (folder / "detector.json").write_text(json.dumps(facts, ensure_ascii=False), encoding="utf-8")
        np.savez(folder / "detector.npz", allow_pickle=False, **self.arrays)
        (folder / "README.md").write_text(card(self), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Detector":
        """Read a saved detector.

        CbtError when the folder holds none, part of one, one of another version, or one made over another model.
        """
        try:
            facts = json.loads((folder / "detector.json").read_text(encoding="utf-8"))
            if (form := facts.pop("form", 0)) != FORM:
                age = "too old" if form < FORM else "too new"
                raise CbtError(
                    f"the detector in {folder} is {age} for this version (form {form}, not {FORM}): make it anew with "
                    "cbt distortions benchmark"
                )
            facts |= {name: tuple(facts[name]) for name in ("columns", "layers")}
            facts["thresholds"] = np.array(facts["thresholds"], float)
            with np.load(folder / "detector.npz", allow_pickle=False) as file:
                detector = cls(**facts, arrays=dict(file))
            detector._check()
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            EOFError,
            zipfile.BadZipFile,
            zlib.error,
        ) as e:
            raise CbtError(f"{folder} holds no detector: {e}; make one with cbt distortions benchmark") from e
        if detector.checksum != _checksum(detector):
            raise CbtError(
                f"the detector in {folder} was made over other weights or another vocabulary than those of the model "
                f"{detector.model!r} here: bring that model back, or make the detector anew with cbt distortions "
                "benchmark"
            )
        return detector

    def _check(self) -> None:
        """ValueError or KeyError unless facts and arrays belong together and are numbers."""
        width, heads = len(self.columns), KINDS[self.kind]
        wanted: dict[str, tuple[int, ...]] = {"combination": (len(heads) + 1, width)}
        if "characters" in heads:
            wanted |= {"idf": (len(self.vocabulary),), "characters.weights": (width, len(self.vocabulary))}
        if "hidden" in heads:
            wanted |= {"scale": (states := self.arrays["mean"].shape), "hidden.weights": (width, *states)}
        wanted |= {f"{name}.bias": (width,) for name in heads if name != "lora"}
        shapes = {name: array.shape for name, array in self.arrays.items()} | {"thresholds": self.thresholds.shape}
        for name, shape in (wanted | {"thresholds": (width,)}).items():
            if shapes[name] != shape:
                raise ValueError(f"{name} has shape {shapes[name]}, not {shape}")
        if not all(np.isfinite(array).all() for array in (self.thresholds, *self.arrays.values())):
            raise ValueError("some of its arrays hold what is no number")


def _checksum(detector: Detector) -> str:
    """Checksum of the model that it reads with, as that is now."""
    from cbtlib import models

    return models.checksum(detector.model) if set(KINDS[detector.kind]) & {"hidden", "lora"} else ""


FORM = 2
"""Version of what `save` writes: raised when an older detector would be read wrongly."""
_FACTS = ("kind", "columns", "by_sentence", "model", "checksum", "layers", "average", "trained_on", "vocabulary")


def train(
    posts: Sequence[Post],
    kind: str = "probe",
    types: Sequence[str] = TYPES,
    model: str = "embedded",
    layers: Sequence[int] = LAYERS,
    average: str = "macro",
    epochs: int = 4,
    members: int = 2,
    seed: int = 0,
) -> Detector:
    """Fit a detector; CbtError for a type that too few or nearly all posts have.

    `types` are what it learns to tell, `average` says what its thresholds serve: macro- or micro-F1. `layers` are the
    probe's; `epochs` and `members` (models whose scores are averaged, at most FOLDS) those of LoRA.
    """
    if kind not in KINDS:
        raise CbtError(f"no detector {kind!r} can be trained: choose one of {', '.join(KINDS)}")
    if average not in ("macro", "micro"):
        raise CbtError(f"thresholds cannot serve {average!r}: choose macro or micro")
    gold = np.array([[name in post.types for name in types] for post in posts], bool).reshape(len(posts), len(types))
    columns = tuple(types)
    if FOLDS <= gold.any(1).sum() <= len(posts) - FOLDS:
        columns, gold = (*types, "any"), np.column_stack([gold, gold.any(1)])
    for name, count in zip(columns, gold.sum(0), strict=True):
        if not FOLDS <= count <= len(posts) - FOLDS:
            raise CbtError(
                f"type {name!r} stands in {count} of {len(posts)} training posts: it needs at least {FOLDS} with and "
                f"{FOLDS} without; leave it out or add posts"
            )
    by_sentence = any(post.spans is not None for post in posts)
    texts = [post.text for post in posts]
    units = cut(texts, by_sentence)
    target = np.array([_unit_types(post, row, types) for post, rows in zip(posts, units, strict=True) for row in rows])
    if "any" in columns:
        target = np.column_stack([target, target.any(1)])
    counts = {"posts": len(posts)} | dict(zip(columns, gold.sum(0).tolist(), strict=True))
    detector = Detector(
        kind, columns, by_sentence, model, tuple(layers), average, counts, thresholds=np.full(len(columns), 0.5)
    )
    fold = _folds(texts, gold, min(members, FOLDS) if kind == "lora" else FOLDS, seed)
    task = _Task(texts, units, target, fold, epochs, members, seed)
    unseen = np.stack([_worst(_HEADS[name].fit(detector, task), units) for name in KINDS[kind]])
    detector.checksum = _checksum(detector)
    known = np.isfinite(unseen).all((0, 2))  # LoRA's members leave some folds without a prediction
    detector.arrays["combination"] = _combination(unseen[:, known], gold[known])
    scores = _combine(unseen[:, known], detector.arrays["combination"])
    if average == "macro":
        detector.thresholds = best_thresholds(gold[known], scores)
    else:
        width = len(types)  # one threshold over all labels; `any` keeps its own
        pooled = best_thresholds(gold[known, :width].reshape(-1, 1), scores[:, :width].reshape(-1, 1))
        own = best_thresholds(gold[known, width:], scores[:, width:])
        detector.thresholds = np.concatenate([np.repeat(pooled, width), own])
    return detector


def _folds(texts: Sequence[str], gold: Bools, calibrated: int, seed: int) -> NDArray[np.int64]:
    """A fold for each post, drawn until every part that something is fitted on has each label, and posts without it.

    The heads are fitted on all folds but one, the combination on the first `calibrated`. Copies of a post share a fold:
    a head that had seen the one would be calibrated on the other. CbtError where no draw gives such folds.
    """
    places: dict[str, int] = {}
    first = [places.setdefault(formats.letters(formats.plain(text)), place) for place, text in enumerate(texts)]
    generator = np.random.default_rng(seed)
    for _ in range(1000):
        fold = generator.permutation(np.arange(len(gold)) % FOLDS)[first]
        parts = [gold[part] for part in (fold < calibrated, *(fold != k for k in range(FOLDS)))]
        if len(np.unique(fold)) == FOLDS and all(part.any(0).all() and not part.all(0).any() for part in parts):
            return fold
    copied = f" ({len(places)} without copies)" if len(places) < len(gold) else ""
    raise CbtError(
        f"{len(gold)} posts{copied} are too few to see each label, and its absence, in {FOLDS} folds: add posts"
    )


def best_thresholds(gold: Bools, scores: Floats) -> Floats:
    """For each column the threshold of the best F1, half-way to the next lower score."""
    chosen = np.empty(gold.shape[1])
    for j in range(gold.shape[1]):
        order = np.argsort(-scores[:, j], kind="stable")
        hits = np.cumsum(gold[order, j])
        f1 = 2 * hits / (np.arange(1, len(order) + 1) + gold[:, j].sum())
        ordered = scores[order, j]
        f1[:-1][ordered[:-1] == ordered[1:]] = -1  # no threshold lies between equal scores
        best = int(np.argmax(f1))
        below = ordered[best + 1] if best + 1 < len(ordered) else 0.0
        chosen[j] = (ordered[best] + below) / 2
    return chosen


# ------------------------------------------------------------------ the heads


@dataclass(frozen=True, slots=True)
class _Task:
    """What a head learns: labels (units, columns) of the units of texts, and the fold that each text is in."""

    texts: Sequence[str]
    units: Units
    target: Bools
    fold: NDArray[np.int64]
    epochs: int
    members: int
    seed: int

    @property
    def unit_fold(self) -> NDArray[np.int64]:
        return np.repeat(self.fold, [len(row) for row in self.units])


class _Linear:
    """Logistic regressions on features of a unit. Both methods give raw scores (units, columns)."""

    name: ClassVar[str]
    settings: ClassVar[dict[str, Any]]

    def features(self, detector: Detector, texts: Sequence[str], units: Units) -> Any:
        raise NotImplementedError

    def fit(self, detector: Detector, task: _Task) -> Floats:
        """Learn from all units; returns what heads that had not seen a unit's fold say of it."""
        matrix = self.features(detector, task.texts, task.units)
        unseen = np.zeros(task.target.shape)
        for k in progress.bar(range(FOLDS), desc=f"{self.name}, folds", unit="fold", leave=False):
            inside = task.unit_fold == k
            weights, bias = _regressions(matrix[~inside], task.target[~inside], self.settings)
            unseen[inside] = np.asarray(matrix[inside] @ weights.T) + bias
        weights, bias = _regressions(matrix, task.target, self.settings)
        detector.arrays |= {f"{self.name}.weights": weights, f"{self.name}.bias": bias}
        return unseen

    def raw(self, detector: Detector, texts: Sequence[str], units: Units) -> Floats:
        matrix = self.features(detector, texts, units)
        return np.asarray(matrix @ detector.arrays[f"{self.name}.weights"].T) + detector.arrays[f"{self.name}.bias"]


class _Characters(_Linear):
    name = "characters"
    settings: ClassVar = {"C": 10.0, "solver": "liblinear", "class_weight": "balanced"}

    def features(self, detector: Detector, texts: Sequence[str], units: Units) -> Any:
        """Damped term frequencies of runs of 1-3 characters that two training units have, at length 1, times IDF."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        pieces = [text[a:b] for text, row in zip(texts, units, strict=True) for a, b in row]
        form: dict[str, Any] = {"analyzer": "char", "ngram_range": (1, 3), "sublinear_tf": True, "use_idf": False}
        if not detector.vocabulary:
            counter = TfidfVectorizer(min_df=2, **form).fit(pieces)
            detector.vocabulary = list(counter.get_feature_names_out())
            present = np.asarray((counter.transform(pieces) > 0).sum(0)).ravel()
            detector.arrays["idf"] = np.log((1 + len(pieces)) / (1 + present)) + 1
        counts = TfidfVectorizer(vocabulary=detector.vocabulary, **form).fit(pieces[:1]).transform(pieces)
        return counts.multiply(detector.arrays["idf"]).tocsr()


class _Hidden(_Linear):
    name = "hidden"
    settings: ClassVar = {"C": 0.01, "solver": "lbfgs"}

    def features(self, detector: Detector, texts: Sequence[str], units: Units) -> Floats:
        """Hidden states of a few layers, averaged over the unit's tokens, each dimension standardised."""
        found = _states(texts, units, detector.model, detector.layers)
        if len(detector.arrays.get("mean", found[0])) != found.shape[1]:
            raise CbtError(
                f"the saved detector does not fit the model {detector.model!r}: it was made with another one"
            )
        if "mean" not in detector.arrays:
            detector.arrays |= {"mean": found.mean(0), "scale": found.std(0) + 1e-6}
        return (found - detector.arrays["mean"]) / detector.arrays["scale"]


class _Lora:
    """The tuned model. Each member leaves one fold out, which it is then calibrated on."""

    def fit(self, detector: Detector, task: _Task) -> Floats:
        from cbtlib import lora_labels

        unseen = np.full(task.target.shape, np.nan)
        for k in range(min(task.members, FOLDS)):
            seen, rest = np.flatnonzero(task.fold != k), np.flatnonzero(task.fold == k)
            member = lora_labels.fit(
                *_chosen(task, seen), task.target[task.unit_fold != k], detector.model, task.epochs, task.seed + k
            )
            unseen[task.unit_fold == k] = lora_labels.logits(*_chosen(task, rest), [member], detector.model)
            detector.arrays |= {f"lora.{k}.{name}": array for name, array in member.items()}
        return unseen

    def raw(self, detector: Detector, texts: Sequence[str], units: Units) -> Floats:
        from cbtlib import lora_labels

        members: dict[str, dict[str, NDArray]] = {}
        for key, array in detector.arrays.items():
            if key.startswith("lora."):
                _, k, name = key.split(".", 2)
                members.setdefault(k, {})[name] = array
        return lora_labels.logits(texts, units, list(members.values()), detector.model)


_HEADS: dict[str, Any] = {"characters": _Characters(), "hidden": _Hidden(), "lora": _Lora()}


_KEPT: ContextVar[dict[Any, Floats] | None] = ContextVar("kept", default=None)


@contextlib.contextmanager
def reading_once() -> Iterator[None]:
    """Within it, a text is read by the model once, however many folds and detectors ask for its hidden states.

    One within another keeps what the outer one has.
    """
    kept = _KEPT.get()
    token = _KEPT.set({} if kept is None else kept)
    try:
        yield
    finally:
        _KEPT.reset(token)


def _states(texts: Sequence[str], units: Units, model: str, layers: Sequence[int]) -> Floats:
    kept = _KEPT.get()
    if kept is None:
        return hidden_states(texts, units, model, layers)
    keys = [(model, tuple(layers), text, tuple(row)) for text, row in zip(texts, units, strict=True)]
    fresh = [i for i, key in enumerate(keys) if key not in kept]
    if fresh:
        found = hidden_states([texts[i] for i in fresh], [units[i] for i in fresh], model, layers)
        parts = np.split(found, np.cumsum([len(units[i]) for i in fresh])[:-1])
        kept.update(zip([keys[i] for i in fresh], parts, strict=True))
    return np.concatenate([kept[key] for key in keys])


def hidden_states(texts: Sequence[str], units: Units, model: str, layers: Sequence[int]) -> Floats:
    """Mean hidden states of `layers` over each unit's tokens, side by side: (units, layers x width).

    The layers above the highest are not computed.
    """
    import torch

    from cbtlib import models

    network, tokenizer = models.load(model)
    base = network.model
    if not layers or not all(1 <= layer <= len(base.layers) for layer in layers):
        raise CbtError(f"{model} has layers 1 to {len(base.layers)}, and {list(layers)} were asked for")
    base.layers, base.norm = base.layers[: max(layers)], torch.nn.Identity()
    coded = models.with_offsets(tokenizer, texts)
    order = sorted(range(len(texts)), key=lambda i: -len(coded["input_ids"][i]))
    means: list[list[Floats]] = [[] for _ in texts]
    while order:
        longest = len(coded["input_ids"][order[0]])
        batch, order = order[: max(1, 2048 // longest)], order[max(1, 2048 // longest) :]
        ids, mask = models.batch([coded["input_ids"][i] for i in batch], tokenizer.pad_token_id)
        with torch.inference_mode():
            found = base(input_ids=ids, attention_mask=mask, use_cache=False, output_hidden_states=True).hidden_states
            states = torch.cat([found[layer].float() for layer in layers], -1).numpy()
        for row, i in enumerate(batch):
            offsets = np.array(coded["offset_mapping"][i])
            for start, end in units[i]:
                inside = (offsets[:, 0] < end) & (offsets[:, 1] > start)
                chosen = states[row, : len(offsets)][inside if inside.any() else slice(-1, None)]
                means[i].append(chosen.mean(0, dtype=np.float64))
    return np.array([mean for row in means for mean in row])


def _chosen(task: _Task, rows: NDArray[np.int64]) -> tuple[list[str], list[Sequence[tuple[int, int]]]]:
    return [task.texts[i] for i in rows], [task.units[i] for i in rows]


def _regressions(matrix: Any, target: Bools, settings: dict[str, Any]) -> tuple[Floats, Floats]:
    """One logistic regression a column: weights (columns, d) and bias (columns,)."""
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, "blas"):  # for vectors this short, threads that wait for each other cost many times more
        made = [LogisticRegression(max_iter=500, random_state=0, **settings).fit(matrix, column) for column in target.T]
    return np.vstack([one.coef_ for one in made]), np.concatenate([one.intercept_ for one in made])


# ------------------------------------------------------------------ from units to probabilities


def cut(texts: Sequence[str], by_sentence: bool) -> list[list[tuple[int, int]]]:
    """The units of each text: its sentences, or the whole of it."""
    return [sentences(text) if by_sentence else [(0, len(text))] for text in texts]


def _unit_types(post: Post, unit: tuple[int, int], types: Sequence[str]) -> list[bool]:
    """Which types a unit shows: those of spans that have at least half of themselves, or four characters, in it."""
    if post.spans is None:
        return [name in post.types for name in types]
    shown = set()
    for kind, start, end in post.spans:
        if min(end, unit[1]) - max(start, unit[0]) >= min(4, (end - start + 1) // 2):
            shown.add(kind)
    return [name in shown for name in types]


def _worst(raw: Floats, units: Units) -> Floats:
    """Largest value of each text's units: (texts, columns)."""
    return np.maximum.reduceat(raw, np.r_[0, np.cumsum([len(row) for row in units])[:-1]], axis=0)


def _combination(raw: Floats, gold: Bools) -> Floats:
    """Weights of the heads, and an offset, that make probabilities of raw scores (heads, texts, columns)."""
    from sklearn.linear_model import LogisticRegression

    made = []
    for j in range(gold.shape[1]):
        fit = LogisticRegression(C=1.0).fit(raw[:, :, j].T, gold[:, j])
        made.append([*np.maximum(fit.coef_[0], 1e-3), float(fit.intercept_[0])])  # no head counts against itself
    return np.array(made).T


def _combine(raw: Floats, combination: Floats) -> Floats:
    return expit((raw * combination[:-1, None]).sum(0) + combination[-1])


# ------------------------------------------------------------------ the model card


def card(detector: Detector) -> str:
    """The model card: what it is, what it learnt from, thresholds, limits."""
    count = detector.trained_on
    reads = f"`{detector.model}`, layers {', '.join(map(str, detector.layers))}" if detector.kind == "probe" else ""
    reads = f"`{detector.model}`, tuned with LoRA" if detector.kind == "lora" else reads
    rows = "\n".join(
        f"| {name} | {count[name]} | {threshold:.3f} |"
        for name, threshold in zip(detector.columns, detector.thresholds, strict=True)
    )
    gemma = "\nGemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms.\n"
    return f"""# A detector of cognitive distortions ({detector.kind})

Reads Chinese posts {"sentence by sentence" if detector.by_sentence else "whole"}; gives each label a probability and
a call. Heads: {", ".join(KINDS[detector.kind])}{f" (on {reads})" if reads else ""}.

Trained on {count["posts"]} posts. Thresholds were chosen for {detector.average}-F1 on training posts that the heads had
not seen.

| label | training posts | threshold |
|---|---|---|
{rows}

`cbt distortions label FILE --detector FOLDER` uses it; `cbt distortions benchmark` measures it, and writes the scores
beside this folder.

## Limits

- Research only. It has not been reviewed by clinicians, and it says nothing about a person: no diagnosis, no triage.
- It has learnt one set of labels, written to one brief. On posts from elsewhere expect much less; measure it there
before you count with it, and correct what you count (`cbtlib.prevalence`).
- It reads the words of one post. Irony, dialect and what stood in an earlier message are lost on it.
- A label with few training posts is called badly in both directions; look at its interval, not at its F1.
{gemma if detector.model == "embedded" and detector.kind != "characters" else ""}"""
