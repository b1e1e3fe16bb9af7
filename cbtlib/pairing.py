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
- A row that names no outcome may tell of a failure in other fields (`answers.told`): a reply that was cut is none.
- The leak gate asks about every post and reference of any file, and looks into every cell of the training files.
- A metric that was not run has a row that says why; it is never silently absent.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cbtlib import CbtError, answers, bleurt, formats, gates, metrics, reading, writing
from cbtlib.answers import OUTCOMES, outcome_of, told
from cbtlib.questions import Question
from cbtlib.replies import kind

_DIGEST = re.compile("[0-9a-f]{16}")  # `questions.digest`, as `cbt generate` writes it
_NO_TEXTS = {"label", "labels", "distortion", "type", "category", "标签", "类别", "topic", "split", "outcome"}
_NO_TEXTS |= {*reading.ID_FIELDS, "finish_reason"}
"""Fields that name or sort a row: what they hold is nothing that a model learns to write."""


@dataclass(frozen=True, slots=True)
class Side:
    """What a file holds for each id: outcome and text, the line, and the post that it answers, or its digest.

    `questions` are posts as `cbt generate` reads them off the same row: a digest is that of such a one.
    """

    path: Path
    texts: dict[str, tuple[str, str]]
    lines: dict[str, int]
    posts: dict[str, str]
    digests: dict[str, str] = field(default_factory=dict)
    questions: dict[str, str] = field(default_factory=dict)

    def place(self, item: str, what: str) -> str:
        """Where the text of an item stands, for a sentence about it."""
        return f"{self.path}:{self.lines[item]} ({what} of {item})"


def read(path: Path) -> Side:
    """Read one file; CbtError with the line for what is neither an answer nor a text, or an id that comes twice."""
    content = _content(path)
    if path.suffix == ".txt":
        if not content:
            raise CbtError(f"{path} is empty: see whether what should have written it did")
        split = [line.rstrip("\r") for line in content.removesuffix("\n").split("\n")]
        numbered = {str(number): number for number in range(1, len(split) + 1)}
        return Side(path, {name: (kind(row), row) for name, row in zip(numbered, split, strict=True)}, numbered, {})
    if _answered(path, content):
        return _answers(path)
    samples, rows = _samples(path, content)
    unanswered = [sample for sample in samples if sample.answer is None and sample.outcome == "ok"]
    if unanswered:
        raise CbtError(f"{path}:{unanswered[0].line} holds no answer, so there is nothing to score against")
    lines: dict[str, int] = {}
    for sample in samples:
        if sample.id in lines:
            where = f"{path}:{sample.line} holds the id {sample.id!r} of line {lines[sample.id]} again"
            raise CbtError(f"{where}; one item needs one answer (several references are several files)")
        lines[sample.id] = sample.line
    texts: dict[str, tuple[str, str]] = {}
    questions: dict[str, str] = {}
    for sample in samples:
        texts[sample.id] = (outcome_of(sample.answer, sample.outcome), sample.answer or "")
        if post := _question(_folded(rows.get(sample.line, {}))):
            questions[sample.id] = post
    return Side(path, texts, lines, {sample.id: sample.text for sample in samples}, questions=questions)


def learnt(path: Path) -> list[tuple[str, str]]:
    """Every text of a training file behind its place: lines, answers, posts, and each turn of a dialogue.

    So is each other text in a cell of a table or a field of a JSON object, whatever its name: a column `reply` may hold
    the answers. CbtError for a file without a text.
    """
    content = _content(path)
    rows: dict[int, dict[str, Any]] = {}
    if path.suffix == ".txt" or _answered(path, content):
        side = read(path)
        found = [(side.place(item, "text"), text) for item, (_, text) in side.texts.items()]
        if path.suffix != ".txt":
            rows = _rows(path)
    else:
        found = []
        samples, rows = _samples(path, content)
        for sample in samples:
            texts = [("post", sample.text), ("answer", sample.answer or "")]
            texts += [(f"turn {number}", text) for number, (_, text) in enumerate(sample.turns or (), 1)]
            # a turn that is the whole post or answer has been named as such
            first = {text: what for what, text in reversed(texts)}
            found += [(f"{path}:{sample.line} ({what} of {sample.id})", text) for text, what in first.items()]
    found = [(place, text) for place, text in found if text.strip()]
    found += _others(path, rows, {text.strip() for _, text in found})
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
    A system is called by its file as it was given. All differences are one family for Holm's correction. Every
    signature says what the leak gate found in all items of all files. CbtError for a file against itself, an item
    without a reference, an answer to another post than the reference's, and a file without an ok answer.
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
    for side in [*systems.values(), *golds]:
        for item, digest in side.digests.items():
            for gold in golds:
                if item in gold.questions:
                    answers.check(item, gold.questions[item], digest, side.path)
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
    posts = next((gold.posts for gold in golds if len(gold.posts) == len(gold.texts)), {})
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
        why = "not run: needs the posts, and no --ref holds one for each item"
        missing |= {name: why for name, metric in metrics.METRICS.items() if metric.needs == "sources"}
    gate = _gate(training, [*golds, *systems.values()], golds, allow_leak)
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
            texts, metrics=wanted, normalise=normalise, resamples=resamples, seed=seed, **inputs(answered[name])
        )  # fmt: skip
    _, counts = metrics.outcomes({name: side.texts for name, side in systems.items()})
    differences: list[metrics.Difference] = []
    for base in map(str, bases):
        pair = {name: systems[name].texts for name in (str(hypotheses), base)}
        shared, _ = metrics.outcomes(pair)
        if shared:
            texts_of = {name: [texts[item][1] for item in shared] for name, texts in pair.items()}
            differences += metrics.compare(
                texts_of, base=base, metrics=wanted, normalise=normalise, resamples=resamples, seed=seed,
                **inputs(shared),
            )  # fmt: skip
        else:
            missing[f"minus {base}"] = "not run: no item has an ok answer of both"
    found = {
        "outcomes": {name: dict(count) for name, count in counts.items()},
        "scores": {name: [_signed(one, gate) for one in rows] for name, rows in scores.items()},
        "differences": [_signed(one, gate) for one in metrics.family(differences)],
        "not_run": missing,
    }
    return writing.without_nan(found)


