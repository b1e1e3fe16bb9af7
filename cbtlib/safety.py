"""Crisis triage: which posts must not be answered by a model, and how well that is told.

Three levels. `crisis`: no model answer, the fixed referral instead. `concern`: answered, and the answer must carry a
referral. `none`. A false calm is worse than a false alarm, so every rule leans towards the alarm.

Notable choices:

- Rules first (data/crisis_rules.csv, one pattern a line, for clinicians to read): suicide, self-harm, violence, abuse
  and voices in the words people use, net spellings included. A bare list of words confuses 累死了 (dead tired) with a
  wish to die, and 没想过自杀 (never thought of it) with a plan: figures of speech are taken out before matching, and
  what stands before a match is looked at.
- What lowers a match never removes it: denied, long past, or in a film, it is still a `concern`.
- Rules find what someone thought of. The classifier of `risk`, over the book's own model, finds wordings that nobody
  listed; it can only raise a level, never lower one.
- Any reader of a recall printed here should ask: on which posts? `read_labelled` and `evaluate` take any labelled file.

This is a filter for research data. It is not a clinical instrument and must not be the only guard of a service.
"""

import csv
import hashlib
import io
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from re._parser import parse  # type: ignore[import-not-found]  # the standard library's own reading of a pattern
from typing import TYPE_CHECKING, Any, Literal

from cbtlib import ROOT, CbtError, reading

if TYPE_CHECKING:
    import pandas as pd

Level = Literal["none", "concern", "crisis"]
LEVELS: tuple[Level, ...] = ("none", "concern", "crisis")

REFERRAL = (
    "你写下的这些话，让人很想先确认你现在是安全的。这里的回信代替不了真正的帮助，请现在就联系一位能陪着你的人。\n"
    "如果你或身边的人正处在危险之中，请立即拨打 110（报警）或 120（急救），或直接去最近的医院急诊。\n"
    "全国统一心理援助热线：12356（各地服务时间可能不同，打不通时请换用上面的电话，或联系当地的心理援助热线）。\n"
    "在有人来到你身边之前，请先离开危险的地方，把可能伤到自己的东西交给别人，也请告诉一个你信得过的人你在哪里。"
)
"""The fixed text a crisis post gets. In English: make sure you are safe; 110 police, 120 ambulance, an emergency room;
12356, the national psychological line (hours differ by region); leave danger, hand over what could hurt you, tell
someone you trust where you are."""


RULES = ROOT / "data" / "crisis_rules.csv"


@dataclass(frozen=True, slots=True)
class Triage:
    """The level of a post and the names of the rules that made it (no words of the post)."""

    level: Level
    reasons: tuple[str, ...] = ()


# Net spellings that hide a word from filters: 紫砂 and 自鲨 for suicide, zs, 4 for 死.
_SPELLINGS = (
    (re.compile(r"自鲨|紫砂(?!壶|杯|锅|泥|茶)|自sha|自殺|自s|(?<![a-z])zs(?![a-z])"), "自杀"),
    (re.compile(r"(?<=[想要去])(?:si|4)(?=[了吧呢啊掉，。！\s]|$)|亖|歹匕"), "死"),
    (re.compile(r"割wan|ge腕|割碗(?!筷)"), "割腕"),
    (re.compile(r"遗shu|遗書"), "遗书"),
)
_COMMON = frozenset("我你他她的是不了在有一自己没人要想这就都会到说去好上看个被把让能可以再也还又么什着过")
_GAPS = re.compile(r"(?<=[\u4e00-\u9fff])[ \t*·.、_-]+(?=[\u4e00-\u9fff])")
_MARKS = str.maketrans(",!?;", "，！？；", "\u200b\u200c\u200d\u2060\ufeff")


@dataclass(frozen=True, slots=True)
class _Rule:
    """One line of the rules file. Every match holds a character of each set in `needs`."""

    name: str
    level: str
    pattern: re.Pattern[str]
    needs: tuple[frozenset[str], ...]


