"""Crisis triage: which posts must not be answered by a model, and how well that is told.

Three levels. `crisis`: no model answer, the fixed referral instead. `concern`: answered, and the answer must carry a
referral. `none`. A false calm is worse than a false alarm, so every rule leans towards the alarm.

Notable choices:

- Rules first (data/crisis_rules.csv, one pattern a line, for clinicians to read): suicide, self-harm, violence, abuse
  and voices in the words people use, net spellings included. A bare list of words confuses 累死了 (dead tired) with a
  wish to die, and 没想过自杀 (never thought of it) with a plan: figures of speech are taken out before matching, and
  what stands before a match is looked at.
- What lowers a match never removes it: denied, long past, or in a film, it is still a `concern`.
- Rules find what someone thought of; a classifier (`Classifier`) over the book's own model finds wordings that nobody
  listed. It can only raise a level, never lower one.
- Any reader of a recall printed here should ask: on which posts? `evaluate` takes any labelled file.

This is a filter for research data. It is not a clinical instrument and must not be the only guard of a service.
"""

import csv
import hashlib
import re
import unicodedata
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from cbtlib import ROOT

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
    (re.compile(r"自鲨|紫砂(?!壶|杯|锅|泥|茶)|自sha|自殺|(?<![a-z])zs(?![a-z])|自[s杀]"), "自杀"),
    (re.compile(r"(?<=[想要去])(?:si|4)(?=[了吧呢啊掉，。！!,.\s]|$)|亖|歹匕"), "死"),
    (re.compile(r"割wan|ge腕|割碗(?!筷)"), "割腕"),
    (re.compile(r"遗shu|遗書"), "遗书"),
)
# Idioms in which death is only emphasis, taken out before anything is matched.
_FIGURES = re.compile(
    r"[累困饿渴热冷气烦笑急羞尬吓堵忙痛疼丑胖穷馋吵闷酸甜美晕苦愁冻晒挤烫腻骂冤憋渴乐土毒坑黑怕惨喜]死"
    r"|(?:尴尬|难受|丢人|无聊|羡慕|后悔|难看|讨厌|紧张|委屈|着急|麻烦|高兴|开心|担心|恶心|郁闷|内疚)死"
    r"|[爱恨想]死(?=[你妳他她它家妈爸那这咱])|(?:烦|累|忙|困|难受|疼|紧张|尴尬)(?:得|的|到)(?:我)?(?:都)?(?:要|快|想)死"
    r"|(?:要|快|差点)(?:被)?[^，。！？；\s]{0,4}(?:累|烦|气|笑|吓|忙|热|饿|困)死|社死|社会性死亡|怕得要死|要死不活|生不如死(?=的?(?:培训|加班|军训))"
    r"|死(?:线|板|磕|党|宅|机|活|心|角|循环|工资|样|对头|缠|记硬背|记|脑筋|皮赖脸|要面子|气沉沉|胡同|穴|敌|忠|扛|撑|守|盯|抠|倔|鬼|理|规矩|命题|局|结|水|寂|撞|等|拼)"
    r"|该死|往死里(?:学|干|卷|复习|加班)|慢性自杀|自杀式|职业自杀|政治自杀|跳楼(?:价|机|大甩卖|甩卖|促销)|(?<=[墙顶梁架树板车子])上吊(?=着|灯|扇|顶|挂|牌)"
    r"|(?:玩|打|看|写|读|演|追)(?:的)?(?:游戏|小说|剧本杀|狼人杀)[^，。！？]{0,8}(?:自杀|自刀|自爆)|自杀(?:率|预防|干预|防范|小队)"
)


@dataclass(frozen=True, slots=True)
class _Rules:
    figures: re.Pattern[str]
    any: re.Pattern[str]
    named: list[tuple[str, Level, re.Pattern[str]]]
    context: dict[str, re.Pattern[str]]


@cache
def _rules() -> _Rules:
    """The patterns of data/crisis_rules.csv: figures of speech, rules by name, and what can lower a match."""
    groups: dict[tuple[str, str], list[str]] = {}
    with RULES.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            groups.setdefault((row["level"], row["rule"]), []).append(row["pattern"])
    compiled = {name: re.compile("|".join(patterns)) for name, patterns in groups.items()}
    named: list[tuple[str, Level, re.Pattern[str]]] = [
        (rule, level, pattern) for (found, rule), pattern in compiled.items() for level in LEVELS[1:] if found == level
    ]
    return _Rules(
        figures=compiled["none", "figure of speech"],
        any=re.compile("|".join(pattern.pattern for _, _, pattern in named)),
        named=named,
        context={rule: pattern for (level, rule), pattern in compiled.items() if level == "context"},
    )


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
    text = unicodedata.normalize("NFKC", text).lower()
    text = re.sub(r"[\u200b-\u200f\u2060\ufeff]|(?<=[\u4e00-\u9fff])[ \t*·.、_-]+(?=[\u4e00-\u9fff])", "", text)
    for pattern, plain in _SPELLINGS:
        text = pattern.sub(plain, text)
    return text.replace(",", "，").replace("!", "！").replace("?", "？").replace(";", "；")


def triage(text: str) -> Triage:
    """The level of a post (question and description together)."""
    rules = _rules()
    plain = rules.figures.sub("〇", normalise(text))
    if not rules.any.search(plain):
        return Triage("none")
    found: dict[str, Level] = {}
    for name, level, pattern in rules.named:
        for match in pattern.finditer(plain):
            lowered: Level = "concern" if level == "crisis" and _is_lowered(plain, match, rules.context) else level
            if LEVELS.index(lowered) >= LEVELS.index(found.get(name, "none")):
                found[name] = lowered
    top = max(found.values(), key=LEVELS.index)
    return Triage(top, tuple(name for name, level in found.items() if level == top))


def _is_lowered(text: str, match: re.Match[str], context: dict[str, re.Pattern[str]]) -> bool:
    """Whether a match is denied, in a story, long past, or done by someone else."""
    clause = text[_start(text, match, "，。！？；\n") : match.start()]
    if _DENIED.search(clause) and not _DENIED_TWICE.search(clause + match[0]):
        return True
    ends = [end for mark in "。！？\n" if (end := text.find(mark, match.end())) != -1]
    sentence = text[_start(text, match, "。！？\n") : min(ends, default=len(text))]
    if context["story"].search(sentence):
        return not re.search(r"我(?:也|真的)?(?:想|要|不想|准备|打算)", sentence)
    if context["long past"].search(sentence) and not context["present"].search(sentence):
        return True
    others = [other.end() for other in context["someone else"].finditer(clause)]
    done = re.match(r".{0,3}[了过]", text[match.end() :])
    return bool(others and "我" not in clause[others[-1] :] and done)


def _start(text: str, match: re.Match[str], marks: str) -> int:
    """Where the stretch that holds the match begins, if `marks` end stretches."""
    return max(text.rfind(mark, 0, match.start()) for mark in marks) + 1
