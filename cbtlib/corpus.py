"""A corpus record: what it holds, how it is read, and every way in which reading it can go wrong.

A corpus file is JSON Lines: one record a line, UTF-8. Notable choices:

- One record type for the whole book. The answer is five separate parts, never one string with headings in it: what
  has to be cut apart afterwards is cut apart wrongly sometimes, and an evaluation cannot see that.
- Labels are spans of the description (characters, end exclusive, as Python slices). A span that no longer fits the
  text is an error, not a warning.
- Reading goes on after a mistake and collects all of them: lines in = records kept + problems named. `load` then
  refuses the file as a whole, because a corpus with silently fewer records is another corpus.
- A field that is not known is an error too: a misspelt `second_answr` would otherwise be a record without one.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cbtlib import ROOT, CbtError
from cbtlib.reading import Problem, objects
from cbtlib.writing import json_lines

PARTS = ("validation", "key_thought", "challenge", "strategy", "encouragement")
TOPICS = ("growth", "emotion", "love", "family", "friends", "study", "work", "health", "self")
SPLITS = ("train", "dev", "test", "crisis")
TYPES = (
    "all_or_nothing",
    "overgeneralisation",
    "mental_filter",
    "disqualifying_positive",
    "mind_reading",
    "fortune_telling",
    "magnification",
    "emotional_reasoning",
    "should_statements",
    "labelling",
    "personalisation",
)
"""The distortion ids, in the order of `data/taxonomy.csv` (a test holds the two together)."""

SHOWN = 200
"""Problems an error message lists before it counts the rest; `cbt corpus check` lists all of them."""


@dataclass(frozen=True, slots=True)
class Label:
    """One distortion: description[start:end] shows `type`; `note` says why, in English."""

    type: str
    start: int
    end: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """A question, its gold labels and its answer.

    `answer` maps the five PARTS to text; in a crisis record it maps the one key `referral` instead, because such a
    post gets no CBT work. `gloss` holds English for `question` and `key_thought`. `second_answer` is an independent
    answer in the same five parts, or None.
    """

    id: str
    split: str
    topic: str
    question: str
    description: str
    distortions: tuple[Label, ...]
    answer: dict[str, str]
    crisis: bool = False
    gloss: dict[str, str] = field(default_factory=dict)
    second_answer: dict[str, str] | None = None

    @property
    def post(self) -> str:
        """Question and description as the client wrote them."""
        return f"{self.question}\n{self.description}"

    @property
    def answer_text(self) -> str:
        """The parts joined into one letter."""
        return "\n".join(self.answer.values())

    @property
    def second_answer_text(self) -> str:
        """The second letter; an empty string when there is none."""
        return "\n".join(self.second_answer.values()) if self.second_answer else ""

    @property
    def types(self) -> frozenset[str]:
        """The distortion types of the record, each once."""
        return frozenset(label.type for label in self.distortions)

    def quote(self, label: Label) -> str:
        """The words a label stands on."""
        return self.description[label.start : label.end]


class CorpusError(CbtError):
    """A file that cannot be used as it is; `problems` holds every mistake found, in file order."""

    def __init__(self, path: Path, problems: list[Problem]):
        self.path, self.problems = path, problems
        shown = [f"  {problem}" for problem in problems[:SHOWN]]
        if len(problems) > SHOWN:
            shown.append(f"  … and {len(problems) - SHOWN} more: `cbt corpus check {path}` lists them all")
        noun = "problem" if len(problems) == 1 else "problems"
        super().__init__("\n".join([f"{path}: {len(problems)} {noun}; mend the file or leave these lines out", *shown]))


def load(path: Path | str) -> list[Record]:
    """Read a corpus file; raises CorpusError with every problem when there is one."""
    records, problems = read(path)
    if problems:
        raise CorpusError(Path(path), problems)
    return records


def load_split(split: str) -> list[Record]:
    """Read one of the book's own splits: train, dev, test or crisis.

    CbtError for another name, CorpusError for a file with problems.
    """
    if split not in SPLITS:
        raise CbtError(f"no split {split!r}: the book has {', '.join(SPLITS)}")
    path = _file(split)
    records = load(path)
    strays = [
        Problem(number, "split", f"is {record.split!r} in the file of {split!r}")
        for number, record in enumerate(records, 1)
        if record.split != split
    ]
    if strays:
        raise CorpusError(path, strays)
    return records


def load_all(paths: Iterable[Path]) -> list[Record]:
    """The records of several files; CbtError when two of them share an id: no record is taken twice."""
    places: dict[str, Path] = {}
    records = []
    for path in paths:
        found = load(path)
        if taken := [record.id for record in found if record.id in places]:
            raise CbtError(f"{path}, field id: {taken[0]!r} is an id of {places[taken[0]]} too; name each record once")
        places |= dict.fromkeys((record.id for record in found), path)
        records += found
    return records


def own_files(folder: Path = ROOT / "data") -> list[Path]:
    """The files of the book's own corpus, or of the one in another folder, that exist, in the order of SPLITS."""
    return [path for path in (_file(split, folder) for split in SPLITS) if path.exists()]


