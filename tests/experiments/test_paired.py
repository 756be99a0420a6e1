"""Paired tests, checked against scipy and against synthetic data with a known truth."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from verydeep.experiments.paired import differences, gained_and_lost, mcnemar


def crossed(rng, seeds, images, *, mean=0.0, of_seeds=0.0, of_images=0.5, rest=0.7):
    """Differences with effects of seeds, of images and of both, each normal with the given standard deviation."""
    return (
        mean
        + of_seeds * rng.normal(size=(seeds, 1))
        + of_images * rng.normal(size=(1, images))
        + rest * rng.normal(size=(seeds, images))
    )


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_is_the_exact_sign_test(gained, lost):
    p = mcnemar(gained, lost)
    smaller, both = min(gained, lost), gained + lost
    assert p == pytest.approx(min(1.0, 2 * stats.binom.cdf(smaller, both, 0.5)))
    assert p == pytest.approx(mcnemar(lost, gained))


def test_gained_is_what_only_the_other_got_wrong():
    wrong, against = np.array([0, 0, 1, 0, 1], bool), np.array([1, 1, 0, 0, 1], bool)
    assert gained_and_lost(wrong, against) == (2, 1)


def test_one_seed_gives_what_a_paired_t_test_gives():
    sample = np.random.default_rng(0).normal(0.05, 1, (1, 1500))
    (found,) = differences([sample])
    expected = stats.ttest_1samp(sample[0], 0)
    low, high = expected.confidence_interval(0.95)
    assert found.mean == pytest.approx(sample.mean())
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.004)
    assert found.p == pytest.approx(expected.pvalue, abs=0.015)


def test_images_that_seeds_agree_on_count_once():
    """Three copies of one seed are three seeds without spread, and no more certain than one."""
    one = np.random.default_rng(1).normal(0.05, 1, (1, 300))
    alone, thrice = differences([one, np.repeat(one, 3, axis=0)])
    assert (thrice.low, thrice.high) == pytest.approx((alone.low, alone.high))


def test_seeds_that_disagree_widen_the_interval_as_a_t_test_over_seeds_does():
    sample = np.repeat([[0.1], [0.2], [0.6]], 100, axis=1)
    (found,) = differences([sample])
    low, high = stats.ttest_1samp(sample.mean(1), 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.06)
    assert found.by_seed == pytest.approx((0.1, 0.2, 0.6))


# Seeds, spread of their effects in standard errors of the mean over images, bounds of the false positive rate.
@pytest.mark.parametrize(
    ("seeds", "of_seeds", "least", "most"),
    [
        (3, 0.0, 0.02, 0.06),
        (3, 0.5, 0.03, 0.065),
        (3, 1.0, 0.035, 0.08),
        (8, 0.5, 0.035, 0.07),
        (2, 1.0, 0.0, 0.05),
    ],
)
def test_a_true_zero_is_found_to_differ_about_one_time_in_twenty(seeds, of_seeds, least, most):
    rng = np.random.default_rng(seeds)
    images = 120
    error = np.sqrt((0.5**2 + 0.7**2 / seeds) / images)
    samples = [crossed(rng, seeds, images, of_seeds=of_seeds * error * seeds**0.5) for _ in range(2000)]
    found = differences(samples, draws=500)
    outside = np.mean([one.low > 0 or one.high < 0 for one in found])
    assert least < outside < most
    assert np.mean([one.p < 0.05 for one in found]) == pytest.approx(outside, abs=0.005)


def test_without_the_seeds_spread_a_true_zero_would_be_found_too_often():
    """Why seeds must be part of the interval: here their effects are as large as those of the images."""
    rng = np.random.default_rng(3)
    error = np.sqrt((0.5**2 + 0.7**2 / 3) / 120)
    samples = [crossed(rng, 3, 120, of_seeds=error * 3**0.5) for _ in range(1000)]
    found = differences([sample.mean(0, keepdims=True) for sample in samples], draws=600)
    assert np.mean([one.p < 0.05 for one in found]) > 0.12


def test_what_is_called_detectable_is_found_four_times_in_five():
    rng = np.random.default_rng(4)
    (first,) = differences([crossed(rng, 8, 300)], draws=2000)
    samples = [crossed(rng, 8, 300, mean=first.detectable) for _ in range(500)]
    found = np.mean([one.low > 0 for one in differences(samples, draws=600)])
    assert 0.65 < found < 0.93


def test_no_difference_on_few_images_is_not_certainty():
    """No difference on n images allows one of up to about 3 / n."""
    (found,) = differences([np.zeros((3, 300))])
    assert (found.mean, found.p) == (0.0, 1.0)
    assert found.high == pytest.approx(3 / 300, rel=0.1)
    assert found.low == pytest.approx(-3 / 300, rel=0.1)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.integers(2, 30), st.integers(0, 99))
def test_the_other_way_round_gives_the_same_with_the_other_sign(seeds, images, seed):
    sample = np.random.default_rng(seed).integers(-1, 2, (seeds, images)).astype(float)
    forth, back = differences([sample, -sample], draws=4000)
    assert back.mean == -forth.mean
    assert 0 < forth.p <= 1
    assert forth.low <= forth.mean <= forth.high
    width = forth.high - forth.low
    assert back.low == pytest.approx(-forth.high, abs=0.15 * width)
    assert back.detectable == pytest.approx(forth.detectable, rel=0.15)


def test_a_result_depends_on_its_own_sample_alone():
    rng = np.random.default_rng(5)
    first, second = crossed(rng, 3, 50), crossed(rng, 2, 50)
    together, (alone,) = differences([first, second]), differences([second])
    assert together[1].mean == alone.mean
    assert (together[1].low, together[1].high) == pytest.approx((alone.low, alone.high))
    assert differences([first, second]) == together
    assert differences([]) == []
