"""A flow figure shows every post: a step that loses one is refused."""

import matplotlib.pyplot as plt
import pytest

from cbtlib import CbtError, flow

STEPS = [{"asked": 12}, {"sent": 10, "crisis": 2}, {"ok": 6, "truncated": 4}, {"accepted": 0, "parts gate": 6}]


def test_every_count_has_a_bar_of_its_height():
    figure, axes = plt.subplots()
    flow.draw(axes, STEPS, "abcd", ["blue", "red"])
    heights = sorted(patch.get_height() for patch in axes.patches)
    assert heights == sorted(float(count) for step in STEPS for count in step.values())
    shown = {text.get_text() for text in axes.texts}
    assert {"asked 12", "crisis 2", "truncated 4", "parts gate 6"} <= shown and "accepted 0" not in shown
    plt.close(figure)


@pytest.mark.parametrize("step", [{"sent": 10}, {"sent": 10, "crisis": 3}, {}])
def test_a_step_that_loses_or_adds_a_post_is_refused(step):
    with pytest.raises(CbtError, match="12 were asked"):
        flow.check([{"asked": 12}, step])
