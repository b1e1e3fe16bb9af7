"""Formulas as MathML, which browsers draw by themselves: no script, no font, no network.

docutils converts LaTeX to MathML; Sphinx only lacks a renderer that calls it.
"""

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx


def inline(self, node: nodes.math) -> None:
    """Write `$…$` as an inline <math> element."""
    self.body.append(tex2mathml(node.astext(), as_block=False))
    raise nodes.SkipNode


def block(self, node: nodes.math_block) -> None:
    """Write `$$…$$` as a display <math> element that scrolls by itself, by keyboard too, on a narrow screen.

    A formula with a label has its number beside it.
    """
    formula = tex2mathml(node.astext(), as_block=True)
    formula = f"<span class='eqno'>({node['number']})</span>{formula}" if node.get("number") else formula
    self.body.append(self.starttag(node, "div", CLASS="math", tabindex=0) + formula + "</div>\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer as `mathml`."""
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
