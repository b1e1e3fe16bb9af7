"""Blinded rating forms for people, and the ratings that come back.

Notable choices
- A rater sees a post, a reply and a code; which system wrote it stands in `key.json` alone, which stays at home.
- Only answers with outcome ok are rated. The others are counted in the key: a refusal is not a reply with score 0.
- Every rater gets an own random order, so that fatigue and learning do not fall on one system.
- The form is one HTML file without any outside address: it works offline and on a phone and keeps its state locally.
- What comes back is checked against the key: another sheet's file, an unknown code, a score outside 0..2 or a reply
  rated twice by one rater is an error with file and row. A score that is not given is missing, never 0, and keeps its
  row: a blank sheet, or one that never came back, is as visible as a full one.
"""

import csv
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from numbers import Integral
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
import pandas as pd

from cbtlib import CbtError, markup, reading
from cbtlib.writing import json_text, whole

SCORES = (0, 1, 2)


@dataclass(frozen=True, slots=True)
class Anchor:
    """What one score means, a sentence that would earn it, and that sentence in English."""

    text: str
    example: str
    gloss: str


@dataclass(frozen=True, slots=True)
class Criterion:
    """One question put to raters; `anchors[score]` for the scores 0, 1, 2."""

    id: str
    en: str
    zh: str
    question: str
    anchors: tuple[Anchor, Anchor, Anchor]


# The paper's three criteria and their range; wording, anchors and examples are this book's.
CRITERIA = (
    Criterion(
        "relevance",
        "Relevance",
        "相关性",
        "Does the reply answer this person's post? 回信是否针对这封来信？",
        (
            Anchor(
                "It could go to anybody, or speaks of something else. 放到谁身上都行",
                "生活总有起伏，要保持乐观。",
                "Life has its ups and downs; stay optimistic.",
            ),
            Anchor(
                "It names the topic, not this person's facts. 说到了话题，没说到这个人",
                "考试压力大的时候，很多人都会紧张。",
                "Many people get nervous when exams weigh on them.",
            ),
            Anchor(
                "It takes up facts and words of the post. 接住了来信里的事实和原话",
                "你说“退了6分就完了”，那三道错题是哪几道？",
                "You say that 6 points fewer is the end; which three questions went wrong?",
            ),
        ),
    ),
    Criterion(
        "structure",
        "CBT structure",
        "CBT结构",
        "Empathy, the thought, a challenge, a strategy, encouragement: how many are there? 五步齐不齐？",
        (
            Anchor(
                "At most one of the five parts. 至多一步", "别想太多，早点睡。", "Don't think so much, go to bed early."
            ),
            Anchor(
                "Two or three parts, or all of them as mere headings. 两三步，或只有标题",
                "你很难过。不妨写写日记。",
                "You are sad. You might keep a diary.",
            ),
            Anchor(
                "Four or five parts that follow from each other. 四到五步，前后相连",
                "难过是真的；“完了”是一个想法；证据呢？今晚只订正一题。",
                "The sadness is real; “it is over” is a thought; what speaks for it? Correct one question tonight.",
            ),
        ),
    ),
    Criterion(
        "helpfulness",
        "Helpfulness",
        "有用性",
        "Would this person be better off for having read it? 读完会不会好一点？",
        (
            Anchor("Empty, wrong or hurtful. 空、错，或伤人", "是你太脆弱了。", "You are just too fragile."),
            Anchor(
                "Kind, but nothing to think or do differently. 温和，但没有可想可做的",
                "加油，一切都会好的。",
                "Keep going, all will be well.",
            ),
            Anchor(
                "A new view or a step that fits this life. 有新角度，或有做得到的一步",
                "先问班主任要去年复读班的分数曲线，再看自己的。",
                "First ask your teacher for last year's curve of those who repeated, then look at your own.",
            ),
        ),
    ),
)

Answers = Mapping[str, Mapping[str, tuple[str, str]]]  # answers[system][item] = (outcome, text)


