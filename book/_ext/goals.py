"""What a page teaches, in a box of its own: the bold line "You will learn" and the list after it.

The sources stay plain Markdown, which reads the same in JupyterLab and VS Code.
"""

from docutils import nodes
from sphinx.application import Sphinx

HEADING = "You will learn"


def box(app: Sphinx, doctree: nodes.document) -> None:
    """Wrap the line and its list in <div class="goals">."""
    for line in list(doctree.findall(nodes.paragraph)):
        goals = line.next_node(descend=False, siblings=True)
        if line.astext() == HEADING and isinstance(goals, nodes.bullet_list):
            around = nodes.container(classes=["goals"])
            line.replace_self(around)
            goals.parent.remove(goals)
            around += [line, goals]


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect to the reading of a page."""
    app.connect("doctree-read", box)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
