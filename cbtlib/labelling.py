"""`cbt distortions benchmark` and `label`: labelled files in, tables and a saved detector out.

Notable choices
- Without a test file the training file is cut into five parts and each is labelled by a detector of the other four.
- Test posts that copy a training post are found (of five parts: posts that copy one of another part), and every table
  is made twice: with them and without. Where nothing labelled is left without them there is none: a CbtError.
- A type with too few training posts to learn is not dropped: it is never called, and the table shows what that costs.
- A post whose label could not be had (an `llm` that failed, an answer that is missing) is scored by nobody and counted.
- A row that says it is no data (`outcome`) is labelled by nobody: `label` hands its outcome on in place of labels.
- Labels of another set are compared with ours only when asked to (`book_types`): a mapping is a choice to be seen.
- Examples of errors never hold a post that triage takes for a crisis, nor one that comes near.
"""

import difflib
import hashlib
import itertools
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cbtlib import (
    ROOT,
    CbtError,
    cache,
    corpus,
    detection,
    detectors,
    distortions,
    formats,
    gates,
    llm_labels,
    models,
    progress,
    reading,
    safety,
    writing,
)
from cbtlib.corpus import TYPES
from cbtlib.detectors import Post
from cbtlib.formats import DISTORTED

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ask = Callable[[Sequence[str], Sequence[str]], list[llm_labels.Labelled]]
"""Texts and types to what a language model says of each: `llm_labels.label` with its endpoint filled in."""

DETECTORS = ("probe", "lora", "llm", "extract", "characters")
PARTS = 5
BLOCK = 120
"""Posts that `label` writes at once."""
CALIBRATION = 200
"""Training posts that an `llm` is asked about, drawn at random, to make probabilities of its calls."""


@dataclass(frozen=True, slots=True)
class Item:
    """A labelled post, the answer it got (for `extract`), and where it stands (line 0: its id tells)."""

    id: str
    post: Post
    answer: str | None
    line: int = 0


