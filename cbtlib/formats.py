"""Other people's files, read into one shape: what the client wrote, what was answered, which labels, which turns.

The public Chinese sets each have a form of their own, and most may not be redistributed. A reader who holds one names
its format here (or lets `detect` see it) and every gate, statistic and detector of the book works on it.

    records     the book's own JSON Lines
    psyqa       JSON list: question, description, keywords, questionID, answers[answer_text, has_label, labels_sequence]
    cogdis      Lin et al. 2024: text, tab, 0 or 1
    socialcd3k  Qi et al. 2023: a header of label names, then 0/1 columns and the text, tab-separated
    cbt-bench   JSON list: id, situation, thoughts, distortions[name]
    c2d2        a table with one column of text and one of label names (the set is given out on request)
    cpsycoun    JSON list of "求助者：…" / "支持者：…" turns, or text with 来访者：/心理咨询师：
    smile       JSON list of {role: client | counselor, content}; also MeChat
    emollm      JSON list of {conversation: [{system, input, output}]}
    alpaca      JSON list of instruction, input, output and perhaps history: what `cbt corpus export` writes
    sharegpt    JSON list of {conversations: [{from: user | assistant, value}]}: the same
    csv         a table, or JSON objects, with text, or question and description; perhaps answer, label, topic, outcome;
                several labels of a cell are split by |, none or 0 says no distortion, 1 that there is one

Notable choices
- Labels keep the names of their set: `distortions.taxonomy()` maps them, and a mapping is a choice to be seen.
- Nothing is dropped: each item becomes a Sample or a Problem with its line (in a JSON list, its position).
- A row of a table or of a JSON list may say in `outcome` that it is no data, or in the fields that other programs
  write (`answers.told`: finish_reason, error, status). It keeps its text, so that a leak in it is seen, and has no
  labels: those of a failed call are none.
- The name of an outcome in place of a label (unparsed, failed) says that the label is missing, and is never a type.
- Text is text: null is an empty one, the text parts of a chat are joined, and a number or an image is a Problem.
- Text is read as it stands. `normalise` is there for a reader who wants it and counts what it changed.
- Traditional characters become simplified ones by OpenCC's phrases (乾隆 stays, 乾淨 becomes 干净). Both of its steps
  and those of `normalise` give one character for one, so spans stay true.
"""

import ast
import functools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cbtlib import CbtError, corpus, reading, replies
from cbtlib.answers import FAILED, OUTCOMES, Outcome, told
from cbtlib.reading import Problem


@dataclass(frozen=True, slots=True)
class Sample:
    """One item of any set; `line` is where it stands. None: the set has no such thing; empty: it has, and it is empty.

    `spans` are (type, start, end, text they index); `turns` are (role, content) with role client or counsellor; `topic`
    is empty where there is none.
    """

    id: str
    line: int
    text: str
    answer: str | None = None
    labels: frozenset[str] | None = None
    spans: tuple[tuple[str, int, int, str], ...] = ()
    turns: tuple[tuple[str, str], ...] | None = None
    split: str | None = None
    crisis: bool = False
    outcome: Outcome = "ok"
    topic: str = ""


Item = Sample | Problem

DISTORTED = "distorted"
"""The one label of a set that only says whether there is a distortion."""

ROLES = {"client": "client", "user": "client", "human": "client", "seeker": "client"}
ROLES |= dict.fromkeys(("求助者", "来访者", "用户", "咨询者"), "client")
ROLES |= dict.fromkeys(("counselor", "counsellor", "supporter", "assistant", "gpt", "支持者"), "counsellor")
ROLES |= dict.fromkeys(("心理咨询师", "咨询师", "心理师", "医生"), "counsellor")
_TURN = re.compile(
    rf"^[^\S\n]*({'|'.join(sorted(ROLES, key=len, reverse=True))})\s*[：:]\s*", re.MULTILINE | re.IGNORECASE
)


