"""Which layer of a model BERTScore should compare: the one whose scores agree best with people's.

    python benchmarks/layers.py --pairs FILE [--pairs FILE2] [--model embedded] [--quick] [--json OUT]

FILE has a pair of sentences and how alike people find them on each line, with tabs between. bert-score chose its layers
so, by judgements of English translations. Ours is by the dev part of Chinese STS-B (Cer et al. 2017, translated in
github.com/pluto-junzeng/CNSD; the files are in github.com/zejunwang1/CSTS): Spearman's correlation of both, with 95%
intervals, beside chrF's on the same pairs. Other files say how far the choice carries. Five minutes on two cores.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from scipy.stats import pearsonr, rankdata
from torch import Tensor, nn

from cbtlib import bertscore, metrics, surface, writing


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
    found = {f"layer {number}": correlation(list(one), people) for number, one in enumerate(by_layer, 1)}
    chrf = metrics.METRICS["chrf"].measure(surface.Texts(ones, [twos]))
    return {"pairs": len(people)} | found | {"chrf": correlation(chrf.items.tolist(), people)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path, action="append", required=True, metavar="FILE")
    parser.add_argument("--model", default="embedded", help="embedded, smoke, a folder or a hub id")
    parser.add_argument("--quick", action="store_true", help="a few pairs: does it run")
    parser.add_argument("--json", type=Path, metavar="OUT")
    given = parser.parse_args()
    plain = bertscore.encoder(given.model, 1)
    last = plain.body.config.num_hidden_layers
    found: dict[str, Any] = {"model": given.model}
    for path in given.pairs:
        encoder = EveryLayer(plain.body, plain.tokenizer, last, given.model)
        found[path.name] = measure(path, encoder, 20 if given.quick else None)
        print(f"\n{path.name}, {found[path.name]['pairs']} pairs")
        for name, one in found[path.name].items():
            if name != "pairs":
                print("{:10} {spearman:6.3f} [{low:.3f}, {high:.3f}]".format(name, **one), flush=True)
    if given.json:
        writing.write_json(given.json, found)


if __name__ == "__main__":
    main()
