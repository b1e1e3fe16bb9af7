"""Gates: what must not be in a corpus, found and named before it becomes a score.

Each gate was open in some public peer: an evaluation set equal to the training set, API errors stored as answers,
refusals trained on, dialogues that hold another client's turns, texts with two labels.

Notable choices
- A gate gives Findings with file and line; `cbt corpus check` exits with 1 when there is one. It mends nothing.
- Near duplicates are pairs with a Jaccard similarity of character 5-grams (letters and digits only) of at least 0.3.
  Candidates come from a shared sample of n-gram hashes (FracMinHash, Irber et al. 2022): 1 in `rate` of each text, a
  rate at which it keeps about 16 n-grams, or more if the shortest 5% need it; two texts are compared at the higher of
  their rates. Each candidate is then measured exactly, so no pair reported is a false one; a pair at the threshold
  is overlooked with a chance of about exp(-shared n-grams / rate), under 1%.
- Across parts (training and test) more is asked: does a text stand inside another? See `repeated`.
- An n-gram in more than 64 texts links only neighbours: a flood of copies is found as a chain, in linear time. Texts
  put together from common phrases have no rarer ones, so candidates come from n-grams of 20 too: those that cross from
  one phrase to the next are rare, and a copy with a character changed has most of them.
"""

import functools
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cbtlib import CbtError, formats
from cbtlib.corpus import TYPES
from cbtlib.formats import Sample
from cbtlib.reading import says_nothing
from cbtlib.replies import DEFECTS

ORDER = 5
"""Characters in an n-gram."""
LONG = 20
"""Characters in one by which copies among formulaic texts are found."""
NEAR = 0.3
"""Jaccard similarity of character n-grams from which two texts count as near duplicates."""
INSIDE, LEAST = 0.8, 8
"""Share of a text's n-grams in another from which it counts as standing inside it, and how many there have to be."""
PROBES, HOLDERS, LOOKED_AT = 48, 64, 8
"""How `repeated` looks: n-grams of a text, holders of each in a part, and of those the texts that are measured."""
MIXED = 30
"""Characters that a dialogue may share with another in whole turns: thanks and greetings recur by nature."""
SUPPORT = 6
"""Positives below which a label's score on an evaluation set says nothing worth printing."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One defect: the gate it failed, where (file:line), what is wrong, and the other place of a pair."""

    gate: str
    where: str
    what: str
    other: str = ""


@dataclass(slots=True)
class Report:
    """What a check saw: `lines` read = `kept` + lines with a problem; `findings` in the order of the gates.

    `normalised` counts the characters that each form asked for has changed before the gates looked.
    """

    files: list[str]
    lines: int
    kept: int
    normalised: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        """Findings of each gate, 0 where it found none."""
        seen = Counter(finding.gate for finding in self.findings)
        return {gate: seen[gate] for gate in GATES}


@dataclass(frozen=True, slots=True)
class _Placed:
    """A sample and where it stands; `train` marks the set that `against` named."""

    sample: Sample
    where: str
    train: bool = False

    @property
    def group(self) -> str:
        """What must stay apart: the split, or the side of `--against`."""
        return "against" if self.train else self.sample.split or ""


def check(
    paths: Sequence[Path],
    against: Sequence[Path] = (),
    format: str = "auto",
    support: int = SUPPORT,
    normalise: Sequence[str] = (),
) -> Report:
    """Read the files and pass them through every gate.

    `against` names training files that the checked ones must not overlap; they are read, but not checked themselves.
    `normalise` asks for forms of `formats.NORMAL_FORMS`, so that a copy in other characters is a copy. CbtError for no
    file, and for a file against itself.
    """
    if not paths:
        raise CbtError("name at least one file to check")
    trained = {path.resolve() for path in against}
    if both := [path for path in paths if path.resolve() in trained]:
        raise CbtError(f"{both[0]} is checked against itself; give --against another file, the one trained on")
    placed: list[_Placed] = []
    report = Report([str(path) for path in paths], 0, 0, dict.fromkeys(normalise, 0))
    for path in (*against, *paths):  # of a pair, the one named first is then the checked one
        train = path in against
        samples, problems = formats.read(path, format)
        samples, changed = formats.normalise(samples, normalise)
        report.normalised = {form: count + changed[form] for form, count in report.normalised.items()}
        placed += [_Placed(sample, f"{path}:{sample.line}", train) for sample in samples]
        for problem in problems:
            where = f"{path}:{problem.line}" + (f" {problem.field}" if problem.field else "")
            report.findings.append(Finding("schema", where, problem.what))
        if not train:
            kept = {sample.line for sample in samples}
            report.kept += len(kept)
            report.lines += len(kept | {problem.line for problem in problems if problem.line})
    own = [item for item in placed if not item.train]
    report.findings += _ids(own)
    for kind in ("text", "answer"):
        report.findings += _duplicates(placed, kind)
    report.findings += _dialogues(placed)
    for gate in (_two_labels, _answers, _spans, _crisis, _personal):
        report.findings += gate(own)
    report.findings += _support(own, support)
    return report


