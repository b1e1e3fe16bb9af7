"""The chapters as slides: nbconvert's reveal.js exporter over an executed page, and nothing from the network.

Notable choices
- A deck follows its chapter, so nobody keeps two texts: a section is a slide with its heading and first paragraph; its
  lists, tables, formulas and figures get slides of their own below it; the rest of the prose is the speaker's notes.
- A lecture ends on what it found: the exercises come before the summary, and the chapter's answer is the last slide.
- Numbers come from the page's metrics.json, as in the book. A deck of a page that has not run does not exist.
- reveal.js is the copy inside the sphinx-revealjs package; it, the style and the Chinese glyphs lie beside the decks,
  which open from a folder or a stick.
"""

import html
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils.utils.math.latex2mathml import tex2mathml

from cbtlib import ROOT, CbtError, student
from cbtlib.writing import make_folder

_GLUE = re.compile(r"\{glue:text\}`(\w+)(?::([^`]*))?`")
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?:)[^)]*\)")
_DIRECTIVE = re.compile(r"^(`{3,}|:{3,})(?:\{.*?\}.*)?$|^:\w+:.*$", re.M)
_SOURCES = re.compile(r"^\*Further reading\.\*.*?(?=\n\n|\Z)|\s*\{cite:p\}`[^`]*`", re.M | re.S)
_MATH = re.compile(r"\$\$(.+?)\$\$(?: \([\w-]+\))?|\$([^$\n]+?)\$", re.S)

TEMPLATE = """{%- extends 'index.html.j2' -%}
{%- block html_head_js -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block footer_js -%}
<script src="reveal.js/dist/reveal.js"></script>
<script src="reveal.js/plugin/notes/notes.js"></script>
<script>document.fonts.load("27px Chinese", "中").finally(() => Reveal.initialize({hash: true, slideNumber: true,
  transition: "none", width: 1100, height: 700, margin: 0.06, plugins: [RevealNotes]}));</script>
{%- endblock -%}"""

STYLE = """
@font-face { font-family: "Chinese"; src: url("fonts/chinese.woff") format("woff"); }
.reveal, .reveal h1, .reveal h2, .reveal h3 { font-family: -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial,
  "DejaVu Sans", "Chinese", sans-serif; letter-spacing: normal; text-transform: none; }
.reveal { font-size: 27px; color: #222; }
.reveal .slides { text-align: left; }
.reveal h1 { font-size: 1.9em; } .reveal h2 { font-size: 1.5em; } .reveal h3 { font-size: 1em; color: #444; }
.reveal p, .reveal ul { line-height: 1.45; } .reveal ul { padding-left: 1em; margin: 0; }
.reveal .jp-RenderedHTMLCommon { font-size: 1em; font-family: inherit; color: inherit; line-height: inherit; }
.reveal .jp-Cell { padding: 0; margin: 0; }
.reveal .jp-InputPrompt, .reveal .jp-OutputPrompt, .reveal .jp-Collapser { display: none; }
.reveal .jp-OutputArea-child, .reveal .jp-OutputArea-output { display: block; width: 100%; box-sizing: border-box; }
.reveal .jp-OutputArea-output { padding: 0; max-height: 600px; overflow: auto; }
.reveal figure { margin: 0; text-align: center; } .reveal figure img { max-height: 500px; max-width: 100%; margin: 0; }
.reveal figcaption { font-size: 0.75em; color: #444; text-align: left; }
.reveal caption { font-size: 1.3em; font-weight: 600; text-align: left; caption-side: top; }
.reveal table, .reveal .jp-RenderedHTMLCommon table { font-size: 0.62em; border-collapse: collapse; margin: 0;
  min-width: 50%; }
.reveal .jp-RenderedHTMLCommon table:has(.num):not(:has(:is(th, td):nth-child(6), tr:nth-child(9))) {
  font-size: 0.85em; caption { font-size: 1em; } }
.reveal code, .reveal pre { font-family: SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", "Chinese", monospace; }
.reveal td, .reveal th { padding: 0.25em 0.6em; border-bottom: 1px solid #ddd; text-align: left !important; }
.reveal .zh-block { font-size: 0.72em; border-left: 4px solid #0072b2; padding: 0 0.8em; background: #f5f5f5; }
.reveal .zh-title { font-weight: 600; } .reveal .zh-gloss { color: #555; }
"""


