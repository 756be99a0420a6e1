import math
import os
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from verydeep import images
from verydeep.errors import UserError
from verydeep.images import (
    ImageError,
    decode,
    grid_offsets,
    rescale,
    rescale_and_crop,
    rescaled_size,
)

SAMPLES = Path(__file__).parents[2] / "shared" / "data" / "ilsvrc-samples"
TURNED = {  # what the camera stored, made from the upright picture; the inverse of what a viewer does
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),  # the viewer turns it clockwise
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


def photo(height, width, seed=0):
    """A smooth scene with edges and a little grain, as a photograph has."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    scene = np.stack([np.sin(9 * x + 3 * y), np.cos(7 * y - 2 * x), np.sin(5 * x * y + 1)], axis=-1) * 80 + 128
    scene[(x - 0.4) ** 2 + (y - 0.3) ** 2 < 0.04] = (230, 60, 40)
    return np.clip(scene + random.normal(0, 3, scene.shape), 0, 255).astype(np.uint8)


def save(path, pixels, mode=None, **options):
    image = Image.fromarray(np.ascontiguousarray(pixels))
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def png(path, width, height, depth, colour, rows, extra=b""):
    """A PNG written out by hand, for the kinds that Pillow does not write."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )
    return path, chunk


def reason(path, **options):
    with pytest.raises(ImageError) as caught:
        decode(path, **options)
    assert caught.value.path == path
    assert str(caught.value) == f"{path}: {caught.value.reason}"
    assert "\n" not in str(caught.value)
    return caught.value.reason


# What a person would see


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".webp", ""])
def test_lossless_colour_is_exact(tmp_path, suffix):
    pixels = photo(31, 47)
    path = tmp_path / f"photo{suffix}"
    save(path, pixels, format="WEBP" if suffix == ".webp" else "PNG", lossless=True)
    assert np.array_equal(decode(path), pixels)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 1}])
def test_jpeg_is_what_pillow_decodes(tmp_path, options):
    path = save(tmp_path / "photo.JPEG", photo(61, 83), **options)
    with Image.open(path) as image:
        assert np.array_equal(decode(path), np.asarray(image))


@pytest.mark.parametrize("name", ["grey.jpg", "grey.png", "grey.webp"])
def test_grey(tmp_path, name):
    grey = photo(40, 30)[..., 0]
    rgb = decode(save(tmp_path / name, grey, quality=95))
    assert rgb.shape == (40, 30, 3)
    assert np.abs(rgb.astype(int) - grey[..., None]).mean() < 3


def test_black_and_white(tmp_path):
    bits = photo(20, 21)[..., 0] > 128
    assert np.array_equal(decode(save(tmp_path / "bits.png", bits)), np.repeat(bits[..., None] * 255, 3, axis=2))


def test_palette(tmp_path):
    image = Image.fromarray(photo(30, 40)).quantize(16)
    image.save(tmp_path / "palette.png")
    assert np.array_equal(decode(tmp_path / "palette.png"), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("transparency", [3, bytes([255, 128, 0, 255, 64])])
def test_palette_with_transparency_is_over_white(tmp_path, transparency):
    indices = (np.arange(35).reshape(5, 7) % 5).astype(np.uint8)
    colours = np.array([[0, 0, 0], [200, 10, 20], [9, 99, 199], [50, 60, 70], [255, 0, 255]])
    alphas = np.array([255, 255, 255, 0, 255]) if transparency == 3 else np.array(list(transparency))
    image = Image.fromarray(indices)
    image.putpalette(colours.astype(np.uint8).tobytes())
    image.save(tmp_path / "palette.png", transparency=transparency)
    assert_over_white(decode(tmp_path / "palette.png"), colours[indices], alphas[indices])


@pytest.mark.parametrize("name", ["alpha.png", "alpha.webp"])
def test_alpha_is_over_white(tmp_path, name):
    alpha = np.linspace(0, 255, 24 * 33).reshape(24, 33).round().astype(np.uint8)
    pixels = np.dstack([photo(24, 33), alpha])
    save(tmp_path / name, pixels, lossless=True, exact=True)
    assert_over_white(decode(tmp_path / name), pixels[..., :3], alpha)


def test_grey_alpha_is_over_white(tmp_path):
    grey, alpha = photo(12, 14)[..., 0], np.arange(168, dtype=np.uint8).reshape(12, 14)
    image = Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha)])
    image.save(tmp_path / "alpha.png")
    assert_over_white(decode(tmp_path / "alpha.png"), np.repeat(grey[..., None], 3, axis=2), alpha)


