"""No white flash: a page's colours are settled before the browser paints it.

The theme follows the system only once its last script runs, and until then shows a light page. Its first script reads
a reader's choice from the browser's storage; where there is none, this one puts the system's there, ahead of it.
"""

from sphinx.application import Sphinx

# The ground is the theme's own; it has to be there before the theme's style sheet is.
HEAD = """
<style>html[data-theme="dark"] { background: #121212; color-scheme: dark; }</style>
<script>
  if (!["light", "dark"].includes(localStorage.getItem("mode")))
    localStorage.setItem("theme", matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
</script>
"""


def settle(app: Sphinx, pagename: str, templatename: str, context: dict, doctree: object) -> None:
    """Put the script before all others."""
    context["metatags"] = context.get("metatags", "") + HEAD


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect to page writing."""
    app.connect("html-page-context", settle)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