GATES = (
    "schema",
    "id",
    "duplicate",
    "near duplicate",
    "leak",
    "two labels",
    "answer",
    "span",
    "no counsellor",
    "mixed dialogue",
    "crisis",
    "personal data",
    "support",
)


# ------------------------------------------------------------------ copies


def _ids(items: list[_Placed]) -> Iterator[Finding]:
    """An id of one file in another one (within a file the reader sees to it)."""
    seen: dict[str, str] = {}
    for item in items:
        if item.sample.split is not None and item.sample.id in seen:
            yield Finding("id", item.where, f"id {item.sample.id!r} is taken", seen[item.sample.id])
        seen.setdefault(item.sample.id, item.where)


def _duplicates(items: list[_Placed], kind: str) -> Iterator[Finding]:
    """Copies and near copies of posts (kind text) or of answers (kind answer), apart from answers to one post."""
    rows = [(item, text) for item in items if (text := getattr(item.sample, kind)) and not item.sample.crisis]
    if kind == "text":  # several answers to one question repeat its text
        rows = list({item.where: (item, text) for item, text in rows}.values())
    first: dict[str, _Placed] = {}
    unique: list[tuple[_Placed, str]] = []
    for item, text in rows:
        key = content(text)
        if (other := first.get(key)) is None:
            first[key] = item
            unique.append((item, text))
        elif not (item.train and other.train):
            gate = "leak" if item.group != other.group else "duplicate"
            yield Finding(gate, item.where, f"the same {kind} as another: {_shown(text)}", other.where)
    texts = [text for _, text in unique]
    groups = np.unique([item.group for item, _ in unique], return_inverse=True)[1]
    near = {(i, j): similarity for i, j, similarity in near_duplicates(texts)}
    asked = np.full(len(texts), len(set(groups.tolist())) > 1)  # a set of one part repeats no other
    for i, j, similarity in repeated(texts, groups, asked):
        near.setdefault((min(i, j), max(i, j)), similarity)
    for (i, j), similarity in sorted(near.items()):
        (other, _), (item, text) = unique[i], unique[j]
        if not (item.train and other.train):
            gate = "leak" if item.group != other.group else "near duplicate"
            yield Finding(gate, item.where, f"{kind} {similarity:.2f} like another: {_shown(text)}", other.where)


def content(text: str) -> str:
    """What two copies of a text have in common: all but white space; of a text too short for n-grams, its letters."""
    letters = "".join(filter(str.isalnum, text))
    return letters if 0 < len(letters) < ORDER else "".join(text.split())


def near_duplicates(texts: Sequence[str]) -> list[tuple[int, int, float]]:
    """Pairs i < j of texts with a Jaccard similarity of character n-grams of at least NEAR, and that similarity."""
    if len(texts) < 2:
        return []
    pairs = np.concatenate([_likely(texts, order) for order in (ORDER, LONG)])
    return [(i, j, jaccard) for i, j, jaccard, _ in _measured(texts, pairs) if jaccard >= NEAR]


def repeated(texts: Sequence[str], part: NDArray[Any], asked: NDArray[np.bool_]) -> list[tuple[int, int, float]]:
    """What each text of those `asked` about repeats of texts of another part: (i, j, similarity), sorted.

    Text j is one that i nearly is (Jaccard of NEAR or more), or in which at least INSIDE of the n-grams of i stand,
    LEAST of them or more: a post behind a long instruction, a sentence of a post, one of many posts in a row. The
    similarity is that share, or the Jaccard. Where texts of one template are many, a few of them are named.
    """
    pairs = np.concatenate([_holding(texts, part, asked, order) for order in (ORDER, LONG)])
    rows = [(i, j, max(jaccard, inside)) for i, j, jaccard, inside in _measured(texts, pairs)]
    return [row for row in rows if row[2] >= NEAR]