def make(profile: str, results: str = "results", folder: Path = ROOT / "slides") -> list[Path]:
    """Write a deck for each chapter that has run with this profile; CbtError when none has."""
    pages = [page for page in student.CHAPTERS if (ROOT / results / profile / page / f"{page}.ipynb").exists()]
    if not pages:
        raise CbtError(f"no chapter has run with the profile {profile!r} yet: make book, or cbt run notebooks/01_….py")
    make_folder(folder)
    written = []
    for page in pages:
        written.append(folder / f"{page}.html")
        written[-1].write_text(deck(ROOT / results / profile / page), "utf-8")
    _lay_reveal(folder / "reveal.js", "".join(path.read_text("utf-8") for path in written))
    return written


def deck(page: Path) -> str:
    """One chapter's slides as HTML, from the folder of its run."""
    import nbformat
    from nbconvert import SlidesExporter

    notebook = nbformat.read(page / f"{page.name}.ipynb", as_version=4)
    numbers = json.loads((page / "metrics.json").read_text("utf-8"))["numbers"]
    notebook.cells = list(_slides(notebook.cells, numbers, page.name))
    notebook.metadata = {"title": notebook.cells[0].source.splitlines()[0].removeprefix("# ")}
    exporter = SlidesExporter(raw_template=TEMPLATE, exclude_input=True, reveal_url_prefix="reveal.js")
    exporter.reveal_theme = "book"
    return exporter.from_notebook_node(notebook)[0]


def _slides(cells: list[Any], numbers: dict[str, dict], page: str) -> Iterator[Any]:
    """The cells of a deck, with their slide type, from the cells of a page."""
    closing: list[Any] = []
    for cell in cells:
        tags = cell.metadata.get("tags", [])
        if cell.cell_type == "markdown" and cell.source.startswith("## Exercises"):
            yield _slide("slide", "## Exercises\n\n" + _titles(page))
            break
        if closing or (cell.cell_type == "markdown" and cell.source.startswith("## Summary")):
            closing.append(cell)
        elif cell.cell_type == "markdown" and "banner" not in tags:
            yield from _prose(_text(cell.source, numbers, page))
        elif cell.cell_type == "code":
            for shown in filter(None, map(_shown, cell.outputs)):
                yield _slide("subslide", output=shown)
    yield from _closing(closing, numbers, page)


def _closing(cells: list[Any], numbers: dict[str, dict], page: str) -> Iterator[Any]:
    """The summary; then, on one slide, what follows it: the chapter's question and the answer of its run."""
    said: list[str] = []
    for cell in cells:
        if cell.cell_type == "markdown" and cell.source.startswith("## Summary"):
            yield from _prose(_text(cell.source, numbers, page))
        elif cell.cell_type == "markdown":
            said.append(_text(cell.source, numbers, page))
        else:
            shown = [output.get("data", {}) for output in cell.outputs]
            said += [data["text/markdown"] for data in shown if "text/markdown" in data]
    if said:
        yield _slide("slide", "\n\n".join(["## What we now know", *said]))