@dataclass(frozen=True, slots=True)
class Calls:
    """What a detector says of items: `outcome` of each, and where it is ok `labels` (items, types) and `scores`.

    `scores` (items, types and any) are probabilities; rows whose outcome is not ok mean nothing.
    """

    outcome: NDArray[np.str_]
    labels: Bools
    scores: Floats

    def __getitem__(self, rows: Bools) -> "Calls":
        return Calls(self.outcome[rows], self.labels[rows], self.scores[rows])


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Tables of `detection.evaluate` by detector, with and `without` copies of training posts (None: there are none).

    `outcomes` of the test posts by detector; `differences` of each pair of detectors; `copies` in the test file;
    `unlearnt` types with too few training posts, which a trained detector never calls.
    """

    tables: dict[str, pd.DataFrame]
    without: dict[str, pd.DataFrame | None]
    ece: dict[str, pd.Series]
    outcomes: dict[str, dict[str, int]]
    differences: pd.DataFrame
    copies: int
    unlearnt: tuple[str, ...]


def read(path: Path, format: str = "auto") -> list[Item]:
    """Labelled posts of a file; CbtError when a line cannot be read, is unlabelled, or when nothing is left."""
    name = formats.detect(path) if format == "auto" and path.is_file() else format
    if name == "records":
        records = [record for record in corpus.load(path) if not record.crisis]
        items = [
            Item(x.id, post, x.answer_text) for x, post in zip(records, detectors.of_records(records), strict=True)
        ]
    else:
        samples = formats.load(path, name)
        bare = sum(sample.labels is None for sample in samples)
        if bare:
            raise CbtError(f"{path}: {bare} of {len(samples)} items have no gold labels; a benchmark needs them on all")
        items = [Item(x.id, Post(x.text, x.labels or frozenset()), x.answer, x.line) for x in samples]
    if not items:
        raise CbtError(f"{path} holds no labelled post")
    return items


def benchmark(
    train: Path,
    test: Path | None,
    out: Path,
    format: str = "auto",
    kinds: Sequence[str] = ("probe",),
    *,
    average: str = "macro",
    book_types: bool = False,
    test_format: str | None = None,
    ask: Ask | None = None,
    seed: int = 0,
    resamples: int = 1000,
) -> Benchmark:
    """Train detectors on one file, score them on another (or by five parts of the one), write everything to `out`.

    Writes, for each kind, scores.csv, without_copies.csv (when there are copies), confusion.csv, errors.csv,
    predictions.csv, metrics.json and the detector into a folder of its name; and differences.csv for several kinds.
    CbtError for an unknown detector, labels that nobody gave, and a test of which nothing is new.
    """
    wrong = [kind for kind in kinds if kind not in DETECTORS]
    if wrong or not kinds:
        raise CbtError(f"no detector {', '.join(map(repr, wrong))}: choose of {', '.join(DETECTORS)}")
    if "llm" in kinds and ask is None:
        raise CbtError("the detector llm needs an endpoint to ask: name a model (--model)")
    learn = read(train, format)
    items = learn if test is None else read(test, test_format or format)
    if book_types:
        learn, items = of_book(train, learn, test or train, items)
    types = _types([item.post for item in learn])
    _known(items, types, train, test or train)
    texts = [item.post.text for item in items]
    part = np.random.default_rng(seed).permutation(np.arange(len(items)) % PARTS)
    gold = distortions.matrix([item.post.types for item in items], types)
    if not gold.any():
        raise CbtError(f"{test or train}: {detection.NO_GOLD}")
    if detectors.KINDS.keys() & set(kinds):
        _enough(train, [learn] if test else [_rows(items, part != k) for k in range(PARTS)], types)
    if test is None:
        copied = copies(texts, part)
    else:
        both = [*(item.post.text for item in learn), *texts]
        copied = copies(both, np.arange(len(both)) >= len(learn))[len(learn) :]
    if not gold[~copied].any():
        whose = f"of {train}" if test else "of another of its five parts"
        raise CbtError(
            f"{test or train}: all its {gold.any(1).sum()} labelled posts copy, or nearly copy, posts {whose}, and no "
            "score on them would hold for new posts; name other posts with --test"
        )
    made = {}
    learnt = _learnable([item.post for item in learn], types)
    unlearnt = tuple(name for k, name in enumerate(types) if k not in learnt)
    result = Benchmark({}, {}, {}, {}, pd.DataFrame(), int(copied.sum()), unlearnt)
    writing.make_folder(out)
    (out / "differences.csv").unlink(missing_ok=True)  # of an earlier call; not every call has one
    for kind in dict.fromkeys(kinds):
        folder = out / kind
        writing.make_folder(folder)
        (folder / "without_copies.csv").unlink(missing_ok=True)
        with detectors.reading_once():
            if test is None:
                calls = _by_parts(items, part, types, kind, average, ask, seed)
            else:
                calls = _apply(learn, items, types, kind, average, ask, seed, folder)
        made[kind] = calls
        ok = calls.outcome == "ok"
        whole = _evaluate(gold[ok], calls[ok], types, resamples, seed)
        fresh = ok & ~copied
        clean = _evaluate(gold[fresh], calls[fresh], types, resamples, seed) if copied.any() else None
        result.tables[kind], result.ece[kind] = whole.table, whole.ece
        result.without[kind] = None if clean is None else clean.table
        result.outcomes[kind] = dict(Counter(calls.outcome.tolist()))
        facts = {"detector": kind, "train": len(learn), "test": len(items), "copies": result.copies}
        facts |= {"unlearnt": list(unlearnt)} if kind in detectors.KINDS else {}
        _write(folder, items, gold, calls, types, result, facts)
    rows = []
    for one, two in itertools.combinations(made, 2):
        both = (made[one].outcome == "ok") & (made[two].outcome == "ok")
        if gold[both].any():
            labels = made[one].labels[both], made[two].labels[both]
            found = detection.difference(gold[both], *labels, types, resamples, seed)
            rows.append(found.reset_index().assign(detector=one, minus=two, n=int(both.sum())))
    if rows:
        differences = pd.concat(rows)[["detector", "minus", "average", "difference", "low", "high", "n"]]
        writing.write_csv(out / "differences.csv", differences, index=False, digits=6)
        result = replace(result, differences=differences)
    return result


NO_DATA = "no data"
"""Stands in the counts of `label` for rows whose outcome is not ok."""


def label(path: Path, out: Path, folder: Path | None = None, format: str = "auto") -> Counter[str]:
    """Label every post of a file with a saved detector (None: the book's own), a JSON line each.

    Returns how many posts came to each level of triage, and in `NO_DATA` how many rows were labelled by nobody.

    Plain text (.txt) is one post a line. Lines that cannot be read stop the work: no post is dropped. A row whose
    outcome is not ok gets a line with that outcome, no labels and no triage; CbtError where there is no other. `out` is
    written whole or not at all; a call that was stopped leaves a .part beside it, and the same call goes on from there.
    """
    if path.suffix == ".txt" and format == "auto":
        lines = [(number, line) for number, line in reading.lines(path)]
        bad = [line for _, line in lines if isinstance(line, reading.Problem)]
        rows = [(str(number), line, "", "ok") for number, line in lines if isinstance(line, str)]
    else:
        samples, bad = formats.read(path, format)
        posts: dict[tuple[int, str], formats.Sample] = {}
        for sample in samples:  # PsyQA has one for each answer to a post, and one that failed does not undo the post
            if posts.setdefault((sample.line, sample.text), sample).outcome != "ok":
                posts[sample.line, sample.text] = sample
        rows = [(post.id, post.text, post.topic, str(post.outcome)) for post in posts.values()]
    if bad:
        raise corpus.CorpusError(path, bad)
    if not rows:
        raise CbtError(f"{path} holds no post")
    if all(outcome != "ok" for *_, outcome in rows):
        raise CbtError(f"{path}: none of its {len(rows)} posts has the outcome ok: there is nothing to label")
    if out.is_dir():
        raise CbtError(f"cannot write {out}: it is a folder; name a file with --out")
    folder = own() if folder is None else folder  # a minute the first time, and only for posts that can be read
    detector = detectors.Detector.load(folder)
    sources = [repr(rows).encode(), *((folder / f"detector.{kind}").read_bytes() for kind in ("json", "npz"))]
    sources.append(safety.version().encode())  # lines hold triage too: no file is half of other rules
    part = out.with_name(f"{out.name}.{hashlib.sha256(b''.join(sources)).hexdigest()[:12]}.part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        busy = f"another process is labelling into {out}: wait for it, or give another --out"
        with cache.alone(out.with_name(f"{out.name}.lock"), busy):
            before = part.read_bytes() if part.exists() else b""
            whole = before[: before.rfind(b"\n") + 1]  # what follows the last line feed was cut off
            done = whole.decode("utf-8").split("\n")[:-1]
            with (
                part.open("ab") as file,  # what is done stays in the file while the next block is made
                progress.bar(total=len(rows), initial=len(done), unit="post", desc="labelling") as bar,
            ):
                file.truncate(len(whole))
                for start in range(len(done), len(rows), BLOCK):
                    fresh = _lines(detector, rows[start : start + BLOCK])
                    file.write("".join(line + "\n" for line in fresh).encode("utf-8"))
                    file.flush()
                    done += fresh
                    bar.update(len(fresh))
            os.replace(part, out)
    except OSError as error:
        raise CbtError(f"cannot write {out}: {error.strerror}; give another --out") from None
    return Counter(item.get("triage", NO_DATA) for item in map(json.loads, done))


def _lines(detector: detectors.Detector, rows: Sequence[tuple[str, str, str, str]]) -> list[str]:
    """What is written of each (id, post, topic, outcome)."""
    lines = []
    scores = iter(detector.scores([text for _, text, _, outcome in rows if outcome == "ok"]))
    for name, text, topic, outcome in rows:
        if outcome != "ok":
            lines.append(json.dumps({"id": name, "outcome": outcome}, ensure_ascii=False))
            continue
        row = next(scores)
        called = [kind for kind, s, t in zip(detector.columns, row, detector.thresholds, strict=True) if s >= t]
        item = {"id": name, "labels": [kind for kind in called if kind != "any"], "any": bool(called)}
        item |= {"triage": safety.triage(text).level, "characters": len(text)}
        item |= {"topic": topic} if topic else {}
        item |= {"scores": {kind: round(float(s), 4) for kind, s in zip(detector.columns, row, strict=True)}}
        lines.append(json.dumps(item, ensure_ascii=False))
    return lines


def own() -> Path:
    """Folder of the book's own detector: a probe taught by the training posts, made once and kept in the cache."""
    sources = [ROOT / "data/corpus/train.jsonl", Path(detectors.__file__)]
    read = b"".join(source.read_bytes() for source in sources) + models.checksum().encode()
    digest = hashlib.sha256(read).hexdigest()[:12]

    def build(folder: Path) -> None:
        detectors.train(detectors.of_records(corpus.load_split("train")), "probe").save(folder)

    return cache.entry(f"detector-{digest}", build, 50)


def copies(texts: Sequence[str], part: NDArray) -> Bools:
    """Which texts are, or nearly are (5-gram Jaccard >= 0.3), a text of another part, or stand inside one.

    White space, punctuation, case, full-width letters and traditional characters make no text another.
    """
    texts = [formats.plain(text) for text in texts]
    keys = [formats.letters(text) for text in texts]
    parts: dict[str, set[int]] = {}
    for key, own in zip(keys, part.tolist(), strict=True):
        parts.setdefault(key, set()).add(own)
    found = np.array([len(parts[key]) > 1 for key in keys], bool)
    for i, _, _ in gates.repeated(texts, np.asarray(part), ~found):
        found[i] = True
    return found


def of_book(train: Path, learn: list[Item], test: Path, items: list[Item]) -> tuple[list[Item], list[Item]]:
    """Two sets in the book's types; where one of them only tells whether there is a distortion, both tell only that."""
    binary = any({name for item in part for name in item.post.types} <= {DISTORTED} for part in (learn, items))
    return _translated(train, learn, binary), _translated(test, items, binary)


def _translated(path: Path, items: list[Item], binary: bool) -> list[Item]:
    found = {name: name if name in TYPES else distortions.known(name) for item in items for name in item.post.types}
    lost = [name for name, kind in found.items() if kind is None and not binary]
    if lost:
        raise CbtError(f"{path} has labels that data/taxonomy.csv maps to no type: {', '.join(sorted(lost))}")
    if binary:
        found = dict.fromkeys(found, DISTORTED)
    out = []
    for item in items:
        spans = item.post.spans and tuple((str(found[kind]), a, b) for kind, a, b in item.post.spans)
        post = Post(item.post.text, frozenset(str(found[name]) for name in item.post.types), spans)
        out.append(replace(item, post=post))
    return out


# ------------------------------------------------------------------ how labels come about


def _rows(items: Sequence[Item], chosen: Bools) -> list[Item]:
    return [item for item, taken in zip(items, chosen, strict=True) if taken]


def _known(items: Sequence[Item], types: Sequence[str], train: Path, test: Path) -> None:
    """CbtError for a label that no training post has, with the place of the first."""
    for item in items:
        if strange := sorted(item.post.types - set(types)):
            where = f"line {item.line}" if item.line else f"post {item.id}"
            close = "".join(f" (is it {name!r}?)" for name in difflib.get_close_matches(strange[0], types, 1))
            raise CbtError(
                f"{test}, {where}: {train} has no label {strange[0]!r}{close}; write a label that it has, or compare "
                "the two sets through the book's types with --book-types"
            )


def _enough(train: Path, taught: Sequence[Sequence[Item]], types: Sequence[str]) -> None:
    """CbtError where one of the sets that a detector is to learn from teaches no type."""
    if not all(_learnable([item.post for item in learn], types) for learn in taught):
        least, left = detectors.FOLDS, " when one of its five parts is left out" if len(taught) > 1 else ""
        raise CbtError(
            f"{train}: no label has {least} training posts with it and {least} without{left}: there is nothing to "
            "learn; add posts of the kind that is missing"
        )


def _types(posts: Sequence[Post]) -> tuple[str, ...]:
    seen = {name for post in posts for name in post.types}
    return TYPES if seen <= set(TYPES) else tuple(sorted(seen))


def _apply(
    learn: Sequence[Item],
    items: Sequence[Item],
    types: Sequence[str],
    kind: str,
    average: str,
    ask: Ask | None,
    seed: int,
    out: Path | None = None,
) -> Calls:
    """What a detector taught by `learn` says of `items`; the learnt one is saved in `out`."""
    if kind in ("llm", "extract"):
        if kind == "llm" and len(learn) > CALIBRATION:
            learn = [learn[i] for i in np.random.default_rng(seed).permutation(len(learn))[:CALIBRATION]]
        return _calibrated(learn, _told([*learn, *items], types, kind, ask), types)
    posts = [item.post for item in learn]
    known = _learnable(posts, types)
    fitted = detectors.train(posts, kind, [types[k] for k in known], average=average, seed=seed)
    if out is not None:
        fitted.save(out / "detector")
    found = fitted.scores([item.post.text for item in items])
    scores = np.zeros((len(items), len(types) + 1))
    called = np.zeros((len(items), len(types)), bool)
    scores[:, known] = found[:, : len(known)]
    scores[:, -1] = found[:, -1] if "any" in fitted.columns else found.max(1)
    called[:, known] = (found >= fitted.thresholds)[:, : len(known)]
    return Calls(np.full(len(items), "ok"), called, scores)


def _learnable(posts: Sequence[Post], types: Sequence[str]) -> list[int]:
    """Columns of the types that enough posts have, and enough have not, to learn them."""
    counts = [sum(name in post.types for post in posts) for name in types]
    return [k for k, count in enumerate(counts) if detectors.FOLDS <= count <= len(posts) - detectors.FOLDS]


def _by_parts(
    items: Sequence[Item],
    part: NDArray[np.int64],
    types: Sequence[str],
    kind: str,
    average: str,
    ask: Ask | None,
    seed: int,
) -> Calls:
    told = _told(items, types, kind, ask) if kind in ("llm", "extract") else None
    order, parts = [], []
    for k in range(PARTS):
        learn, rest = _rows(items, part != k), _rows(items, part == k)
        order.append(np.flatnonzero(part == k))
        if told is None:
            parts.append(_apply(learn, rest, types, kind, average, ask, seed))
        else:
            rows = [*np.flatnonzero(part != k), *order[-1]]
            parts.append(_calibrated(learn, [told[row] for row in rows], types))
    back = np.argsort(np.concatenate(order))
    outcome = np.concatenate([calls.outcome for calls in parts])[back]
    labels, scores = (np.concatenate([getattr(calls, name) for calls in parts])[back] for name in ("labels", "scores"))
    return Calls(outcome, labels, scores)


def _told(
    items: Sequence[Item], types: Sequence[str], kind: str, ask: Ask | None
) -> list[tuple[str, frozenset[str] | None]]:
    """Outcome and types of each item as a language model, or the words of its answer, tell them."""
    if kind == "llm":
        assert ask is not None
        return [(one.outcome, one.types) for one in ask([item.post.text for item in items], types)]
    bare = sum(item.answer is None for item in items)
    if bare:
        raise CbtError(f"extract reads labels off answers, and {bare} of {len(items)} items have none")
    # an answer that is empty, or failed, names nothing: its label is missing
    said = [(item.answer or "").strip() for item in items]
    return [("ok", distortions.extract(text) & set(types)) if text else ("failed", None) for text in said]


def _calibrated(
    learn: Sequence[Item], told: Sequence[tuple[str, frozenset[str] | None]], types: Sequence[str]
) -> Calls:
    """Calls on the items after `learn`, and scores from how often the same call was right on `learn`."""
    outcome = np.array([name for name, _ in told])
    labels = distortions.matrix([kinds or () for _, kinds in told], types)  # rows that are not ok are never read
    both = np.column_stack([labels, labels.any(1)])
    gold = distortions.matrix([item.post.types for item in learn], types)
    gold = np.column_stack([gold, gold.any(1)])
    cut = len(learn)
    sure = outcome[:cut] == "ok"
    if not sure.any():
        raise CbtError(f"none of {cut} training posts got a label of the detector, so its calls cannot be calibrated")
    scores = llm_labels.calibrated(both[cut:], both[:cut][sure], gold[sure])
    return Calls(outcome[cut:], labels[cut:], scores)


# ------------------------------------------------------------------ what is written


def _evaluate(gold: Bools, calls: Calls, types: Sequence[str], resamples: int, seed: int) -> detection.Result:
    if not gold.any():
        raise CbtError(
            "no test post that has a gold label, and copies no training post, was labelled by the detector: there is "
            "nothing to score; ask again, or another model"
        )
    return detection.evaluate(gold, calls.labels, types, calls.scores, resamples=resamples, seed=seed)


def _write(
    folder: Path,
    items: Sequence[Item],
    gold: Bools,
    calls: Calls,
    types: Sequence[str],
    result: Benchmark,
    facts: dict[str, object],
) -> None:
    kind, ok = folder.name, calls.outcome == "ok"
    writing.write_csv(folder / "scores.csv", result.tables[kind], digits=6)
    if (clean := result.without[kind]) is not None:
        writing.write_csv(folder / "without_copies.csv", clean, digits=6)
    confused = detection.confusion(gold[ok], calls.labels[ok], types)
    writing.write_csv(folder / "confusion.csv", confused)
    wrong = errors(_rows(items, ok), gold[ok], calls.labels[ok], types)
    writing.write_csv(folder / "errors.csv", wrong, index=False)
    told = [_names(row, types) if good else "" for row, good in zip(calls.labels, ok, strict=True)]
    columns = {"id": [item.id for item in items], "outcome": calls.outcome, "called": told}
    columns["gold"] = [_names(row, types) for row in gold]
    writing.write_csv(folder / "predictions.csv", pd.DataFrame(columns), index=False)
    table = result.tables[kind].rename(columns={"low": "f1_low", "high": "f1_high"}).assign(ece=result.ece[kind])
    figures = {key: {name: round(float(x), 6) for name, x in table[key].dropna().items()} for key in table}
    writing.write_json(folder / "metrics.json", facts | {"outcomes": result.outcomes[kind]} | figures)


def errors(items: Sequence[Item], gold: Bools, called: Bools, types: Sequence[str]) -> pd.DataFrame:
    """Posts with a missed or a false label: id, missed, called falsely, and the beginning of a text without risk."""
    rows = []
    for item, truth, found in zip(items, gold, called, strict=True):
        missed, false = _names(truth & ~found, types), _names(found & ~truth, types)
        text = item.post.text
        if (missed or false) and safety.triage(text).level == "none" and not gates.CRISIS.search(text):
            rows.append((item.id, missed, false, " ".join(text.split())[:120]))
    return pd.DataFrame(rows, columns=["id", "missed", "called falsely", "text"])


def _names(row: Bools, types: Sequence[str]) -> str:
    return "|".join(name for name, value in zip(types, row, strict=True) if value)
