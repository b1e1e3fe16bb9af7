"""Domain shift: a detector taught by this book's posts on a public set, and one taught by the public set on ours.

    python benchmarks/domain_shift.py --socialcd3k FILE --cogdis FILE [--quick] [--json OUT]

The reader supplies the public files (github.com/HongzhiQ/SupervisedVsLLM-EfficacyEval, train_data_with_header.tsv, and
github.com/405200144/Dataset-of-Cognitive-Distortion-detection-and-Positive-Reconstruction, CogDis.txt); only figures
come out. Labels are compared through the book's types, and with CogDis.txt through "is there one or not". The first row
is the same detector at home, for comparison. `data/domain_shift.json`, which chapter 03 shows, was made this way.
"""

import argparse
import tempfile
from pathlib import Path

from cbtlib import ROOT, detectors, labelling, writing

TRAIN, TEST = ROOT / "data/corpus/train.jsonl", ROOT / "data/corpus/test.jsonl"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--socialcd3k", type=Path, required=True, help="training part of SocialCD-3K")
    parser.add_argument("--cogdis", type=Path, required=True, help="CogDis.txt of Lin et al.")
    parser.add_argument("--quick", action="store_true", help="the detector by characters in place of the probe")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the results here")
    args = parser.parse_args()
    detector = "characters" if args.quick else "probe"
    files = {"socialcd3k": args.socialcd3k, "cogdis": args.cogdis, "records": TRAIN}
    names = {"socialcd3k": "SocialCD-3K", "cogdis": "Lin et al.", "records": "this book"}
    rows = []
    with detectors.reading_once():  # a text that is cut alike is read by the model once
        for learnt, tested in (
            ("records", "records"),
            ("records", "socialcd3k"),
            ("socialcd3k", "records"),
            ("records", "cogdis"),
            ("cogdis", "records"),
        ):
            test = TEST if tested == "records" else files[tested]
            with tempfile.TemporaryDirectory() as folder:
                found = labelling.benchmark(
                    files[learnt], test, Path(folder), learnt, [detector], book_types=True, test_format=tested
                )
            table = found.tables[detector]
            row = {
                "taught by": names[learnt],
                "tested on": names[tested],
                "posts": sum(found.outcomes[detector].values()),
            }
            one = "cogdis" in (learnt, tested)
            row["labels"] = "yes or no" if one else "eleven types"
            for average in ("any",) if one else ("any", "macro"):  # a mean over one label is no other figure
                row |= {f"{average} {key}": round(float(table.loc[average, key]), 4) for key in ("f1", "low", "high")}
            row["copies"] = found.copies
            rows.append(row)
            print(row, flush=True)
    if args.json:
        writing.write_json(args.json, writing.without_nan({"detector": detector, "rows": rows}))


if __name__ == "__main__":
    main()
