"""Detectors of distortions in a post, learnt from gold spans: sentence by sentence, calibrated, small enough to save.

A post of 130 characters holds one or two distorted sentences among seven. A classifier of whole posts has to find them
by itself in a few hundred examples; one of sentences is told by the spans where to look. Here a sentence is the unit of
learning, and a post's score is that of its worst sentence.

Two kinds of features, one head:

    characters  TF-IDF of runs of 1-3 characters; no model, seconds
    hidden      mean of the hidden states of a middle layer over the sentence's tokens, read in the whole post's context

Notable choices
- One L2-regularised logistic regression a type, and one for `any`. Scores are calibrated (Platt 1999) and thresholds
  chosen for F1 on predictions for posts that the head of that fold had not seen (5 folds): the test split has no say.
- Texts without spans (public sets of single sentences) are one unit each; a detector trained so also reads so.
- A type that no training post has cannot be learnt: a CbtError, never a column of zeros.
- Saved as JSON and one .npz of arrays; nothing is unpickled on loading.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cbtlib import CbtError
from cbtlib.corpus import TYPES, Record

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Span = tuple[str, int, int]  # type, start, end

FEATURES = ("characters", "hidden")
FOLDS = 5
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
    """

    columns: tuple[str, ...]
    features: str
    by_sentence: bool
    thresholds: Floats
    model: str = ""
    layer: int = 0
    arrays: dict[str, NDArray] = field(default_factory=dict)  # weights, bias, calibration, feature scaling
    vocabulary: list[str] = field(default_factory=list)

    def scores(self, texts: Sequence[str]) -> Floats:
        """Probability of each column for each text: (texts, columns)."""
        units = [sentences(text) if self.by_sentence else [(0, len(text))] for text in texts]
        if not units:
            return np.zeros((0, len(self.columns)))
        raw = self._featurise(texts, units) @ self.arrays["weights"].T + self.arrays["bias"]
        slope, offset = self.arrays["calibration"]
        return _sigmoid(_worst(np.asarray(raw), [len(row) for row in units]) * slope + offset)

    def labels(self, texts: Sequence[str]) -> Bools:
        """Whether each column reaches its threshold: (texts, columns)."""
        return self.scores(texts) >= self.thresholds

    def _featurise(self, texts: Sequence[str], units: Sequence[Sequence[tuple[int, int]]]) -> Any:
        if self.features == "characters":
            pieces = [text[a:b] for text, row in zip(texts, units, strict=True) for a, b in row]
            return (
                _tfidf(self.vocabulary).fit(pieces[:1] or ["-"]).transform(pieces).multiply(self.arrays["idf"]).tocsr()
            )
        found = hidden_states(texts, units, self.model, self.layer)
        return (found - self.arrays["mean"]) / self.arrays["scale"]

    def save(self, folder: Path) -> None:
        """Write detector.json and detector.npz into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        facts = {
            name: getattr(self, name) for name in ("columns", "features", "by_sentence", "model", "layer", "vocabulary")
        }
        text = json.dumps({**facts, "thresholds": self.thresholds.tolist()}, ensure_ascii=False)
        (folder / "detector.json").write_text(text, encoding="utf-8")
        np.savez(folder / "detector.npz", allow_pickle=False, **self.arrays)

    @classmethod
    def load(cls, folder: Path) -> "Detector":
        """Read a saved detector; CbtError when the folder holds none."""
        try:
            facts = json.loads((folder / "detector.json").read_text(encoding="utf-8"))
            with np.load(folder / "detector.npz", allow_pickle=False) as file:
                arrays = dict(file)
        except (OSError, ValueError) as error:
            raise CbtError(f"{folder} holds no detector: {error}; make one with cbt distortions benchmark") from error
        facts |= {"columns": tuple(facts["columns"]), "thresholds": np.array(facts["thresholds"])}
        return cls(**facts, arrays=arrays)


def train(
    posts: Sequence[Post],
    features: str = "characters",
    types: Sequence[str] = TYPES,
    model: str = "embedded",
    layer: int = 9,
    seed: int = 0,
) -> Detector:
    """Fit a detector; `model` and `layer` matter to `hidden` only. CbtError for a type without any or all posts."""
    if features not in FEATURES:
        raise CbtError(f"no features {features!r}: choose one of {', '.join(FEATURES)}")
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
    units = [sentences(text) if by_sentence else [(0, len(text))] for text in texts]
    target = np.array([_unit_types(post, row, types) for post, rows in zip(posts, units, strict=True) for row in rows])
    if "any" in columns:
        target = np.column_stack([target, target.any(1)])
    detector = Detector(columns, features, by_sentence, np.full(len(columns), 0.5))
    matrix = _fit_features(detector, texts, units, model, layer)

    owner = np.repeat(np.arange(len(posts)), [len(row) for row in units])
    fold = np.random.default_rng(seed).permutation(np.arange(len(posts)) % FOLDS)
    unseen = np.zeros(target.shape)
    for k in range(FOLDS):
        inside = fold[owner] == k
        weights, bias = _fit_heads(matrix[~inside], target[~inside], features)
        unseen[inside] = np.asarray(matrix[inside] @ weights.T) + bias
    detector.arrays["weights"], detector.arrays["bias"] = _fit_heads(matrix, target, features)
    worst = _worst(unseen, [len(row) for row in units])
    detector.arrays["calibration"] = _platt(worst, gold)
    slope, offset = detector.arrays["calibration"]
    detector.thresholds = best_thresholds(gold, _sigmoid(worst * slope + offset))
    return detector


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


# ------------------------------------------------------------------ features


def _fit_features(detector: Detector, texts: Sequence[str], units: Sequence[Any], model: str, layer: int) -> Any:
    """Features of all units (n, d), and what the detector needs to make them again."""
    if detector.features == "characters":
        pieces = [text[a:b] for text, row in zip(texts, units, strict=True) for a, b in row]
        counter = _tfidf().fit(pieces)
        detector.vocabulary = list(counter.get_feature_names_out())
        counts = counter.transform(pieces)
        present = np.asarray((counts > 0).sum(0)).ravel()
        detector.arrays["idf"] = np.log((1 + len(pieces)) / (1 + present)) + 1
        return counts.multiply(detector.arrays["idf"]).tocsr()
    detector.model, detector.layer = model, layer
    found = hidden_states(texts, units, model, layer)
    detector.arrays["mean"], detector.arrays["scale"] = found.mean(0), found.std(0) + 1e-6
    return (found - detector.arrays["mean"]) / detector.arrays["scale"]


def _tfidf(vocabulary: Sequence[str] | None = None) -> Any:
    """Damped counts of runs of 1-3 characters that at least two units have, each unit of length 1."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    least = 1 if vocabulary else 2
    return TfidfVectorizer(
        analyzer="char", ngram_range=(1, 3), min_df=least, sublinear_tf=True, use_idf=False, vocabulary=vocabulary
    )


