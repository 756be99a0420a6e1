"""Average precision and class recall, by hand and by scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_recall_curve, recall_score

from synthetic import refusal
from verydeep.transfer.measures import Judged, by_class, difference_interval, interval, mean


def ap(kind, ranked, counts=None):
    """The average precision of labels in the order of falling scores."""
    labels = np.array(ranked, np.int8)[:, None]
    scores = -np.arange(len(ranked), dtype=np.float64)[:, None]
    return by_class(kind, scores, labels, None if counts is None else np.array(counts))[0]


def test_average_precision_by_hand():
    # Positives at ranks 1, 3 and 6: precisions 1, 2/3 and 1/2 at recalls 1/3, 2/3 and 1.
    ranked = [1, -1, 1, -1, -1, 1]
    assert ap("ap-area", ranked) == pytest.approx((1 + 2 / 3 + 1 / 2) / 3)
    # Recalls 0 to 0.3, then 0.4 to 0.6, then 0.7 to 1.
    assert ap("ap-11", ranked) == pytest.approx((4 * 1 + 3 * 2 / 3 + 4 * 1 / 2) / 11)
    # Positives at ranks 2 and 3: the higher precision of 2/3 counts for the lower recall, too.
    assert ap("ap-area", [-1, 1, 1]) == pytest.approx(2 / 3)
    assert ap("ap-11", [-1, 1, 1]) == pytest.approx(2 / 3)
    assert ap("ap-area", [1, 1, -1]) == ap("ap-11", [1, 1, -1]) == 1


def test_a_recall_of_three_tenths_counts_as_three_tenths():
    # Ten positives, three of them first. In floating point, 3 * 0.1 is more than 3 / 10.
    ranked = [1, 1, 1, -1, -1, -1] + 7 * [1]
    rest = 10 / 13  # the precision at the end, the highest of any later recall
    assert ap("ap-11", ranked) == pytest.approx((4 * 1 + 7 * rest) / 11)


def test_difficult_objects_do_not_count():
    ranked = [0, 1, 0, -1, 1, 0]
    for kind in ("ap-area", "ap-11"):
        assert ap(kind, ranked) == ap(kind, [1, -1, 1])
    assert np.isnan(ap("ap-area", [0, -1, 0]))


def test_equal_scores_keep_the_order_of_the_photographs():
    labels = np.array([[-1], [1]], np.int8)
    assert by_class("ap-area", np.zeros((2, 1)), labels)[0] == 0.5
    assert by_class("ap-area", np.zeros((2, 1)), labels[::-1])[0] == 1


@settings(deadline=None, max_examples=80)
@given(st.lists(st.booleans(), min_size=1, max_size=40).filter(any), st.integers(0, 2**31))
def test_the_area_is_that_of_scikit_learn_under_the_envelope(positives, seed):
    """VOC takes, at each recall, the highest precision of that recall or more; scikit-learn takes its own."""
    truth = np.array(positives)
    scores = np.random.default_rng(seed).permutation(len(truth)).astype(np.float64)
    ours = by_class("ap-area", scores[:, None], np.where(truth, 1, -1).astype(np.int8)[:, None])[0]
    precision, recall, _ = precision_recall_curve(truth, scores)
    envelope = np.maximum.accumulate(precision)
    assert ours == pytest.approx(np.sum(-np.diff(recall) * envelope[:-1]))
    theirs = average_precision_score(truth, scores)
    assert ours >= theirs - 1e-9
    at_positives = precision[:-1][np.diff(recall) < 0]
    if (np.diff(at_positives) >= 0).all():  # they fall from one positive to the next, so both agree
        assert ours == pytest.approx(theirs)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.sampled_from([-1, 0, 1]), st.integers(0, 3)), min_size=1, max_size=20))
def test_a_photograph_that_counts_twice_is_like_two_photographs(pairs):
    ranked, counts = zip(*pairs, strict=True)
    repeated = [label for label, count in pairs for _ in range(count)]
    for kind in ("ap-area", "ap-11"):
        expected = ap(kind, repeated) if repeated else float("nan")
        assert ap(kind, ranked, counts) == pytest.approx(expected, nan_ok=True)


def test_class_recall_is_that_of_scikit_learn():
    random = np.random.default_rng(0)
    own = random.integers(0, 4, 50)
    scores = random.normal(size=(50, 4))
    labels = np.where(np.eye(4)[own] > 0, 1, -1).astype(np.int8)
    expected = recall_score(own, scores.argmax(1), average=None)
    np.testing.assert_allclose(by_class("class-recall", scores, labels), expected)
    assert mean(by_class("class-recall", scores, labels)) == pytest.approx(expected.mean())


def test_a_class_without_photographs_does_not_count():
    labels = np.array([[1, -1, -1], [1, -1, -1], [-1, 1, -1]], np.int8)
    values = by_class("class-recall", np.array([[1.0, 0, 0], [0, 1, 0], [0, 1, 0]]), labels)
    assert values[:2].tolist() == [0.5, 1]
    assert np.isnan(values[2])
    assert mean(values) == 0.75
    assert "no class has a photograph" in refusal(mean, values[2:])


def test_the_interval_covers_the_truth_and_shrinks_with_more_photographs():
    random = np.random.default_rng(1)
    widths = []
    for count in (40, 640):
        own = np.arange(count) % 2
        right = random.random(count) < 0.8
        scores = np.where(np.eye(2)[np.where(right, own, 1 - own)] > 0, 1.0, 0.0)
        labels = np.where(np.eye(2)[own] > 0, 1, -1).astype(np.int8)
        judged = [Judged(np.arange(count), scores, labels)] * 2  # two splits with the same photographs
        low, high = interval("class-recall", judged)
        assert low < right.mean() < high
        widths.append(high - low)
    assert 3 < widths[0] / widths[1] < 5, "a quarter of the width from 16 times as many photographs"
    # The normal approximation of one split: photographs of both splits are not independent.
    assert widths[1] == pytest.approx(2 * 1.96 * np.sqrt(0.16 / 640), rel=0.2)


def test_what_cannot_be_measured_is_refused():
    labels = np.ones((1, 1), np.int8)
    assert "not finite" in refusal(by_class, "ap-11", np.full((1, 1), np.nan), labels)


def test_the_interval_of_a_difference_is_that_of_pairs():
    random = np.random.default_rng(2)
    own = np.arange(400) % 4
    labels = np.where(np.eye(4)[own] > 0, 1, -1).astype(np.int8)

    def judged(right):
        said = np.where(right, own, (own + 1) % 4)
        return [Judged(np.arange(400), np.eye(4)[said], labels)]

    one = random.random(400) < 0.7
    better = one | (random.random(400) < 0.1)  # right on the same photographs, and on a few more
    low, high = difference_interval("class-recall", judged(better), judged(one))
    assert 0 < low < (better.mean() - one.mean()) < high
    alone = interval("class-recall", judged(one))
    assert high - low < (alone[1] - alone[0]) / 2
    assert difference_interval("class-recall", judged(one), judged(one)) == (0, 0)
    others = [judged(one)[0]._replace(rows=np.arange(400) + 1)]
    assert "the same test photographs" in refusal(difference_interval, "class-recall", judged(one), others)