def read(path: Path | str, format: str = "auto") -> tuple[list[Sample], list[Problem]]:
    """Samples and problems of a file, or of a folder that holds one dialogue a file; `format` is a key of FORMATS.

    CbtError for another format.
    """
    path = Path(path)
    if path.is_dir() and format in ("cpsycoun", "smile", "emollm"):
        return _read_folder(path, format)
    name = detect(path) if format == "auto" else format
    if name not in FORMATS:
        raise CbtError(f"no format {format!r}: choose one of auto, {', '.join(FORMATS)}")
    samples: list[Sample] = []
    problems: list[Problem] = []
    for item in FORMATS[name](path):
        if isinstance(item, Problem):
            problems.append(item)
        elif reading.says_nothing(item.text):
            problems.append(Problem(item.line, "text", "is empty"))
        else:
            # nan for an answer is none: training refuses it, and a score counts it as failed
            nothing = item.answer and reading.says_nothing(item.answer)
            samples.append(replace(item, answer="") if nothing else item)
    if not samples and not problems:
        problems.append(Problem(0, "", f"nothing in it can be read as {name}"))
    return samples, problems


def load(path: Path | str, format: str = "auto") -> list[Sample]:
    """`read`, for a set that is wanted whole: CorpusError with every problem when there is one."""
    samples, problems = read(path, format)
    if problems:
        raise corpus.CorpusError(Path(path), problems)
    return samples


UNKNOWN = (
    "{path} is of no form known here ({forms}): call its columns text, or question and description, or say which it "
    "is where the command takes --format"
)


def is_records(path: Path) -> bool:
    """Whether a file begins with a record of the book."""
    with path.open(encoding=reading.sniff_encoding(path), errors="ignore") as file:
        first = file.read(65536).lstrip().split("\n", 1)[0]
    return first.startswith("{") and '"split"' in first


def detect(path: Path) -> str:
    """The format of a file from its first bytes; CbtError with the choices when nothing fits."""
    with path.open(encoding=reading.sniff_encoding(path), errors="ignore") as file:
        head = file.read(65536).lstrip()
    first = head.split("\n", 1)[0]
    if is_records(path):
        return "records"
    for name, mark in (
        ("psyqa", r'"answers"\s*:|"questionID"'),
        ("emollm", r'"conversation"\s*:'),
        ("cbt-bench", r'"thoughts"\s*:'),
        ("smile", r'"role"\s*:'),
        ("cpsycoun", r'"?(求助者|来访者)[：:]'),
        ("alpaca", r'"instruction"\s*:'),
        ("sharegpt", r'"conversations"\s*:'),
    ):
        if head[:1] in "[{来求" and re.search(mark, head[:4000]):
            return name
    if not head:
        raise CbtError(f"{path} is empty: write posts into it, or name another file")
    if head[0] in "[{":
        if re.search(rf'"({"|".join(("question", *_NAMES["text"]))})"\s*:', head[:4000], re.IGNORECASE):
            return "csv"
        raise CbtError(UNKNOWN.format(path=path, forms=", ".join(FORMATS)))
    cells = reading.header(first)
    if "\t" in first and cells[-1] in ("内容", "text", "content") and len(cells) > 3:
        return "socialcd3k"
    if first.count("\t") == 1 and first.split("\t")[1].strip() in ("0", "1"):
        return "cogdis"
    if {"question", *_NAMES["text"]} & set(cells):
        return "csv"
    raise CbtError(UNKNOWN.format(path=path, forms=", ".join(FORMATS)))


NORMAL_FORMS = ("width", "simplified")
"""What `normalise` can be asked for."""


def normalise(samples: Sequence[Sample], forms: Sequence[str]) -> tuple[list[Sample], dict[str, int]]:
    """The samples in the wanted forms, and how many characters of text, answers and turns each form changed.

    `width`: full-width letters and digits become half-width (Ａ１ as A1); Chinese punctuation stays. `simplified`:
    traditional characters become simplified ones.
    """
    converters = {form: converter(form) for form in forms}
    changed = dict.fromkeys(forms, 0)
    for form, convert in converters.items():
        new = [_converted(sample, convert) for sample in samples]
        for old, sample in zip(samples, new, strict=True):
            changed[form] += sum(
                a != b for x, y in zip(_texts(old), _texts(sample), strict=True) for a, b in zip(x, y, strict=True)
            )
        samples = new
    return list(samples), changed


