"""Sect. 3.2: dense testing of one batch, compared with numpy on the score map."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from verydeep.evaluation.dense import dense_posteriors, left_out, nearest_covered

SIDE = st.integers(32, 110)


def batch_of(scene, count, height, width):
    images = np.stack([scene(seed, height, width) for seed in range(count)])
    return torch.from_numpy(images).permute(0, 3, 1, 2)


@given(SIDE, SIDE, st.booleans())
@settings(max_examples=25, deadline=None)
def test_scores_are_averaged_over_the_map_then_come_soft_max_and_mirror_image(
    net, scene, softmax, height, width, flip
):
    images = batch_of(scene, 2, height, width)
    with torch.no_grad():
        found = dense_posteriors(net, images, flip)
        maps = [net.score_map(torch.from_numpy(view)).numpy() for view in views(images, flip)]
    assert maps[0].shape[2:] == (height // 32, width // 32)
    expected = np.mean([softmax(scores.mean((2, 3), dtype=np.float64)) for scores in maps], 0)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-6)


def views(images, flip):
    yield images.numpy()
    if flip:
        yield images.numpy()[:, :, :, ::-1].copy()


def test_what_is_averaged_and_when_makes_a_difference_to_these_tests(net, scene, softmax):
    """The tests above would notice a soft-max before the mean over the map, and a flip upside down."""
    images = batch_of(scene, 2, 96, 70)
    with torch.no_grad():
        found = dense_posteriors(net, images, flip=False).numpy()
        cells = net.score_map(images).permute(0, 2, 3, 1).numpy()
        upside_down = dense_posteriors(net, images.flip(2), flip=False).numpy()
    assert np.abs(softmax(cells).mean((1, 2)) - found).max() > 0.01
    assert np.abs(upside_down - found).max() > 0.01


def test_an_image_and_its_mirror_image_get_the_same_posteriors_only_with_flip(net, scene):
    images = batch_of(scene, 2, 64, 100)
    with torch.no_grad():
        together, mirrored = (dense_posteriors(net, view) for view in (images, images.flip(3)))
        alone, mirrored_alone = (dense_posteriors(net, view, flip=False) for view in (images, images.flip(3)))
    torch.testing.assert_close(together, mirrored)
    torch.testing.assert_close(together, (alone + mirrored_alone) / 2)
    assert (alone - mirrored_alone).abs().max() > 0.01


def test_mirroring_is_the_default(net, scene):
    images = batch_of(scene, 1, 32, 64)
    with torch.no_grad():
        assert torch.equal(dense_posteriors(net, images), dense_posteriors(net, images, flip=True))


def test_the_nearest_scale_that_a_score_map_covers():
    scales = {32: 32, 33: 32, 47: 32, 48: 64, 73: 64, 80: 96, 256: 256, 384: 384, 410: 416}
    assert {scale: nearest_covered(scale) for scale in scales} == scales
    assert all(left_out(scale) == "" for scale in scales.values())


def test_what_a_score_map_leaves_out_is_said_where_it_is_much():
    assert left_out(64) == left_out(256) == left_out(300) == ""
    assert "Q = 73: the score map leaves out the last 9 pixels" in left_out(73)
    assert "at Q = 64 or 96" in left_out(73)
