"""Figures as their readers see them."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from cbtlib import figures, label_figures, report


@pytest.mark.parametrize("values", [(1, 10, 100), (0.02, 0.3), (2, 5)])
def test_numbers_on_logarithmic_axes_are_numbers_and_not_the_source_of_a_formula(tmp_path, values):
    page = report.Page("a_page", "smoke", str(tmp_path))
    figure, axes = plt.subplots()
    axes.plot(values, values)
    axes.set(xscale="log", yscale="log")
    figures.show(figure, page, "logs", alt="a line", caption="A line.", data=pd.DataFrame({"y": values}))
    for axis in (axes.xaxis, axes.yaxis):
        shown = [label.get_text() for label in axis.get_ticklabels(which="both") if label.get_text()]
        assert shown and all(float(text) > 0 for text in shown)


@pytest.mark.parametrize("most", [0, 1, 19])
def test_figures_in_a_heat_map_can_be_read_in_every_shade(most):
    """WCAG's contrast of black on the darkest cell, 4.5 at least."""
    shades = figures.shades(most)
    color = plt.get_cmap(shades["cmap"])((most - shades["vmin"]) / (shades["vmax"] - shades["vmin"]))[:3]
    linear = [(x + 0.055) ** 2.4 / 1.055**2.4 if x > 0.04045 else x / 12.92 for x in color]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    assert shades["annot_kws"] == {"color": "black"} and (luminance + 0.05) / 0.05 >= 4.5


def test_a_headline_stays_within_its_figure_and_is_the_largest_text():
    figure, axes = plt.subplots()
    figures.headline(figure, "Naive intervals hold the truth as rarely as 12% of the time, corrected ones 87% or more")
    headline = figure.texts[0]
    assert headline.get_window_extent().x1 <= figure.bbox.x1
    assert headline.get_fontsize() > label_figures.SIZE > axes.xaxis.label.get_fontsize()
    plt.close(figure)


def test_a_headline_has_no_last_line_of_one_word():
    figure, _ = plt.subplots(figsize=(figures.WIDTH, 4))
    figures.headline(figure, "By chrF: tuned 9.3, best floor 9.1, base 2.2, ceiling 15.9")
    first, last = figure.texts[0].get_text().split("\n")
    assert abs(len(first) - len(last)) < 15
    plt.close(figure)


def test_a_dollar_in_a_name_is_a_dollar():
    figure, axes = plt.subplots()
    text = axes.text(0, 0, "system $a$")
    figure.canvas.draw()
    assert not text.get_parse_math()
    plt.close(figure)
