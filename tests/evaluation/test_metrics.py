"""Top-1 and top-5 error, their interval, and the loss."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from synthetic import refusal
from verydeep.errors import UserError
from verydeep.evaluation.metrics import Error, mean_loss, top_error


def matrix_without_ties(seed, images, classes):
    chance = np.random.default_rng(seed)
    return chance.permuted(np.tile(np.arange(1, classes + 1, dtype=np.float32), (images, 1)), axis=1) / classes


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 12), st.sampled_from([1, 2, 5]))
def test_errors_are_those_of_a_sort(seed, images, classes, k):
    posteriors = matrix_without_ties(seed, images, classes)
    labels = np.random.default_rng(seed + 1).integers(0, classes, images)
    best = np.argsort(-posteriors, axis=1)[:, :k]
    wrong = sum(label not in row for label, row in zip(labels, best, strict=True))
    assert top_error(posteriors, labels, k) == Error(wrong, images)


@pytest.mark.parametrize("classes", [2, 7])
@pytest.mark.parametrize("k", [1, 5])
def test_a_net_that_cannot_tell_classes_apart_is_no_better_than_chance(classes, k):
    labels = np.repeat(np.arange(classes), 3)
    posteriors = np.full((len(labels), classes), 1 / classes, np.float32)
    assert top_error(posteriors, labels, k).value == pytest.approx(1 - min(k, classes) / classes)


def test_of_equal_classes_the_first_counts_as_higher():
    posteriors = np.array([[0.1, 0.4, 0.1, 0.4]], np.float32)
    assert top_error(posteriors, np.array([1]), 1).wrong == 0
    assert top_error(posteriors, np.array([3]), 1).wrong == 1
    assert top_error(posteriors, np.array([3]), 2).wrong == 0


@pytest.mark.parametrize("classes", [1, 4, 5])
def test_with_five_classes_or_fewer_nothing_is_outside_the_top_five(classes):
    posteriors = matrix_without_ties(0, 20, classes)
    assert top_error(posteriors, np.arange(20) % classes, 5) == Error(0, 20)


@given(st.integers(1, 60_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_is_wilsons(counts):
    wrong, images = counts
    expected = binomtest(wrong, images).proportion_ci(0.95, method="wilson")
    assert Error(wrong, images).interval == pytest.approx((expected.low, expected.high), rel=1e-6, abs=1e-12)


def test_an_error_shows_its_value_and_its_interval():
    # Wilson (1927) for 247 of 1000, worked out by hand: (0.247 + 0.0019207 -+ 0.0267992) / 1.0038415.
    assert str(Error(247, 1000)) == "24.70% [22.13%, 27.47%]"
    assert str(Error(0, 10)).startswith("0.00% [0.00%, 27.75%]")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_posteriors_that_are_not_finite_are_refused(value):
    posteriors = matrix_without_ties(0, 3, 4)
    posteriors[1, 2] = value
    assert "not finite" in refusal(top_error, posteriors, np.zeros(3, np.int64), 1)


def test_an_error_of_no_images_is_refused():
    assert "no images" in refusal(top_error, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), 1)


def test_the_mean_loss():
    posteriors = np.array([[0.5, 0.25, 0.25], [0.0, 0.75, 0.25]], np.float32)
    assert mean_loss(posteriors, np.array([1, 1])) == pytest.approx((np.log(4) - np.log(0.75)) / 2)
    assert 40 < mean_loss(posteriors, np.array([0, 0])) < 45  # -ln(0) counts as 87
    with pytest.raises(UserError, match="no images"):
        mean_loss(posteriors[:0], np.zeros(0, np.int64))
