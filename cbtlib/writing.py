"""From text to files: whole or not there, and JSON and CSV as every file of the book has it.

Notable choices
- A file is written beside its place, synced and renamed: a kill or a full disk leaves the old file or the new one.
- NaN is refused. What is no number is null in JSON, and never 0.
- A CSV has the same bytes on every system, and nothing in it that a spreadsheet would run.
"""

import contextlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from cbtlib import CbtError, markup

if TYPE_CHECKING:
    import pandas as pd


def make_folder(out: Path | str) -> Path:
    """A folder for products; CbtError when it cannot be made."""
    try:
        Path(out).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CbtError(f"cannot make the folder {out}: {error.strerror}; name another folder") from None
    return Path(out)


def apart(out: Path, *inputs: Path) -> None:
    """CbtError when a product would take the place of a file that it is made from."""
    for path in inputs:
        if out.resolve() == path.resolve():
            raise CbtError(f"{out} is what is read: name another file to write, or that one is lost")


@contextlib.contextmanager
def whole(path: Path) -> Iterator[TextIO]:
    """A text file to fill: it takes the place of `path` when the block ends, and goes when the block fails.

    What the disk refuses is an OSError: only the caller knows what to do about it.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        part.unlink(missing_ok=True)  # of a killed run; or a link, which would be written through
        with part.open("x", encoding="utf-8", newline="\n") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # its folder may be a file
            part.unlink()
        raise


def write_json(path: Path, content: Any) -> None:
    """Write JSON with sorted keys; ValueError for a NaN, CbtError where nothing can be written."""
    _write(path, json.dumps(content, ensure_ascii=False, indent=1, sort_keys=True, allow_nan=False) + "\n")


def write_csv(path: Path, frame: "pd.DataFrame", *, index: bool = True, digits: int = 10, bom: bool = False) -> None:
    """Write a table, numbers with so many significant digits; CbtError where nothing can be written.

    `bom` puts the mark in front without which Excel does not read Chinese.
    """
    text = markup.cells(frame).to_csv(index=index, float_format=f"%.{digits}g", lineterminator="\n")
    _write(path, "\ufeff" * bom + text)


def write_text(path: Path, text: str) -> None:
    """Write a text as it is; OSError where the disk refuses it."""
    with whole(path) as file:
        file.write(text)


def _write(path: Path, text: str) -> None:
    try:
        write_text(path, text)
    except OSError as error:
        raise CbtError(f"cannot write {path}: {error.strerror}; name a file in a folder that is there") from None


def json_text(content: Any) -> str:
    """JSON for another tool's eyes: nothing escaped, keys as they come."""
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


def json_lines(items: Iterable[dict[str, Any]]) -> str:
    """Objects as JSON Lines, nothing escaped."""
    return "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)


def without_nan(value: Any) -> Any:
    """The same dicts and lists with None for NaN."""
    if isinstance(value, dict):
        return {key: without_nan(one) for key, one in value.items()}
    if isinstance(value, list):
        return [without_nan(one) for one in value]
    return None if isinstance(value, float) and value != value else value
