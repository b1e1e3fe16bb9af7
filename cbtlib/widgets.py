"""Things to try on a page, each whole without script: a table or a text that `book/_static/widgets.js` makes alive.

    letter(answer)      the five parts as an annotated answer: choose a sentence, see its part and evidence
    tokens(...)         a text as tokens, and which of them carry loss
    prevalence(...)     sliders: what a detector's errors do to a share
    rating_form(path)   the rating form inside the page

Notable choices
- The table comes first and holds everything; the script only rearranges what it finds there. So a page reads the same
  without script, in JupyterLab, in print and in a screen reader, and no number is computed in the browser alone
  (the sliders' formula is tested against `cbtlib.prevalence` in the browser test).
- No library, no request, no storage. Everything can be reached by keyboard and is announced through one status line.
- Foreign text goes through `markup.escape`; the script moves text, never HTML.
"""

import base64
import html
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from IPython.display import HTML

from cbtlib import CbtError, figures, markup, structure
from cbtlib import prevalence as shares
from cbtlib.corpus import PARTS

NAMES = {
    "validation": ("Validation and empathy", "验证和共情", "say what is felt and why that makes sense"),
    "key_thought": ("Key thought or belief", "识别关键思维或信念", "find the thought that hurts"),
    "challenge": ("Challenge or reflection", "提出挑战或反思", "ask a question that tests the thought"),
    "strategy": ("Strategy or insight", "提供策略或见解", "one or two small steps for the next days"),
    "encouragement": ("Encouragement and foresight", "鼓励与前瞻", "a strength that shows, and what comes next"),
}
"""English and Chinese name of each part, and what it is for."""


def letter(answer: Mapping[str, str] | str, gloss: Mapping[str, str] | None = None) -> HTML:
    """An answer with its five parts marked, sentence by sentence.

    `answer` is a letter whose parts are known (part to text), or a text whose sentences `structure` reads. `gloss`
    gives English for some parts. The table has a row a sentence: part, sentence, words that speak for it, gloss.
    CbtError for an answer without a sentence.
    """
    if isinstance(answer, str):
        pairs = structure.analyse(answer).sentences  # what the reader finds, with sentences of no part
    else:
        pairs = structure.labelled({part: text for part, text in answer.items() if part in PARTS})
    if not pairs:
        raise CbtError("the answer has no sentence, so there is nothing to mark; show an answer with outcome ok")
    rows, before = [], None
    for sentence, part in pairs:
        number = PARTS.index(part) + 1 if part else 0
        name, zh, purpose = NAMES[part] if part else ("No part", "", "a sentence that serves none of the five")
        words = structure.evidence(sentence, part) if part else []
        english = (gloss or {}).get(part, "") if part and part != before else ""
        before = part
        rows.append(
            f"<tr class='parts-{number}' data-purpose='{purpose}'>"
            f"<td>{number or '–'} {name} <span lang='zh'>{zh}</span></td>"
            f"<td lang='zh'>{markup.escape(sentence)}</td>"
            f"<td lang='zh'>{'、'.join(map(markup.escape, words)) or '—'}</td><td>{markup.escape(english)}</td></tr>"
        )
    head = "<tr><th>part</th><th>sentence</th><th>words that show it</th><th>in English</th></tr>"
    table = f"<table class='dataframe'><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"
    return _widget("parts", "An answer, sentence by sentence", table)


def tokens(pieces: Sequence[str], ids: Sequence[int], learned: Sequence[bool]) -> HTML:
    """A text as its tokens, in order; those that carry loss are <mark>ed. All three sequences have one item a token.

    CbtError where they have not.
    """
    if not len(pieces) == len(ids) == len(learned) or not len(pieces):
        raise CbtError(f"{len(pieces)} tokens, {len(ids)} ids and {len(learned)} marks do not line up")
    boxes = []
    for piece, token, loss in zip(pieces, ids, learned, strict=True):
        tag, shown = "mark" if loss else "span", markup.escape(piece).replace("\n", "↵").replace(" ", "␣") or "∅"
        boxes.append(f"<{tag} data-id='{token}'>{shown}</{tag}>")
    count = int(np.sum(learned))
    hint = f"{count} of {len(boxes)} tokens carry loss: the marked ones. The others are read, not learned."
    body = f"<p class='hint'>{hint}</p><p class='tokens' lang='zh'>{' '.join(boxes)}</p>"
    return _widget("tokens", "One training record as the model sees it", body)


