"""`cbt distortions benchmark` and `label`: labelled files in, tables and a saved detector out.

Notable choices
- Without a test file the training file is cut into five parts and each is labelled by a detector of the other four.
- Test posts that copy a training post are found, and every table is made twice: with them and without.
- A type with too few training posts to learn is not dropped: it is never called, and the table shows what that costs.
- Examples of errors never hold a crisis post.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cbtlib import CbtError, corpus, detection, detectors, distortions, formats, gates, report
from cbtlib.corpus import TYPES
from cbtlib.detectors import Post

DETECTORS = ("characters", "hidden", "extract")


@dataclass(frozen=True, slots=True)
class Item:
    """A labelled post, the answer it got (for `extract`), and where it stands."""

    id: str
    post: Post
    answer: str | None


def read(path: Path, format: str = "auto") -> list[Item]:
    """Labelled posts of a file; CbtError when a line cannot be read, is unlabelled, or when nothing is left."""
    name = formats.detect(path) if format == "auto" and path.is_file() else format
    if name == "records":
        records = [record for record in corpus.load(path) if not record.crisis]
        items = [
            Item(x.id, post, x.answer_text) for x, post in zip(records, detectors.of_records(records), strict=True)
        ]
    else:
        samples, problems = formats.read(path, name)
        if problems:
            raise corpus.CorpusError(path, problems)
        bare = sum(sample.labels is None for sample in samples)
        if bare:
            raise CbtError(f"{path}: {bare} of {len(samples)} items have no gold labels; a benchmark needs them on all")
        items = [Item(x.id, Post(x.text, x.labels or frozenset()), x.answer) for x in samples if not x.crisis]
    if not items:
        raise CbtError(f"{path} holds no labelled post")
    return items


def benchmark(
    train: Path, test: Path | None, out: Path, format: str = "auto", detector: str = "characters", seed: int = 0
) -> pd.DataFrame:
    """Train on one file, score on another (or by five parts of the one), write everything to `out`.

    Writes scores.csv, without_copies.csv (when there are copies), confusion.csv, errors.csv, metrics.json, and the
    detector. Returns scores.csv's table.
    """
    if detector not in DETECTORS:
        raise CbtError(f"no detector {detector!r}: choose one of {', '.join(DETECTORS)}")
    learn = read(train, format)
    types = _types([item.post for item in learn])
    if test is None:
        items, copied = learn, np.zeros(len(learn), bool)
        scores, called = _by_parts(items, types, detector, seed)
    else:
        items = read(test, format)
        strange = {name for item in items for name in item.post.types} - set(types)
        if strange:
            raise CbtError(f"{test} has labels that {train} has not: {', '.join(sorted(strange))}")
        copied = copies([item.post.text for item in learn], [item.post.text for item in items])
        scores, called = _apply(learn, items, types, detector, seed, out)
    gold = distortions.matrix([item.post.types for item in items], types)
    result = detection.evaluate(gold, called, types, scores, seed=seed)
    out.mkdir(parents=True, exist_ok=True)
    result.table.to_csv(out / "scores.csv", encoding="utf-8", float_format="%.6g")
    if copied.any():
        clean = detection.evaluate(gold[~copied], called[~copied], types, None if scores is None else scores[~copied])
        clean.table.to_csv(out / "without_copies.csv", encoding="utf-8", float_format="%.6g")
    detection.confusion(gold, called, types).to_csv(out / "confusion.csv", encoding="utf-8")
    _errors(items, gold, called, types).to_csv(out / "errors.csv", encoding="utf-8", index=False)
    f1 = {name: round(float(value), 6) for name, value in result.table["f1"].items()}
    facts = {"detector": detector, "train": len(learn), "test": len(items), "copies": int(copied.sum()), "f1": f1}
    report.write_json(out / "metrics.json", facts | {"ece": {k: round(float(v), 6) for k, v in result.ece.items()}})
    return result.table


def label(path: Path, folder: Path, out: Path, format: str = "auto") -> int:
    """Label every post of a file with a saved detector: one JSON line each with scores and labels; returns how many.

    Plain text (.txt) is one post a line. Lines that cannot be read stop the work: no post is dropped.
    """
    detector = detectors.Detector.load(folder)
    if path.suffix == ".txt" and format == "auto":
        lines = [(number, line) for number, line in corpus.read_lines(path)]
        bad = [line for _, line in lines if isinstance(line, corpus.Problem)]
        pairs = [(str(number), line) for number, line in lines if isinstance(line, str)]
    else:
        samples, bad = formats.read(path, format)
        pairs = [(sample.id, sample.text) for sample in samples]
    if bad:
        raise corpus.CorpusError(path, bad)
    if not pairs:
        raise CbtError(f"{path} holds no post")
    scores = detector.scores([text for _, text in pairs])
    with out.open("w", encoding="utf-8", newline="\n") as file:
        for (name, _), row in zip(pairs, scores, strict=True):
            found = [kind for kind, s, t in zip(detector.columns, row, detector.thresholds, strict=True) if s >= t]
            item = {"id": name, "labels": [kind for kind in found if kind != "any"], "any": bool(found)}
            item["scores"] = {kind: round(float(s), 4) for kind, s in zip(detector.columns, row, strict=True)}
            file.write(json.dumps(item, ensure_ascii=False) + "\n")
    return len(pairs)


def copies(train: Sequence[str], test: Sequence[str]) -> NDArray[np.bool_]:
    """Which test texts are, or nearly are (5-gram Jaccard >= 0.3), a training text."""
    keys = {"".join(text.split()) for text in train}
    found = np.array(["".join(text.split()) in keys for text in test], bool)
    for i, j, _ in gates.near_duplicates([*train, *test]):
        if i < len(train) <= j:
            found[j - len(train)] = True
    return found


# ------------------------------------------------------------------ how labels come about


def _types(posts: Sequence[Post]) -> tuple[str, ...]:
    seen = {name for post in posts for name in post.types}
    return TYPES if seen <= set(TYPES) else tuple(sorted(seen))


def _apply(
    learn: Sequence[Item], items: Sequence[Item], types: Sequence[str], detector: str, seed: int, out: Path | None
) -> tuple[NDArray | None, NDArray]:
    """Scores (posts, types + any) or None, and calls (posts, types), of a detector learnt on `learn`."""
    if detector == "extract":
        bare = sum(item.answer is None for item in items)
        if bare:
            raise CbtError(f"extract reads labels off answers, and {bare} of {len(items)} items have none")
        return None, distortions.matrix([distortions.extract(item.answer or "") for item in items], types)
    posts = [item.post for item in learn]
    counts = [sum(name in post.types for post in posts) for name in types]
    known = [k for k, count in enumerate(counts) if detectors.FOLDS <= count <= len(posts) - detectors.FOLDS]
    if not known:
        raise CbtError(f"no label stands in {detectors.FOLDS} training posts or more: there is nothing to learn")
    fitted = detectors.train(posts, detector, [types[k] for k in known], seed=seed)
    if out is not None:
        fitted.save(out / "detector")
    found = fitted.scores([item.post.text for item in items])
    scores = np.zeros((len(items), len(types) + 1))
    called = np.zeros((len(items), len(types)), bool)
    scores[:, known] = found[:, : len(known)]
    scores[:, -1] = found[:, -1] if "any" in fitted.columns else found.max(1)
    called[:, known] = (found >= fitted.thresholds)[:, : len(known)]
    return scores, called


def _by_parts(items: Sequence[Item], types: Sequence[str], detector: str, seed: int) -> tuple[NDArray | None, NDArray]:
    part = np.random.default_rng(seed).permutation(np.arange(len(items)) % 5)
    scores, called = np.zeros((len(items), len(types) + 1)), np.zeros((len(items), len(types)), bool)
    for k in range(5):
        learn = [item for item, p in zip(items, part, strict=True) if p != k]
        rest = [item for item, p in zip(items, part, strict=True) if p == k]
        found, labels = _apply(learn, rest, types, detector, seed, None)
        called[part == k] = labels
        if found is None:
            return None, _apply(learn, items, types, detector, seed, None)[1]
        scores[part == k] = found
    return scores, called


def _errors(items: Sequence[Item], gold: NDArray, called: NDArray, types: Sequence[str]) -> pd.DataFrame:
    rows = []
    for item, truth, found in zip(items, gold, called, strict=True):
        missed = [name for name, a, b in zip(types, truth, found, strict=True) if a and not b]
        false = [name for name, a, b in zip(types, truth, found, strict=True) if b and not a]
        if (missed or false) and not gates.CRISIS.search(item.post.text):
            rows.append((item.id, "|".join(missed), "|".join(false), " ".join(item.post.text.split())[:120]))
    return pd.DataFrame(rows, columns=["id", "missed", "called falsely", "text"])
