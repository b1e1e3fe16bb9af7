"""The questions of a run: a JSONL, JSON or CSV file, checked as a whole before anything is paid.

Every line that is not a question is named. A file in a foreign encoding, a second use of an id or an empty post would
otherwise turn up in the middle of a night's run, or as an answer to nothing.
"""

import codecs
import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cbtlib import CbtError
from cbtlib.corpus import no_repeats
from cbtlib.prompts import load_json

LONGEST_FIELD = 10**7
"""Characters that one field of a CSV file may have; Python's own limit would end the reading at 131,072."""


@dataclass(frozen=True, slots=True)
class Question:
    """A post to answer."""

    id: str
    question: str
    description: str


def read_questions(path: Path | str) -> list[Question]:
    """Questions of a JSONL or CSV file, or a JSON list, with question, description and (if there is one) id.

    Without an id, the number of its line names a question, as `tables` names it when answers are read beside it.
    Corpus files fit, and PsyQA's. Raises CbtError with the line (in a list: the place) of everything that is not a
    question, before anything is paid.
    """
    path, problems, questions = Path(path), [], []
    seen: dict[str, int] = {}
    for line, row in _rows(path):
        if isinstance(row, str):
            problems.append(f"  line {line}: {row}")
            continue
        given = (row.get(name) for name in ("id", "questionID"))
        number = next((one for one in given if one not in (None, "")), line)
        texts = [row.get(name) or "" for name in ("question", "description")]
        if not {"question", "description"} & row.keys():
            fields = ", ".join(map(str, row))[:80]
            problems.append(f"  line {line}: no field question and none description (it has {fields or 'none'})")
        elif not all(isinstance(text, str) for text in texts):
            problems.append(f"  line {line}: question and description have to be texts")
        elif not "".join(texts).strip():
            problems.append(f"  line {line}: no question and no description")
        elif isinstance(number, bool) or not isinstance(number, str | int) or not str(number).strip():
            problems.append(f"  line {line}: the id {number!r} names nothing; give a text or a whole number")
        elif (name := str(number)) in seen:
            problems.append(f"  line {line}: the id {name} stands on line {seen[name]} already")
        else:
            seen[name] = line
            questions.append(Question(name, *texts))
    if problems or not questions:
        more = [f"  … and {len(problems) - 20} more"] if len(problems) > 20 else []
        raise CbtError("\n".join([f"{path}: nothing was sent", *(problems or ["  no question in it"])[:20], *more]))
    return questions


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """(line, row or what is wrong with it)."""
    try:
        if path.suffix.lower() == ".csv":
            csv.field_size_limit(LONGEST_FIELD)
            with path.open(encoding="utf-8-sig", newline="") as file:
                table = csv.DictReader(file, strict=True)
                names = list(table.fieldnames or ())
                if twice := [name for name in names if names.count(name) > 1]:
                    yield 1, f"the column {twice[0]!r} stands twice; rename one of the two"
                    return
                for row in table:
                    whole = None not in row and None not in row.values()
                    what = f"has another number of cells than the header's {len(names)}"
                    yield table.line_num, row if whole else what
            return
        if path.suffix.lower() == ".json" and (items := _list(path)):
            yield from (
                (at, item if isinstance(item, dict) else "not a JSON object") for at, item in enumerate(items, 1)
            )
            return
        with path.open("rb") as lines:
            for line, raw in enumerate(lines, 1):
                if not (raw := raw.removeprefix(codecs.BOM_UTF8).strip()):
                    continue
                try:
                    row = load_json(raw.decode(), no_repeats)
                    yield line, row if isinstance(row, dict) else "not a JSON object"
                except UnicodeDecodeError:
                    yield line, "not UTF-8 (from GB18030: iconv -f GB18030 -t UTF-8)"
                except ValueError as error:
                    yield line, f"not JSON ({error})"
    except csv.Error as error:
        yield 0, f"not CSV ({error})"
    except UnicodeDecodeError:
        yield 0, "the file is not UTF-8 (from GB18030: iconv -f GB18030 -t UTF-8)"
    except ValueError as error:
        yield 0, f"not a JSON list ({error})"
    except OSError as error:
        raise CbtError(f"cannot read {path}: {error.strerror}; give a JSONL, JSON or CSV file") from None


def _list(path: Path) -> list[Any] | None:
    """The items of a file that is one JSON list; None for anything else, such as JSON Lines under that name."""
    text = path.read_text(encoding="utf-8-sig")
    return load_json(text, no_repeats) if text.lstrip().startswith("[") else None
