"""From the bytes of a file to its rows: JSON Lines, a JSON list, CSV, TSV, and the semicolon CSV of some spreadsheets.

    for line, row in reading.rows("mine.csv"):  # row: {name: value}, or a Problem

Notable choices
- UTF-8 with or without a byte-order mark, or GBK: found from the whole file, never asked for.
- Every row is a row or a Problem with its line. A cell too many, a quotation mark that is never closed or a key that
  stands twice would otherwise move a value under another name, or swallow the rows behind it.
- The names of a table's columns come in lower case, without blanks around them: a spreadsheet's Question is question.
  Those of JSON stay as they are.
- Half a character (an emoji that an endpoint cut in two) becomes U+FFFD: no file, request or tokenizer takes it.
"""

import codecs
import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cbtlib import CbtError, shown

MAX_LINE = 4 * 2**20
"""Bytes a line may have. The longest record of the book has 8 kB; a line beyond this is no record."""
ID_FIELDS = ("id", "questionID", "questionid")
"""What a row may call its name: the book's way, and PsyQA's in JSON and in a table."""

_NOTHING = re.compile(r"(?:nan|none|null|undefined|n/?a|\[object object\]|\{\}|\[\]|[-—.…。]+)?")


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a file: 1-based line (0: the file as a whole), field ("" : the line as a whole), what is wrong."""

    line: int
    field: str
    what: str

    def __str__(self) -> str:
        where = f"line {self.line}" if self.line else "the file"
        return f"{where}{', field ' + self.field if self.field else ''}: {self.what}"


def files(folder: Path) -> list[Path]:
    """Every file below a folder, in order, without what Python and file managers leave there (.DS_Store, Thumbs.db)."""
    left = {"__pycache__", "desktop.ini", "Thumbs.db"}
    found = [path for path in folder.rglob("*") if path.is_file()]
    parts = {path: path.relative_to(folder).parts for path in found}
    return sorted(path for path in found if not any(one.startswith(".") or one in left for one in parts[path]))


def says_nothing(text: str) -> bool:
    """Whether a text is none: blank, dots or dashes, or what programs write for a missing one (nan, None, N/A)."""
    return _NOTHING.fullmatch(text.strip().lower()) is not None


def rows(path: Path | str) -> Iterator[tuple[int, dict[str, Any] | Problem]]:
    """(line, row or Problem) of a file in any of the forms above; in a JSON list, the position stands for the line.

    The cells of a table are text, and its names in lower case. CbtError for what is no text file, is no JSON though it
    begins like a list, or has a column twice (whatever the case of its letters).
    """
    with Path(path).open(encoding=sniff_encoding(path)) as file:
        first = file.read(4096).lstrip()[:1]
    if first not in ("{", "["):
        yield from _table(Path(path))
        return
    yield from ((number, _object(number, item)) for number, item in items(path))


def items(path: Path | str) -> Iterator[tuple[int, Any]]:
    """(position, item) of a JSON list, of one JSON object or of JSON Lines; a Problem in place of a bad line.

    CbtError for what is no JSON.
    """
    text = Path(path).read_text(encoding=sniff_encoding(path))
    try:
        value = load_json(text, strict=True)
    except ValueError as error:
        if not text.lstrip().startswith("{"):
            raise CbtError(f"{path} is no JSON: {error}; mend it, or say what it is if it is something else") from None
        yield from objects(path)
        return
    yield from enumerate(value if isinstance(value, list) else [value], 1)


def objects(path: Path | str) -> Iterator[tuple[int, dict[str, Any] | Problem]]:
    """(line number, JSON object or Problem) for each line of a JSON Lines file that is not blank."""
    for number, line in lines(path):
        if isinstance(line, Problem):
            yield number, line
            continue
        try:
            yield number, _object(number, load_json(line, strict=True))
        except ValueError as error:
            yield number, Problem(number, "", f"is no JSON object: {error}")


def _object(number: int, item: Any) -> dict[str, Any] | Problem:
    if isinstance(item, dict | Problem):
        return item
    return Problem(number, "", f"is JSON, but a {type(item).__name__} in place of an object")


def lines(path: Path | str) -> Iterator[tuple[int, str | Problem]]:
    """(line number, text without its line end), or a Problem in place of a line too long to be one; blanks skipped."""
    path, encoding = Path(path), sniff_encoding(path)
    with path.open("rb") as file:
        number = 0
        while raw := file.readline(MAX_LINE + 1):
            number += 1
            if len(raw) > MAX_LINE:
                while raw and not raw.endswith(b"\n"):
                    raw = file.readline(MAX_LINE)
                yield number, Problem(number, "", f"longer than {MAX_LINE // 2**20} MB, so it is no record")
                continue
            text = raw.decode(encoding if number == 1 else encoding.removesuffix("-sig")).rstrip("\r\n")
            if text.strip():
                yield number, text


def sniff_encoding(path: Path | str) -> str:
    """`utf-8-sig` (a byte-order mark is then no text) or `gb18030` (GBK's superset) for the whole file.

    Raises CbtError for what is no text file at all: a missing path, a directory, an archive renamed, stray bytes. Bytes
    of Big5 and other encodings can be read as GBK too, but what comes out is no Chinese: triage would find it calm.
    """
    path = Path(path)
    if path.is_dir():
        raise CbtError(f"{path} is a directory: name a file in it")
    if not path.exists():
        raise CbtError(f"{path} does not exist: check the path")
    with path.open("rb") as file:
        head = file.read(4)
    if head[:2] == b"PK" or head[:2] == b"\x1f\x8b" or head == b"PAR1":
        raise CbtError(f"{path} is a zip, gzip or parquet file whatever its name says: unpack or convert it first")
    for encoding in ("utf-8-sig", "gb18030"):
        decoder = codecs.getincrementaldecoder(encoding)()
        try:
            with path.open("rb") as file:
                while chunk := file.read(2**20):
                    text = decoder.decode(chunk)
                    if "\0" in text:
                        raise CbtError(f"{path} holds zero bytes: convert it to UTF-8, or take them out if it is that")
                    if encoding == "gb18030" and _is_foreign(text):
                        raise CbtError(f"{path} is neither UTF-8 nor GBK, but Big5 perhaps: save it as UTF-8")
                decoder.decode(b"", final=True)
            return encoding
        except UnicodeDecodeError:
            continue
    raise CbtError(f"{path} is neither UTF-8 nor GBK text: convert it to UTF-8")


_PRIVATE = re.compile("[\ue000-\uf8ff]")  # GBK gives no character of a text this code
_HAN = re.compile("[\u4e00-\u9fff]")
_COMMON = frozenset("的一是不了我在人有这你好说她么们到也会就要着上想来没自己个大时去对和那得可过看多后能")
"""A quarter of the characters of ordinary Chinese. Of what was another encoding they are one in a hundred."""


def _is_foreign(text: str) -> bool:
    """Whether a text that was decoded as GBK had been written in another encoding."""
    han = _HAN.findall(text)
    return bool(_PRIVATE.search(text)) or (len(han) >= 30 and sum(map(_COMMON.__contains__, han)) < 0.03 * len(han))


_HALF = re.compile(r"\\u[dD][89a-fA-F]")  # half a character beyond U+FFFF


def load_json(text: str, strict: bool = False) -> Any:
    """The JSON of an endpoint, a model or a file; ValueError for what is none. Half a character becomes U+FFFD.

    `strict` refuses what Python takes and other readers do not: a key that stands twice, NaN, Infinity.
    """
    try:
        value = json.loads(text, **(_STRICT if strict else {}))
        if _HALF.search(text):
            plain = json.dumps(value, ensure_ascii=False)
            value = json.loads(plain.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def read_json(path: Path, fields: Sequence[str], cure: str) -> dict[str, Any]:
    """The JSON object in a file, or CbtError with the cure when it is not there, is cut or lacks one of the fields."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        found = None
    missing = [field for field in fields if not isinstance(found, dict) or field not in found]
    if missing:
        raise CbtError(f"{shown(path)} is damaged or missing (no {', '.join(missing)} in it): {cure}")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON value")


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """json keeps the last of two equal keys and drops the other without a word."""
    item = dict(pairs)
    if len(item) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(n for n in names if names.count(n) > 1)!r} stands twice")
    return item