def _measured(texts: Sequence[str], pairs: NDArray[np.int64]) -> Iterator[tuple[int, int, float, float]]:
    """Of pairs i * len(texts) + j, each once and sorted: i, j, their Jaccard, and the share of i that stands inside j.

    That share is 0 where it is below INSIDE or of fewer n-grams than LEAST: then i only touches j.
    """
    sets: dict[int, set[int]] = {}
    pairs = np.unique(pairs)
    for i, j in zip((pairs // len(texts)).tolist(), (pairs % len(texts)).tolist(), strict=True):
        for k in (i, j):
            if k not in sets:
                sets[k] = set(_ngrams([texts[k]], ORDER)[0].tolist())
        common = len(sets[i] & sets[j])
        share = common / max(1, len(sets[i]))
        inside = share if share >= INSIDE and len(sets[i]) >= LEAST else 0.0
        yield i, j, common / max(1, len(sets[i] | sets[j])), inside


def _holding(texts: Sequence[str], part: NDArray[Any], asked: NDArray[np.bool_], order: int) -> NDArray[np.int64]:
    """For each text asked about, those of another part that hold most of a sample of its n-grams: i * len(texts) + j.

    The sample are the smallest hashes. Of the holders of an n-gram the first of each part are looked at, the same ones
    for all n-grams: in a flood of texts from one template those are taken for the others.
    """
    if not asked.any():
        return np.zeros(0, np.int64)
    n = len(texts)
    probe, mine = _sampled(texts, np.flatnonzero(asked), order, lambda grams, rank: rank < PROBES)
    sizes, known = np.bincount(mine, minlength=n), np.unique(probe)
    hash_, holder = _sampled(texts, np.arange(n), order, lambda grams, rank: np.isin(grams, known))
    sorting = np.lexsort((holder, part[holder], hash_))
    hash_, holder = hash_[sorting], holder[sorting]
    few = _rank(hash_, part[holder]) < HOLDERS
    hash_, holder = hash_[few], holder[few]
    found = [np.zeros(0, np.int64)]
    for chunk in np.split(np.arange(len(probe)), np.searchsorted(mine, np.arange(1024, n, 1024))):
        low, high = (np.searchsorted(hash_, probe[chunk], side) for side in ("left", "right"))
        one = np.repeat(mine[chunk], high - low)
        other = holder[np.arange(len(one)) + np.repeat(high - np.cumsum(high - low), high - low)]
        apart = part[one] != part[other]
        pairs, shared = np.unique(one[apart] * n + other[apart], return_counts=True)
        best = np.lexsort((-shared, pairs // n))
        pairs, shared = pairs[best], shared[best]
        found.append(pairs[(_rank(pairs // n) < LOOKED_AT) & (shared >= 0.1 * sizes[pairs // n])])
    return np.concatenate(found)


def _sampled(
    texts: Sequence[str], which: NDArray[np.int64], order: int, keep: Callable[[Any, Any], NDArray[np.bool_]]
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """N-grams of some texts, each once in a text, with the text: those that `keep` takes by hash and rank of it."""
    hashes, owners = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
    for some in np.split(which, range(4096, len(which), 4096)):
        grams, owner = _ngrams([texts[i] for i in some], order)
        sorting = np.lexsort((grams, owner))
        grams, owner = grams[sorting], owner[sorting]
        once = _rank(grams, owner) == 0
        grams, owner = grams[once], owner[once]
        taken = keep(grams, _rank(owner))
        hashes.append(grams[taken])
        owners.append(some[owner[taken]])
    return np.concatenate(hashes), np.concatenate(owners)


def _rank(*columns: NDArray[Any]) -> NDArray[np.int64]:
    """Of sorted rows: how many rows before it are equal to a row."""
    differs = np.zeros(max(0, len(columns[0]) - 1), bool)
    for column in columns:
        differs |= column[1:] != column[:-1]
    place = np.arange(len(columns[0]))
    return place - np.maximum.accumulate(np.where(np.r_[True, differs][: len(place)], place, 0))


def _likely(texts: Sequence[str], order: int) -> NDArray[np.int64]:
    """Pairs, as i * len(texts) + j, that by their samples share enough n-grams of this length."""
    lengths = np.array([len(text) for text in texts], np.int64)
    rates = np.clip(np.minimum(lengths, np.quantile(lengths, 0.05)) // 16, 1, 16).astype(np.int64)
    limits = np.uint64(2**64 - 1) // rates.astype(np.uint64)
    hashes, owners = [], []
    for start in range(0, len(texts), 4096):
        grams, owner = _ngrams(texts[start : start + 4096], order)
        keep = grams <= limits[start : start + 4096].take(owner)
        hashes.append(grams[keep])
        owners.append(owner[keep] + start)
    hash_, owner_ = np.concatenate(hashes), np.concatenate(owners)
    sorting = np.lexsort((owner_, hash_))
    hash_, owner_ = hash_[sorting], owner_[sorting]
    fresh = np.ones(len(hash_), bool)  # an n-gram counts once in a text
    fresh[1:] = (hash_[1:] != hash_[:-1]) | (owner_[1:] != owner_[:-1])
    hash_, owner_ = hash_[fresh], owner_[fresh]
    sizes = np.bincount(owner_, minlength=len(texts)) * rates  # of whole texts, as their samples tell them
    pairs, shared = _sharing(hash_, owner_, len(texts))
    left, right = pairs // len(texts), pairs % len(texts)
    shared = shared * np.maximum(rates[left], rates[right])
    return pairs[shared >= 0.4 * NEAR * (sizes[left] + sizes[right] - shared)]


def _sharing(
    hash_: NDArray[np.uint64], owner: NDArray[np.int64], n: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """From n-grams sorted by (hash, text): pairs of texts as i * n + j, and how many n-grams each pair shares."""
    starts = np.flatnonzero(np.r_[True, hash_[1:] != hash_[:-1]])
    group = np.repeat(np.diff(np.r_[starts, len(hash_)]), np.diff(np.r_[starts, len(hash_)]))
    hash_, owner, group = hash_[group > 1], owner[group > 1], group[group > 1]
    found = []
    for lag in range(1, 64):
        near = hash_[:-lag] == hash_[lag:] if lag < len(hash_) else np.zeros(0, bool)
        if not near.any():
            break
        if lag > 1:
            near &= group[:-lag] <= 64
        found.append(owner[:-lag][near] * n + owner[lag:][near])
    if not found:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    return np.unique(np.concatenate(found), return_counts=True)


def _ngrams(texts: Sequence[str], order: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Hashes of all n-grams of `order` letters and digits of the texts, and the text each belongs to."""
    codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32)
    owner = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
    letters = _letters()[codes]
    codes, owner = codes[letters], owner[letters]
    if len(codes) < order:
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    grams = np.zeros(len(codes) - order + 1, np.uint64)
    for k in range(order):
        grams = grams * np.uint64(0x9E3779B97F4A7C15) + codes[k : k + len(grams)]
    grams ^= grams >> np.uint64(29)  # mix, so that a threshold on the hash is a fair sample
    grams *= np.uint64(0xBF58476D1CE4E5B9)
    grams ^= grams >> np.uint64(32)
    whole = owner[: len(grams)] == owner[order - 1 :]
    return grams[whole], owner[: len(grams)][whole]


@functools.cache
def _letters() -> NDArray[np.bool_]:
    table = np.zeros(0x110000, bool)
    table[:0x33480] = [chr(code).isalnum() for code in range(0x33480)]  # no letter is assigned beyond
    return table


def _shown(text: str) -> str:
    flat = " ".join(text.split())
    return repr(flat[:30] + ("…" if len(flat) > 30 else ""))


# ------------------------------------------------------------------ what an item holds


def _two_labels(items: list[_Placed]) -> Iterator[Finding]:
    seen: dict[str, tuple[frozenset[str], str]] = {}
    for item in items:
        if item.sample.labels is None:
            continue
        labels, where = seen.setdefault(content(item.sample.text), (item.sample.labels, item.where))
        if labels != item.sample.labels:
            what = f"one text, two labellings: {_names(item.sample.labels)} here, {_names(labels)} there"
            yield Finding("two labels", item.where, what, where)


def _names(labels: Iterable[str]) -> str:
    return ", ".join(sorted(labels)) or "none"


def _answers(items: list[_Placed]) -> Iterator[Finding]:
    for item in items:
        answer = item.sample.answer
        if answer is None:
            continue
        lower = answer.strip().lower()
        if says_nothing(answer):
            yield Finding("answer", item.where, f"holds no answer: {_shown(answer)}")
            continue
        for name, (words, pattern) in DEFECTS.items():
            if any(word in lower for word in words) and (match := pattern.search(lower)):
                yield Finding("answer", item.where, f"the answer holds {name}: {_shown(match[0])}")
                break
        else:
            if lower[-1].isalnum() or lower[-1] in "，、；：（“‘《,;:(":
                yield Finding("answer", item.where, f"the answer breaks off: {_shown(answer.rstrip()[-15:])}")


def _spans(items: list[_Placed]) -> Iterator[Finding]:
    for item in items:
        for kind, start, end, text in item.sample.spans:
            if not 0 <= start < end <= len(text):
                what = f"span {start}-{end} of {kind!r} lies outside a text of {len(text)} characters"
                yield Finding("span", item.where, what)


def _dialogues(items: list[_Placed]) -> Iterator[Finding]:
    """Dialogues without a counsellor, and those that hold turns of another, be it one that is trained on."""
    home: dict[str, _Placed] = {}
    for item in items:
        turns = item.sample.turns
        if turns is None:
            continue
        if not item.train and not any(role == "counsellor" and text.strip() for role, text in turns):
            yield Finding("no counsellor", item.where, f"a dialogue of {len(turns)} turns, none of them a counsellor's")
        mixed: dict[str, list[int]] = defaultdict(list)
        for _, text in turns:
            key = "".join(text.split())
            if len(key) >= 12 and home.setdefault(key, item) is not item:
                mixed[home[key].where].append(len(key))
        for where, lengths in mixed.items():
            if sum(lengths) >= MIXED and not item.train:
                what = f"{len(lengths)} of its {len(turns)} turns stand in another"
                yield Finding("mixed dialogue", item.where, what, where)


CRISIS = re.compile(
    r"自杀|自残|自伤|轻生|寻短见|割腕|服毒|上吊|遗书|结束(?:自己的|我的)?(?:生命|性命)|不想活(?:了|下去)|活不下去"
    r"|(?<![累困饿热冷烦笑急气])想死(?![你他她])|死了算了|跳楼(?!价)"
)
"""Plain words only, so that 100,000 posts take a second; `safety.triage` hears more, and is measured for it."""


def _crisis(items: list[_Placed]) -> Iterator[Finding]:
    """Posts of the book's own form only: a foreign set has no file of its own for them."""
    for item in items:
        if item.sample.split in (None, "crisis"):
            continue
        if item.sample.crisis:
            yield Finding(
                "crisis", item.where, f"a crisis record in split {item.sample.split!r}: move it to crisis.jsonl"
            )
        elif CRISIS.search(item.sample.text):
            yield Finding("crisis", item.where, "a post with words of crisis outside crisis.jsonl (not quoted here)")


PERSONAL = {
    "a mobile number": re.compile(r"(?<!\d)1[3-9]\d{9}(?!\d)"),
    "an identity number": re.compile(
        r"(?<!\d)[1-9]\d{5}(?:19|20)\d{2}(?:0\d|1[0-2])(?:[0-2]\d|3[01])\d{3}[\dXx](?!\d)"
    ),
    "an e-mail address": re.compile(r"[\w.+-]@[\w-]+\.[A-Za-z]{2,}"),
    "a QQ or WeChat id": re.compile(
        r"(?:QQ|微信号?|VX|[加+]v|wechat)\s*(?:[：:是]\s*)?(?:[A-Za-z][\w-]{5,19}|[1-9]\d{4,10})", re.IGNORECASE
    ),
}


_ASCII_RUN = re.compile(r"[\w.@+-]{5}", re.ASCII)
"""All of these have five such characters in a row, and few Chinese posts have."""


def _personal(items: list[_Placed]) -> Iterator[Finding]:
    for item in items:
        text = f"{item.sample.text}\n{item.sample.answer or ''}"
        if not _ASCII_RUN.search(text):
            continue
        for name, pattern in PERSONAL.items():
            if pattern.search(text):
                yield Finding("personal data", item.where, f"holds {name} (not quoted here)")


def _support(items: list[_Placed], least: int) -> Iterator[Finding]:
    """Labels too rare to report, in each labelled set that scores are reported on: not train, dev or crisis."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    where: dict[str, str] = {}
    for item in items:
        split = item.sample.split or "all"
        if item.sample.labels is None or split in ("train", "dev", "crisis"):
            continue
        counts[split].update(item.sample.labels)
        counts[split].update(dict.fromkeys(TYPES, 0) if item.sample.split else {})
        where.setdefault(split, item.where.rpartition(":")[0])
    for split, counter in counts.items():
        for label, count in sorted(counter.items()):
            if count < least:
                what = f"label {label!r} has {count} positives in {split}, fewer than {least}: its score means nothing"
                yield Finding("support", where[split], what)