def make(posts: Mapping[str, str], answers: Answers, raters: Sequence[str], out: Path, seed: int = 0) -> dict[str, Any]:
    """Write the forms for `raters` into `out` and return the key.

    For each rater `form_<rater>.html` and `form_<rater>.csv`; for all `label_studio.json`, `label_studio.xml` and the
    folder `argilla` (for `rg.Dataset.from_disk`); and `key.json`, which says what each code is and must not reach a
    rater. Raises CbtError for a bad rater name, no answer to rate, an answer to an unknown post, or a folder that holds
    the key of another sheet.
    """
    for rater in raters:
        if not re.fullmatch(r"\w[\w-]{0,39}", rater):  # a - in front would come back from the CSV as '-
            raise CbtError(
                f"{rater!r} is no name for a rater: use 1 to 40 letters, digits, _ or (not first) - (it names a file)"
            )
    if not raters or len({rater.casefold() for rater in raters}) != len(raters):  # on some disks Ann is ANN
        raise CbtError(f"raters need one name each, and these were given: {', '.join(raters) or 'none'}")
    rated = [
        (system, item) for system, items in answers.items() for item, (outcome, _) in items.items() if outcome == "ok"
    ]
    if not rated:
        raise CbtError("no answer has outcome ok, so there is nothing to rate")
    for system, item in rated:
        if item not in posts:
            raise CbtError(
                f"{system} answers item {item!r}, and there is no post with that id: give its file too (--posts), or "
                "take the answer out"
            )
    generator = np.random.default_rng(seed)
    codes = {f"R{number:04d}": rated[index] for number, index in enumerate(generator.permutation(len(rated)), 1)}
    items = [
        # a table with zero bytes could not be read when it comes back
        {"code": c, "post": posts[item].replace("\0", ""), "answer": answers[system][item][1].replace("\0", "")}
        for c, (system, item) in codes.items()
    ]
    sheet = hashlib.sha256(json.dumps([items, seed], ensure_ascii=False).encode()).hexdigest()[:10]
    before: dict[str, Any] = {"sheet": sheet, "raters": []}
    if (out / "key.json").is_file() and (before := read_key(out / "key.json"))["sheet"] != sheet:
        raise CbtError(
            f"{out} holds the key of sheet {before['sheet']}, without which its ratings say nothing: name another "
            "folder, or delete that one if no rater has its forms"
        )
    key: dict[str, Any] = {
        "sheet": sheet,
        "seed": seed,
        "raters": list(dict.fromkeys([*before["raters"], *raters])),  # whose forms are out is not forgotten
        "codes": {code: {"system": system, "item": item} for code, (system, item) in codes.items()},
        "outcomes": {s: dict(Counter(outcome for outcome, _ in answers[s].values())) for s in answers},
    }
    # The key comes first: forms without one could go out, and nobody could ever say what was rated.
    files = {"key.json": json_text(key)}
    template = Path(__file__).with_name("rating_form.html").read_text("utf-8")
    for rater in raters:
        order = [items[index] for index in generator.permutation(len(items))]
        form = {"title": "Replies to rate", "sheet": sheet, "rater": rater, "items": order}
        form["criteria"] = [asdict(criterion) for criterion in CRITERIA]
        # "<" is the one character that could end the script element early
        embedded = json.dumps(form, ensure_ascii=False).replace("<", "\\u003c")
        files[f"form_{rater}.html"] = template.replace("__SHEET__", embedded)
        blank = dict.fromkeys([c.id for c in CRITERIA] + ["comment"], "")
        rows = [{"sheet": sheet, "rater": rater, **item, **blank} for item in order]
        files[f"form_{rater}.csv"] = "\ufeff" + _csv(rows)
    files["label_studio.json"] = json_text([{"data": {"sheet": sheet, **item}} for item in items])
    files["label_studio.xml"] = _label_studio()
    files |= {
        f"argilla/{name}": json_text(content) for name, content in _argilla(sheet, items, len(key["raters"])).items()
    }
    try:
        for name, text in files.items():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            with whole(out / name) as file:
                if name == "key.json":
                    Path(file.name).chmod(0o600)  # raters may share this machine
                file.write(text)
    except OSError as error:
        raise CbtError(f"cannot write the forms into {out}: {error.strerror}; name a folder of your own") from error
    return key


