"""Boxes of a photograph from score maps: worked by hand."""

import numpy as np
import pytest

from box_strategies import boxes
from synthetic import refusal
from verydeep.datasets.dataset import Dataset
from verydeep.localisation.annotations import Annotated
from verydeep.localisation.metrics import hits, is_hit, mean_boxes, whole_image_boxes
from verydeep.localisation.prediction import Located, Maps, located, window_corners
from verydeep.localisation.regressor import Outputs, outputs_for, outputs_named

CENTRED = np.array([0, 0, 0.5, 0.5])
"""A box in the middle of its window, half as wide and high."""


def maps(outputs, posteriors, size=(64, 32), named=None):
    return Maps(size, 32, np.float32(outputs), named or Outputs(()), np.float32(posteriors))


def test_windows_are_32_pixels_apart():
    assert window_corners(2, 3).tolist() == [[0, 0], [32, 0], [64, 0], [0, 32], [32, 32], [64, 32]]


def test_the_best_rated_box_is_that_of_the_windows_that_see_the_class():
    """Two windows, side by side, each with a box in its middle; the photograph is twice as large as at Q."""
    one = maps(np.tile(CENTRED[:, None, None], (1, 1, 2)), [[[0.1, 0.9]], [[0.9, 0.1]]])
    cat, dog = located([one], np.array([0.6, 0.4]), ("cat", "dog"), (128, 64))
    assert (cat.name, cat.box, cat.windows) == ("cat", (80, 16, 112, 48), 1)
    assert (dog.name, dog.box, dog.posterior) == ("dog", (16, 16, 48, 48), 0.4)


def test_scales_are_united_before_merging():
    """At Q = 32 one window sees the whole; at Q = 64 four see a quarter each, and their boxes are the whole."""
    far = maps(np.array([0, 0, 1, 1])[:, None, None], np.ones((1, 1, 1)), (32, 32))
    shift = np.array([[[0.5, -0.5], [0.5, -0.5]], [[0.5, 0.5], [-0.5, -0.5]], [[2, 2], [2, 2]], [[2, 2], [2, 2]]])
    near = maps(shift, np.ones((1, 2, 2)), (64, 64))
    (found,) = located([far, near], np.ones(1), ("cat",), (100, 100))
    assert found.box == pytest.approx((0, 0, 100, 100))
    assert found.windows == 5


def test_a_regressor_per_class_has_a_box_for_each_class():
    named = outputs_for(("cat", "dog"), "PCR")
    outputs = np.concatenate([CENTRED, [0, 0, 1, 1]])[:, None, None]
    one = maps(outputs, np.full((2, 1, 1), 0.5), (32, 32), named)
    cat, dog = located([one], np.array([0.6, 0.4]), ("cat", "dog"), (32, 32))
    assert (cat.box, dog.box) == ((8, 8, 24, 24), (0, 0, 32, 32))
    assert "knows no class 'bird'" in refusal(located, [one], np.ones(1), ("bird",), (32, 32))


def test_the_card_says_what_the_outputs_are():
    for classes in (("cat", "dog: big"), ()):
        assert outputs_named(Outputs(classes).names) == Outputs(classes)
    assert (outputs_for(("a", "b"), "SCR").regression, len(outputs_for(("a", "b"), "PCR").names)) == ("SCR", 8)
    for names in (("cat", "dog"), (), ("cat: centre x", "dog")):
        assert "predicts classes, not boxes" in refusal(outputs_named, names)
    assert "choose SCR" in refusal(outputs_for, ("cat",), "scr")


def annotated(*of):
    """Photographs of 40 x 20 pixels with these boxes, all cats but the last."""
    photographs = tuple(np.zeros((20, 40, 3), np.uint8) for _ in of)
    labels = np.array([0] * (len(of) - 1) + [1])
    return Annotated(Dataset("made up", ("cat", "dog"), photographs, labels), of)


def test_a_hit_needs_more_than_half_and_may_be_any_box_of_the_class():
    truth = boxes([0, 0, 10, 10], [20, 0, 30, 10])
    assert is_hit((0.0, 0.0, 10.0, 6.0), truth)
    assert not is_hit((0.0, 0.0, 10.0, 5.0), truth)
    assert is_hit((21.0, 0.0, 30.0, 10.0), truth)
    assert not is_hit((0.0, 0.0, 10.0, 10.0), boxes())


def test_a_photograph_is_right_if_one_of_the_first_predictions_has_class_and_box():
    truth = annotated(boxes([0, 0, 10, 10]), boxes([0, 0, 10, 10]))
    right, wrong = (0.0, 0.0, 10.0, 10.0), (20.0, 0.0, 30.0, 10.0)

    def found(cat, dog):
        return Located("cat", 0.6, cat, 1), Located("dog", 0.4, dog, 1)

    assert hits([found(right, wrong), found(right, right)], truth, 1).tolist() == [True, False]
    assert hits([found(wrong, right), found(right, right)], truth, 5).tolist() == [False, True]


def test_baselines_by_hand():
    training, data = annotated(boxes([0, 0, 20, 10]), boxes([20, 10, 40, 20], [0, 0, 1, 1])), annotated(boxes())
    assert whole_image_boxes(data).tolist() == [[0, 0, 40, 20]]
    assert mean_boxes(training, data).tolist() == [[10, 5, 30, 15]]