def _file(split: str, folder: Path = ROOT / "data") -> Path:
    return folder / "corpus" / f"{split}.jsonl"


def read(path: Path | str) -> tuple[list[Record], list[Problem]]:
    """Read what can be read: (records, problems)."""
    records: list[Record] = []
    problems: list[Problem] = []
    for _, record, found in scan(path):
        problems += found
        if record is not None:
            records.append(record)
    return records, problems


def scan(path: Path | str) -> Iterator[tuple[int, Record | None, list[Problem]]]:
    """(line, record, []) or (line, None, problems) for each line: one of the two, never neither.

    A file without any record ends with one problem of line 0.
    """
    seen: dict[str, int] = {}
    number = 0
    for number, item in objects(path):
        record, problems = (None, [item]) if isinstance(item, Problem) else parse(item, number)
        if record is not None and record.id in seen:
            what = f"{record.id!r} is already the id of line {seen[record.id]}"
            record, problems = None, [Problem(number, "id", what)]
        if record is not None:
            seen[record.id] = number
        yield number, record, problems
    if not number:
        yield 0, None, [Problem(0, "", "no records: it is empty")]


def dump(records: Iterable[Record], path: Path) -> None:
    """Write records in the corpus's own form: fields in order, nothing escaped, one a line."""
    path.write_text(json_lines(map(to_dict, records)), encoding="utf-8", newline="\n")


def to_dict(record: Record) -> dict[str, Any]:
    """The JSON object of a record; `second_answer` stands there only when there is one."""
    labels = [{"type": x.type, "start": x.start, "end": x.end, "note": x.note} for x in record.distortions]
    item: dict[str, Any] = {name: getattr(record, name) for name in ("id", "split", "topic", "question", "description")}
    item |= {"distortions": labels, "answer": record.answer, "crisis": record.crisis, "gloss": record.gloss}
    return item | ({"second_answer": record.second_answer} if record.second_answer else {})


# ------------------------------------------------------------------ from an object to a record

_TEXTS = ("id", "split", "topic", "question", "description")
_REQUIRED = (*_TEXTS, "distortions", "answer", "crisis")
_KNOWN = frozenset((*_REQUIRED, "gloss", "second_answer"))


