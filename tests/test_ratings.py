"""Ratings: coefficients equal to published examples, forms that stay blind, missing ratings that stay missing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from cbtlib import CbtError, agreement

_ = np.nan
KRIPPENDORFF = (  # Krippendorff 2011: four observers, twelve units, scores 1..5
    np.array(
        [
            [1, 2, 3, 3, 2, 1, 4, 1, 2, _, _, _],
            [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, _, 3],
            [_, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, _],
            [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, _],
        ]
    ).T
    - 1
)
FLEISS = [  # ten subjects, fourteen raters, five categories: how many raters chose each
    [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
    [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
]  # fmt: skip


@pytest.mark.parametrize(("level", "published"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_alpha_is_krippendorffs_own_example(level, published):
    assert agreement.krippendorff_alpha(KRIPPENDORFF, 5, level).value == pytest.approx(published, abs=5e-4)


def test_kappa_and_ac1_are_the_published_examples():
    ratings = np.array([np.repeat(np.arange(5), row) for row in FLEISS])
    assert agreement.fleiss_kappa(ratings, 5).value == pytest.approx(0.210, abs=5e-4)
    assert agreement.fleiss_kappa(KRIPPENDORFF, 5).value == pytest.approx(0.76117, abs=5e-6)
    assert agreement.gwet_ac(KRIPPENDORFF, 5, "none").value == pytest.approx(0.77544, abs=5e-6)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=3, max_size=30))
def test_cohens_kappa_is_scikit_learns(pairs):
    one, two = np.array(pairs, float).T
    for weights, name in (("none", None), ("quadratic", "quadratic")):
        ours = agreement.cohen_kappa(one, two, 3, weights).value
        if len(set(one)) == 1 and set(one) == set(two):
            assert np.isnan(ours)
        else:
            theirs = cohen_kappa_score(one, two, labels=[0, 1, 2], weights=name)
            assert ours == pytest.approx(theirs)


def test_ratings_that_never_vary_have_no_alpha():
    ratings = np.ones((6, 3))
    assert np.isnan(agreement.krippendorff_alpha(ratings, 3).value)
    assert np.isnan(agreement.fleiss_kappa(ratings, 3).value)
    assert agreement.gwet_ac(ratings, 3).value == 1


def test_a_rating_out_of_range_is_named():
    with pytest.raises(CbtError, match=r"rating 3 of item 2 by rater 1 is not one of 0\.\.2"):
        agreement.krippendorff_alpha([[0, 1], [3, 1]], 3)


def test_an_item_rated_once_adds_nothing_to_alpha():
    with_one = np.vstack([KRIPPENDORFF, [[0, _, _, _]]])
    alpha, more = (agreement.krippendorff_alpha(matrix, 5) for matrix in (KRIPPENDORFF, with_one))
    assert alpha.value == more.value
