"""Time of counting and of labelling: bootstrap of label shares, labels read off answers, both kinds of detector.

    python benchmarks/distortions.py [--quick] [--json OUT]

The peer of the bootstrap is the plain loop: draw rows with replacement, take the mean, once for each resample. It is
timed on a few resamples of the same table, and both are printed as seconds for one thousand. The peer of extraction is
a loop over all names in each answer. Medians of three runs.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cbtlib import corpus, detectors, distortions, models, prevalence


def seconds(call: Callable[[], object], runs: int = 3) -> float:
    """Median seconds of a call."""
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def shares(rows: int) -> dict[str, float]:
    """One thousand resamples of `rows` x 11 labels: ours, and the plain loop scaled from a few resamples."""
    labels = np.random.default_rng(0).random((rows, 11)) < 0.1
    ours = seconds(lambda: prevalence.bootstrap_shares(labels, 1000))
    few = 20 if rows < 100_000 else 3
    rng = np.random.default_rng(0)
    plain = seconds(lambda: [labels[rng.integers(0, rows, rows)].mean(0) for _ in range(few)]) * 1000 / few
    return {"rows": rows, "ours_s": ours, "plain_s": plain, "ratio": plain / ours}


def extraction(count: int) -> dict[str, float]:
    """Labels of `count` answers: ours, and a loop over all names in each answer."""
    letters = [record.answer_text for record in corpus.load_split("train")]
    answers = (letters * (count // len(letters) + 1))[:count]
    table = distortions.taxonomy()
    cells = "|".join(table[["zh", "en", "aliases_zh", "aliases_en"]].to_numpy().ravel())
    names = sorted(set(cells.lower().split("|")))
    ours = seconds(lambda: [distortions.extract(answer) for answer in answers])
    plain = seconds(lambda: [[name for name in names if name in answer.lower()] for answer in answers], 1)
    return {"answers": count, "ours_s": ours, "plain_s": plain, "ratio": plain / ours}


def labelling(kind: str, quick: bool) -> dict[str, float | str]:
    """Tokens a second that a saved detector labels, model loaded, and the seconds that loading both takes."""
    posts = detectors.of_records(corpus.load_split("train"))
    texts = [record.description for record in corpus.load_split("test")]
    texts = texts[:10] if quick else texts * 3
    tokens = sum(map(len, models.load("embedded")[1](texts)["input_ids"]))
    with tempfile.TemporaryDirectory() as folder:
        detectors.train(posts, kind).save(Path(folder))
        start = time.perf_counter()
        detector = detectors.Detector.load(Path(folder))
        detector.scores(texts[:1])  # loads the model too
        loading = time.perf_counter() - start
    one = seconds(lambda: detector.scores(texts[:1]))  # what every call pays: the model comes from the cache
    taken = seconds(lambda: detector.scores(texts[1:]), 1) - one
    return {"kind": kind, "posts": len(texts), "load_s": loading, "tokens_per_s": tokens / max(taken, 1e-9)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small tables, a few posts")
    parser.add_argument("--json", type=Path, help="write the results here")
    args = parser.parse_args()
    results: dict[str, list] = {"shares": [], "extraction": [], "labelling": []}
    for rows in (1_000, 22_327) if args.quick else (1_000, 22_327, 100_000, 1_000_000):
        results["shares"].append(row := shares(rows))
        print(
            "shares      {rows:>9} rows     {ours_s:8.3f} s ours  {plain_s:9.2f} s plain  {ratio:6.0f} times".format(
                **row
            )
        )
    row = extraction(1_000 if args.quick else 22_327)
    results["extraction"].append(row)
    print(
        "extraction  {answers:>9} answers  {ours_s:8.3f} s ours  {plain_s:9.2f} s plain  {ratio:6.0f} times".format(
            **row
        )
    )
    for kind in ("characters", "probe"):
        results["labelling"].append(found := labelling(kind, args.quick))
        print(
            "labelling   {kind:>10}  {posts} posts  {tokens_per_s:,.0f} tokens/s, loaded in {load_s:.1f} s".format(
                **found
            )
        )
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