@pytest.mark.parametrize("key", [(10, 20, 30), 77])
def test_a_transparent_colour_is_white(tmp_path, key):
    pixels = photo(10, 11) if isinstance(key, tuple) else photo(10, 11)[..., 0]
    pixels[3, 4] = key
    expected = np.broadcast_to(pixels.reshape(10, 11, -1), (10, 11, 3)).copy()
    expected[(expected == key).all(axis=2)] = 255
    assert np.array_equal(decode(save(tmp_path / "key.png", pixels, transparency=key)), expected)


def assert_over_white(rgb, colour, alpha):
    share = alpha[..., None] / 255
    assert np.abs(rgb - (colour * share + 255 * (1 - share))).max() <= 1


def test_grey_of_16_bits_is_scaled(tmp_path):
    grey = photo(30, 20)[..., 0]
    path = save(tmp_path / "deep.png", grey.astype(np.uint16) * 257)
    assert np.array_equal(decode(path), np.repeat(grey[..., None], 3, axis=2))


def test_transparent_grey_of_16_bits(tmp_path):
    levels = np.array([[0, 300, 301, 65535]], ">u2")
    _, chunk = png(tmp_path / "deep.png", 4, 1, 16, 0, [levels.tobytes()])
    png(tmp_path / "deep.png", 4, 1, 16, 0, [levels.tobytes()], chunk(b"tRNS", struct.pack(">H", 300)))
    assert decode(tmp_path / "deep.png")[0, :, 0].tolist() == [0, 255, 1, 255]


@pytest.mark.parametrize("channels", [3, 4])
def test_colour_of_16_bits_is_scaled(tmp_path, channels):
    pixels = photo(6, 9)
    deep = np.full((6, 9, channels), 65535, ">u2")
    deep[..., :3] = pixels.astype(np.uint16) * 257
    path, _ = png(tmp_path / "deep.png", 9, 6, 16, 2 if channels == 3 else 6, [row.tobytes() for row in deep])
    assert np.array_equal(decode(path), pixels)


def test_cmyk_jpeg(tmp_path):
    pixels = photo(64, 48)
    path = save(tmp_path / "print.jpg", pixels, "CMYK", quality=95)  # Pillow writes them inverted, as Adobe does
    assert b"Adobe" in path.read_bytes()
    rgb = decode(path)
    assert rgb.shape == pixels.shape
    assert np.abs(rgb.astype(int) - pixels).mean() < 4


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["turned.jpg", "turned.png", "turned.webp"])
def test_turned_photographs_are_put_upright(tmp_path, orientation, name):
    upright = photo(40, 64)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / name, TURNED[orientation](upright), exif=exif, quality=95, subsampling=0, lossless=True)
    rgb = decode(path)
    assert rgb.shape == upright.shape
    assert np.abs(rgb.astype(int) - upright).mean() < (4 if name == "turned.jpg" else 1e-9)
    if orientation in (1, 6):
        assert rescale(path, 20).shape == (20, 32, 3)


def test_nonsense_in_the_exif_is_passed_over(tmp_path):
    pixels = photo(16, 16)
    for exif in (
        b"Exif\0\0",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0nonsense",
        b"Exif\0\0MM\0*" + b"\xff" * 40,
    ):
        path = save(tmp_path / "photo.jpg", pixels, exif=exif, quality=95, subsampling=0)
        assert np.abs(decode(path).astype(int) - pixels).mean() < 5
    exif = Image.Exif()
    exif[0x0112] = 9
    assert decode(save(tmp_path / "photo.jpg", pixels, exif=exif)).shape == (16, 16, 3)


