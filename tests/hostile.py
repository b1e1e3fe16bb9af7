"""A record that tries to run, break or mislead the page, shown through every display path of the book, and built.

`python tests/hostile.py FOLDER` writes the site and prints the folder of its pages; test_book.py and the browser test
look at it.
"""

import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import matplotlib.pyplot as plt
import nbformat
import pandas as pd
from IPython.core.formatters import DisplayFormatter

from cbtlib import ROOT, figures, forms, report, run, widgets

ATTACK = (
    "<script>globalThis.hacked = 1</script><img src=x onerror='globalThis.hacked = 2'>"
    '<a href="javascript:globalThis.hacked = 3">按</a></p></div></td></table><!-- <style>*{display:none}</style>\n'
    "# 标题 **粗** [链](https://evil.example/a.png) ![图](https://evil.example/b.png) `{glue:text}` {{ sub }} $x^2\n"
    "{raw}`html` \u202e倒着写的字\u202c \u2066隔离\u200f 你说“完了”？ __SHEET__ '\"\\\n"
    "<iframe srcdoc='<script>parent.hacked = 4</script>'></iframe>\n"
)
LONG = "长" * 10_000
TEXT = ATTACK + LONG


def notebook(folder: Path) -> nbformat.NotebookNode:
    """A page whose every output shows the hostile text; its products go to `folder`."""
    page = report.Page("hostile", "smoke", str(folder / "results"))
    cells = [nbformat.v4.new_markdown_cell("# Hostile\n\nWhat a page does with it?")]
    frame = pd.DataFrame({TEXT: [TEXT, "x"], "n": [1.5, 2]}, index=pd.Index([ATTACK, "b"], name=ATTACK))
    folder.mkdir(parents=True, exist_ok=True)
    answers = {"system <b>": {"1": ("ok", TEXT)}, "other": {"1": ("ok", LONG)}}
    forms.make({"1": TEXT}, answers, ["ann"], folder / "forms")
    shown = [
        figures.chinese(TEXT, TEXT, title=TEXT),
        page.table("t", frame, caption=ATTACK),
        page.table("u", frame.set_index(TEXT, append=True), caption=ATTACK),
        frame,
        widgets.letter(TEXT),
        widgets.letter({"validation": TEXT}, {"validation": TEXT}),
        widgets.tokens([TEXT, "\u202e", "\n", ""], [1, 2, 3, 4], [True, False, True, False]),
        widgets.rating_form(folder / "forms/form_ann.html"),
    ]
    formatter = DisplayFormatter()
    for thing in shown:
        data, _ = formatter.format(thing)
        output = nbformat.v4.new_output("execute_result", data, execution_count=1)
        cells.append(nbformat.v4.new_code_cell("show()", outputs=[output]))
    cells.append(nbformat.v4.new_code_cell("print(text)", outputs=[nbformat.v4.new_output("stream", text=TEXT)]))
    figure, axis = plt.subplots()
    axis.bar([ATTACK[:60], "$1 and 2$"], [1, 2])
    with mock.patch.object(figures, "display") as shows:
        figures.show(figure, page, "f", alt=ATTACK, caption=ATTACK, data=frame)
    output = nbformat.v4.new_output(
        "display_data", shows.call_args.args[0], metadata=shows.call_args.kwargs["metadata"]
    )
    cells.append(nbformat.v4.new_code_cell("figure()", outputs=[output]))
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}, "language_info": {"name": "python"}}
    return nbformat.v4.new_notebook(cells=cells, metadata=kernel)


def site(folder: Path) -> Path:
    """Build the hostile page with the book's own configuration, strictly; returns the folder of the pages."""
    (folder / "book").mkdir(parents=True)
    for name in ("_static", "_ext", "references.bib"):
        copy = shutil.copytree if (ROOT / "book" / name).is_dir() else shutil.copyfile
        copy(ROOT / "book" / name, folder / "book" / name)
    (folder / "_config.yml").write_text((ROOT / "_config.yml").read_text("utf-8"), "utf-8")
    (folder / "_toc.yml").write_text("format: jb-book\nroot: index\n", "utf-8")
    page = notebook(folder / "made")
    machine = {"processor": "cpu", "cores": 2, "memory_gb": 8, "accelerator": None}
    facts = {"page": "hostile", "profile": "smoke", "seconds": 6.0, "peak_memory_gb": 1.0, "hardware": machine}
    run.dress(page, {**facts, "parameters": {}, "source_sha256": "0", "commit": "c"})
    nbformat.write(page, folder / "index.ipynb")
    builder = "from jupyter_book.cli.main import main; main()"
    command = [sys.executable, "-c", builder, "build", ".", "-W", "-n", "--keep-going", "-q"]
    done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return folder / "_build/html"


if __name__ == "__main__":
    print(site(Path(sys.argv[1])))