COUNTED = 2000
"""Texts that the sliders of `prevalence` count."""


def prevalence(share: float, sensitivity: float, specificity: float, *, positives: int, negatives: int) -> HTML:
    """Sliders for Rogan and Gladen's correction: start values for the reported share and the detector's errors.

    Sensitivity and specificity come from `positives` and `negatives` gold rows. Without script: a
    table of reported shares and what is left of them after correction, at the start values.
    """
    rows = []
    for reported in (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9):
        try:
            found = from_rates(reported, sensitivity, specificity, COUNTED, positives, negatives)
            cells = f"<td>{found.value:.1%}</td><td>{found.low:.1%} to {found.high:.1%}</td>"
        except CbtError as error:
            cells = f"<td colspan='2'>{markup.escape(str(error))}</td>"
        rows.append(f"<tr><th scope='row'>{reported:.0%}</th>{cells}</tr>")
    caption = f"Sensitivity {sensitivity:.0%}, specificity {specificity:.0%}, {COUNTED:,} texts counted"
    head = "<tr><th>reported share</th><th>corrected share</th><th>95% interval</th></tr>"
    body = f"<caption>{caption}</caption><thead>{head}</thead><tbody>{''.join(rows)}</tbody>"
    start = {"share": round(share, 2), "sensitivity": round(sensitivity, 2), "specificity": round(specificity, 2)}
    start |= {"n": COUNTED, "positives": positives, "negatives": negatives}
    table = f"<table class='dataframe'>{body}</table>"
    return _widget("prevalence", "What a detector's errors do to a share", table, start)


def from_rates(
    share: float, sensitivity: float, specificity: float, n: int, positives: int, negatives: int
) -> shares.Estimate:
    """`prevalence.rogan_gladen` from rates: each is taken as the nearest count out of its rows."""
    detected = np.arange(n) < round(share * n)
    gold = np.arange(positives + negatives) < positives
    hits, alarms = round(sensitivity * positives), round((1 - specificity) * negatives)
    seen = np.where(gold, np.arange(len(gold)) < hits, np.arange(len(gold)) - positives < alarms)
    return shares.rogan_gladen(detected, gold, seen)


def rating_form(path: Path) -> HTML:
    """The form that `forms.make` wrote, in a frame that may run its script and sees nothing of the page.

    Of its replies the first five are taken, so that the page stays light; the file itself is not changed. The frame
    brings the Chinese glyphs that it shows: it may fetch none, and not every reader has them. CbtError for a file that
    is no form.
    """
    form = path.read_text("utf-8")
    found = re.search(r'<script id="sheet" type="application/json">(.*?)</script>', form, re.DOTALL)
    if not found:
        raise CbtError(f"{path} holds no rating sheet; it must be a form that `cbt ratings sheet` wrote")
    sheet = json.loads(found[1])
    sheet["items"] = sheet["items"][:5]
    few = json.dumps(sheet, ensure_ascii=False).replace("<", "\\u003c")
    form = form.replace(found[1], few)
    with TemporaryDirectory() as folder:
        figures.web_font(form, font := Path(folder, "form.woff"))
        glyphs = base64.b64encode(font.read_bytes()).decode()
    # named first: Chromium leaves boxes where the font before it was laid out while this one was read
    face = (
        f'@font-face {{ font-family: "Form Chinese"; src: url(data:font/woff;base64,{glyphs}) format("woff"); '
        "font-display: block; unicode-range: U+2000-206F, U+3000-9FFF, U+F900-FAFF, U+FF00-FFEF; } "
        ':root { font-family: "Form Chinese", system-ui, sans-serif; }'
    )
    frame = html.escape(form.replace("</style>", f"{face}</style>", 1))
    without = (
        "The form needs JavaScript. The CSV file beside it holds the same sheet for a spreadsheet; the questions and "
        "anchors are in the table above."
    )
    return HTML(
        f'<div class="widget"><iframe srcdoc="{frame}" sandbox="allow-scripts allow-downloads" loading="lazy" '
        f'title="Rating form"></iframe><noscript><p>{without}</p></noscript></div>'
    )


def _widget(kind: str, title: str, body: str, start: Mapping[str, float] | None = None) -> HTML:
    data = "".join(f" data-{name}='{value}'" for name, value in (start or {}).items())
    return HTML(
        f"<div class='widget' data-widget='{kind}'{data}><p class='widget-title'>{title}</p>"
        f"<div class='widget-fallback'>{body}</div></div>"
    )
