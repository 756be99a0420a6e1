"""Targets and loss of box regression: by hand, and against the pixels of the crop."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from box_strategies import boxes, some_boxes
from verydeep.datasets.dataset import Dataset
from verydeep.localisation.annotations import Annotated
from verydeep.localisation.boxes import boxes_of, overlap, regression_targets
from verydeep.localisation.objective import BoxTargets, EuclideanLoss, box_overlap, box_regression
from verydeep.localisation.regressor import outputs_for
from verydeep.photographs.rescaling import rescale_and_crop
from verydeep.training.augmentation import Draw

NOTHING = np.zeros(3, np.float32)


def drawn(scale, place=(0.0, 0.0), mirror=False):
    return Draw(scale, place, mirror, NOTHING, 0)


def annotated(size, *of):
    dataset = Dataset("made up", ("cat", "dog"), (np.zeros((size[1], size[0], 3), np.uint8),), np.array([1]))
    return Annotated(dataset, (boxes(*of),))


def target(size, draw, *of, crop=32):
    data = annotated(size, *of)
    made = box_regression(data, outputs_for(("cat", "dog"), "PCR"), crop)
    return made.targets(data.dataset, np.array([0]), [draw])[0]


def test_a_target_by_hand():
    """64 x 32 pixels at S = 64 are 128 x 64; the crop of 32 at the end of both sides begins at (96, 32)."""
    found = target((64, 32), drawn(64, (0.999, 0.999)), [48, 16, 56, 32])
    assert found.tolist() == [1, 1, *regression_targets(boxes([0, 0, 16, 32]), 32)[0]]
    found = target((64, 32), drawn(64, (0.999, 0.999), mirror=True), [48, 16, 56, 32])
    assert found.tolist() == [1, 1, *regression_targets(boxes([16, 0, 32, 32]), 32)[0]]


@settings(max_examples=40, deadline=None)
@given(
    st.integers(33, 90),
    st.integers(33, 90),
    st.integers(32, 70),
    st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)),
    st.booleans(),
)
def test_the_target_is_where_the_pixels_are(width, height, scale, place, mirror):
    """A white rectangle on black, with soft edges after rescaling, is found again in the crop."""
    x0, y0, x1, y1 = width // 4, height // 4, 3 * width // 4, 3 * height // 4
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[y0:y1, x0:x1] = 255
    crop = rescale_and_crop(pixels, scale, 32, place, mirror)[..., 0] / 255
    found = target((width, height), drawn(scale, place, mirror), [x0, y0, x1, y1])
    (box,) = boxes_of(found[None, 2:].astype(np.float64), np.zeros((1, 2)), 32)
    centres = np.arange(32) + 0.5
    inside = (
        (centres > box[0] + 2) & (centres < box[2] - 2),
        (centres > box[1] + 2) & (centres < box[3] - 2),
    )
    outside = (centres < box[0] - 2) | (centres > box[2] + 2), (centres < box[1] - 2) | (centres > box[3] + 2)
    assert (crop[np.ix_(inside[1], inside[0])] > 0.9).all()
    assert (crop[outside[1]] < 0.1).all()
    assert (crop[:, outside[0]] < 0.1).all()


def test_a_crop_that_has_lost_its_object_has_no_loss():
    corner, whole = [56, 56, 64, 64], [0, 0, 64, 64]
    assert target((64, 64), drawn(64), corner)[1] == 0
    assert target((64, 64), drawn(64), whole)[1] == 1, "the object is larger than the crop, and fills it"
    assert target((64, 64), drawn(64), corner, [0, 0, 8, 8])[1:3].tolist() == [1, -0.375], "it shows another one"


def test_the_loss_by_hand():
    """One net with a box per class, one with a box for all; the second image does not count."""
    wanted = np.float32([[1, 1, 0, 0, 0.5, 0.5], [0, 0, 9, 9, 9, 9], [0, 1, 0.5, 0, 0.5, 0.5]])
    shared = torch.tensor([[0.1, 0, 0.5, 0.5], [0, 0, 1, 1], [0, 0, 0.5, 0.7]])
    total, wrong = EuclideanLoss(per_class=False)(shared, torch.from_numpy(wanted))
    assert total.item() == pytest.approx((0.01 + 0.25 + 0.04) / 2)
    assert wrong.item() == 1
    per_class = torch.full((3, 8), 7.0)
    per_class[0, 4:], per_class[1, :4], per_class[2, :4] = shared
    assert EuclideanLoss(per_class=True)(per_class, torch.from_numpy(wanted))[0].item() == pytest.approx(
        total.item()
    )


@given(some_boxes(least=4, most=4), some_boxes(least=4, most=4))
def test_the_overlap_in_torch_is_that_in_numpy(one, other):
    found = [torch.from_numpy(regression_targets(each, 64)) for each in (one, other)]
    assert box_overlap(*found).numpy() == pytest.approx(np.diag(overlap(one, other)), abs=1e-6)


def test_an_empty_share_has_no_loss():
    targets = BoxTargets((), np.zeros((0, 2), np.int64), 32)
    none = targets(Dataset("none", ("a",), (), np.zeros(0, np.int64)), np.zeros(0, np.int64), [])
    total, wrong = EuclideanLoss(per_class=True)(torch.zeros(0, 8), torch.from_numpy(none))
    assert (total.item(), wrong.item()) == (0, 0)