def parse(item: dict[str, Any], line: int = 0) -> tuple[Record | None, list[Problem]]:
    """One JSON object to (record, []) or (None, every problem of that line)."""
    problems: list[Problem] = []

    def say(name: str, what: str) -> None:
        problems.append(Problem(line, name, what))

    for name in _REQUIRED:
        if name not in item:
            say(name, "is missing")
    for name in item.keys() - _KNOWN:
        say(name, "is not a field of a record")
    for name in _TEXTS:
        if name in item:
            _check_text(item[name], name, say)
    for name, allowed in (("split", SPLITS), ("topic", TOPICS)):
        if isinstance(item.get(name), str) and item[name] not in allowed:
            say(name, f"is {item[name]!r}; it must be one of {', '.join(allowed)}")
    crisis = item.get("crisis", False)
    if not isinstance(crisis, bool):
        say("crisis", f"must be true or false, not {_kind(crisis)}")
    labels = _parse_labels(item.get("distortions", []), item.get("description"), say)
    names = ("referral",) if crisis is True else PARTS
    answer = _parse_texts(item.get("answer", dict.fromkeys(names, "-")), names, "answer", say)
    gloss = {} if item.get("gloss") is None else item["gloss"]
    gloss = _parse_texts(gloss, ("question", "key_thought"), "gloss", say, partial=True)
    second = item.get("second_answer")
    if second is not None:
        second = _parse_texts(second, PARTS, "second_answer", say)
    if problems:
        return None, problems
    texts = {name: item[name] for name in _TEXTS}
    return Record(**texts, distortions=labels, answer=answer, crisis=crisis, gloss=gloss, second_answer=second), []


def _kind(value: object) -> str:
    return "null" if value is None else f"a {type(value).__name__}"


def _check_text(value: object, name: str, say: Any) -> bool:
    if not isinstance(value, str):
        say(name, f"must be text, not {_kind(value)}")
    elif not value.strip():
        say(name, "is empty")
    else:
        return True
    return False


def _parse_texts(value: object, names: tuple[str, ...], where: str, say: Any, partial: bool = False) -> dict[str, str]:
    """A mapping of exactly these names (`partial`: or some of them) to text, in this order whatever the file's."""
    if not isinstance(value, dict):
        say(where, f"must be an object with {', '.join(names)}, not {_kind(value)}")
        return {}
    for name in value.keys() - set(names):
        say(f"{where}.{name}", f"is unknown; {where} has {', '.join(names)}")
    for name in names:
        if name in value:
            _check_text(value[name], f"{where}.{name}", say)
        elif not partial:
            say(f"{where}.{name}", "is missing")
    return {name: value[name] for name in names if name in value}


def _parse_labels(value: object, description: object, say: Any) -> tuple[Label, ...]:
    if not isinstance(value, list):
        say("distortions", f"must be a list, not {_kind(value)}")
        return ()
    labels: list[Label] = []
    for index, item in enumerate(value):
        where = f"distortions[{index}]"
        if not isinstance(item, dict):
            say(where, f"must be an object with type, start, end, note, not {_kind(item)}")
            continue
        for name in item.keys() - {"type", "start", "end", "note", "quote"}:
            say(f"{where}.{name}", "is not a field of a label")
        kind, start, end, note = item.get("type"), item.get("start"), item.get("end"), item.get("note", "")
        if kind not in TYPES:
            say(f"{where}.type", f"is {kind!r}; it must be one of {', '.join(TYPES)}")
        if not isinstance(note, str):
            say(f"{where}.note", f"must be text, not {_kind(note)}")
        if type(start) is not int or type(end) is not int:  # a bool is an int to Python, not to a reader
            say(where, f"start and end must be whole numbers, not {start!r} and {end!r}")
        elif isinstance(description, str):
            if not 0 <= start < end <= len(description):
                say(where, f"the span {start}-{end} lies outside the description of {len(description)} characters")
            elif not description[start:end].strip():
                say(where, f"the span {start}-{end} holds only blanks")
            elif "quote" in item and item["quote"] != description[start:end]:
                say(where, f"the span {start}-{end} reads {description[start:end]!r}, not {item['quote']!r}")
            elif isinstance(note, str) and isinstance(kind, str):
                labels.append(Label(kind, start, end, note))
    if len({(x.type, x.start, x.end) for x in labels}) < len(labels):
        say("distortions", "holds the same label twice")
    return tuple(labels)
