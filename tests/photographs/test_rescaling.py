"""Rescaling against formulas written out, and crops against slices of the whole."""

import math
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from synthetic import photo, save
from verydeep.errors import UserError
from verydeep.photographs import decoding
from verydeep.photographs.headers import read_jpeg
from verydeep.photographs.photograph import ImageError, decode
from verydeep.photographs.rescaling import grid_offsets, rescale, rescale_and_crop, rescaled_size, too_elongated

SAMPLES = Path(__file__).parents[3] / "shared" / "data" / "ilsvrc-samples"


def test_rescaled_size():
    assert rescaled_size(500, 375, 256) == (341, 256)
    assert rescaled_size(375, 500, 256) == (256, 341)
    assert rescaled_size(4, 3, 2) == (3, 2)  # 2.67
    assert rescaled_size(5, 4, 2) == (3, 2)  # 2.5 goes up
    assert rescaled_size(7, 7, 224) == (224, 224)
    for sizes in ((0, 5, 2), (5, 0, 2), (5, 5, 0), (5, -1, 2)):
        with pytest.raises(UserError, match="1 or more"):
            rescaled_size(*sizes)


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.integers(1, 10**4))
def test_rescaled_size_is_isotropic(width, height, shortest):
    w, h = rescaled_size(width, height, shortest)
    assert min(w, h) == shortest
    assert (w, h) == rescaled_size(height, width, shortest)[::-1]
    exact = max(width, height) * shortest / min(width, height)
    assert abs(max(w, h) - exact) <= 0.5 + 1e-6


def triangle(x):
    return np.maximum(0.0, 1 - np.abs(x))


def keys(x):
    """The cubic convolution of Keys (1981) with a = -1/2: MATLAB's bicubic."""
    x = np.abs(x)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


KERNELS = {"bilinear": triangle, "bicubic": keys}
rescalings = st.sampled_from(sorted(KERNELS))


def by_the_formula(pixels, width, height, kernel):
    """Compute each output pixel as a mean of the source, weighted by a kernel about its centre, side by side.

    The unit of the kernel is the larger of a source pixel and an output pixel. At the borders the remaining
    weights are scaled to sum to one.
    """

    def side(source, target):
        scale = source / target
        centres = (np.arange(target) + 0.5) * scale
        weights = kernel((np.arange(source) + 0.5 - centres[:, None]) / max(scale, 1.0))
        return weights / weights.sum(axis=1, keepdims=True)

    rows, columns = side(pixels.shape[0], height), side(pixels.shape[1], width)
    across = np.clip(np.einsum("jkc,lk->jlc", pixels.astype(float), columns), 0, 255)  # as stored in bytes
    return np.clip(np.einsum("ij,jlc->ilc", rows, across), 0, 255)


@pytest.mark.parametrize("rescaling", KERNELS)
@pytest.mark.parametrize("shortest", [5, 12, 23, 37, 60])
def test_rescale_is_the_filter_with_antialiasing(shortest, rescaling):
    pixels = np.random.default_rng(3).integers(0, 256, (37, 49, 3), dtype=np.uint8)
    result = rescale(pixels, shortest, rescaling)
    width, height = rescaled_size(49, 37, shortest)
    # Half a level per side; bicubic weights, some of them negative, scale the first half by up to 5/4.
    bound = 1 if rescaling == "bilinear" else 1.125
    assert np.abs(result - by_the_formula(pixels, width, height, KERNELS[rescaling])).max() <= bound