_STRICT: dict[str, Any] = {"object_pairs_hook": _no_repeats, "parse_constant": _no_constant}


class _Rows(csv.DictReader):  # type: ignore[type-arg]
    """Rows without the empty cells of columns at the end that have no name: a spreadsheet keeps columns once used."""

    above = 0  # blank lines above the header
    nameless = 0  # columns at its end

    def __next__(self) -> dict[Any, Any]:
        row = super().__next__()
        self.line_num += self.above
        beyond = row.get(None, [])
        if len(beyond) <= self.nameless and not any(map(str.strip, beyond)):  # more are a comma too many in a text
            row.pop(None, None)
        return row


def table(path: Path) -> tuple[list[str], _Rows]:
    """Names in lower case and rows of a CSV file with commas, tabs or semicolons. A row may raise csv.Error.

    Nameless columns at the end are none. CbtError for what is no text file, or has a column twice.
    """
    text = path.read_text(encoding=sniff_encoding(path))
    csv.field_size_limit(MAX_LINE)
    below = text.lstrip("\r\n")
    found = _Rows(io.StringIO(below, newline=""), delimiter=_delimiter(below), strict=True)
    found.above = len(text[: len(text) - len(below)].splitlines())
    try:
        names = [folded(name) for name in found.fieldnames or ()]
    except csv.Error as error:
        raise CbtError(f"{path}, line 1: is no header of a table: {error}") from None
    while len(names) > 1 and not names[-1]:
        names.pop()
        found.nameless += 1
    if twice := [name for name in names if names.count(name) > 1]:
        raise CbtError(f"{path}, line 1: the column {twice[0]!r} stands twice; rename one of the two")
    found.fieldnames = names
    return names, found


def header(line: str) -> list[str]:
    """The names of a table with this first line, in lower case."""
    return [folded(name) for name in next(csv.reader([line], delimiter=_delimiter(line)), ())]


def folded(name: str) -> str:
    """The name of a table's column, as its rows have it."""
    return name.strip().casefold()


def _delimiter(text: str) -> str:
    return max(",\t;", key=text.split("\n", 1)[0].count)


def _table(path: Path) -> Iterator[tuple[int, dict[str, Any] | Problem]]:
    names, found = table(path)
    try:
        for row in found:
            what = f"has another number of cells than the header's {len(names)}"
            torn = None in row or None in row.values()
            yield found.line_num, Problem(found.line_num, "", what) if torn else row
    except csv.Error as error:
        line = found.reader.line_num + found.above  # DictReader keeps that of the row before
        yield line, Problem(line, "", f"is no table row: {error}")