def _prose(text: str) -> Iterator[Any]:
    """A heading and the paragraph after it on a slide; lists, tables and formulas below it; the rest as notes."""
    for section in re.split(r"^(?=#{1,3} )", text, flags=re.M):
        blocks = [block.strip() for block in re.split(r"\n\s*\n", section) if block.strip()]
        if not blocks or blocks[0] == "## Set-up":
            continue
        if blocks[0].startswith("#"):
            title, *blocks = blocks
            lead = [blocks.pop(0)] if blocks and not _stands_alone(blocks[0]) else []
            if title == "## Summary" or (title.startswith("### ") and not lead):
                lead, blocks = blocks, []
            yield _slide("slide", "\n\n".join([title, *lead]))
        for before, block in zip(["", *blocks], blocks, strict=False):
            if _stands_alone(block):
                label = before if before.startswith("**") or before.endswith(":") else ""
                yield _slide("subslide", f"{label}\n\n{block}")
        notes = "\n\n".join(block for block in blocks if not _stands_alone(block))
        if notes:
            yield _slide("notes", notes)


def _stands_alone(block: str) -> bool:
    """Whether a block of Markdown is a list, a table or a formula."""
    return block.startswith(("- ", "1. ", "|", '<math xmlns="http://www.w3.org/1998/Math/MathML" display="block"'))


def _shown(output: Any) -> str:
    """The HTML of an output that is worth a slide: a figure, a table or a piece of Chinese; else nothing."""
    from cbtlib.report import METADATA

    data = output.get("data", {})
    if METADATA in output.get("metadata", {}):
        dress = output.metadata[METADATA]
        caption = re.sub(r"\\(.)", r"\1", dress["figure"]["caption"])  # `figures.show` escaped it for Markdown
        image = f'<img src="data:image/png;base64,{data["image/png"]}" alt="{html.escape(dress["image"]["alt"])}">'
        return f"<figure>{image}<figcaption>{html.escape(caption)}</figcaption></figure>"
    text = data.get("text/html", "")
    return text if "<table" in text or "zh-block" in text else ""


def _text(source: str, numbers: dict[str, dict], page: str) -> str:
    """Markdown as a deck has it: numbers filled in, formulas drawn, the book's links as text, and no sources."""

    def number(match: re.Match[str]) -> str:
        name, _, end = match[1].rpartition("_")
        value = numbers[match[1]]["value"] if match[1] in numbers else numbers.get(name, {}).get(end)
        if value is None:
            raise CbtError(f"{page}: the text cites the number {match[1]!r}, which its run has not written")
        return format(value, match[2] or "")

    text = _SOURCES.sub("", _DIRECTIVE.sub("", _LINK.sub(r"\1", _GLUE.sub(number, source))))
    return _MATH.sub(lambda m: tex2mathml(m[1] or m[2], as_block=bool(m[1])).replace("\n", " "), text)


def _titles(page: str) -> str:
    return "\n".join(f"- {one.title} *({one.level})*" for one in student.read(page)[1])


def _slide(kind: str, text: str = "", output: str = "") -> Any:
    """One cell of a deck: Markdown, or a piece of HTML as the output of a cell without code."""
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_output

    metadata = {"slideshow": {"slide_type": kind}}
    if output:
        return new_code_cell(outputs=[new_output("display_data", {"text/html": output})], metadata=metadata)
    return new_markdown_cell(text, metadata=metadata)


def _lay_reveal(target: Path, text: str) -> None:
    """Lay what a deck needs of reveal.js beside the decks, with the book's theme and the Chinese glyphs of `text`."""
    import sphinx_revealjs

    from cbtlib import figures

    source = Path(sphinx_revealjs.__file__).parent / "_static/revealjs"
    for name in ("LICENSE", "dist/reveal.js", "dist/reveal.css", "plugin/notes/notes.js"):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target / name)
    fonts = target / "dist/theme/fonts"
    fonts.mkdir(parents=True, exist_ok=True)
    white = (source / "dist/theme/white.css").read_text("utf-8")
    theme = re.sub("@import [^;]*;", "", white) + STYLE  # the reader's own fonts will do for Latin letters
    (fonts.parent / "book.css").write_text(theme, "utf-8")
    figures.web_font(text, fonts / "chinese.woff")
