"""Which layer of a model BERTScore should compare: the one whose scores agree best with people's.

    python benchmarks/layers.py --pairs FILE [--pairs FILE2] [--model embedded] [--quick] [--json OUT]

FILE has a pair of sentences and how alike people find them on each line, with tabs between. bert-score chose its layers
so, by judgements of English translations. Ours is by the first FILE: sts-b-dev.txt of github.com/zejunwang1/CSTS, a
Chinese translation (github.com/pluto-junzeng/CNSD) of Cer et al.'s (2017) pairs; the second is its test part, and says
whether the choice carries. Spearman's correlation with 95% intervals, beside chrF's on the same pairs. Only figures
come out, into data/layers.json. Six minutes on two cores.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from scipy.stats import pearsonr, rankdata
from torch import Tensor, nn

from cbtlib import ROOT, bertscore, metrics, surface, writing


class EveryLayer(bertscore.Encoder):
    """An encoder whose states are those of all its layers, side by side: (tokens, layers * width)."""

    @torch.inference_mode()
    def _forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        caught: list[Tensor] = []

        def catch(_block: nn.Module, _inputs: Any, output: Any) -> None:
            caught.append(output[0] if isinstance(output, tuple) else output)

        hooks = [block.register_forward_hook(catch) for block in self.blocks]
        self.body(input_ids=ids, attention_mask=mask)
        for hook in hooks:
            hook.remove()
        return torch.cat(caught, dim=-1)

    def scores(self, one: str, two: str) -> list[float]:
        """BERTScore F1 of two texts at each layer."""
        self.encode([one, two])
        counted = self.counted[one].float(), self.counted[two].float()
        layers = zip(*(self.states[text].chunk(len(self.blocks), dim=-1) for text in (one, two)), strict=True)
        return [bertscore.match(*(nn.functional.normalize(each, dim=-1) for each in both), counted) for both in layers]


def correlation(scores: list[float], people: list[float]) -> dict[str, float]:
    """Spearman's correlation with its 95% interval (Fisher's)."""
    found = pearsonr(rankdata(scores), rankdata(people))
    low, high = found.confidence_interval()
    return {"spearman": float(found.statistic), "low": float(low), "high": float(high)}


def measure(path: Path, encoder: EveryLayer, first: int | None) -> dict[str, Any]:
    """The correlation of each layer, and chrF's."""
    ones, twos, people = [], [], []
    for number, line in enumerate(path.read_text("utf-8").split("\n")[:first], 1):
        try:
            one, two, grade = filter(None, line.split("\t"))
            people.append(float(grade))
        except ValueError:
            if line.strip():
                sys.exit(f"{path}, line {number}: give a sentence, a sentence and a number, with tabs between")
            continue
        ones.append(one)
        twos.append(two)
    encoder.encode([*ones, *twos])
    by_layer = zip(*(encoder.scores(one, two) for one, two in zip(ones, twos, strict=True)), strict=True)
    layers = [{"layer": number} | correlation(list(one), people) for number, one in enumerate(by_layer, 1)]
    chrf = metrics.METRICS["chrf"].measure(surface.Texts(ones, [twos]))
    found = {
        "file": path.name,
        "pairs": len(people),
        "layers": layers,
        "chrf": correlation(chrf.items.tolist(), people),
    }
    print(f"\n{path.name}, {len(people)} pairs")
    for one in [*layers, {"layer": "chrF"} | found["chrf"]]:
        print("{layer!s:5} {spearman:6.3f} [{low:.3f}, {high:.3f}]".format(**one), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path, action="append", required=True, metavar="FILE")
    parser.add_argument("--model", default="embedded", help="embedded, smoke, a folder or a hub id")
    parser.add_argument("--quick", action="store_true", help="a few pairs: does it run")
    parser.add_argument(
        "--json", type=Path, metavar="OUT", help="default of a full run on the embedded model: data/layers.json"
    )
    given = parser.parse_args()
    plain = bertscore.encoder(given.model, 1)
    last = plain.body.config.num_hidden_layers
    found = []
    for path in given.pairs:
        encoder = EveryLayer(plain.body, plain.tokenizer, last, given.model)
        found.append(measure(path, encoder, 20 if given.quick else None))
    if place := given.json or (None if given.quick or given.model != "embedded" else ROOT / "data/layers.json"):
        command = "python benchmarks/layers.py" + "".join(f" --pairs {path.name}" for path in given.pairs)
        writing.write_json(place, {"command": command, "model": given.model, "files": found})


if __name__ == "__main__":
    main()
