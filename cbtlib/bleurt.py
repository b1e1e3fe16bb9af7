"""BLEURT (Sellam et al. 2020) with a checkpoint that the reader supplies, computed in whatever environment it needs.

Notable choices
- A checkpoint is a download of gigabytes that no package registry holds, and Google's `bleurt` needs TensorFlow. Both
  stay outside: a Python that has them is started with a list of pairs and gives back a list of scores.
- Without a checkpoint there is no number. `NOT_RUN` says what is missing and how to get it, in the place of the score.
- The signature names the versions of the two packages that computed the scores, as that other Python knows them.
- Anything but one finite score for each pair is an error with the last line that the other Python printed.
- Each distinct pair is scored once; the best reference counts; an empty text scores 0, as everywhere.
"""

import json
import math
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cbtlib import CbtError
from cbtlib.metrics import OWN, Metric
from cbtlib.resampling import Statistics
from cbtlib.surface import Texts

NOT_RUN = (
    "not run: needs a CHECKPOINT (BLEURT-20 reads Chinese) and a Python with Google's bleurt package; then "
    "cbt score … --bleurt CHECKPOINT --bleurt-python PYTHON"
)

# What the other Python runs. Scores go to a file, because TensorFlow writes to standard output as it likes.
_WORKER = """
import importlib.metadata, json, sys
from bleurt import score
with open(sys.argv[2], encoding="utf-8") as file:
    pairs = json.load(file)
scorer = score.BleurtScorer(sys.argv[1])
scores = scorer.score(references=[r for _, r in pairs], candidates=[h for h, _ in pairs], batch_size=16)
with open(sys.argv[3], "w", encoding="utf-8") as file:
    bleurt = next((one.version for one in importlib.metadata.distributions(name="bleurt")), "unknown")
    versions = {"bleurt": bleurt, "tensorflow": getattr(sys.modules.get("tensorflow"), "__version__", "unknown")}
    json.dump({"scores": [float(one) for one in scores], "versions": versions}, file)
"""


def metric(checkpoint: Path | str, python: Path | str) -> Metric:
    """BLEURT as an entry for `metrics.METRICS`; CbtError when there is no such checkpoint folder."""
    checkpoint = Path(checkpoint)
    if not checkpoint.is_dir():
        raise CbtError(f"{checkpoint} is no BLEURT checkpoint: it is the folder that the downloaded archive holds")
    return Metric(lambda texts: bleurt(texts, checkpoint, python), f"checkpoint:{checkpoint.name}|{OWN}")


def bleurt(texts: Texts, checkpoint: Path, python: Path | str) -> Statistics:
    """Mean BLEURT; per item the best reference. Raises CbtError when the other Python does not give all scores."""
    wanted = [
        [(hypothesis, one[item]) for one in texts.references if one[item] is not None and hypothesis.strip()]
        for item, hypothesis in enumerate(texts.hypotheses)
    ]
    pairs = list(dict.fromkeys(pair for item in wanted for pair in item))
    given, note = _run(pairs, checkpoint, python) if pairs else ([], "bleurt:not-asked")
    scores = dict(zip(pairs, given, strict=True))
    values = [max((scores[pair] for pair in item), default=0.0) for item in wanted]
    return replace(Statistics.mean(values), note=note)


def _run(pairs: Sequence[tuple[str, str | None]], checkpoint: Path, python: Path | str) -> tuple[list[float], str]:
    """A score for each pair, and what the signature must say of the packages that gave them."""
    with tempfile.TemporaryDirectory() as folder:
        given, taken = Path(folder, "pairs.json"), Path(folder, "scores.json")
        given.write_text(json.dumps(pairs), "utf-8")
        command = [str(python), "-c", _WORKER, str(checkpoint.resolve()), str(given), str(taken)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        except OSError as error:
            raise CbtError(f"cannot start {python} for BLEURT: {error}; give a Python with Google's bleurt") from None
        if done.returncode or not taken.exists():
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise CbtError(f"BLEURT failed in {python} with checkpoint {checkpoint}: {last}")
        found = json.loads(taken.read_text("utf-8"))
    scores, versions = found["scores"], found["versions"]
    if len(scores) != len(pairs) or not all(math.isfinite(score) for score in scores):
        raise CbtError(f"BLEURT gave {len(scores)} scores for {len(pairs)} pairs, or one that is no number")
    return scores, "|".join(f"{name}:{version}" for name, version in versions.items())