class _RuleSet:
    """Rules that find quickly which few of them a text could match, by a character that each of them needs."""

    def __init__(self, rules: list[_Rule]):
        self.by_character: dict[str, list[_Rule]] = {}
        for rule in rules:
            for character in min(rule.needs, key=lambda needed: (len(needed & _COMMON), len(needed))):
                self.by_character.setdefault(character, []).append(rule)
        self.characters = self.by_character.keys()

    def candidates(self, characters: frozenset[str]) -> list[_Rule]:
        """The rules that these characters do not rule out."""
        found = []
        for rule in dict.fromkeys(
            chain.from_iterable(map(self.by_character.__getitem__, characters & self.characters))
        ):
            for needed in rule.needs:
                if needed.isdisjoint(characters):
                    break
            else:
                found.append(rule)
        return found


@cache
def _rules() -> tuple[_RuleSet, _RuleSet, dict[str, re.Pattern[str]]]:
    """data/crisis_rules.csv: figures of speech, rules, and the contexts that lower a match."""
    with RULES.open(encoding="utf-8", newline="") as file:
        table = csv.DictReader(file)
        rows = [(table.line_num, row["rule"], row["level"], row["pattern"]) for row in table]
    rules = [_Rule(name, level, *_compiled(text, line)) for line, name, level, text in rows]
    names = {rule.name for rule in rules if rule.level == "context"}
    context = {name: re.compile("|".join(text for _, found, _, text in rows if found == name)) for name in names}
    figures = _RuleSet([rule for rule in rules if rule.level == "none"])
    return figures, _RuleSet([rule for rule in rules if rule.level in LEVELS[1:]]), context


def _compiled(text: str, line: int) -> tuple[re.Pattern[str], tuple[frozenset[str], ...]]:
    try:
        return re.compile(text), tuple(_needs(parse(text)))
    except re.error as error:
        raise CbtError(f"{RULES}, line {line}: {text!r} is no pattern ({error}); quote one that has a comma") from None


def _needs(parsed: Any) -> Iterator[frozenset[str]]:
    """Sets of characters of which a match holds at least one each, read off a parsed pattern."""
    for operation, value in parsed:
        name = str(operation)
        if name == "LITERAL":
            yield frozenset(chr(value))
        elif name == "IN" and all(str(kind) == "LITERAL" for kind, _ in value):
            yield frozenset(chr(code) for _, code in value)
        elif name == "SUBPATTERN":
            yield from _needs(value[3])
        elif name == "MAX_REPEAT" and value[0] > 0:
            yield from _needs(value[2])
        elif name == "BRANCH":
            # Whichever branch matches, it brings one of its own needed characters.
            branches = [min(_needs(branch), key=len, default=frozenset()) for branch in value[1]]
            if all(branches):
                yield frozenset[str]().union(*branches)


@cache
def version() -> str:
    """Names the rules: 12 hex digits that change with them."""
    return hashlib.sha256(RULES.read_bytes() + Path(__file__).read_bytes()).hexdigest()[:12]


# A denial in the match's own clause. No courage to die, or no way to live, is no denial.
_DENIED = re.compile(
    r"(?:没有?|从没|从来没有?|从未|未曾|并不|并非|不是|不会|不可能|绝不|决不|不至于|不打算|谈不上|不再|也不|不想|不要|别)"
    r"(?!勇气|胆|力气|办法|资格|人|用|想到|意思|机会|法)(?:[^，。！？；,;!?\n]{0,6})$"
)
_DENIED_TWICE = re.compile(
    r"不是(?:没|不|从没)|没有不|不会不|能不|不得不|何尝不|没有一天不|无时无刻不|忍不住|控制不住|要不是|若不是|不如"
)


def normalise(text: str) -> str:
    """One spelling for what is matched: NFKC, lower case, no zero-width characters, net spellings undone."""
    text = unicodedata.normalize("NFKC", text).lower().translate(_MARKS)
    characters = frozenset(text)
    if not characters.isdisjoint(" \t*·.、_-"):
        text = _GAPS.sub("", text)
    if not characters.isdisjoint("鲨紫s殺4亖歹碗wg書"):  # every spelling holds one of these
        for pattern, plain in _SPELLINGS:
            text = pattern.sub(plain, text)
    return text


