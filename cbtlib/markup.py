"""Text of a corpus or a model as HTML that shows it and does nothing else.

Every display path of the book goes through `escape`: figures.chinese, report.Page.table, the widgets. (The rating form
sets its text by script as text, which is the same in the browser.)

Notable choices
- Control characters that reorder or hide what follows (Unicode bidi controls, zero-width marks, C0) are shown by their
  code point, as [U+202E]: a reader sees that they are there, and the words around them keep their order.
- A long line is never cut here; the style sheet lets it break anywhere.
"""

import html
import re
import unicodedata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

LONGEST = 300
"""Characters of a text that a table shows."""
# C0 controls but tab and line feed, C1; zero-width and direction marks; embeddings, overrides and isolates; BOM.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e0fff]"
)


def escape(text: str) -> str:
    """HTML of a text without its markup: <, >, &, quotes escaped; hidden controls as [U+XXXX]; CR LF is a line end."""
    plain = text.replace("\r\n", "\n").replace("\r", "\n")
    return html.escape(visible(plain))


def visible(text: str) -> str:
    """A text with its hidden controls as [U+XXXX]: what a terminal may show."""
    return _HIDDEN.sub(lambda found: f"[U+{ord(found[0]):04X}]", text)


def lines(text: str) -> str:
    """`escape`, with line ends kept as <br>."""
    return "<br>".join(escape(text).split("\n"))


def shortened(text: str) -> str:
    """A text of at most LONGEST characters as it is; a longer one cut there, with its whole length named."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}… ({len(text):,} characters)"


_SIGNED = re.compile(r"[+-][\d.,%\[\] +-]*")
_BLANK = re.compile(rf"(?:\s|{_HIDDEN.pattern})*")


def cell(value: Any) -> Any:
    """A value of a CSV: a ' stands before a text that a spreadsheet would run as a formula."""
    if not isinstance(value, str) or _SIGNED.fullmatch(value):
        return value
    # a spreadsheet may look past blanks, and read the wide signs of Chinese keyboards as the narrow ones
    first = unicodedata.normalize("NFKC", value[_BLANK.match(value).end() :][:1])  # type: ignore[union-attr]
    return f"'{value}" if first in tuple("=+-@") or value[:1] in tuple("\t\r\n") else value


def cells(frame: "pd.DataFrame") -> "pd.DataFrame":
    """`cell` for all of a table that goes into a CSV, names included."""
    return frame.map(cell).rename(index=cell, columns=cell)