def converter(form: str) -> Callable[[str], str]:
    """The function that brings a text into one of `NORMAL_FORMS`, character by character. CbtError for another form."""
    if form not in NORMAL_FORMS:
        raise CbtError(f"no form {form!r} to normalise to: choose of {', '.join(NORMAL_FORMS)}")
    return _half_width if form == "width" else _simplified()


def plain(text: str) -> str:
    """A text in all NORMAL_FORMS, of the same length: a copy in other characters is a copy."""
    for form in NORMAL_FORMS:
        text = converter(form)(text)
    return text


def letters(text: str) -> str:
    """What copies of a text have in common once `plain` has made it: its letters and digits, in lower case."""
    return re.sub(r"\W+", "", text.lower()) or text


def _converted(sample: Sample, convert: Callable[[str], str]) -> Sample:
    spans = tuple((kind, start, end, convert(text)) for kind, start, end, text in sample.spans)
    turns = None if sample.turns is None else tuple((role, convert(text)) for role, text in sample.turns)
    answer = None if sample.answer is None else convert(sample.answer)
    return replace(sample, text=convert(sample.text), answer=answer, spans=spans, turns=turns)


def _texts(sample: Sample) -> list[str]:
    """What a sample says, each piece once: the turns of a dialogue hold its text and its answer."""
    return [text for _, text in sample.turns] if sample.turns is not None else [sample.text, sample.answer or ""]


_HALF = {code: code - 0xFEE0 for code in range(0xFF10, 0xFF5B) if chr(code).isalnum()}
_WIDE = re.compile(f"[{''.join(map(chr, _HALF))}]")


def _half_width(text: str) -> str:
    return text.translate(_HALF) if _WIDE.search(text) else text  # most texts have none, and to see that is cheaper


_WHOLE = re.compile(r"[^\ud800-\udfff]+")


@functools.cache
def _simplified() -> Callable[[str], str]:
    from opencc import OpenCC

    convert = OpenCC("t2s").convert
    # half a character is no UTF-8, and OpenCC takes nothing else
    return lambda text: _WHOLE.sub(lambda found: convert(found[0]), text)


# ------------------------------------------------------------------ the readers


def _records(path: Path) -> Iterator[Item]:
    for line, record, problems in corpus.scan(path):
        yield from problems
        if record is not None:
            yield of_record(record, line)


def of_record(record: corpus.Record, line: int = 0) -> Sample:
    """A record of the book as a Sample: the post is its text, the joined parts its answer."""
    spans = tuple((x.type, x.start, x.end, record.description) for x in record.distortions)
    text, answer, split = record.post, record.answer_text, record.split
    return Sample(record.id, line, text, answer, record.types, spans, None, split, record.crisis, topic=record.topic)


class _Strange(Exception):
    """A field holds what is no text, or no label."""

    def __init__(self, field: str, what: str):
        self.field, self.what = field, what


def _said(value: Any, field: str) -> str:
    """What a field says: text, nothing for null, or the joined parts in which OpenAI's clients keep a text."""
    if isinstance(value, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in value):
        return "".join(_said(part.get("text"), field) for part in value)
    if not isinstance(value, str | None):
        raise _Strange(field, f"is no text: {type(value).__name__}")
    return value or ""


def _text(item: Any, *names: str) -> str:
    if not isinstance(item, dict):
        return ""
    return "\n".join(filter(None, (_said(item.get(name), name).strip() for name in names)))


