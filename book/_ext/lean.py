"""What Jupyter Book puts on every page and this book has no use for: Thebe's script and the address it would call."""

from sphinx.application import Sphinx


def drop(app: Sphinx, pagename: str, templatename: str, context: dict, doctree: object) -> None:
    """Take Thebe out of a page's scripts and styles, and the second of any script that stands there twice."""
    kept = []
    for script in context.get("script_files", []):
        text = f"{getattr(script, 'filename', script) or ''} {getattr(script, 'attributes', {}).get('body', '')}"
        if "thebe" not in text.lower() and text not in [said for said, _ in kept]:
            kept.append((text, script))
    context["script_files"] = [script for _, script in kept]
    context["css_files"] = [file for file in context.get("css_files", []) if "thebe" not in str(file)]


def setup(app: Sphinx) -> dict[str, bool]:
    """Run after every extension has added its files."""
    app.connect("html-page-context", drop, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
