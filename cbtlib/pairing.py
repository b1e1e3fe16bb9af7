"""Answers and references from files, lined up item by item.

    read      a file of texts: JSON Lines with id, outcome and text; a corpus in any form of `formats`; or plain lines
    score     one file of answers against reference files, and against other systems: what `cbt score` prints

Notable choices
- Items meet by id, never by position, unless the file is plain text: then the line number is the id. A line ends
  where sacrebleu's command says it does, at a line feed.
- An item that is on one side only is an error. An answer that failed is a line with its outcome, not a missing line.
- An answer without text has failed, whatever its file says, in every form but plain lines, which have no outcomes.
- Answers whose outcome is not ok are counted and left out; two systems are compared where both are ok. Such an answer
  is no reference either.
- A metric that was not run has a row that says why; it is never silently absent.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cbtlib import CbtError, bleurt, formats, metrics, reading, writing
from cbtlib.answers import OUTCOMES, outcome_of

_DIGEST = re.compile("[0-9a-f]{16}")  # `questions.digest`, as `cbt generate` writes it


@dataclass(frozen=True, slots=True)
class Side:
    """What a file holds for each id: outcome and text, the line, and the post that it answers, or its digest."""

    path: Path
    texts: dict[str, tuple[str, str]]
    lines: dict[str, int]
    posts: dict[str, str]
    digests: dict[str, str] = field(default_factory=dict)

    def place(self, item: str, what: str) -> str:
        """Where the text of an item stands, for a sentence about it."""
        return f"{self.path}:{self.lines[item]} ({what} of {item})"


def read(path: Path) -> Side:
    """Read one file; CbtError with the line for what is neither an answer nor a text, or an id that comes twice."""
    content = _content(path)
    if path.suffix == ".txt":
        if not content:
            raise CbtError(f"{path} is empty: see whether what should have written it did")
        rows = [line.rstrip("\r") for line in content.removesuffix("\n").split("\n")]
        numbered = {str(number): number for number in range(1, len(rows) + 1)}
        return Side(path, {name: ("ok", row) for name, row in zip(numbered, rows, strict=True)}, numbered, {})
    if _answered(path, content):
        return _answers(path)
    samples = _samples(path)
    unanswered = [sample for sample in samples if sample.answer is None and sample.outcome == "ok"]
    if unanswered:
        raise CbtError(f"{path}:{unanswered[0].line} holds no answer, so there is nothing to score against")
    lines: dict[str, int] = {}
    for sample in samples:
        if sample.id in lines:
            where = f"{path}:{sample.line} holds the id {sample.id!r} of line {lines[sample.id]} again"
            raise CbtError(f"{where}; one item needs one answer (several references are several files)")
        lines[sample.id] = sample.line
    texts = {one.id: (str(outcome_of(one.answer, one.outcome)), one.answer or "") for one in samples}
    return Side(path, texts, lines, {sample.id: sample.text for sample in samples})


def learnt(path: Path) -> list[tuple[str, str]]:
    """Every text of a training file behind its place: lines, answers, posts, and each turn of a dialogue.

    CbtError for a file without a text.
    """
    content = _content(path)
    if path.suffix == ".txt" or _answered(path, content):
        side = read(path)
        found = [(side.place(item, "text"), text) for item, (_, text) in side.texts.items()]
    else:
        found = []
        for sample in _samples(path):
            texts = [("post", sample.text), ("answer", sample.answer or "")]
            texts += [(f"turn {number}", text) for number, (_, text) in enumerate(sample.turns or (), 1)]
            # a turn that is the whole post or answer has been named as such
            first = {text: what for what, text in reversed(texts)}
            found += [(f"{path}:{sample.line} ({what} of {sample.id})", text) for text, what in first.items()]
    found = [(place, text) for place, text in found if text.strip()]
    if not found:
        raise CbtError(
            f"{path} holds no text, so the leak gate would look at nothing; name the file that was trained on"
        )
    return found


def score(
    hypotheses: Path,
    references: Sequence[Path],
    *,
    bases: Sequence[Path] = (),
    training: Sequence[Path] = (),
    allow_leak: bool = False,
    names: Sequence[str] = (),
    normalise: Sequence[str] = (),
    resamples: int = 1000,
    seed: int = 0,
    prepare: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Scores, outcomes, differences from each of `bases`, and what was not run, ready for JSON: None, never NaN.

    `prepare` loads what a metric needs; it is called once the files have passed, and the leak gate.
    A system is called by its file as it was given. All differences are one family for Holm's correction. CbtError for a
    file against itself, an item without a reference, and a file without an ok answer.
    """
    paths = [hypotheses, *bases]
    if len({path.resolve() for path in paths}) < len(paths):
        raise CbtError("a file cannot be compared with itself: give --hyp and each --base a file of its own")
    resolved = [path.resolve() for path in references]
    if twice := [path for number, path in enumerate(references) if resolved[number] in resolved[:number]]:
        raise CbtError(f"{twice[0]} is given twice as --ref; several references are several files")
    systems = {str(path): read(path) for path in paths}
    golds = [read(path) for path in references]
    for side in [*systems.values(), *golds[1:]]:
        _same_items(side, golds[0])
    bare = [item for item in golds[0].texts if all(gold.texts[item][0] != "ok" for gold in golds)]
    if bare:
        raise CbtError(
            f"{len(bare)} items have no reference with outcome ok, first {golds[0].place(bare[0], 'reference')}; leave "
            "them out of every file, or give another --ref that has them"
        )
    for gold in golds:
        for item, (outcome, text) in gold.texts.items():
            if outcome == "ok" and not text.strip():
                where = gold.place(item, "reference")
                raise CbtError(f"{where} is empty: give its text, or take the item out of every file")
    posts = golds[0].posts
    light = [
        name for name, metric in metrics.METRICS.items() if not metric.model and (metric.needs != "sources" or posts)
    ]
    if "bleurt" in names and "bleurt" not in metrics.METRICS:
        raise CbtError(f"bleurt was {bleurt.NOT_RUN}")
    wanted = list(names) or light
    missing = {name: "not run: it loads a model; ask for it with --metric " + name
               for name, metric in metrics.METRICS.items() if metric.model and name not in wanted}  # fmt: skip
    if "bleurt" not in metrics.METRICS:
        missing["bleurt"] = bleurt.NOT_RUN
    if not names and not posts:
        why = f"not run: needs the posts, and {golds[0].path} holds none"
        missing |= {name: why for name, metric in metrics.METRICS.items() if metric.needs == "sources"}
    trained = _gate(training, golds, allow_leak)
    prepare()

    def inputs(items: Sequence[str]) -> dict[str, Any]:
        given = [[gold.texts[item] for item in items] for gold in golds]
        sets = [[text if outcome == "ok" else None for outcome, text in one] for one in given]
        return {"references": sets, "sources": [posts[i] for i in items] if posts else ()}

    answered = {
        name: [item for item in golds[0].texts if side.texts[item][0] == "ok"] for name, side in systems.items()
    }
    scores = {}
    for name, side in systems.items():
        if not answered[name]:
            raise CbtError(f"{side.path} holds no answer with outcome ok: there is nothing to score")
        texts = [side.texts[item][1] for item in answered[name]]
        scores[name] = metrics.score(
            texts, metrics=wanted, training=trained, allow_leak=allow_leak, normalise=normalise,
            resamples=resamples, seed=seed, **inputs(answered[name]),
        )  # fmt: skip
    _, counts = metrics.outcomes({name: side.texts for name, side in systems.items()})
    differences: list[metrics.Difference] = []
    for base in map(str, bases):
        pair = {name: systems[name].texts for name in (str(hypotheses), base)}
        shared, _ = metrics.outcomes(pair)
        if shared:
            texts_of = {name: [texts[item][1] for item in shared] for name, texts in pair.items()}
            differences += metrics.compare(
                texts_of, base=base, metrics=wanted, training=trained, allow_leak=allow_leak, normalise=normalise,
                resamples=resamples, seed=seed, **inputs(shared),
            )  # fmt: skip
        else:
            missing[f"minus {base}"] = "not run: no item has an ok answer of both"
    found = {
        "outcomes": {name: dict(count) for name, count in counts.items()},
        "scores": {name: [asdict(one) for one in rows] for name, rows in scores.items()},
        "differences": [asdict(one) for one in metrics.family(differences)],
        "not_run": missing,
    }
    return writing.without_nan(found)