def _psyqa(path: Path) -> Iterator[Item]:
    for number, item in reading.items(path):
        if isinstance(item, Problem):
            yield item
            continue
        answers = item.get("answers") if isinstance(item, dict) else None
        if not isinstance(answers, list):
            yield Problem(number, "answers", "is missing or no list")
            continue
        name = str(item.get("questionID", number))
        try:
            text, *bodies = _text(item, "question", "description"), *(_text(x, "answer_text") for x in answers)
        except _Strange as error:
            yield Problem(number, error.field, error.what)
            continue
        if not answers:
            # a question that nobody answered: the gate for answers finds it
            yield _with_outcome(item, Sample(name, number, text, ""))
        for index, (answer, body) in enumerate(zip(answers, bodies, strict=True)):
            labels = answer.get("labels_sequence") if isinstance(answer, dict) else None
            try:
                labels = ast.literal_eval(labels) if isinstance(labels, str) and labels else labels or []
                whole = _said(answer["answer_text"], "answer_text") if labels else ""
                spans = tuple((str(x["type"]), int(x["start"]), int(x["end"]), whole) for x in labels)
            except (ValueError, SyntaxError, KeyError, TypeError):
                yield Problem(number, f"answers[{index}].labels_sequence", "is no list of start, end, type")
                continue
            sample = _with_outcome(item, Sample(f"{name}/{index}", number, text, body, None, spans))
            yield _with_outcome(answer, sample)


def _cogdis(path: Path) -> Iterator[Item]:
    for number, line in reading.lines(path):
        if isinstance(line, Problem):
            yield line
            continue
        text, tab, label = line.rpartition("\t")
        if not tab or label.strip() not in ("0", "1"):
            yield Problem(number, "label", f"must be 0 or 1 after a tab, not {label.strip()[:20]!r}")
        else:
            yield Sample(
                str(number), number, text.strip(), None, frozenset({DISTORTED} if label.strip() == "1" else ())
            )


def _socialcd3k(path: Path) -> Iterator[Item]:
    names: list[str] = []
    for number, line in reading.lines(path):
        if isinstance(line, Problem):
            yield line
            continue
        cells = line.split("\t")
        if not names:
            names = [cell.strip() for cell in cells[:-1]]
            if not names or {"0", "1"} & set(names):
                raise CbtError(f"{path}, line {number}: socialcd3k needs a header of label names; this line has none")
            continue
        values, text = [cell.strip() for cell in cells[: len(names)]], "\t".join(cells[len(names) :]).strip()
        if len(values) < len(names) or set(values) - {"0", "1"}:
            yield Problem(number, "labels", f"must be {len(names)} cells of 0 or 1, then the text")
        else:
            chosen = frozenset(name for name, value in zip(names, values, strict=True) if value == "1")
            yield Sample(str(number), number, text, None, chosen)


def _item_by_item(read: Callable[[int, Any], Item]) -> Callable[[Path], Iterator[Item]]:
    """What reads a JSON list, made of what reads one item behind its position."""

    def read_all(path: Path) -> Iterator[Item]:
        for number, item in reading.items(path):
            try:
                yield item if isinstance(item, Problem) else _with_outcome(item, read(number, item))
            except _Strange as error:
                yield Problem(number, error.field, error.what)

    return read_all


def _with_outcome(row: Any, item: Item) -> Item:
    """The item with the outcome that its row gives."""
    outcome = told(row) if isinstance(row, dict) else "ok"
    if isinstance(item, Problem) or outcome == "ok":
        return item
    if outcome not in OUTCOMES:
        return Problem(item.line, "outcome", f"{outcome!r} is none of {', '.join(OUTCOMES)}")
    return replace(item, labels=None, outcome=outcome)


def _of_turns(rows: Any, item: Item) -> Item:
    """A dialogue with the outcome of the first of its turns that is not ok."""
    for row in rows:
        if item is not (found := _with_outcome(row, item)):
            return found
    return item