def triage(text: str) -> Triage:
    """The level of a post (question and description together)."""
    figures, rules, context = _rules()
    plain = normalise(text)
    characters = frozenset(plain)
    candidates = [rule for rule in rules.candidates(characters) if rule.pattern.search(plain)]
    if not candidates:
        return Triage("none")
    for figure in figures.candidates(characters):
        plain = figure.pattern.sub("〇", plain)
    found: dict[str, int] = {}
    for rule in sorted(candidates, key=lambda rule: rule.name):
        for match in rule.pattern.finditer(plain):
            lowered = rule.level == "crisis" and _is_lowered(plain, match, context)
            level = LEVELS.index("concern" if lowered else rule.level)  # type: ignore[arg-type]
            found[rule.name] = max(found.get(rule.name, 0), level)
    top = max(found.values(), default=0)
    return Triage(LEVELS[top], tuple(name for name, level in found.items() if level == top))


MOST = 500
"""Characters of a sentence. A longer stretch without an end is none, and nothing in it lowers an alarm."""


def _is_lowered(text: str, match: re.Match[str], context: dict[str, re.Pattern[str]]) -> bool:
    """Whether a match is denied, in a story, long past, or done by someone else."""
    start = _start(text, match, "。！？\n")
    ends = [end for mark in "。！？\n" if (end := text.find(mark, match.end(), match.end() + MOST)) != -1]
    end = min(ends, default=len(text))
    if end - start > MOST:
        return False
    clause = text[_start(text, match, "，。！？；\n") : match.start()]
    if _DENIED.search(clause) and not _DENIED_TWICE.search(clause + match[0]):
        return True
    sentence = text[start:end]
    if context["story"].search(sentence):
        return not re.search(r"我(?:也|真的)?(?:想|要|不想|准备|打算)", sentence)
    if context["long past"].search(sentence) and not context["present"].search(sentence):
        return True
    others = [other.end() for other in context["someone else"].finditer(clause)]
    done = re.match(r".{0,3}[了过]", text[match.end() : match.end() + 4])
    return bool(others and "我" not in clause[others[-1] :] and done)


def _start(text: str, match: re.Match[str], marks: str) -> int:
    """Where the stretch that holds the match begins, if `marks` end stretches; no farther off than MOST."""
    first = max(0, match.start() - MOST)
    found = max(text.rfind(mark, first, match.start()) for mark in marks)
    return found + 1 if found != -1 else first


# ---------------------------------------------------------------- how well that works


def evaluate(found: Sequence[Triage], crisis: Sequence[bool]) -> "pd.DataFrame":
    """Recall and precision of an alarm on posts with these triages and labels, with Wilson 95% intervals.

    Two rows: an alarm is `crisis`, and an alarm is `concern or crisis`. `false_calm` counts crisis posts without an
    alarm, `false_alarm` the reverse. A share of nothing is NaN, never 0 or 1.
    """
    import pandas as pd

    from cbtlib import prevalence

    if len(found) != len(crisis) or not found:
        raise CbtError(f"{len(found)} posts and {len(crisis)} labels: an evaluation needs one label for each post")
    rows = []
    for name, alarms in (("crisis", {"crisis"}), ("concern or crisis", {"crisis", "concern"})):
        raised = [triage.level in alarms for triage in found]
        hits = sum(alarm and truth for alarm, truth in zip(raised, crisis, strict=True))
        row: dict[str, Any] = {"alarm": name, "posts": len(found), "crisis_posts": sum(crisis)}
        for measure, total in (("recall", sum(crisis)), ("precision", sum(raised))):
            low, high = map(float, prevalence.wilson(hits, total)) if total else (float("nan"),) * 2
            row |= {measure: hits / total if total else float("nan"), f"{measure}_low": low, f"{measure}_high": high}
        rows.append(row | {"false_calm": sum(crisis) - hits, "false_alarm": sum(raised) - hits})
    return pd.DataFrame(rows)


YES, NO = frozenset({"true", "1", "crisis", "yes"}), frozenset({"false", "0", "none", "concern", "no"})
"""What a label may be when nobody says which ones mean crisis."""


