"""The error of a row over seeds, and its uncertainty."""

import numpy as np
import pytest

from verydeep.evaluation.metrics import Error
from verydeep.experiments.report.pooled import pooled_error
from verydeep.experiments.results import Outcomes


def outcomes(*ranks):
    """A row `r`, with its ranks for each seed."""
    found = Outcomes(np.zeros(len(ranks[0]), np.int64), tuple(map(str, range(len(ranks[0])))))
    for seed, rank in enumerate(ranks):
        found.rank["r", seed] = np.array(rank, np.uint16)
    return found


@pytest.mark.parametrize("wrong", [0, 1, 30, 100])
def test_one_seed_has_wilsons_interval_and_no_spread(wrong):
    error = pooled_error(outcomes([1] * wrong + [0] * (100 - wrong)), "r", (0,), 1)
    assert error.mean == wrong / 100
    assert error.interval == pytest.approx(Error(wrong, 100).interval)
    assert error.spread is None


def test_top_5_counts_what_is_not_among_the_five_highest():
    assert pooled_error(outcomes([0, 4, 5, 9]), "r", (0,), 5).mean == 0.5


def test_seeds_that_say_the_same_are_worth_one():
    rank = [1] * 20 + [0] * 80
    one, three = pooled_error(outcomes(rank), "r", (0,), 1), pooled_error(outcomes(*[rank] * 3), "r", (0, 1, 2), 1)
    assert three.interval == pytest.approx(one.interval)
    assert three.spread == pytest.approx(0)


def test_the_interval_over_images_has_the_error_of_all_images_95_times_in_100():
    draw = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        hard = draw.beta(0.4, 1.6, 300)  # probability that a seed misclassifies each image; 20% on average
        error = pooled_error(outcomes(*(draw.random((3, 300)) < hard)), "r", (0, 1, 2), 1)
        held += error.interval[0] <= 0.2 <= error.interval[1]
    assert 0.92 <= held / 400 <= 0.98


def test_the_spread_over_seeds_is_their_standard_deviation():
    error = pooled_error(outcomes([1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0]), "r", (0, 1, 2), 1)
    assert error.seeds == (0.25, 0.5, 0.75)
    assert error.spread == pytest.approx(0.25)