@_item_by_item
def _cbt_bench(number: int, item: Any) -> Item:
    names = item.get("distortions") if isinstance(item, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return Problem(number, "distortions", "is missing or no list of names")
    labels = _labels([name.lower() for name in names], "distortions", {})
    return Sample(str(item.get("id", number)), number, _text(item, "situation", "thoughts"), None, labels)


_NAMES = {
    "text": ("text", "thought", "sentence", "content", "文本", "内容", "想法"),
    "label": ("label", "labels", "distortion", "type", "category", "标签", "类别"),
}
_NONE = frozenset(
    (
        *("none", "non-distorted", "no distortion", "no", "false", "-", "0", "0.0"),
        *("无", "没有", "否", "无扭曲", "无认知扭曲", "没有认知扭曲", "无认知歪曲", "没有认知歪曲", "正常"),
    )
)
_SOME = frozenset(("1", "1.0", "yes", "true", "是"))
_MISSING = frozenset(("", "nan", "n/a", "na", "null", "undefined", "unknown"))
_LOST = frozenset(OUTCOMES) - {"ok", "crisis"} | {"?", "？", "content_filter"}
_LOST |= {"无法判断", "无法识别", "未知", "解析失败"}
_NUMBER = re.compile(r"[-+]?\d+(\.\d+)?(e[-+]?\d+)?", re.IGNORECASE)
_SENTENCE = re.compile(r"[。！？!\n].|[。！]$|(?<!\bvs)(?<!\betc)\.(?: \w|$)|.{80}", re.DOTALL)  # ? may end a name
_ERROR = re.compile(r"[\[{#<]|error|exception|traceback|timed?[-_ ]?out\b|http", re.IGNORECASE)


def _table(path: Path) -> Iterator[Item]:
    """CSV or TSV with a header, or JSON objects: text, or question and description.

    Perhaps id, topic, answer, outcome, and label. Several labels of a cell are split by |, and other marks that split
    are a Problem: they would make a type of their own. An empty cell is a missing label. Names that differ in their
    capitals alone are one, spelt as it came first.
    """
    spelt: dict[str, str] = {}
    for place, (number, row) in enumerate(_rows(path)):
        if isinstance(row, Problem):
            yield row
            continue
        body, label = (next((name for name in _NAMES[kind] if name in row), None) for kind in ("text", "label"))
        if body is None and "question" not in row:
            what = f"has no field text or question; it has {', '.join(row)}"
            if not place:  # once, and not for each row of a table
                raise CbtError(f"{path}, line {number}: {what}")
            yield Problem(number, "", what)
            continue
        cells = (body,) if body else ("question", "description")
        try:
            post, answer, topic = _text(row, *cells), _text(row, "answer"), _text(row, "topic")
        except _Strange as error:
            yield Problem(number, error.field, error.what)
            continue
        kinds = row[label] if label else None
        if isinstance(kinds, str):
            if re.search("[;,；，、｜]", kinds):
                yield Problem(number, str(label), f"{kinds!r:.40}: split several labels by |")
                continue
            kinds = kinds.split("|")
        if not (kinds is None or (isinstance(kinds, list) and all(isinstance(kind, str) for kind in kinds))):
            yield Problem(number, str(label), f"is no label and no list of labels: {kinds!r}"[:80])
            continue
        try:
            chosen = None if kinds is None else _labels(kinds, str(label), spelt)
        except _Strange as error:
            yield Problem(number, error.field, error.what)
            continue
        name = next((row[key] for key in reading.ID_FIELDS if row.get(key) not in (None, "")), number)
        if isinstance(name, bool) or not isinstance(name, str | int) or not str(name).strip():
            yield Problem(number, "id", f"{name!r:.40} names nothing: give a text or a whole number")
            continue
        given = answer if "answer" in row else None
        yield _with_outcome(row, Sample(str(name), number, post, given, chosen, topic=topic))


def _labels(kinds: Sequence[str], field: str, spelt: dict[str, str]) -> frozenset[str] | None:
    """What the names in a field say: labels, spelt as in `spelt`, or None where they are missing.

    An empty list says that there is no distortion, and so do 0 and its names (none, no, 无, -); 1 and yes are
    `DISTORTED`. Missing is what programs write for nothing (nan, N/A); and where one name is an outcome (unparsed,
    failed) or a question mark, nobody knows them all. _Strange for another number, whose meaning nobody here knows, for
    what looks like a list or like an error of a spreadsheet or an endpoint, and for what a model wrote in sentences.
    """
    kinds = [kind.strip() for kind in kinds]
    for kind in kinds:
        if _NUMBER.fullmatch(kind):
            if kind not in _NONE | _SOME:
                what = f"{kind!r:.40} is a number: write the names of labels, or 1 for distorted and 0 for none"
                raise _Strange(field, what)
        elif kind.lower() not in _LOST and _no_name(kind):
            raise _Strange(field, f"{kind!r:.40} is no label: leave the cell empty if there is none")
    named = [kind for kind in kinds if kind.lower() not in _MISSING]
    if (kinds and not named) or any(kind.lower() in _LOST for kind in named):
        return None
    named = [DISTORTED if kind.lower() in _SOME else spelt.setdefault(kind.casefold(), kind) for kind in named]
    return frozenset(kind for kind in named if kind.lower() not in _NONE)


def _no_name(kind: str) -> bool:
    """Whether what stands where the name of a label should is an error, a list, a sentence or a refusal."""
    low = kind.lower()
    return bool(_ERROR.match(low) or FAILED.fullmatch(low) or _SENTENCE.search(low)) or replies.kind(kind) != "ok"


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | Problem]]:
    """(line, row or Problem) of a table or of JSON objects, the columns in lower case."""
    for number, row in reading.rows(path):
        yield number, row if isinstance(row, Problem) else {reading.folded(name): row[name] for name in row}


