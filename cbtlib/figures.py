"""One style for every figure, one font for Chinese, and one way to show a figure or a piece of Chinese text.

Notable choices
- Noto Sans SC (OFL) comes with the `zhplot` package; Latin letters stay in DejaVu Sans. A missing glyph is an error.
- Figures are opaque white, so that they read the same on a dark page, on paper and on a slide.
- Okabe and Ito's eight colours (https://jfly.uni-koeln.de/color/) can be told apart by colour-blind readers.
- `show` writes SVG, PNG and the data beside them, and hands alt text and caption to the page as cell metadata.
- No figure is wider than `WIDTH`, so that its words can still be read on a telephone; its title says what to see.
"""

import base64
import re
import shutil
import textwrap
import warnings
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
from cycler import cycler
from IPython.display import HTML, display
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, NullFormatter

from cbtlib import markup
from cbtlib.report import METADATA, Page
from cbtlib.writing import write_csv

COLORS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000"]

WIDTH = 6.6
"""Of a figure, in inches."""


def style() -> None:
    """Set the book's matplotlib style; called once, on import."""
    import zhplot

    font_manager.fontManager.addfont(str(Path(zhplot.__file__).parent / "fonts/NotoSansSC-Regular.ttf"))
    mpl.rcParams.update(
        {
            "font.family": ["DejaVu Sans", "Noto Sans SC"],
            "axes.unicode_minus": False,
            "font.size": 12.5,
            "axes.titlesize": 15,
            "axes.titlelocation": "left",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.prop_cycle": cycler(color=COLORS),
            "axes.grid": True,
            "axes.grid.axis": "x",
            "grid.color": "#dddddd",
            "axes.axisbelow": True,
            "figure.figsize": (WIDTH, 4.0),
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
            "figure.constrained_layout.use": True,
            "text.parse_math": False,  # a "$" in a post or a system's name is a "$"
            "svg.hashsalt": "cbtlib",
            "svg.fonttype": "path",
        }
    )
    warnings.filterwarnings("error", message="Glyph .* missing")


def shades(most: float) -> dict[str, Any]:
    """How seaborn's heatmap shades cells from 0 to `most`: light enough for black figures in every cell."""
    return {"cmap": "Blues", "vmin": 0, "vmax": 1.6 * most or 1, "annot_kws": {"color": "black"}, "cbar": False}


def headline(figure: Figure, text: str) -> None:
    """Say what to see over the whole width of a figure: beside long labels, an axis has little room for its title.

    A title of several lines is as narrow as that number of lines allows: no last line of one word.
    """
    widest = int(8.6 * figure.get_figwidth())
    count = len(textwrap.wrap(text, widest))
    lines = next(lines for width in range(1, widest + 1) if len(lines := textwrap.wrap(text, width)) <= count)
    figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=mpl.rcParams["axes.titlesize"])


def show(figure: Figure, page: Page, name: str, *, alt: str, caption: str, data: pd.DataFrame) -> None:
    """`save` a figure into the page's folder and show it with its alt text and caption.

    Both are plain text: they may hold names that came with the data.
    """
    save(figure, page.dir, name, data)
    png = base64.b64encode((page.dir / f"{name}.png").read_bytes()).decode()
    width = f"{figure.get_figwidth() * 96:.0f}px"
    label = f"fig-{page.name.replace('_', '-')}-{name.replace('_', '-')}"
    # MyST reads a caption as Markdown, and this one is text
    plain = re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", " ".join(caption.split()))
    dress = {"image": {"alt": alt, "width": width}, "figure": {"caption": plain, "name": label}}
    display({"image/png": png, "text/plain": alt}, raw=True, metadata={METADATA: dress})


def save(figure: Figure, folder: Path, name: str, data: pd.DataFrame) -> None:
    """Write `<name>.svg`, `.png` and `.csv` into a folder, without a clock in them, and close the figure."""
    _plain_logarithms(figure)
    for kind, undated in (("svg", {"Date": None}), ("png", {"Software": None})):
        figure.savefig(folder / f"{name}.{kind}", dpi=160, metadata=undated)
    write_csv(folder / f"{name}.csv", data)
    plt.close(figure)


def chinese(text: str, gloss: str = "", *, title: str = "") -> HTML:
    """Chinese text as an escaped block marked `lang="zh"`, with an English gloss under it; line ends are kept."""
    head = f"<p class='zh-title'>{markup.escape(title)}</p>" if title else ""
    foot = f"<p class='zh-gloss'>{markup.lines(gloss)}</p>" if gloss else ""
    return HTML(f"<div class='zh-block'>{head}<p lang='zh'>{markup.lines(text)}</p>{foot}</div>")


def web_font(text: str, path: Path) -> None:
    """Write the Chinese glyphs and full-width signs of `text` as a .woff font, and its licence (OFL) beside it.

    A subset of Noto Sans SC: some hundred kilobytes in place of ten megabytes. Latin letters come from the reader.
    """
    import zhplot
    from fontTools import subset

    fonts = Path(zhplot.__file__).parent / "fonts"
    options = subset.Options(flavor="woff", layout_features=["kern"], notdef_outline=True)
    font = subset.load_font(fonts / "NotoSansSC-Regular.ttf", options)
    subsetter = subset.Subsetter(options)
    subsetter.populate(text="".join(sorted({char for char in text if ord(char) >= 0x2000})))
    subsetter.subset(font)
    subset.save_font(font, path, options)
    shutil.copyfile(fonts / "OFL.txt", path.with_name(f"{path.stem}-OFL.txt"))


def _plain_logarithms(figure: Figure) -> None:
    """Write 10 and 0.1 on logarithmic axes: without formulas (`text.parse_math`), 10^1 would be shown as its source."""
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if axis.get_scale() == "log" and isinstance(axis.get_major_formatter(), LogFormatter):
                low, high = sorted(axis.get_view_interval())
                decades = sum(low <= place <= high for place in axis.get_majorticklocs())
                axis.set_major_formatter("{x:g}")
                axis.set_minor_formatter("{x:g}" if decades < 2 else NullFormatter())


style()