def read_labelled(
    path: Path | str,
    text: str | None = None,
    label: str | None = None,
    positive: Sequence[str] = (),
    negative: Sequence[str] = (),
) -> tuple[list[str], list[bool]]:
    """Posts and crisis labels of a JSONL, CSV or TSV file in UTF-8 or GB18030.

    `text` and `label` name the columns (else the usual names are looked for; a corpus file has question, description
    and crisis); in a CSV or TSV file without a header they are numbers from 1. A label is positive when it is one of
    `positive`, each of which some row has; without those it has to be in YES or NO. With more than two labels in the
    file, `negative` names all others. Anything else is a CbtError, never a calm post, and so is a row without a text,
    which would be a missed crisis.
    """
    from cbtlib import tables  # it loads pandas, which triage does without
    from cbtlib.answers import told  # it imports this module

    path = Path(path)
    numbered = text and label and text.isdigit() and label.isdigit()
    rows = _numbered(path) if numbered else tables.read_rows(path)
    if not rows:
        raise CbtError(f"{path} holds no posts")
    names = rows[0][1].keys()
    text, label = (reading.folded(name) if name and name not in names else name for name in (text, label))
    label = label or next((name for name in ("crisis", "label", "level", "risk") if name in names), "")
    columns = [text] if text else [name for name in ("text", "post", "question", "description") if name in names]
    if not columns or not {*columns, label} <= set(names):
        raise CbtError(f"{path} has the columns {', '.join(names)}; say which is the text and which the label")
    texts: list[str] = []
    given: list[str] = []
    for number, row in rows:
        outcome = told({name: cell for name, cell in row.items() if name != label})
        if outcome not in ("ok", "crisis") and "answer" not in row:  # or that failed, and the label is the post's
            raise CbtError(f"{path}, line {number}: the row says that it is no data ({outcome}); take it out")
        value = row.get(label)
        found = str(value).strip().lower() if isinstance(value, str | int | float) else ""
        if not found or (not positive and found not in YES | NO):
            raise CbtError(f"{path}, line {number}: the label {found!r} may mean anything; say --positive LABEL")
        # A post without its text would count as a crisis that triage missed.
        for name in columns:
            if not isinstance(row.get(name), str):
                raise CbtError(f"{path}, line {number}, field {name}: is no text; write it there, or take the row out")
        texts.append("\n".join(row[name] for name in columns))
        if all(reading.says_nothing(row[name]) for name in columns):
            raise CbtError(f"{path}, line {number}, field {columns[0]}: is empty; write it there, or take the row out")
        given.append(found)
    chosen = {word.lower() for word in positive} or YES
    if positive and (unused := sorted(chosen.difference(given))):
        known = ", ".join(sorted(set(given))[:10])
        raise CbtError(f"{path}: no row has the label {unused[0]!r} of --positive; give one of its labels: {known}")
    calm = {word.lower() for word in negative} or (set() if positive else NO)
    others = sorted(set(given) - chosen - calm)
    if others and (negative or len(others) > 1):
        line = rows[given.index(others[0])][0]
        raise CbtError(
            f"{path}, line {line}: the label {others[0]!r} may mean anything; say --positive or --negative for each of "
            f"{', '.join(sorted(set(given))[:10])}"
        )
    return texts, [found in chosen for found in given]


def _numbered(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """(line, row) of a CSV or TSV file without a header: its columns are called 1, 2, …"""
    content = path.read_text(reading.sniff_encoding(path))
    csv.field_size_limit(reading.MAX_LINE)
    reader = csv.reader(
        io.StringIO(content, newline=""), delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True
    )
    try:
        rows = [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise CbtError(f"{path}, line {reader.line_num}: is no table row ({error}); give a text and a label") from None
    for number, row in rows:
        if len(row) != len(rows[0][1]):  # its label may stand in another column
            raise CbtError(
                f"{path}, line {number}: has {len(row)} cells, and the first row {len(rows[0][1])}; put a text that "
                "holds a comma or a tab into quotation marks"
            )
    return [(number, {str(i): cell for i, cell in enumerate(row, 1)}) for number, row in rows]
