"""A page that arrives fast: what the theme puts on every page and this book has no use for is taken out.

- Thebe's script, and the address it would call; scripts that stand on a page twice.
- The search index, except on the search page: the search field is a link to it.
- Font Awesome's 1.5 MB script: its style sheet and font draw the same icons. Of both, only the icons in use are kept.
- Style rules for classes that no page and no script of this book names: most of Bootstrap's and sphinx-design's.
- Labels that hide a control's own words from a screen reader, and the role of a list that has no list items.
"""

import re
from pathlib import Path

from fontTools import subset
from sphinx.application import Sphinx

SCRIPT = r'\s*<(?:script|link)[^>]*(?:src|href)="[^"]*{}[^"]*"[^>]*>(?:</script>)?'
UNWANTED = re.compile(SCRIPT.format(r"scripts/fontawesome\.js"))
SEARCHING = re.compile(SCRIPT.format(r"(?:searchtools|language_data|searchindex)\.js"))
LABELS = re.compile(r'(<summary) aria-label="Toggle hidden content"|(search-button-field[^>]*) aria-label="Search"')
ROLES = re.compile(r'(<div) role="list"( class="citation-list")')
COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
RULE = re.compile(r"([^{}]+)\{[^{}]*\}")


def drop(app: Sphinx, pagename: str, templatename: str, context: dict, doctree: object) -> None:
    """Take Thebe out of a page's scripts and styles, and the second of any script that stands there twice."""
    kept = []
    for script in context.get("script_files", []):
        text = f"{getattr(script, 'filename', script) or ''} {getattr(script, 'attributes', {}).get('body', '')}"
        if "thebe" not in text.lower() and text not in [said for said, _ in kept]:
            kept.append((text, script))
    context["script_files"] = [script for _, script in kept]
    context["css_files"] = [file for file in context.get("css_files", []) if "thebe" not in str(file)]


def slim(app: Sphinx, exception: Exception | None) -> None:
    """Rewrite the finished pages and the theme's icons in place."""
    if exception or app.builder.format != "html":
        return
    html = Path(app.outdir)
    used = {"bs-tooltip-auto"}  # Bootstrap puts this name together at run time
    for page in html.rglob("*.html"):
        text = UNWANTED.sub("", page.read_text("utf-8"))
        if page.name != "search.html":
            text = SEARCHING.sub("", text)
        text = LABELS.sub(lambda found: found[1] or found[2], text)
        text = ROLES.sub(r"\1\2", text)
        used.update(re.findall(r"[\w-]+", text))
        page.write_text(text, "utf-8")
    for script in html.glob("_static/**/*.js"):
        if script.name == "fontawesome.js":
            script.unlink()
        else:
            used.update(re.findall(r"[\w-]+", script.read_text("utf-8")))
    for sheet in html.glob("_static/**/*.css"):
        css = COMMENT.sub("", sheet.read_text("utf-8"))
        sheet.write_text(RULE.sub(lambda rule: _kept(rule, used), css), "utf-8")
    _icons(html / "_static")


def _kept(rule: re.Match[str], used: set[str]) -> str:
    """The rule, or nothing where each of its selectors asks for a class that nobody has."""
    if "(" in rule[1] or "@" in rule[1]:
        return rule[0]
    asked = (re.findall(r"\.([a-zA-Z_-][\w-]*)", selector) for selector in rule[1].split(","))
    return rule[0] if any(used.issuperset(classes) for classes in asked) else ""


def _icons(static: Path) -> None:
    """Put a font with the glyphs that the style sheets still name in the place of the whole one."""
    sheet = static / "styles/pydata-sphinx-theme.css"
    css = sheet.read_text("utf-8")
    css = re.sub(r"fa-solid-900\.woff2\) format\(\"woff2\"\)", 'fa-solid.woff) format("woff")', css)
    sheet.write_text(css, "utf-8")
    everything = css + "".join(path.read_text("utf-8") for path in static.glob("**/*.css") if path != sheet)
    wanted = {ord(char) for char in everything if "\ue000" <= char <= "\uf8ff"}
    wanted |= {int(code, 16) for code in re.findall(r'\\([ef][0-9a-f]{3})"', everything)}
    folder = static / "vendor/fontawesome/webfonts"
    options = subset.Options(flavor="woff")
    font = subset.load_font(folder / "fa-solid-900.ttf", options)
    subsetter = subset.Subsetter(options)
    subsetter.populate(unicodes=wanted)
    subsetter.subset(font)
    subset.save_font(font, folder / "fa-solid.woff", options)


def setup(app: Sphinx) -> dict[str, bool]:
    """Run after every extension has added its files."""
    app.connect("html-page-context", drop, priority=900)
    app.connect("build-finished", slim)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
