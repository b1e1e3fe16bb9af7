"""Time and memory of `cbt corpus check` on synthetic records, beside near-duplicate search by datasketch.

    python benchmarks/corpus.py [--quick] [--json OUT]

Synthetic records are written by a character bigram model of the book's own corpus, with 1% near copies put in: their
n-grams repeat as real ones do, which is what a search for copies has to cope with. Each size runs in a process of its
own, so that its peak memory is its own. The peer sees the same posts: 128 permutations, LSH at the same threshold,
and finds candidates only; ours measures each pair exactly.
"""

import argparse
import itertools
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from cbtlib import corpus, gates


def write_records(path: Path, count: int) -> None:
    """`count` records of the size of the book's, 1% of them near copies of the one before."""
    rng = random.Random(0)
    book = [record for split in ("train", "dev", "test") for record in corpus.load_split(split)]
    follow: dict[str, list[str]] = defaultdict(list)
    for record in book:
        text = record.description + record.answer_text.replace("\n", "")
        for one, two in itertools.pairwise(text):
            follow[one].append(two)

    def say(length: int) -> str:
        letters = [rng.choice(record.description)]
        while len(letters) < length:
            letters.append(rng.choice(follow[letters[-1]] or ["的"]))
        return "".join(letters)

    records = []
    with path.open("w", encoding="utf-8") as file:
        for index in range(count):
            record = book[index % len(book)]
            answer = {part: say(len(text) - 1) + "。" for part, text in record.answer.items()}
            text = say(len(record.description))
            if index % 100 == 99:
                text = records[-1].description[: -len(text) // 5] + text[-len(text) // 5 :]
            new = replace(record, id=f"s-{index}", question=say(16), description=text, distortions=(), answer=answer)
            records[:] = [new]
            file.write(json.dumps(corpus.to_dict(new), ensure_ascii=False) + "\n")


def ours(path: Path) -> dict[str, float]:
    start = time.perf_counter()
    report = gates.check([path])
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"records": report.lines, "seconds": seconds, "peak_gb": peak, "findings": len(report.findings)}


def near(path: Path) -> dict[str, float]:
    """Seconds and pairs for the posts alone: ours, then datasketch."""
    from datasketch import MinHash, MinHashLSH

    posts = [record.description for record in corpus.load(path)]
    start = time.perf_counter()
    pairs = gates.near_duplicates(posts)
    middle = time.perf_counter()
    index = MinHashLSH(threshold=gates.NEAR, num_perm=128)
    candidates = 0
    for number, post in enumerate(posts):
        sketch = MinHash(num_perm=128)
        sketch.update_batch([post[i : i + 5].encode() for i in range(len(post) - 4)])
        candidates += len(index.query(sketch))
        index.insert(number, sketch)
    end = time.perf_counter()
    times = {"posts": len(posts), "ours_s": middle - start, "datasketch_s": end - middle}
    return {**times, "ratio": (end - middle) / (middle - start), "ours_pairs": len(pairs), "candidates": candidates}


def alone(task: str, path: Path) -> dict[str, float]:
    """Run one measurement in its own process."""
    done = subprocess.run(
        [sys.executable, __file__, "--task", task, "--path", str(path)], capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="300 and 1,000 records")
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--task", choices=("ours", "near"), help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.task:
        print(json.dumps((ours if args.task == "ours" else near)(args.path)))
        return
    sizes = (300, 1_000) if args.quick else (1_000, 10_000, 100_000)
    results: dict[str, list[dict[str, float]]] = {"check": [], "near": []}
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            path = Path(folder) / f"{size}.jsonl"
            write_records(path, size)
            row = alone("ours", path)
            results["check"].append(row)
            print("check  {records:>7} records  {seconds:7.2f} s  {peak_gb:5.2f} GB  {findings} findings".format(**row))
            if size <= 10_000:
                row = alone("near", path)
                results["near"].append(row)
                print(
                    "copies {posts:>7} posts    {ours_s:7.2f} s ours ({ours_pairs} pairs)  {datasketch_s:7.2f} s "
                    "datasketch ({candidates} candidates)  {ratio:.0f} times".format(**row)
                )
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
