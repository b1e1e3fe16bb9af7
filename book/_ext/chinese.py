"""Chinese on an English page: every run of it marked `lang="zh"`, and a font that holds its glyphs.

Screen readers and browsers choose voice, font and line breaking by `lang`. The font is a subset of Noto Sans SC
with just the characters of this build, so that no reader sees boxes.
"""

import re
from pathlib import Path

from sphinx.application import Sphinx

from cbtlib import figures

HAN = r"[\u3400-\u9fff\uf900-\ufaff]"
# A run starts and ends with a Han character and may hold full-width punctuation between.
RUN = re.compile(rf"{HAN}(?:[\u3000-\u303f\uff00-\uffef‘-”…—·]*{HAN})*")
# A comment, or a tag whose quoted attributes may hold ">".
TAG = re.compile(r"""(<!--.*?-->|</?[a-zA-Z](?:[^<>"']|"[^"]*"|'[^']*')*>)""", re.DOTALL)
VOID = {"area", "br", "col", "hr", "img", "input", "link", "meta", "source", "wbr"}
OPAQUE = {"script", "style", "pre", "svg", "textarea", "title"}


def mark(body: str) -> str:
    """Wrap each Chinese run of an HTML body in <span lang="zh">, where no element around it says so already."""
    pieces, inside = [], []  # `inside` holds, for each open element, whether its text must be left alone
    for piece in TAG.split(body):
        if not piece.startswith("<"):
            quiet = any(inside)
            pieces.append(piece if quiet else RUN.sub(r'<span lang="zh">\g<0></span>', piece))
            continue
        pieces.append(piece)
        name = re.match(r"</?([a-zA-Z][\w-]*)", piece)
        if not name or name[1].lower() in VOID or piece.endswith("/>"):
            continue
        if piece.startswith("</"):
            if inside:
                inside.pop()
        else:
            inside.append(name[1].lower() in OPAQUE or ' lang="zh"' in piece or " lang='zh'" in piece)
    return "".join(pieces)


def dress(app: Sphinx, pagename: str, templatename: str, context: dict, doctree: object) -> None:
    """Mark a page's Chinese, and have the browser fetch the font before it draws the first line."""
    if "body" in context:
        context["body"] = mark(context["body"])
    href = context["pathto"]("_static/chinese.woff", resource=True)
    link = f'<link rel="preload" as="font" type="font/woff" crossorigin href="{href}" />'
    context["metatags"] = context.get("metatags", "") + link


def embed_font(app: Sphinx, exception: Exception | None) -> None:
    """Write _static/chinese.woff with the glyphs that the built pages use, and its licence beside it."""
    if exception or app.builder.format != "html":
        return
    html = Path(app.outdir)
    figures.web_font("".join(page.read_text("utf-8") for page in html.rglob("*.html")), html / "_static/chinese.woff")


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect to page writing and the end of the build."""
    app.connect("html-page-context", dress)
    app.connect("build-finished", embed_font)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