def _gate(training: Sequence[Path], golds: Sequence[Side], allow_leak: bool) -> list[str] | None:
    """The texts of the training files, once no text of the test is among them or that is allowed; None without any.

    All items are looked at, the unanswered too, and the error names files and lines.
    """
    if not training:
        return None
    rows = [row for path in training for row in learnt(path)]
    trained = [text for _, text in rows]
    asked = {golds[0].place(item, "post"): post for item, post in golds[0].posts.items()}
    for gold in golds:
        usable = {item: text for item, (outcome, text) in gold.texts.items() if outcome == "ok"}
        asked |= {gold.place(item, "reference"): text for item, text in usable.items()}
    metrics.leak_gate(trained, list(asked.values()), allow_leak, ([place for place, _ in rows], list(asked)))
    return trained


def _content(path: Path) -> str:
    if not path.is_file():
        raise CbtError(f"{path} does not exist, or is no file: check the path")
    # read_text would make a line end of a lone carriage return
    return path.read_bytes().decode(reading.sniff_encoding(path))


def _answered(path: Path, content: str) -> bool:
    """Whether a file is one of answers: JSON Lines whose first has a text or an outcome, and no field for the answer.

    Where a row has a text and an answer, the text is the post: `formats` reads it.
    """
    first = content.partition("\n")[0]
    return path.suffix == ".jsonl" and ('"text"' in first or '"outcome"' in first) and '"answer"' not in first