@settings(deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 90), st.integers(0, 9))
def test_bicubic_is_pillows_one_side_after_the_other(width, height, shortest, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    size = rescaled_size(width, height, shortest)
    image = Image.fromarray(pixels).resize((size[0], height), Image.Resampling.BICUBIC)
    expected = image.resize(size, Image.Resampling.BICUBIC)
    assert np.array_equal(rescale(pixels, shortest, "bicubic"), expected)


def test_rescale_to_its_own_size_changes_nothing(tmp_path):
    pixels = photo(37, 49)
    path = save(tmp_path / "photo.png", pixels)
    for source in (pixels, path):
        result = rescale(source, 37)
        assert np.array_equal(result, pixels)
        assert result is not pixels
        assert result.flags.writeable
        assert np.array_equal(rescale_and_crop(source, 37, 30, (0.5, 0.5)), pixels[4:34, 10:40])
        assert np.array_equal(rescale_and_crop(source, 37, 30, (0.5, 0.5), mirror=True), pixels[4:34, 39:9:-1])


def test_too_elongated_to_rescale(tmp_path):
    pixels = np.zeros((1, 1600, 3), np.uint8)
    with pytest.raises(ImageError, match="pixels in memory: 1600 x 1 pixels would become 409600 x 256"):
        rescale(pixels, 256)
    with pytest.raises(ImageError, match=r"line\.png: 1600 x 1 pixels would become"):
        rescale(save(tmp_path / "line.png", pixels), 256)
    assert "more than the 100000000 pixels allowed" in too_elongated(1600, 1, 256)
    assert too_elongated(1600, 1, 249) == ""


@pytest.mark.parametrize("rescaling", KERNELS)
def test_a_crop_of_an_elongated_photograph_needs_no_more_pixels_than_any_other(tmp_path, rescaling):
    levels = np.arange(600, dtype=np.uint16)[:, None, None] // 3 * np.ones(3)
    path = save(tmp_path / "divider.png", levels.astype(np.uint8))  # 1 x 600
    for scale in (48, 512, 4096):
        for down in (0.0, 0.3, 0.999):
            crop = rescale_and_crop(path, scale, 32, (0.5, down), rescaling=rescaling)
            assert np.abs(crop.astype(int) - 200 * down).max() <= 3
    assert_crop_is_a_slice(path, 48, 32, (0.5, 0.3), rescaling=rescaling)


def test_shortest_side_below_one(tmp_path):
    path = save(tmp_path / "photo.jpg", photo(8, 8))
    for call in (decode, rescale):
        with pytest.raises(UserError, match="shortest side"):
            call(path, 0)


# Crops


def assert_crop_is_a_slice(photograph, shortest, crop, place, mirror=False, rescaling="bilinear"):
    whole = rescale(photograph, shortest, rescaling)
    x, y = (math.floor(p * (size - crop + 1)) for p, size in zip(place, whole.shape[1::-1], strict=True))
    expected = whole[y : y + crop, x : x + crop]
    result = rescale_and_crop(photograph, shortest, crop, place, mirror, rescaling)
    assert result.shape == (crop, crop, 3)
    assert result.flags.writeable
    assert result.flags.c_contiguous
    difference = np.abs(result.astype(int) - (expected[:, ::-1] if mirror else expected))
    # Ties that round differently on both sides add up to two levels: see the docstring.
    assert difference.max() <= 2
    assert (difference > 1).sum() <= 2 + 1e-2 * difference.size


places = st.floats(0, 1, exclude_max=True)


@example(width=60, height=60, seed=0, crop=40, extra=50, place=(0.0, 0.0), mirror=False, rescaling="bilinear")
@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    width=st.integers(1, 150),
    height=st.integers(1, 150),
    seed=st.integers(0, 99),
    crop=st.integers(1, 64),
    extra=st.integers(0, 80),
    place=st.tuples(places, places),
    mirror=st.booleans(),
    rescaling=rescalings,
)
def test_a_crop_is_a_slice_of_the_whole(width, height, seed, crop, extra, place, mirror, rescaling):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    assert_crop_is_a_slice(pixels, crop + extra, crop, place, mirror, rescaling)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    width=st.integers(30, 400),
    height=st.integers(30, 400),
    crop=st.integers(1, 64),
    extra=st.integers(0, 200),
    place=st.tuples(places, places),
    rescaling=rescalings,
)
def test_a_crop_of_a_jpeg_is_a_slice_of_the_whole(tmp_path_factory, width, height, crop, extra, place, rescaling):
    path = save(tmp_path_factory.getbasetemp() / "slice.jpg", photo(height, width))
    assert_crop_is_a_slice(path, crop + extra, crop, place, rescaling=rescaling)


KINDS_OF_JPEG = {
    "4:2:0": {"subsampling": 2},
    "4:2:2": {"subsampling": 1},
    "4:4:4": {"subsampling": 0},
    "grey": {"mode": "L"},
    "progressive": {"progressive": True},
    "restart markers": {"restart_marker_blocks": 5},
    "optimised": {"optimize": True, "quality": 30},
}


