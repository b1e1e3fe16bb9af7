"""A flow figure: how many of what was asked are left after each step, and where the others went.

    steps = [{"asked": 12}, {"sent": 10, "crisis": 2}, {"ok": 6, "truncated": 4}, {"accepted": 1, "stopped": 5}]

The first entry of each step goes on to the next one; the others end there. Every count is a bar of its height, and what
goes on is joined by a band, so a step that loses answers unseen would be a gap in the figure. `draw` refuses one.
"""

import itertools
from collections.abc import Sequence

from matplotlib.axes import Axes

from cbtlib import CbtError


def check(steps: Sequence[dict[str, int]]) -> None:
    """CbtError when a step does not hold exactly what the step before handed on."""
    for before, step in itertools.pairwise(steps):
        name, handed_on = next(iter(before.items()))
        if sum(step.values()) != handed_on:
            raise CbtError(f"{handed_on} were {name}, and the next step has {sum(step.values())}: {step}")


def draw(axes: Axes, steps: Sequence[dict[str, int]], titles: Sequence[str], colors: Sequence[str]) -> None:
    """Draw the steps from left to right; what goes on is in colors[0], what ends in colors[1]."""
    check(steps)
    total = max(1, sum(steps[0].values()))
    gap = 0.05 * total
    width = 0.16
    for place, (step, title) in enumerate(zip(steps, titles, strict=True)):
        goes_on = next(iter(step))
        top = float(total)
        for name, count in step.items():
            color = colors[0] if name == goes_on else colors[1]
            axes.bar(place, count, width, bottom=top - count, color=color)
            if count:
                axes.text(place + width, top - count / 2, f"{name} {count}", va="center", fontsize=11, zorder=3)
                top -= count + gap
        if place + 1 < len(steps) and step[goes_on]:
            edges = [place + width / 2, place + 1 - width / 2]
            _bands(axes, edges, total, steps[place + 1], gap, colors)
        axes.text(place, total * 1.06, title, ha="center", fontweight="bold")
    axes.set_xlim(-0.3, len(steps) + 0.05)
    axes.set_ylim(-gap * max(len(step) for step in steps), total * 1.15)
    axes.axis("off")


def _bands(axes: Axes, edges: list[float], total: int, step: dict[str, int], gap: float, colors: Sequence[str]) -> None:
    """From what goes on, on the left, to each entry of the next step."""
    left = right = float(total)
    for number, count in enumerate(count for count in step.values() if count):
        color = colors[0] if number == 0 and next(iter(step.values())) else colors[1]
        axes.fill_between(edges, [left, right], [left - count, right - count], color=color, alpha=0.22, linewidth=0)
        left -= count
        right -= count + gap