def _samples(path: Path) -> list[formats.Sample]:
    try:
        form = formats.detect(path)
    except CbtError:
        raise CbtError(
            f"{path} holds neither answers (JSON Lines of id, outcome and text) nor a corpus in a known form "
            f"({', '.join(formats.FORMATS)}); rename its fields, or give plain lines as .txt"
        ) from None
    samples, problems = formats.read(path, form)
    if problems:
        one = problems[0]
        raise CbtError(f"{path}:{one.line} {one.field} {one.what} ({len(problems)} such problems); mend the file first")
    return samples


def _answers(path: Path) -> Side:
    texts: dict[str, tuple[str, str]] = {}
    lines: dict[str, int] = {}
    digests: dict[str, str] = {}
    for number, row in reading.objects(path):
        where = f"{path}:{number}"
        if isinstance(row, reading.Problem):
            raise CbtError(f"{where} {row.what}; an answer is an object with id, outcome and text")
        row = {reading.folded(name): value for name, value in row.items()}
        if lacking := [name for name in ("id", "text") if name not in row]:
            raise CbtError(f"{where} is no answer with id, outcome and text: it has no {lacking[0]}")
        item, outcome, text = row["id"], row.get("outcome", "ok"), row["text"]
        if isinstance(item, bool) or not isinstance(item, str | int) or not str(item).strip():
            raise CbtError(f"{where}, field id: {item!r} names nothing; give each item a text or a whole number")
        if outcome not in OUTCOMES:
            raise CbtError(f"{where}, field outcome: {outcome!r} is none of {', '.join(OUTCOMES)}")
        if text is None and outcome != "ok":
            text = ""
        if not isinstance(text, str):
            raise CbtError(
                f"{where}, field text: {repr(text)[:20]} is no text; an answer that failed says so in its outcome"
            )
        if (name := str(item)) in texts:
            raise CbtError(f"{where}, field id: {name!r} stands here twice")
        texts[name], lines[name] = (outcome_of(text, outcome), text), number
        if isinstance(row.get("post"), str) and _DIGEST.fullmatch(row["post"]):
            digests[name] = row["post"]
    return Side(path, texts, lines, {}, digests)


def _same_items(side: Side, gold: Side) -> None:
    for has, lacks in ((gold, side), (side, gold)):
        if absent := [item for item in has.texts if item not in lacks.texts]:
            raise CbtError(
                f"{len(absent)} of {len(has.texts)} items of {has.path} are not in {lacks.path} (the first is "
                f"{absent[0]!r}); both need the same items, and an answer that failed is a line with its outcome"
            )