def _dialogue(name: str, number: int, turns: list[tuple[str, str]]) -> Sample:
    """The client's first words are the text, all the counsellor's words the answer: empty where only silence answers.

    Where nobody is the client, the counsellor's words are the text.
    """
    said = {kind: [text for role, text in turns if role == kind] for kind in ("client", "counsellor")}
    answer = "\n".join(filter(str.strip, said["counsellor"]))
    text = next(filter(str.strip, said["client"]), "") if said["client"] else answer
    return Sample(name, number, text, answer if said["counsellor"] else None, turns=tuple(turns))


def _split_turns(text: str) -> list[tuple[str, str]] | None:
    """Turns of a text in which each begins with its role and a colon; None when words stand before the first role."""
    marks = list(_TURN.finditer(text))
    if not marks or text[: marks[0].start()].strip():
        return None
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    return [(ROLES[m[1].lower()], text[m.end() : end].strip()) for m, end in zip(marks, ends, strict=True)]


def _cpsycoun(path: Path) -> Iterator[Item]:
    text = path.read_text(encoding=reading.sniff_encoding(path))
    if not text.strip():
        return
    if text.lstrip().startswith(("[", "{")):
        items = list(reading.items(path))
        whole = bool(items) and isinstance(items[0][1], str)
        dialogues = [(1, [item for _, item in items])] if whole else items
    else:
        whole, dialogues = True, [(1, [text])]
    for number, dialogue in dialogues:
        if isinstance(dialogue, Problem):
            yield dialogue
            continue
        if isinstance(dialogue, dict):
            try:
                turns = _tuning_turns(dialogue)
            except _Strange as error:
                yield Problem(number, error.field, error.what)
                continue
        elif isinstance(dialogue, list) and all(isinstance(turn, str) for turn in dialogue):
            turns = _split_turns("\n".join(dialogue))
        else:
            turns = None
        if turns is None:
            what = "is no dialogue: turns that begin with 求助者： or 支持者：, or instruction, output and history"
            yield Problem(number, "", what)
        else:
            name = path.stem if whole else f"{path.stem}/{number}"
            yield _with_outcome(dialogue, _dialogue(name, number, turns))


def _tuning_turns(item: dict[str, Any]) -> list[tuple[str, str]] | None:
    """Turns of an item with instruction, output and history [[client, counsellor], ...]; None when it is none."""
    history, output = item.get("history") or [], item.get("output")
    if not isinstance(output, str) or not isinstance(history, list):
        return None
    if not all(isinstance(pair, list) and [type(x) for x in pair] == [str, str] for pair in history):
        return None
    past = [turn for client, counsellor in history for turn in (("client", client), ("counsellor", counsellor))]
    return [*past, ("client", _text(item, "instruction", "input")), ("counsellor", output)]


