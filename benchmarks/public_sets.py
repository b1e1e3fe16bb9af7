"""Detectors on public sets that a reader supplies: SocialCD-3K on its own test part, Lin et al. by five parts.

    python benchmarks/public_sets.py [--socialcd3k TRAIN TEST [--detector probe]] [--cogdis FILE] [--quick] [--json OUT]

The files are train_data_with_header.tsv and test_data_with_header.tsv of
github.com/HongzhiQ/SupervisedVsLLM-EfficacyEval, and CogDis.txt of
github.com/405200144/Dataset-of-Cognitive-Distortion-detection-and-Positive-Reconstruction. Only figures come out.
Everything is chosen on the training part. Two minutes on two cores with the probe, twenty with the tuned detector;
forty on slower ones.

The published figures of SocialCD-3K (Qi et al. 2025, doi 10.3390/bioengineering12080882) are called micro-averaged F1.
For language models the released code computes that. For the supervised models it computes something else, here `per
post`: of each post's labels, the mean of the F1 of those that hold and the F1 of those that do not, averaged over
posts; and it judges every epoch on the part that it reports (for BERT it keeps the best). Both measures are given, and
what they say of a detector that never calls anything.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pandas as pd

from cbtlib import labelling, writing
from cbtlib.resampling import Statistics, intervals


def per_post(gold: list[set[str]], called: list[set[str]], types: int) -> dict[str, float]:
    """The released code's measure of labels, with a 95% interval over posts."""
    values = []
    for truth, found in zip(gold, called, strict=True):
        hits, wrong = len(truth & found), len(truth ^ found)
        rest = types - hits - wrong
        parts = [2 * n / (2 * n + wrong) for n in (hits, rest) if n + wrong]  # a class that is nowhere is left out
        values.append(sum(parts) / len(parts))
    statistic = Statistics.mean(values)
    low, high = intervals([statistic], 1000, seed=0)[0]
    return {"f1": statistic.value, "low": float(low), "high": float(high)}


def measure(train: Path, test: Path | None, form: str, kinds: list[str], average: str) -> dict[str, Any]:
    """Each detector's table and the released code's measure."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        result = labelling.benchmark(train, test, Path(folder), form, kinds, average=average)
        for kind in kinds:
            told = pd.read_csv(Path(folder) / kind / "predictions.csv", keep_default_na=False)
            gold, called = ([set(filter(None, one.split("|"))) for one in told[key]] for key in ("gold", "called"))
            types = len(set().union(*gold))
            scores = result.tables[kind].rename_axis("type").reset_index()
            found[kind] = {"posts": len(told), "copies": result.copies, "per post": per_post(gold, called, types)}
            found[kind]["scores"] = scores.to_dict("records")
            print(f"\n{kind}, {len(told)} posts\n{result.tables[kind].round(3).to_string()}")
            print("per post: {f1:.3f} [{low:.3f}, {high:.3f}]".format(**found[kind]["per post"]), flush=True)
        found["never calls"] = {"per post": per_post(gold, [set()] * len(gold), types), "micro": 0.0}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--socialcd3k", type=Path, nargs=2, metavar=("TRAIN", "TEST"))
    parser.add_argument("--cogdis", type=Path, metavar="FILE")
    parser.add_argument("--detector", action="append", choices=list(labelling.DETECTORS), help="for SocialCD-3K")
    parser.add_argument("--quick", action="store_true", help="the detector by characters alone")
    parser.add_argument("--json", type=Path, metavar="OUT")
    given = parser.parse_args()
    if not given.socialcd3k and not given.cogdis:
        sys.exit("nothing to measure: give --socialcd3k TRAIN TEST, --cogdis FILE, or both")
    found: dict[str, Any] = {}
    if given.cogdis:
        kinds = ["characters" if given.quick else "probe"]
        found["Lin et al., five parts"] = measure(given.cogdis, None, "cogdis", kinds, "macro")
    if given.socialcd3k:
        kinds = ["characters"] if given.quick else given.detector or ["probe", "lora"]
        found["SocialCD-3K, test part"] = measure(*given.socialcd3k, "socialcd3k", kinds, "micro")
    if given.json:
        writing.write_json(given.json, writing.without_nan(found))


if __name__ == "__main__":
    main()
