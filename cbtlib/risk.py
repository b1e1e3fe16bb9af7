"""A classifier of risk: wordings that no rule lists, told by the hidden states of the book's own model.

    load()            the classifier in data/risk_classifier.json
    fit(posts)        made anew from data/risk_posts.jsonl and the ordinary posts of the train split
    seen(posts)       which posts are among those: its recall on them is that of a pupil on the lesson's own examples

A post is followed by a question about its writer. Its features are the mean state of a middle layer over its own tokens
and over the question's last ones, where the model has read all of it; one logistic regression says how much it reads
like a post of someone in danger. `look` raises levels that the rules of `safety` gave and lowers none.

Notable choices:

- Learnt from posts written for it, veiled ones on purpose, and from look-alikes that share their words: a trip for two,
  a farewell to a job, a knife in the kitchen. No real person's words are in it.
- Layer, penalty and thresholds were chosen on posts that the regression had not seen (five folds of the `train` posts).
  Scores of the `heldout` posts were seen twice on the way, so they flatter; no weight was learnt from them, nor from
  the corpus's dev, test and crisis splits.
- A threshold is the highest score that still finds so many of the posts in danger: RECALL for a crisis, more for a
  concern. A false alarm is cheaper than a false calm.
- The weights are a text file that names the posts it was made of; a test asserts that they are those in the repository.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cbtlib import ROOT, CbtError, cache, corpus, detectors, reading
from cbtlib.safety import LEVELS, Triage

POSTS = ROOT / "data" / "risk_posts.jsonl"
WEIGHTS = ROOT / "data" / "risk_classifier.json"
LAYER = 9
RECALL, CONCERN = 0.95, 0.98
FOLDS = 5
STRENGTH = 0.01  # inverse of the penalty on the weights
ASKED = "\n问：这个人是不是想死，或者正在受到伤害？答："
"""In English: "Question: does this person want to die, or is someone hurting them? Answer:"."""
TAIL = 9
"""Characters of ASKED whose states are a feature."""
LONGEST = 800
"""Characters of a post that are looked at, half from its beginning and half from its end; the rules read all of it."""


@dataclass(frozen=True)
class Classifier:
    """A logistic regression on the features (2 x 640) of a post; scores from which it is a concern or a crisis."""

    layer: int
    weights: tuple[float, ...]
    bias: float
    concern: float
    crisis: float
    posts_sha256: str

    @cached_property
    def version(self) -> str:
        """Names the classifier: 12 hex digits that change with its numbers."""
        return hashlib.sha256(repr(asdict(self)).encode()).hexdigest()[:12]

    def scores(self, posts: Sequence[str]) -> NDArray[np.float64]:
        """How much each post (n,) reads like one of someone in danger: a log-odds."""
        return features(posts, self.layer) @ np.array(self.weights) + self.bias

    def look(self, posts: Sequence[str], found: Sequence[Triage]) -> list[Triage]:
        """The levels of the rules, raised where the classifier is more worried."""
        raised = []
        for triage, score in zip(found, self.scores(posts), strict=True):
            level = int(score >= self.concern) + int(score >= self.crisis)
            more = level > LEVELS.index(triage.level)
            raised.append(Triage(LEVELS[level], ("classifier",)) if more else triage)
        return raised


def load(path: Path = WEIGHTS) -> Classifier:
    """Read the classifier; CbtError when the file holds none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Classifier(**{**content, "weights": tuple(content["weights"])})
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise CbtError(f"{path} holds no classifier ({error}); make one with `cbt safety fit`") from None


def save(classifier: Classifier, path: Path = WEIGHTS) -> None:
    """Write the classifier."""
    path.write_text(json.dumps(asdict(classifier), indent=1) + "\n", encoding="utf-8", newline="\n")


def posts(split: str, path: Path = POSTS) -> tuple[list[str], list[bool]]:
    """Texts and labels of a split (`train` or `heldout`) of the posts written for this."""
    found = [row for _, row in reading.objects(path)]
    if problems := [row for row in found if isinstance(row, reading.Problem)]:
        raise corpus.CorpusError(path, problems)
    rows = [row for row in found if isinstance(row, dict) and row["split"] == split]
    if not rows:
        raise CbtError(f"{path} has no posts of the split {split}")
    return [row["text"] for row in rows], [row["crisis"] for row in rows]


def features(posts: Sequence[str], layer: int) -> NDArray[np.float64]:
    """(posts, 1280): mean state over the post, and over the end of the question asked about it."""
    if not posts:
        return np.zeros((0, 1280))
    cut = [post if len(post) <= LONGEST else f"{post[: LONGEST // 2]}\n{post[-LONGEST // 2 :]}" for post in posts]
    texts = [post + ASKED for post in cut]
    units = [[(0, len(post)), (len(text) - TAIL, len(text))] for post, text in zip(cut, texts, strict=True)]
    return detectors.hidden_states(texts, units, "embedded", (layer,)).reshape(len(posts), -1)


# ---------------------------------------------------------------- fitting


def fit(path: Path = POSTS) -> Classifier:
    """Learn from the `train` posts of `path` and the corpus's train split, all of whose posts are ordinary."""
    texts, target = _learnt(path)
    found = features(texts, LAYER)
    unseen = np.zeros(len(target))
    fold = np.random.default_rng(0).permutation(np.arange(len(target)) % FOLDS)
    for k in range(FOLDS):
        weights, bias = _regress(found[fold != k], target[fold != k])
        unseen[fold == k] = found[fold == k] @ weights + bias
    crisis, concern = (float(np.quantile(unseen[target], 1 - share, method="lower")) for share in (RECALL, CONCERN))
    weights, bias = _regress(found, target)
    rounded = tuple(float(f"{weight:.5g}") for weight in weights)
    return Classifier(LAYER, rounded, round(bias, 4), round(concern, 3), round(crisis, 3), cache.sha256(path))


def seen(texts: Sequence[str], path: Path = POSTS) -> NDArray[np.bool_]:
    """Which texts (n,) are, or nearly are, a post that a classifier made by `fit` has learnt from."""
    from cbtlib import labelling  # it loads pandas, which a run of `cbt generate` does without

    learnt, _ = _learnt(path)
    return labelling.copies([*learnt, *texts], np.arange(len(learnt) + len(texts)) >= len(learnt))[len(learnt) :]


def _learnt(path: Path) -> tuple[list[str], NDArray[np.bool_]]:
    texts, labels = posts("train", path)
    ordinary = [record.post for record in corpus.load_split("train")]
    return texts + ordinary, np.array(labels + [False] * len(ordinary))


def _regress(found: NDArray[np.float64], target: NDArray[np.bool_]) -> tuple[NDArray[np.float64], float]:
    """A logistic regression on standardised states, as weights of the states themselves."""
    from sklearn.linear_model import LogisticRegression

    mean, scale = found.mean(axis=0), found.std(axis=0) + 1e-6
    head = LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=1000).fit((found - mean) / scale, target)
    weights = head.coef_[0] / scale
    return weights, float(head.intercept_[0] - mean @ weights)