@pytest.mark.parametrize("kind", KINDS_OF_JPEG)
@pytest.mark.parametrize("height", [97, 160])
@pytest.mark.parametrize("rescaling", KERNELS)
def test_rows_that_a_crop_does_not_need_are_spared_without_a_trace(tmp_path, monkeypatch, kind, height, rescaling):
    """The crop is bit for bit that of the whole photograph, wherever it lies."""
    path = save(tmp_path / "part.jpg", photo(height, 120), **KINDS_OF_JPEG[kind])
    decoded = []
    decoder = simplejpeg.decode_jpeg
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *a, **k: decoded.append(decoder(*a, **k)) or decoded[-1])

    def crops():
        return [rescale_and_crop(path, 80, 32, (0.3, down / 8), False, rescaling) for down in range(8)]

    found = crops()
    rows = [pixels.shape[0] for pixels in decoded]
    assert min(rows) < height or kind == "progressive"
    monkeypatch.setattr(decoding, "upper_part", lambda data, header, rows: None)
    assert all(np.array_equal(*pair) for pair in zip(found, crops(), strict=True))


def test_a_truncated_jpeg_is_refused_also_where_the_crop_lies_above_its_end(tmp_path):
    path = save(tmp_path / "short.jpg", photo(400, 100))
    path.write_bytes(path.read_bytes()[:-700])
    with pytest.raises(ImageError, match="truncated"):
        rescale_and_crop(path, 64, 32, (0.0, 0.0))


def test_places_reach_every_offset_and_no_further():
    pixels = np.arange(10, dtype=np.uint8)[None, :, None].repeat(4, axis=0).repeat(3, axis=2)
    last = math.nextafter(1, 0)
    lefts = [rescale_and_crop(pixels, 4, 4, (i / 7, last))[0, 0, 0] for i in range(7)]
    assert lefts == list(range(7))
    assert rescale_and_crop(pixels, 4, 4, (last, last))[0, 0, 0] == 6


def test_wrong_crops(tmp_path):
    pixels = photo(9, 9)
    for crop in (0, 9):
        with pytest.raises(UserError, match=f"cannot crop {crop} pixels from a shortest side of 8"):
            rescale_and_crop(pixels, 8, crop, (0.0, 0.0))
    for place in ((1.0, 0.0), (0.0, -0.1), (math.nan, 0.0)):
        with pytest.raises(UserError, match=r"\[0, 1\)"):
            rescale_and_crop(pixels, 8, 8, place)


@pytest.mark.skipif(not SAMPLES.is_dir(), reason=f"no photographs in {SAMPLES}")
def test_crops_of_real_photographs():
    random = np.random.default_rng(5)
    for path in sorted(SAMPLES.glob("*.JPEG"))[::10]:
        place = (random.random(), random.random())
        assert_crop_is_a_slice(path, int(random.integers(256, 513)), 224, place, bool(random.integers(2)))
        assert_crop_is_a_slice(path, int(random.integers(256, 513)), 224, place, rescaling="bicubic")


@pytest.mark.skipif(not SAMPLES.is_dir(), reason=f"no photographs in {SAMPLES}")
def test_upper_parts_of_real_photographs_are_bit_equal():
    spared = 0
    for path in sorted(SAMPLES.glob("*.JPEG"))[::10]:
        data = path.read_bytes()
        whole = simplejpeg.decode_jpeg(data)
        rows = whole.shape[0] // 2
        if part := decoding.upper_part(data, read_jpeg(data), rows):
            spared += 1
            assert np.array_equal(simplejpeg.decode_jpeg(part, strict=False)[:rows], whole[:rows])
    assert spared > 15


@given(size=st.integers(1, 2000), crop=st.integers(1, 2000), points=st.integers(1, 9))
def test_grid_offsets(size, crop, points):
    if crop > size:
        with pytest.raises(UserError, match="cannot place"):
            grid_offsets(size, crop, points)
        return
    offsets = grid_offsets(size, crop, points)
    assert len(offsets) == points
    if points == 1:
        assert abs(2 * offsets[0] - (size - crop)) <= 1
        return
    assert offsets[0] == 0
    assert offsets[-1] == size - crop
    exact = [i * (size - crop) / (points - 1) for i in range(points)]
    assert offsets == [math.floor(x + 0.5 + 1e-9) for x in exact]


def test_the_grid_of_the_paper():
    assert grid_offsets(256, 224, 5) == [0, 8, 16, 24, 32]
    assert grid_offsets(341, 224, 5) == [0, 29, 59, 88, 117]
    with pytest.raises(UserError, match="cannot place 0 crops"):
        grid_offsets(256, 224, 0)
