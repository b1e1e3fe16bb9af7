"""Two labelling passes over the same posts, and how far they agree.

`data/second_labels.jsonl` holds a second pass: {"id", "distortions": [{type, start, end}]} a line, asked for from the
posts and the labelling guide alone. Agreement is reported as it is, type by type. Both passes are a language model's,
on posts whose brief asked for clear cases: what they share by being alike cannot be told from what is in the text, so
this is an upper bound on the agreement of two people, and no measurement of it. A bad line is an error.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from cbtlib import CbtError, agreement, corpus, detection, distortions, resampling
from cbtlib.corpus import TYPES, Problem, Record


def read(path: Path, records: list[Record]) -> dict[str, frozenset[str]]:
    """Record id to the types of the second pass; CorpusError with every line that does not fit the records."""
    known = {record.id: record for record in records}
    labels: dict[str, frozenset[str]] = {}
    problems: list[Problem] = []
    for line, item in corpus.read_objects(path):
        if isinstance(item, Problem):
            problems.append(item)
            continue
        name, found = item.get("id"), item.get("distortions")
        if name not in known or name in labels:
            problems.append(Problem(line, "id", f"{name!r} is {'there twice' if name in labels else 'no record'}"))
        elif not isinstance(found, list) or not all(isinstance(x, dict) and x.get("type") in TYPES for x in found):
            problems.append(Problem(line, "distortions", "must be a list of labels with known types"))
        else:
            labels[name] = frozenset(x["type"] for x in found)
    if problems:
        raise corpus.CorpusError(path, problems)
    if len(labels) < 2:
        raise CbtError(f"{path} holds {len(labels)} posts: agreement needs at least two")
    return labels


def compare(records: list[Record], second: dict[str, frozenset[str]], resamples: int = 1000) -> pd.DataFrame:
    """Agreement per type and for `any`: counts, Cohen's kappa and Krippendorff's alpha with 95 % intervals, F1.

    F1 takes the first pass as gold: the second pass scored as if it were a detector. A type that
    neither labeller used has no agreement to speak of: NaN.
    """
    rows = [record for record in records if record.id in second]
    first = distortions.of_records(rows)
    other = distortions.matrix([second[record.id] for record in rows])
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
