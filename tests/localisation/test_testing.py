"""The testing protocols, against windows that are cut out and computed one by one."""

import numpy as np
import pytest
import torch

from box_strategies import boxes
from synthetic import refusal
from verydeep import ConvNet, initialise
from verydeep.computing import Computing
from verydeep.datasets.dataset import Dataset
from verydeep.distributed import Ranks
from verydeep.localisation.annotations import Annotated
from verydeep.localisation.boxes import boxes_of, clipped, rescaled
from verydeep.localisation.merging import merged
from verydeep.localisation.regressor import outputs_for
from verydeep.localisation.testing import Regressor, box_error, centre_crop_boxes, locate
from verydeep.photographs.rescaling import rescale, rescaled_size

CLASSES = ("cat", "dog", "owl")
QUIET = Computing(progress=False)


def net(outputs, seed, crop=32):
    made = ConvNet("A", classes=outputs, crop=crop, width=1 / 16, fully_connected=16)
    initialise(made, "glorot", seed=seed)
    return made.eval()


@pytest.fixture(scope="module")
def photographs():
    chance = np.random.default_rng(0)
    sizes = [(40, 70), (90, 50), (64, 64)]
    return tuple(chance.integers(0, 256, (*size, 3)).astype(np.uint8) for size in sizes)


def dataset(photographs):
    return Dataset("made up", CLASSES, photographs, np.array([0, 1, 2]))


@pytest.mark.parametrize("regression", ["SCR", "PCR"])
def test_protocol_1_is_the_box_of_the_true_class_on_the_centre_crop(regression, photographs):
    named = outputs_for(CLASSES, regression)
    regressor = net(named.names, seed=1)
    data = Annotated(dataset(photographs), tuple(boxes([0, 0, 9, 9]) for _ in photographs))
    found = centre_crop_boxes(regressor, data, 64, Ranks(), QUIET).boxes
    for row, pixels in enumerate(photographs):
        size = pixels.shape[1::-1]
        width, height = rescaled_size(*size, 64)
        left, top = (width - 32 + 1) // 2, (height - 32 + 1) // 2
        crop = rescale(pixels, 64)[top : top + 32, left : left + 32]
        with torch.no_grad():
            outputs = regressor(torch.from_numpy(crop.copy()).permute(2, 0, 1)[None]).numpy().astype(np.float64)
        if regression == "PCR":
            outputs = outputs[:, 4 * row : 4 * row + 4]
        by_hand = rescaled(boxes_of(outputs, np.array([[left, top]], np.float64), 32), (width, height), size)
        assert found[row] == pytest.approx(clipped(by_hand, *size)[0], abs=1e-3)


@pytest.mark.parametrize("regression", ["SCR", "PCR"])
def test_protocol_2_merges_the_boxes_of_all_cells_scales_and_nets(regression, photographs):
    named = outputs_for(CLASSES, regression)
    one, two, classifier = net(named.names, 1), net(named.names, 2), net(CLASSES, 3)
    posteriors = np.float32([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.3, 0.4, 0.3]])
    regressors = [Regressor(one, classifier, (64, 96)), Regressor(two, classifier, (64,))]
    found = locate(regressors, dataset(photographs), posteriors, QUIET, top=2)
    for row, pixels in enumerate(photographs):
        size = pixels.shape[1::-1]
        order = np.argsort(-posteriors[row], kind="stable")[:2]
        assert [each.name for each in found[row]] == [CLASSES[k] for k in order]
        for each, k in zip(found[row], order, strict=True):
            by_hand, scores = [], []
            for regressor, scale in ((one, 64), (one, 96), (two, 64)):
                image = torch.from_numpy(rescale(pixels, scale)).permute(2, 0, 1)[None]
                with torch.no_grad():
                    outputs, cells = regressor.score_map(image), classifier.score_map(image).softmax(1)
                first = 4 * int(k) if regression == "PCR" else 0
                for i in range(outputs.shape[2]):
                    for j in range(outputs.shape[3]):
                        values = outputs[:, first : first + 4, i, j].numpy().astype(np.float64)
                        box = boxes_of(values, np.array([[32.0 * j, 32.0 * i]]), 32)
                        by_hand.append(rescaled(box, rescaled_size(*size, scale), size))
                        scores.append(float(cells[0, k, i, j]))
            best = merged(clipped(np.concatenate(by_hand), *size), np.array(scores))
            assert each.box == pytest.approx(tuple(best.boxes[0]), abs=1e-2)
            assert each.windows == best.counts[0]


def test_the_error_of_boxes_is_counted_by_hand(photographs):
    truth = Annotated(dataset(photographs), (boxes([0, 0, 10, 10]), boxes([0, 0, 10, 10]), boxes([5, 5, 9, 9])))
    found = box_error(np.array([[0, 0, 10, 9], [20, 20, 30, 30], [5, 5, 9, 9.0]]), truth)
    assert (found.wrong, found.images) == (1, 3)


def test_what_does_not_fit_is_refused(photographs):
    data = dataset(photographs)
    regressor, posteriors = net(outputs_for((), "SCR").names, 1), np.full((3, 3), 1 / 3, np.float32)
    assert "windows must be of one size" in refusal(Regressor, regressor, net(CLASSES, 2, crop=64), (64,))
    classifier = net(CLASSES, 2)
    arguments = ([Regressor(classifier, classifier, (64,))], data, posteriors, QUIET)
    assert "predicts classes, not boxes" in refusal(locate, *arguments)
    arguments = ([Regressor(regressor, classifier, (16,))], data, posteriors, QUIET)
    assert "below the net's crop" in refusal(locate, *arguments)
