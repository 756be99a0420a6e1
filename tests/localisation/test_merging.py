"""Merging: worked examples by hand, and what holds for any boxes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from box_strategies import boxes, some_boxes
from verydeep.localisation.boxes import area
from verydeep.localisation.merging import THRESHOLD, match_scores, merged


def test_boxes_that_match_are_averaged_and_their_scores_added():
    found = merged(boxes([0, 0, 10, 10], [1, 0, 11, 10], [100, 0, 110, 10]), np.array([0.2, 0.3, 0.4]))
    assert found.boxes.tolist() == [[0.5, 0, 10.5, 10], [100, 0, 110, 10]]
    assert found.scores == pytest.approx([0.5, 0.4])
    assert found.counts.tolist() == [2, 1]


def test_the_best_pair_is_merged_first_and_each_box_counts_once():
    """The third is 1.5 from the mean of the first two, and the mean of all three is that of the boxes."""
    found = merged(boxes([0, 0, 10, 10], [0.5, 0, 10.5, 10], [1.75, 0, 11.75, 10]), np.ones(3))
    assert found.boxes[0] == pytest.approx([0.75, 0, 10.75, 10])
    assert (found.scores.tolist(), found.counts.tolist()) == ([3], [3])


def test_a_match_score_by_hand():
    """Two squares with sides of 3 and 4 apart by half: centres 5 apart, mean diagonal 10, no intersection."""
    assert match_scores(boxes([0, 0, 6, 8]), boxes([0, 0, 6, 8], [6, 0, 12, 8])).tolist() == [[0, 1.6]]
    assert match_scores(boxes([0, 0, 0, 0]), boxes([0, 0, 0, 0], [1, 1, 1, 1])).tolist() == [[1, np.inf]]


def test_the_threshold_is_an_overlap_of_about_0_6_for_boxes_of_one_size():
    for shift, together in ((2.2, True), (2.8, False)):
        assert (len(merged(boxes([0, 0, 10, 10], [shift, 0, 10 + shift, 10]), np.ones(2))) == 1) == together


def test_no_boxes_stay_none():
    assert len(merged(np.zeros((0, 4)), np.zeros(0))) == 0


@given(some_boxes(most=12), st.randoms(use_true_random=False))
def test_scores_and_counts_are_kept_and_means_stay_within_the_boxes(given_boxes, chance):
    scores = np.array([chance.random() for _ in given_boxes])
    found = merged(given_boxes, scores)
    assert found.scores.sum() == pytest.approx(scores.sum())
    assert found.counts.sum() == len(given_boxes)
    assert (np.diff(found.scores) <= 0).all()
    assert (found.boxes.min(0) >= given_boxes.min(0) - 1e-9).all()
    assert (found.boxes.max(0) <= given_boxes.max(0) + 1e-9).all()
    assert np.average(found.boxes, axis=0, weights=found.counts) == pytest.approx(given_boxes.mean(0), abs=1e-6)


@given(some_boxes(most=12))
def test_no_two_merged_boxes_match(given_boxes):
    found = merged(given_boxes, np.ones(len(given_boxes)))
    left = match_scores(found.boxes, found.boxes)[~np.eye(len(found), dtype=bool)]
    assert (left > THRESHOLD).all()


@given(some_boxes(least=2, most=8), st.permutations(range(8)))
def test_the_order_of_the_boxes_does_not_matter(given_boxes, order):
    moved = given_boxes + np.arange(len(given_boxes))[:, None] * np.sqrt(2) * 1e-3  # so that no pairs tie
    order = [at for at in order if at < len(moved)]
    one, other = merged(moved, np.ones(len(moved))), merged(moved[order], np.ones(len(moved)))
    assert sorted(one.counts.tolist()) == sorted(other.counts.tolist())
    assert np.sort(area(one.boxes)) == pytest.approx(np.sort(area(other.boxes)), abs=1e-3)
