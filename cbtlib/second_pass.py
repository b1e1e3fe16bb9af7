"""Two labelling passes over the same posts, and how far they agree.

`data/second_labels.jsonl` holds a second pass: {"id", "distortions": [{type, start, end}]} a line, asked for from the
posts and the labelling guide alone. Agreement is reported as it is, type by type. Both passes are a language model's,
on posts whose brief asked for clear cases: what they share by being alike cannot be told from what is in the text, so
this is an upper bound on the agreement of two people, and no measurement of it. A bad line is an error.

Agreement on types asks whether a post shows a type, as the detectors do. `spans` asks how far the two passes then mark
the same words.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from cbtlib import CbtError, agreement, corpus, detection, distortions, reading, resampling
from cbtlib.answers import told
from cbtlib.corpus import TYPES, Label, Problem, Record


def read(path: Path, records: list[Record]) -> dict[str, tuple[Label, ...]]:
    """Record id to the labels of the second pass; CorpusError with every line that does not fit the records."""
    known = {record.id: record for record in records}
    labels: dict[str, tuple[Label, ...]] = {}
    problems: list[Problem] = []
    for line, item in reading.objects(path):
        if isinstance(item, Problem):
            problems.append(item)
            continue
        name, found = item.get("id"), item.get("distortions")
        if name not in known or name in labels:
            problems.append(Problem(line, "id", f"{name!r} is {'there twice' if name in labels else 'no record'}"))
        elif (outcome := told(item)) != "ok":
            problems.append(Problem(line, "outcome", f"says that it is no data ({outcome}): take the line out"))
        elif not isinstance(found, list) or not all(isinstance(x, dict) and x.get("type") in TYPES for x in found):
            problems.append(Problem(line, "distortions", "must be a list of labels with known types"))
        elif not all(_fits(x.get("start"), x.get("end"), known[name]) for x in found):
            problems.append(Problem(line, "distortions", "holds a span that lies outside the description"))
        else:
            labels[name] = tuple(Label(x["type"], x["start"], x["end"]) for x in found)
    if problems:
        raise corpus.CorpusError(path, problems)
    if len(labels) < 2:
        raise CbtError(f"{path} holds {len(labels)} posts: agreement needs at least two")
    return labels


def _fits(start: object, end: object, record: Record) -> bool:
    return type(start) is int and type(end) is int and 0 <= start < end <= len(record.description)


def spans(records: list[Record], second: dict[str, tuple[Label, ...]]) -> pd.DataFrame:
    """For each post and type that both passes label (index id, type): characters of the first, the second and both.

    `jaccard` is the share of the characters marked by either that both have marked; 1 where the spans are the same.
    """
    rows = []
    for record in records:
        for kind in TYPES:
            one, two = (
                {place for label in labels if label.type == kind for place in range(label.start, label.end)}
                for labels in (record.distortions, second.get(record.id, ()))
            )
            if one and two:
                rows.append((record.id, kind, len(one), len(two), len(one & two), len(one & two) / len(one | two)))
    return pd.DataFrame(rows, columns=["id", "type", "first", "second", "both", "jaccard"]).set_index(["id", "type"])


def compare(records: list[Record], second: dict[str, tuple[Label, ...]], resamples: int = 1000) -> pd.DataFrame:
    """Agreement per type and for `any`: counts, Cohen's kappa and Krippendorff's alpha with 95% intervals, F1.

    F1 takes the first pass as gold: the second pass scored as if it were a detector. A type that
    neither labeller used has no agreement to speak of: NaN.
    """
    rows = [record for record in records if record.id in second]
    first = distortions.of_records(rows)
    other = distortions.matrix([{label.type for label in second[record.id]} for record in rows])
    scores = detection.evaluate(first, other, TYPES, resamples=resamples).table["f1"]
    first, other = (np.column_stack([labels, labels.any(1)]).astype(float) for labels in (first, other))
    out = []
    for j, name in enumerate((*TYPES, "any")):
        one, two = first[:, j], other[:, j]
        kappa = agreement.cohen_kappa(one, two, 2, "none")
        alpha = agreement.krippendorff_alpha(np.stack([one, two], 1), 2, "nominal")
        (k_low, k_high), (a_low, a_high) = resampling.intervals([kappa, alpha], resamples)
        row = {"type": name, "first": int(one.sum()), "second": int(two.sum()), "both": int((one * two).sum())}
        row |= {"kappa": kappa.value, "kappa_low": k_low, "kappa_high": k_high}
        row |= {"alpha": alpha.value, "alpha_low": a_low, "alpha_high": a_high, "f1": scores[name]}
        out.append(row)
    table = pd.DataFrame(out).set_index("type")
    table.loc["macro", "f1"] = scores["macro"]
    return table
