"""Exercises: one source, from which the book, the student's notebook and the tests are made.

Notable choices
- A chapter's Exercises section stands alone: it needs its own set-up cell and nothing of the chapter before it. So a
  student's notebook runs in seconds, without a model, and a test tries each exercise without running the chapter.
- The parts of an exercise are cells, told apart by tags: the question (Markdown); `blank`, what a student starts from;
  `wrong`, a mistake that people really make; `solution`; `check`, which tells right from wrong. A question without
  code has a `solution` in Markdown alone.
- `blank` and `wrong` are raw cells: no notebook, page or linter ever runs them. The student's notebook gets the blank
  and the check, the book the blank, the solution and the check (folded), and `wrong` is for the tests.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cbtlib import ROOT, CbtError
from cbtlib.writing import make_folder

LEVELS = ("read", "compute", "break", "research")
CHAPTERS = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9]*.py"))
_HEADING = re.compile(r"### Exercise (\d+) \((\w+)\): (.+)")
_ORDERS = (["blank", "wrong", "solution", "check"], ["solution"])


@dataclass
class Exercise:
    """One exercise of a chapter: its question, and the source of each of its cells by tag."""

    page: str
    number: int
    level: str
    title: str
    question: str
    parts: dict[str, str] = field(default_factory=dict)

    @property
    def has_code(self) -> bool:
        """Whether a check can tell a right answer from a wrong one."""
        return "check" in self.parts


def read(page: str) -> tuple[str, list[Exercise]]:
    """The set-up cell and the exercises of a chapter; CbtError when a cell is missing, doubled or out of place."""
    section = _section(page)
    opening = next(section, None)
    setup = next(section, None)
    if opening is None or setup is None or _tag(setup) != "setup":
        raise CbtError(
            f"notebooks/{page}.py: ## Exercises begins a Markdown cell of its own, and a code cell tagged setup follows"
        )
    found: list[Exercise] = []
    for cell in section:
        heading = _HEADING.match(cell.source)
        if heading:
            number, level, title = int(heading[1]), heading[2], heading[3]
            if number != len(found) + 1 or level not in LEVELS:
                raise CbtError(
                    f"notebooks/{page}.py: {heading[0]!r} should be Exercise {len(found) + 1}, "
                    f"with one of {', '.join(LEVELS)}"
                )
            found.append(Exercise(page, number, level, title, cell.source))
        elif found and _tag(cell) in _ORDERS[0] and _tag(cell) not in found[-1].parts:
            found[-1].parts[_tag(cell)] = cell.source
        else:
            raise CbtError(f"notebooks/{page}.py, Exercises: a cell has no place there: {cell.source[:60]!r}")
    for one in found:
        if list(one.parts) not in _ORDERS:
            raise CbtError(
                f"notebooks/{page}.py, exercise {one.number}: its cells are {', '.join(one.parts) or 'none'}; "
                f"they must be {', '.join(_ORDERS[0])}, or one solution in Markdown"
            )
    return setup.source, found


def make(folder: Path = ROOT / "student") -> list[Path]:
    """Write a notebook (.ipynb and .py) without solutions for each chapter; returns the paths."""
    import jupytext

    make_folder(folder)
    written = []
    for page in CHAPTERS:
        notebook = _notebook(page)
        for ending in ("ipynb", "py"):
            written.append(folder / f"{page}.{ending}")
            jupytext.write(notebook, written[-1], fmt="py:percent" if ending == "py" else "ipynb")
    return written


def dress(cells: list[Any]) -> list[Any]:
    """The cells of an executed page as its reader meets them: the blank to see, solution and check folded away."""
    shown = []
    for cell in cells:
        tag = _tag(cell)
        if tag == "wrong":
            continue
        if tag == "blank":
            cell.cell_type, cell.source = "markdown", f"Start from this:\n\n```python\n{cell.source}\n```"
        elif tag == "solution" and cell.cell_type == "markdown":
            cell.source = f":::::{{dropdown}} Show the solution\n{cell.source}\n:::::"
        elif tag in ("solution", "check"):
            cell.metadata["tags"] = [tag, "hide-cell"]
            what = "the solution" if tag == "solution" else "the check"
            cell.metadata["mystnb"] = {"code_prompt_show": f"Show {what}", "code_prompt_hide": f"Hide {what}"}
        shown.append(cell)
    return shown


def _notebook(page: str) -> Any:
    """The student's notebook of a chapter."""
    from nbformat.v4 import new_code_cell, new_notebook

    setup, exercises = read(page)
    title = _cells(page)[0].source.splitlines()[0].removeprefix("# ")
    cells = [
        _markdown(
            f"# Exercises: {title}\n\n"
            "Put your code where `...` stands, run the cell, then run the check below it. A check that prints *right* "
            "is content; one that fails says what is wrong. Change a check only to try something out: it is the "
            "question put as code.\n\n"
            "*Read*: look closely. *Compute*: get a number right. *Break*: a defect that real code has had; show it "
            "and mend it. *Research*: no single answer; write half a page."
        ),
        new_code_cell(setup),
    ]
    for one in exercises:
        cells.append(_markdown(one.question))
        if one.has_code:
            cells += [new_code_cell(one.parts["blank"]), new_code_cell(one.parts["check"] + '\nprint("right")')]
        else:
            cells.append(_markdown("*Your answer:*"))
    kernel = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    notebook = new_notebook(cells=cells, metadata={"kernelspec": kernel})
    for number, cell in enumerate(notebook.cells):  # the same input writes the same bytes
        cell["id"] = f"cell-{number}"
    return notebook


def _cells(page: str) -> list[Any]:
    import jupytext

    return jupytext.read(ROOT / "notebooks" / f"{page}.py").cells


def _section(page: str) -> Iterator[Any]:
    """The cells from the heading Exercises to the heading Next."""
    inside = False
    for cell in _cells(page):
        if cell.cell_type == "markdown" and cell.source.startswith("## "):
            inside = cell.source.startswith("## Exercises")
        if inside:
            yield cell


def _tag(cell: Any) -> str:
    """The tag that says what part a cell plays; empty for a cell that plays none."""
    return next((tag for tag in cell.metadata.get("tags", []) if tag in ("setup", *_ORDERS[0])), "")


def _markdown(text: str) -> Any:
    from nbformat.v4 import new_markdown_cell

    return new_markdown_cell(text)