@pytest.mark.parametrize("name", ["moves.png", "moves.webp"])
def test_the_first_frame_of_an_animation(tmp_path, name):
    frames = [photo(20, 30, seed) // (seed + 1) for seed in range(3)]
    first, *rest = map(Image.fromarray, frames)
    first.save(tmp_path / name, save_all=True, append_images=rest, lossless=True)
    assert np.array_equal(decode(tmp_path / name), frames[0])


def test_extraneous_bytes_are_tolerated(tmp_path):
    path = save(tmp_path / "photo.jpg", photo(40, 50))
    expected = decode(path)
    data = path.read_bytes()
    path.write_bytes(data[:-2] + b"stray bytes" + data[-2:])
    with pytest.raises(ValueError, match="extraneous"):
        simplejpeg.decode_jpeg(path.read_bytes(), strict=True)
    assert np.array_equal(decode(path), expected)


def test_pixels_in_memory_are_their_own_decoding():
    pixels = photo(8, 9)
    assert decode(pixels) is pixels
    with pytest.raises(ImageError, match="pixels in memory: no pixels"):
        decode(np.empty((0, 4, 3), np.uint8))


# DCT scales


@pytest.mark.parametrize(
    ("size", "shortest", "scaled"),
    [
        ((512, 700), 256, (512, 700)),
        ((511, 700), 128, (256, 350)),
        ((509, 700), 128, (509, 700)),
        ((513, 701), 64, (129, 176)),
        ((513, 701), 32, (65, 88)),
        ((513, 701), 1, (65, 88)),
        ((5, 4), 1, (3, 2)),
    ],
)
@pytest.mark.parametrize("exif", [False, True])
def test_the_dct_scale_leaves_twice_the_shortest_side(tmp_path, size, shortest, scaled, exif):
    options = {}
    if exif:  # turned, so by Pillow
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = 3
    pixels = photo(*size)
    path = save(tmp_path / "photo.jpg", pixels[::-1, ::-1] if exif else pixels, **options)
    assert decode(path, shortest).shape[:2] == scaled


def test_a_dct_scaled_photograph_rescales_to_nearly_the_same(tmp_path):
    path = save(tmp_path / "photo.jpg", photo(1031, 1283), quality=90)
    for shortest in (60, 128, 256):
        quick, full = rescale(path, shortest), rescale(decode(path), shortest)
        assert quick.shape[1::-1] == full.shape[1::-1] == rescaled_size(1283, 1031, shortest)
        assert np.abs(quick.astype(int) - full).mean() < 0.7


# Unreadable files


def test_no_such_file(tmp_path):
    assert reason(tmp_path / "absent.jpg") == "no such file"
    assert "cannot be read" in reason(save(tmp_path / "a.png", photo(4, 4)) / "below")
    assert "cannot be read" in reason(tmp_path / ("x" * 5000))
    assert "cannot be read" in reason(Path("nul\0.jpg"))


def test_a_directory(tmp_path):
    assert "is a directory" in reason(tmp_path)


def test_not_permitted(tmp_path, monkeypatch):
    path = save(tmp_path / "photo.jpg", photo(8, 8))
    path.chmod(0)
    if os.access(path, os.R_OK):  # root may read everything

        def refuse(*_, **__):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(images, "open", refuse, raising=False)
    assert "not permitted" in reason(path)


def test_an_empty_file(tmp_path):
    (tmp_path / "empty.jpg").touch()
    assert "is empty" in reason(tmp_path / "empty.jpg")


@pytest.mark.parametrize("content", [b"a", b"<html>404 Not Found</html>", bytes(1000), b"RIFF1234WAVEfmt "])
def test_not_an_image(tmp_path, content):
    (tmp_path / "page.jpg").write_bytes(content)
    assert "is not an image" in reason(tmp_path / "page.jpg")


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "JPEG2000", "AVIF"])
def test_formats_that_are_not_read(tmp_path, kind):
    save(tmp_path / "photo.jpg", photo(16, 16), format=kind)
    stated = reason(tmp_path / "photo.jpg")
    assert kind.replace("2", " 2") in stated
    assert "only JPEG, PNG and WebP are read" in stated


@pytest.mark.parametrize("name", ["photo.JPEG", "photo.jpg", "photo.PNG", "photo.webp"])
def test_a_name_that_contradicts_the_content(tmp_path, name):
    kind = "JPEG" if name == "photo.PNG" else "PNG"
    path = save(tmp_path / name, photo(8, 8), format=kind)
    assert reason(path) == f"holds {kind} data though its name ends in {path.suffix}: rename it"


