"""Gates behind generation: which answers must not reach a data set, and by which gate.

    limits = Limits.measure(corpus.load_split("train"))
    stopped = screen(texts, posts, limits)        # n x 9 table of booleans, True where a gate stops an answer
    stopped = screen_run(questions, folder)       # the same of a run; `cbt generate gates` makes a data set of the rest

Notable choices:

- A limit is measured, not chosen: each numeric gate lets every answer of the train split through. The
  same gates on the test split say how many good answers they cost.
- Gates look at one answer and its post. They find defects that can be named. An answer that passes all of them can
  still be a bad letter; only people tell (the chapter on human evaluation).
- Diagnosis, medication and promises are patterns, and they lean towards stopping: a letter that says 你这是抑郁症 (this
  is depression) to a stranger is worth less than the harm it can do.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from cbtlib import CbtError, answers, corpus, progress, prompts, safety
from cbtlib.corpus import PARTS, Record
from cbtlib.questions import Question

GATES = {
    "language": "too few Chinese characters among the letters",
    "length": "shorter or longer than letters are",
    "parts": "one of the five parts is missing",
    "loop": "says the same again and again",
    "copied": "copies the post or the prompt's example",
    "english": "English words that are not in the post",
    "diagnosis": "names a diagnosis or a medicine as advice",
    "promise": "promises a cure or an outcome",
    "referral": "a post that worries, and no referral in the answer",
}

_HAN = re.compile(r"[\u3400-\u9fff]")
_LATIN = re.compile(r"[A-Za-z]")
_WORD = re.compile(r"[A-Za-z]{2,}")
_DIAGNOSIS = re.compile(
    r"(?:你|您)(?:这|现在|应该|可能|很可能|大概|多半|其实)?[^，。！？]{0,4}(?:是|患|得|有|属于|符合)(?:了|上|的是|典型的?)?"
    r"[^，。！？]{0,4}(?:抑郁症|焦虑症|强迫症|双相|躁郁症|精神分裂|人格障碍|惊恐障碍|社交恐惧症|创伤后应激)"
    r"|(?:确诊|诊断)(?:你|您|为)|(?:建议|可以|应该|需要|试试|考虑)[^，。！？]{0,6}(?:服用|吃点?|用点?)[^，。！？]{0,6}"
    r"(?:药|片|胶囊|褪黑素|安定)|舍曲林|氟西汀|帕罗西汀|艾司西酞普兰|阿普唑仑|劳拉西泮|奥氮平|喹硫平|(?:停|减|加)药(?:吧|就|试)"
)
_PROMISE = re.compile(
    r"(?:一定|必定|肯定|保证|绝对|必然)(?:会|能|可以|让你)?[^，。！？]{0,6}(?:痊愈|治好|康复|好起来|好转|成功|解决|摆脱|走出|恢复|消失)"
    r"|(?:我|这)(?:可以|能)?保证|百分之?百(?:会|能|可以|好|成功)|包你|药到病除|从此(?:不再|再也不)|永远不会再"
)
_REFERRAL = re.compile(
    r"12356|12355|110|120|急诊|(?:心理|援助|危机)热线|医院|精神科|心理科|咨询师|咨询中心|专业的?(?:人|帮助|支持|心理)"
)


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of the numeric gates: shares in [0, 1], lengths in Chinese characters, counts of words."""

    han_share: float
    shortest: int
    longest: int
    loop: float
    copied: float
    english: int

    @classmethod
    def measure(cls, records: Sequence[Record]) -> "Limits":
        """The widest limits that these answers need, all of them passing."""
        if len(records) < 20:
            raise CbtError(f"limits need at least 20 answers to be measured on, there are {len(records)}")
        numbers = pd.DataFrame([_numbers(record.answer_text, record.post, "") for record in records])
        low, high = numbers.min(), numbers.max()
        return cls(
            han_share=float(low["han_share"]),
            shortest=int(low["length"]),
            longest=int(high["length"]),
            loop=float(high["loop"]),
            copied=float(high["copied"]),
            english=int(high["english"]),
        )