def hidden_states(texts: Sequence[str], units: Sequence[Sequence[tuple[int, int]]], model: str, layer: int) -> Floats:
    """Mean hidden state of `layer` over the tokens of each unit: (units, width). The layers above are not computed."""
    import torch

    from cbtlib import endpoint

    network, tokenizer = endpoint.load(model)
    base = network.model
    if not 1 <= layer <= len(base.layers):
        raise CbtError(f"{model} has layers 1 to {len(base.layers)}, and layer {layer} was asked for")
    base.layers, base.norm = base.layers[:layer], torch.nn.Identity()
    coded = tokenizer(list(texts), return_offsets_mapping=True, truncation=True, max_length=1024)
    order = sorted(range(len(texts)), key=lambda i: -len(coded["input_ids"][i]))
    means: list[list[Floats]] = [[] for _ in texts]
    while order:
        longest = len(coded["input_ids"][order[0]])
        batch, order = order[: max(1, 2048 // longest)], order[max(1, 2048 // longest) :]
        ids = torch.full((len(batch), longest), tokenizer.pad_token_id)
        mask = torch.zeros_like(ids)
        for row, i in enumerate(batch):
            length = len(coded["input_ids"][i])
            ids[row, :length], mask[row, :length] = torch.tensor(coded["input_ids"][i]), 1
        with torch.inference_mode():
            states = base(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state.float().numpy()
        for row, i in enumerate(batch):
            offsets = np.array(coded["offset_mapping"][i])
            for start, end in units[i]:
                inside = (offsets[:, 0] < end) & (offsets[:, 1] > start)
                chosen = states[row, : len(offsets)][inside if inside.any() else slice(-1, None)]
                means[i].append(chosen.mean(0, dtype=np.float64))
    return np.array([mean for row in means for mean in row])


# ------------------------------------------------------------------ the head


def _fit_heads(matrix: Any, target: Bools, features: str) -> tuple[Floats, Floats]:
    """One logistic regression a column: weights (columns, d) and bias (columns,)."""
    from sklearn.linear_model import LogisticRegression

    sparse = features == "characters"
    heads = []
    for j in range(target.shape[1]):
        head = LogisticRegression(
            C=10.0 if sparse else 0.01,
            solver="liblinear" if sparse else "lbfgs",
            class_weight="balanced" if sparse else None,
            max_iter=500,
            random_state=0,
        )
        heads.append(head.fit(matrix, target[:, j]))
    return np.vstack([head.coef_ for head in heads]), np.concatenate([head.intercept_ for head in heads])


def _unit_types(post: Post, unit: tuple[int, int], types: Sequence[str]) -> list[bool]:
    """Which types a unit shows: those of spans that have at least half of themselves, or four characters, in it."""
    if post.spans is None:
        return [name in post.types for name in types]
    shown = set()
    for kind, start, end in post.spans:
        if min(end, unit[1]) - max(start, unit[0]) >= min(4, (end - start + 1) // 2):
            shown.add(kind)
    return [name in shown for name in types]


def _worst(raw: Floats, sizes: Sequence[int]) -> Floats:
    """Largest value of each text's units: (texts, columns)."""
    return np.maximum.reduceat(raw, np.r_[0, np.cumsum(sizes)[:-1]], axis=0)


def _platt(raw: Floats, gold: Bools) -> Floats:
    """Slope and offset (2, columns) that make raw scores probabilities."""
    from sklearn.linear_model import LogisticRegression

    pairs = []
    for j in range(gold.shape[1]):
        fit = LogisticRegression(C=1.0).fit(raw[:, j : j + 1], gold[:, j])
        pairs.append((max(float(fit.coef_[0, 0]), 1e-3), float(fit.intercept_[0])))  # never upside down
    return np.array(pairs).T


def _sigmoid(x: Floats) -> Floats:
    return 1 / (1 + np.exp(-np.clip(x, -50, 50)))