@pytest.mark.parametrize(
    "name", ["photo.jpg", "turned.jpg", "print.jpg", "progressive.jpg", "photo.png", "photo.webp"]
)
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.98])
def test_a_truncated_file(tmp_path, name, kept):
    options = {}
    if name == "turned.jpg":
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = 6
    mode = "CMYK" if name == "print.jpg" else None
    path = save(tmp_path / name, photo(150, 100), mode, progressive=name == "progressive.jpg", **options)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    assert "truncated" in reason(path)


@pytest.mark.parametrize("name", ["photo.jpg", "photo.png", "photo.webp"])
def test_no_damage_escapes_as_anything_else(tmp_path, name):
    path = save(tmp_path / name, photo(50, 40), exif=Image.Exif())
    data = path.read_bytes()
    random = np.random.default_rng(1)
    refused = 0
    for _ in range(150):
        damaged = bytearray(data)
        for at in random.integers(0, min(len(data), 700), 4):
            damaged[at] = random.integers(256)
        path.write_bytes(damaged[: random.integers(1, len(data))] if random.random() < 0.3 else damaged)
        try:
            rgb = decode(path, 8)
        except ImageError:
            refused += 1
        else:
            assert rgb.dtype == np.uint8
    assert refused > 30


@pytest.mark.parametrize("error", [struct.error("bad"), SyntaxError("bad"), OverflowError("bad"), MemoryError()])
def test_whatever_the_decoder_raises_is_an_image_error(tmp_path, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setitem(images._READERS, "PNG", fail)
    assert "is damaged" in reason(save(tmp_path / "photo.png", photo(8, 8)))


@pytest.mark.parametrize("side", [10_001, 30_000, 60_000])
def test_too_many_pixels_by_the_header(tmp_path, side):
    path = save(tmp_path / "photo.jpg", photo(16, 16))
    data = path.read_bytes()
    at = data.index(b"\xff\xc0") + 5
    path.write_bytes(data[:at] + struct.pack(">HH", side, side) + data[at + 4 :])
    stated = f"{side} x {side} are {side * side} pixels by its header, more than the 100000000 allowed"
    assert stated in reason(path)

    cmyk = save(tmp_path / "print.jpg", photo(16, 16), "CMYK")
    data = cmyk.read_bytes()
    at = data.index(b"\xff\xc0") + 5
    cmyk.write_bytes(data[:at] + struct.pack(">HH", side, side) + data[at + 4 :])
    assert stated in reason(cmyk)

    assert stated in reason(png(tmp_path / "photo.png", side, side, 8, 2, [b"\0\0\0"])[0])


def test_an_allowed_number_of_pixels_that_pillow_would_warn_of(tmp_path):
    path, _ = png(tmp_path / "bits.png", 10_000, 9_990, 1, 0, [b"\0"])
    assert "pixels" not in reason(path)  # truncated, but not too large


def test_errors_survive_the_way_between_processes():
    error = pickle.loads(pickle.dumps(ImageError(Path("a.jpg"), "no such file")))
    assert isinstance(error, UserError)
    assert (error.path, error.reason, str(error)) == (Path("a.jpg"), "no such file", "a.jpg: no such file")
    assert str(ImageError(Path("a\nb.jpg"), "c\nd")) == "a b.jpg: c d"


# Rescaling


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


def by_the_formula(pixels, width, height):
    """Each output pixel is the mean of the source weighted by a triangle about its centre, side after side.

    The triangle reaches one source pixel to each side, or one output pixel where that is larger; at the
    borders the weights that are left are made to sum to one.
    """

    def side(source, target):
        scale = source / target
        reach = max(scale, 1.0)
        weights = np.zeros((target, source))
        for i in range(target):
            centre = (i + 0.5) * scale
            for j in range(source):
                weights[i, j] = max(0.0, 1 - abs(j + 0.5 - centre) / reach)
        return weights / weights.sum(axis=1, keepdims=True)

    rows, columns = side(pixels.shape[0], height), side(pixels.shape[1], width)
    return np.einsum("ij,jkc,lk->ilc", rows, pixels.astype(float), columns)


@pytest.mark.parametrize("shortest", [5, 12, 23, 37, 60])
def test_rescale_is_antialiased_bilinear(shortest):
    pixels = np.random.default_rng(3).integers(0, 256, (37, 49, 3), dtype=np.uint8)
    result = rescale(pixels, shortest)
    width, height = rescaled_size(49, 37, shortest)
    assert np.abs(result - by_the_formula(pixels, width, height)).max() <= 1


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
    for call in (lambda p: rescale(p, 256), lambda p: rescale_and_crop(p, 256, 224, (0.0, 0.0))):
        with pytest.raises(ImageError, match="pixels in memory: 1600 x 1 pixels would become 409600 x 256"):
            call(pixels)
        with pytest.raises(ImageError, match=r"line\.png: 1600 x 1 pixels would become"):
            call(save(tmp_path / "line.png", pixels))


def test_shortest_side_below_one(tmp_path):
    path = save(tmp_path / "photo.jpg", photo(8, 8))
    for call in (decode, rescale):
        with pytest.raises(UserError, match="shortest side"):
            call(path, 0)


# Crops


def assert_crop_is_a_slice(photograph, shortest, crop, place, mirror=False):
    whole = rescale(photograph, shortest)
    x, y = (math.floor(p * (size - crop + 1)) for p, size in zip(place, whole.shape[1::-1], strict=True))
    expected = whole[y : y + crop, x : x + crop]
    result = rescale_and_crop(photograph, shortest, crop, place, mirror)
    assert result.shape == (crop, crop, 3)
    assert result.flags.writeable
    assert result.flags.c_contiguous
    difference = np.abs(result.astype(int) - (expected[:, ::-1] if mirror else expected))
    # Ties that are rounded another way on both sides make two levels of it: see the docstring.
    assert difference.max() <= 2
    assert (difference > 1).sum() <= 2 + 1e-3 * difference.size


places = st.floats(0, 1, exclude_max=True)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    width=st.integers(1, 150),
    height=st.integers(1, 150),
    seed=st.integers(0, 99),
    crop=st.integers(1, 64),
    extra=st.integers(0, 80),
    place=st.tuples(places, places),
    mirror=st.booleans(),
)
def test_a_crop_is_a_slice_of_the_whole(width, height, seed, crop, extra, place, mirror):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    assert_crop_is_a_slice(pixels, crop + extra, crop, place, mirror)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    width=st.integers(30, 400),
    height=st.integers(30, 400),
    crop=st.integers(1, 64),
    extra=st.integers(0, 200),
    place=st.tuples(places, places),
)
def test_a_crop_of_a_jpeg_is_a_slice_of_the_whole(tmp_path_factory, width, height, crop, extra, place):
    path = save(tmp_path_factory.getbasetemp() / "slice.jpg", photo(height, width))
    assert_crop_is_a_slice(path, crop + extra, crop, place)


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
def test_rows_that_a_crop_does_not_need_are_spared_without_a_trace(tmp_path, monkeypatch, kind, height):
    """Bit for bit what the whole photograph gives, wherever the crop lies."""
    path = save(tmp_path / "part.jpg", photo(height, 120), **KINDS_OF_JPEG[kind])
    decoded = []
    decoder = simplejpeg.decode_jpeg
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *a, **k: decoded.append(decoder(*a, **k)) or decoded[-1])

    def crops():
        return [rescale_and_crop(path, 80, 32, (0.3, down / 8)) for down in range(8)]

    found = crops()
    rows = [pixels.shape[0] for pixels in decoded]
    assert min(rows) < height or kind == "progressive"
    monkeypatch.setattr(images, "_upper_part", lambda data, rows: None)
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


@pytest.mark.skipif(not SAMPLES.is_dir(), reason=f"no photographs in {SAMPLES}")
def test_upper_parts_of_real_photographs_are_bit_equal():
    spared = 0
    for path in sorted(SAMPLES.glob("*.JPEG"))[::10]:
        data = path.read_bytes()
        whole = simplejpeg.decode_jpeg(data)
        rows = whole.shape[0] // 2
        if part := images._upper_part(data, rows):
            spared += 1
            assert np.array_equal(simplejpeg.decode_jpeg(part, strict=False)[:rows], whole[:rows])
    assert spared > 15


@given(size=st.integers(1, 2000), crop=st.integers(1, 2000), points=st.integers(1, 9))
def test_grid_offsets(size, crop, points):
    if crop > size:
        with pytest.raises(UserError, match="no grid"):
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
    with pytest.raises(UserError, match="no grid of 0 crops"):
        grid_offsets(256, 224, 0)