def read(files: Sequence[Path], key: Mapping[str, Any]) -> pd.DataFrame:
    """The ratings of returned files, with the key applied: JSON or CSV of the form, Label Studio's JSON-MIN export, or
    what Argilla's `dataset.records.to_json` writes.

    Columns rater, item, system, criterion, score: one row for each rater, reply and criterion, its score NaN when it
    was not given. Raters are those who sent something and those of the key, unless another tool has renamed them.
    CbtError for a row of another sheet, a code that is not on it, and a reply that a rater rated twice.
    """
    given: dict[tuple[str, str, str], int | None] = {}
    seen: dict[tuple[str, str], str] = {}
    for path in files:
        for number, row in enumerate(_rows(path), 1):
            where = f"{path}, row {number}"
            rater, code = _rater(row, where), str(row.get("code", "")).strip()
            if str(row.get("sheet", "")) != key["sheet"]:
                raise CbtError(f"{where}: belongs to sheet {row.get('sheet')!r}, and this key to {key['sheet']!r}")
            if code not in key["codes"]:
                raise CbtError(f"{where}: code {code!r} is not on this sheet")
            if (rater, code) in seen:
                raise CbtError(f"{where}: {rater} rated {code} already in {seen[rater, code]}; keep one of the two")
            seen[rater, code] = where
            for criterion in CRITERIA:
                given[rater, code, criterion.id] = _score(row.get(criterion.id), f"{where}, field {criterion.id}")
    raters = dict.fromkeys(rater for rater, _ in seen)
    if not raters.keys().isdisjoint(key["raters"]):
        raters |= dict.fromkeys(key["raters"])
    rows = [
        {"rater": rater, **place, "criterion": one.id, "score": given.get((rater, code, one.id))}
        for rater in raters
        for code, place in key["codes"].items()
        for one in CRITERIA
    ]
    return pd.DataFrame(rows, columns=["rater", "item", "system", "criterion", "score"]).astype({"score": float})


def read_key(path: Path) -> dict[str, Any]:
    """The key that `make` wrote; CbtError when the file is none."""
    try:
        key = json.loads(path.read_text("utf-8"))
        whole = {"sheet", "raters", "codes", "outcomes"} <= set(key)
        whole = whole and all(isinstance(rater, str) for rater in key["raters"])
        if not (whole and all(is_name(at[name]) for at in key["codes"].values() for name in ("system", "item"))):
            raise ValueError("what a key holds is missing")
    except FileNotFoundError:
        raise CbtError(f"{path} does not exist; it is the key.json that `cbt ratings sheet` wrote") from None
    except (ValueError, RecursionError, AttributeError, LookupError, TypeError, OSError):
        raise CbtError(f"{path} is not a key: it is the key.json that `cbt ratings sheet` wrote") from None
    return key


def _rater(row: Mapping[str, Any], where: str) -> str:
    """Who rated: the field rater, or Label Studio's annotator."""
    rater = row.get("rater") or row.get("annotator")
    if rater is not None and not is_name(rater):
        raise CbtError(f"{where}: the rater is {rater!r:.40}; give a name or a whole number")
    if rater is None or not (name := str(rater).strip()):
        raise CbtError(f"{where}: there is no rater; give the row a field rater")
    return name


def is_name(value: Any) -> bool:
    """Whether a value can name a rater or an item: text, or a whole number."""
    return isinstance(value, str | Integral) and not isinstance(value, bool)


def _score(value: Any, where: str) -> int | None:
    """0, 1 or 2; None for a score that was not given."""
    text = "" if value is None else str(value).strip()
    if text == "":
        return None
    text = text.removesuffix(".0")  # a table program's way to write a whole number beside blanks
    if text not in {str(score) for score in SCORES}:
        raise CbtError(f"{where}: {text[:40]!r} is not one of 0, 1, 2; mend it, or leave it empty when it is missing")
    return int(text)


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        is_json = path.suffix == ".json"
        rows = reading.load_json(path.read_text(reading.sniff_encoding(path)), strict=True) if is_json else _table(path)
    except (ValueError, OSError, csv.Error) as error:
        raise CbtError(f"{path} cannot be read as {path.suffix or 'CSV'}: {error}") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise CbtError(f"{path} does not hold a list of ratings; send the file that the form's Save button writes")
    if any("annotations" in row for row in rows):
        raise CbtError(f"{path} is Label Studio's full JSON; export the project again, as JSON-MIN")
    try:
        return [one for row in rows for one in (_from_argilla(row) if "responses" in row else [row])]
    except (AttributeError, KeyError, TypeError) as error:
        raise CbtError(
            f"{path} is not what Argilla's dataset.records.to_json writes ({error!r}); export it again"
        ) from None