def _gate(training: Sequence[Path], sides: Sequence[Side], golds: Sequence[Side], allow_leak: bool) -> str:
    """What signatures say of leaks, once no text of the test is among those of the training files or that is allowed.

    Asked about are the posts of all sides, each once, and the references; all items are looked at, the unanswered too,
    and the error names files and lines.
    """
    if not training:
        return metrics.leak_gate(None, ())
    rows = [row for path in training for row in learnt(path)]
    posts: dict[tuple[str, str], tuple[str, str]] = {}
    for side in sides:
        for item, post in (*side.posts.items(), *side.questions.items()):
            posts.setdefault((item, gates.content(post)), (side.place(item, "post"), post))
    asked = list(posts.values())
    for gold in golds:
        usable = {item: text for item, (outcome, text) in gold.texts.items() if outcome == "ok"}
        asked += [(gold.place(item, "reference"), text) for item, text in usable.items()]
    places = [place for place, _ in rows], [place for place, _ in asked]
    return metrics.leak_gate([text for _, text in rows], [text for _, text in asked], allow_leak, places)


def _signed(row: metrics.Score | metrics.Difference, gate: str) -> dict[str, Any]:
    """A row whose metric was not told of any training text, signed with what the gate of all files says."""
    return asdict(row) | {"signature": row.signature.replace(metrics.leak_gate(None, ()), gate)}


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


def _samples(path: Path, content: str) -> tuple[list[formats.Sample], dict[int, dict[str, Any]]]:
    """The samples of a corpus, and by their lines the rows they were read off, where its form has rows."""
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
    return samples, _rows(path) if form == "csv" or content.lstrip()[:1] in ("[", "{") else {}


def _rows(path: Path) -> dict[int, dict[str, Any]]:
    return {line: row for line, row in reading.rows(path) if not isinstance(row, reading.Problem)}


def _folded(row: dict[str, Any]) -> dict[str, Any]:
    return {reading.folded(name): value for name, value in row.items()}


def _question(row: dict[str, Any]) -> str | None:
    """The post of a row with folded names as `cbt generate` would ask it; None for a row without one."""
    texts = [row.get(name) or "" for name in ("question", "description")]
    if not all(isinstance(text, str) for text in texts) or all(map(reading.says_nothing, texts)):
        return None
    return Question("", *texts).post


def _others(path: Path, rows: dict[int, dict[str, Any]], known: set[str]) -> Iterator[tuple[str, str]]:
    """The texts of rows that are not known already, each once, behind line and field.

    An object is the parts of one letter (`second_answer`). Texts with fewer letters than an n-gram prove nothing.
    """
    for line, row in rows.items():
        for name, value in row.items():
            if reading.folded(name) in _NO_TEXTS:
                continue
            cells = value if isinstance(value, list) else [value]
            if isinstance(value, dict):
                cells = ["\n".join(part for part in value.values() if isinstance(part, str))]
            for text in cells:
                if isinstance(text, str) and text.strip() not in known and sum(map(str.isalnum, text)) >= gates.ORDER:
                    known.add(text.strip())
                    yield f"{path}:{line} ({name})", text


def _answers(path: Path) -> Side:
    texts: dict[str, tuple[str, str]] = {}
    lines: dict[str, int] = {}
    digests: dict[str, str] = {}
    questions: dict[str, str] = {}
    for number, row in reading.objects(path):
        where = f"{path}:{number}"
        if isinstance(row, reading.Problem):
            raise CbtError(f"{where} {row.what}; an answer is an object with id, outcome and text")
        row = _folded(row)
        if lacking := [name for name in ("id", "text") if name not in row]:
            raise CbtError(f"{where} is no answer with id, outcome and text: it has no {lacking[0]}")
        item, outcome, text = row["id"], told(row), row["text"]
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
        if post := _question(row):
            questions[name] = post
    return Side(path, texts, lines, questions, digests, questions)


def _same_items(side: Side, gold: Side) -> None:
    for has, lacks in ((gold, side), (side, gold)):
        if absent := [item for item in has.texts if item not in lacks.texts]:
            raise CbtError(
                f"{len(absent)} of {len(has.texts)} items of {has.path} are not in {lacks.path} (the first is "
                f"{absent[0]!r}); both need the same items, and an answer that failed is a line with its outcome"
            )