def screen(
    texts: Sequence[str],
    posts: Sequence[str],
    limits: Limits,
    example: str = "",
    levels: Sequence[safety.Level] | None = None,
) -> pd.DataFrame:
    """For each answer and each gate (columns as in GATES) whether the gate stops it.

    `posts` are the questions and descriptions that were answered, `example` a text the prompt showed to the model.
    `levels` are what a triage of more than rules said of the posts; the rules look in every case. CbtError for another
    number of posts than of answers.
    """
    from cbtlib import structure

    if len(texts) != len(posts):
        raise CbtError(f"{len(texts)} answers and {len(posts)} posts: each answer needs the post it answers")
    rows = []
    given = zip(texts, posts, levels or ["none"] * len(posts), strict=True)
    for text, post, level in progress.bar(given, total=len(texts), desc="gates", unit="answer", leave=False):
        found = _numbers(text, post, example)
        rows.append(
            {
                "language": found["han_share"] < limits.han_share,
                "length": not limits.shortest <= found["length"] <= limits.longest,
                "parts": False,
                "loop": found["loop"] > limits.loop,
                "copied": found["copied"] > limits.copied,
                "english": found["english"] > limits.english,
                "diagnosis": _DIAGNOSIS.search(text) is not None,
                "promise": _PROMISE.search(text) is not None,
                "referral": {level, safety.triage(post).level} != {"none"} and not _REFERRAL.search(text),
            }
        )
    table = pd.DataFrame(rows, columns=list(GATES), dtype=bool)
    if len(table):
        table["parts"] = ~structure.coverage(texts)[list(PARTS)].all(axis=1).to_numpy()
    return table


def screen_run(questions: Iterable[Question], folder: Path | str) -> pd.DataFrame:
    """The gates on the ok answers of a finished run of `generate`, by their ids; the limits are the train split's.

    CbtError for an answer to none of the questions.
    """
    manifest = answers.read_manifest(folder)
    prompt = prompts.get(manifest["prompt"]["name"])
    posts = {question.id: question for question in questions}
    found = {a.id: a for a in answers.of_run(folder, manifest) if a.outcome == "ok"}
    if strangers := found.keys() - posts.keys():
        raise CbtError(f"{folder} answers {min(strangers)}, which is not among the questions; give the same file")
    for id, answer in found.items():
        answers.check(id, posts[id].post, answer.post, folder)
    levels = [answer.triage for answer in found.values()]
    limits = Limits.measure(corpus.load_split("train"))
    table = screen([a.text for a in found.values()], [posts[id].post for id in found], limits, prompt.text, levels)
    return table.set_axis(pd.Index(found, name="id"))


def counts(stopped: pd.DataFrame) -> pd.DataFrame:
    """How many answers each gate stops, how many it alone stops, and how many pass all (last row)."""
    alone = stopped[stopped.sum(axis=1) == 1]
    rows = [(gate, GATES[gate], int(stopped[gate].sum()), int(alone[gate].sum())) for gate in stopped.columns]
    rows.append(("none", "passes every gate", int((~stopped.any(axis=1)).sum()), 0))
    return pd.DataFrame(rows, columns=["gate", "what it means", "answers", "by this gate alone"])


def _numbers(text: str, post: str, example: str) -> dict[str, float]:
    """What the numeric gates look at. Loops and copies are counted in runs of 8 characters without punctuation."""
    han, latin = len(_HAN.findall(text)), len(_LATIN.findall(text))
    runs = _runs(text)
    seen = set(_runs(post)) | set(_runs(example))
    known = {word.lower() for word in _WORD.findall(post)}
    return {
        "han_share": han / (han + latin) if han + latin else 0.0,
        "length": han,
        "loop": 1 - len(set(runs)) / len(runs) if runs else 0.0,
        "copied": sum(run in seen for run in runs) / len(runs) if runs else 0.0,
        "english": len({word.lower() for word in _WORD.findall(text)} - known),
    }


def _runs(text: str, size: int = 8) -> list[str]:
    plain = re.sub(r"[\W_]+", "", text)
    return [plain[i : i + size] for i in range(len(plain) - size + 1)]