def _table(path: Path) -> list[dict[str, Any]]:
    """Rows of a CSV as any spreadsheet saves it: UTF-8 or GBK, with commas, semicolons or tabs.

    A column that is not there is an error, or a whole criterion would be missing unseen. So is a row with more cells
    than columns: a comma too many moves scores under another criterion. One with fewer ends in blanks, as a spreadsheet
    writes it when the last columns are empty for a while.
    """
    columns, table = reading.table(path)
    for name in ("sheet", "code", *(criterion.id for criterion in CRITERIA)):
        if name not in columns:
            shown = ", ".join(columns)[:80]
            raise CbtError(f"{path} has no column {name!r}, only {shown!r}; keep the form's own names")
    rows = list(table)
    for number, row in enumerate(rows, 1):
        if None in row:
            raise CbtError(
                f"{path}, row {number}: has {len(columns) + len(row[None])} cells under a header of {len(columns)}; "
                "put a text that holds a comma into quotation marks"
            )
    return rows


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows({k: markup.cell(v) for k, v in row.items()} for row in rows)
    return text.getvalue()


def _argilla(sheet: str, items: Sequence[Mapping[str, str]], raters: int) -> dict[str, Any]:
    """Files of a data set as Argilla 2 keeps it on disk: the post, the reply, one label for each criterion."""
    fields = [
        {"name": name, "title": title, "required": True, "settings": {"type": "text", "use_markdown": False}}
        for name, title in (("post", "Post 来信"), ("answer", "Reply 回信"))
    ]
    questions: list[dict[str, Any]] = []
    for criterion in CRITERIA:
        texts = zip(SCORES, criterion.anchors, strict=True)
        options = [{"value": str(score), "text": f"{score} — {anchor.text}"} for score, anchor in texts]
        settings = {"type": "label_selection", "options": options, "visible_options": len(options)}
        shown = {"title": f"{criterion.en} {criterion.zh}", "description": criterion.question}
        questions.append({"name": criterion.id, **shown, "required": False, "settings": settings})
    common = {"allow_extra_metadata": True, "distribution": {"strategy": "overlap", "min_submitted": raters}}
    return {
        ".argilla/dataset.json": {"name": f"replies-{sheet}", **common},
        ".argilla/settings.json": {"fields": fields, "questions": questions, "vectors": [], "metadata": [], **common},
        "records.json": [
            {"id": one["code"], "fields": {"post": one["post"], "answer": one["answer"]}, "metadata": {"sheet": sheet}}
            for one in items
        ],
    }


def _from_argilla(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row for each user who answered an exported record of Argilla."""
    rows: dict[str, dict[str, Any]] = {}
    for question, given in record["responses"].items():
        for one in given:
            row = {"rater": one["user_id"], "sheet": record["metadata"].get("sheet"), "code": record["id"]}
            rows.setdefault(one["user_id"], row)[question] = one["value"]
    return list(rows.values())


def _label_studio() -> str:
    """Label Studio's labelling interface: the post, the reply, one single choice for each criterion."""
    lines = ["<View>", '  <Text name="post" value="$post"/>', '  <Text name="answer" value="$answer"/>']
    for criterion in CRITERIA:
        lines.append(f"  <Header value={quoteattr(criterion.question)}/>")
        lines.append(f'  <Choices name="{criterion.id}" toName="answer" choice="single-radio">')
        for score, anchor in zip(SCORES, criterion.anchors, strict=True):
            lines.append(f'    <Choice value="{score}" html={quoteattr(f"{score} — {anchor.text}")}/>')
        lines.append("  </Choices>")
    return "\n".join([*lines, "</View>"]) + "\n"