def _smile(path: Path) -> Iterator[Item]:
    items = list(reading.items(path))
    whole = bool(items) and isinstance(items[0][1], dict) and "role" in items[0][1]
    for number, dialogue in [(1, [item for _, item in items])] if whole else items:
        if isinstance(dialogue, Problem):
            yield dialogue
            continue
        rows = dialogue.get("messages") if isinstance(dialogue, dict) else dialogue
        turns = _role_turns(number, rows, "role", "content")
        if isinstance(turns, Problem):
            yield turns
        else:
            yield _with_outcome(dialogue, _of_turns(rows, _dialogue(f"{path.stem}/{number}", number, turns)))


def _role_turns(number: int, rows: Any, role: str, content: str) -> list[tuple[str, str]] | Problem:
    """Turns of a list of objects with fields `role` and `content`, system's left out; a Problem when it is none."""
    if not isinstance(rows, list) or not all(isinstance(x, dict) and content in x for x in rows):
        return Problem(number, "", f"is no dialogue: a list of {role} and {content}")
    roles = [str(row.get(role, "")).lower() for row in rows]
    if strange := set(roles) - ROLES.keys() - {"system"}:
        return Problem(number, role, f"is {min(strange)!r}; known are client and counselor, user and assistant")
    try:
        return [
            (ROLES[who], _said(row[content], content)) for who, row in zip(roles, rows, strict=True) if who != "system"
        ]
    except _Strange as error:
        return Problem(number, error.field, error.what)


_EMOLLM = (("client", "input"), ("counsellor", "output"))


@_item_by_item
def _emollm(number: int, item: Any) -> Item:
    rows = item.get("conversation") if isinstance(item, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        return Problem(number, "conversation", "is missing or no list")
    said = [(role, _said(row.get(name), name)) for row in rows for role, name in _EMOLLM]
    turns = [(role, text) for role, text in said if text or role == "counsellor"]
    return _of_turns(rows, _dialogue(str(number), number, turns))


@_item_by_item
def _alpaca(number: int, item: Any) -> Item:
    turns = _tuning_turns(item) if isinstance(item, dict) else None
    if turns is None:
        return Problem(number, "output", "is missing or no text, or history is no list of pairs of texts")
    if len(turns) == 2:
        (_, text), (_, answer) = turns
        return Sample(str(number), number, text, answer)
    return _dialogue(str(number), number, turns)


@_item_by_item
def _sharegpt(number: int, item: Any) -> Item:
    item = item if isinstance(item, dict) else {}
    rows = item.get("conversations")
    turns = _role_turns(number, rows, "from", "value")
    if isinstance(turns, Problem):
        return turns
    return _of_turns(rows, _dialogue(str(item.get("id", number)), number, turns))


FORMATS: dict[str, Callable[[Path], Iterator[Item]]] = {
    "records": _records,
    "psyqa": _psyqa,
    "cogdis": _cogdis,
    "socialcd3k": _socialcd3k,
    "cbt-bench": _cbt_bench,
    "c2d2": _table,
    "cpsycoun": _cpsycoun,
    "smile": _smile,
    "emollm": _emollm,
    "alpaca": _alpaca,
    "sharegpt": _sharegpt,
    "csv": _table,
}


def _read_folder(path: Path, format: str) -> tuple[list[Sample], list[Problem]]:
    """One dialogue a file: the line of a sample is then the number of its file in order of names."""
    files = sorted(file for file in path.iterdir() if file.suffix in (".json", ".jsonl", ".txt"))
    if not files:
        raise CbtError(f"{path} holds no .json or .txt file")
    samples: list[Sample] = []
    problems: list[Problem] = []
    for number, file in enumerate(files, 1):
        found, wrong = read(file, format)
        samples += [replace(x, id=f"{file.name}:{x.id}", line=number) for x in found]
        problems += [Problem(number, f"{file.name} {x.field}".strip(), x.what) for x in wrong]
    return samples, problems
