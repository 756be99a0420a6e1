"""Decoding of every kind of file, and what is refused."""

import os
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageOps

from synthetic import chunk, photo, png, save, segment, tiff
from verydeep.errors import UserError
from verydeep.photographs import decoding, photograph
from verydeep.photographs.photograph import ImageError, decode, examine, photograph_size, read
from verydeep.photographs.rescaling import rescale, rescale_and_crop, rescaled_size
from verydeep.printable import printable

TURNED = {  # the stored picture, made from the upright one: the inverse of what a viewer does
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),  # the viewer turns it clockwise
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


def reason(path, **options):
    with pytest.raises(ImageError) as caught:
        decode(path, **options)
    assert caught.value.path == path
    assert str(caught.value) == printable(f"{path}: {caught.value.reason}")
    assert "\n" not in str(caught.value)
    return caught.value.reason


# What a person sees


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


@pytest.mark.parametrize("mode", ["CMYK", "RGB", "L"])
@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("shortest", [None, 10])
def test_every_jpeg_is_to_the_last_bit_what_pillow_makes_of_it(tmp_path, monkeypatch, mode, orientation, shortest):
    """Pillow decodes whatever the fast decoder cannot."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "photo.jpg", photo(61, 83), mode, exif=exif)
    fast = read(path, shortest)

    def fail(*_, **__):
        raise KeyError

    monkeypatch.setattr(simplejpeg, "decode_jpeg", fail)
    slow = read(path, shortest)
    assert np.array_equal(fast[0], slow[0])
    assert fast[1] == slow[1]
    if shortest is None:
        with Image.open(path) as image:
            assert np.array_equal(fast[0], np.asarray(ImageOps.exif_transpose(image).convert("RGB")))


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


def packed(levels, depth):
    """A row of a PNG of less than 8 bits per sample."""
    bits = "".join(format(level, f"0{depth}b") for level in levels)
    return int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8))


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_a_transparent_grey_is_white_and_no_other(tmp_path, depth):
    most = (1 << depth) - 1
    for key in {0, 1, 5 & most, most - 1}:
        trns = chunk(b"tRNS", struct.pack(">H", key | 0x100))  # only the low bits count
        path = png(tmp_path / "few.png", (most + 1, 1), depth, 0, [packed(range(most + 1), depth)], trns)
        expected = [255 if level == key else 255 * level // most for level in range(most + 1)]
        assert decode(path)[0, :, 0].tolist() == expected


def test_a_transparent_colour_of_16_bits_is_white_and_no_neighbour(tmp_path):
    grey = np.array([0, 300, 301, 65535], ">u2")
    path = png(tmp_path / "grey.png", (4, 1), 16, 0, [grey.tobytes()], chunk(b"tRNS", struct.pack(">H", 300)))
    assert decode(path)[0, :, 0].tolist() == [0, 255, 1, 255]
    rgb = np.array([(300, 40_000, 5), (300, 40_000, 6), (301, 40_000, 5), (300, 40_001, 5)], ">u2")
    key = chunk(b"tRNS", struct.pack(">3H", 300, 40_000, 5))
    path = png(tmp_path / "rgb.png", (4, 1), 16, 2, [rgb.tobytes()], key)
    assert decode(path)[0].tolist() == [[255] * 3, *[[1, 156, 0]] * 3]


@pytest.mark.parametrize("channels", [3, 4])
def test_colour_of_16_bits_is_scaled(tmp_path, channels):
    pixels = photo(6, 9)
    deep = np.full((6, 9, channels), 65535, ">u2")
    deep[..., :3] = pixels.astype(np.uint16) * 257
    path = png(tmp_path / "deep.png", (9, 6), 16, 2 if channels == 3 else 6, [row.tobytes() for row in deep])
    assert np.array_equal(decode(path), pixels)


def test_cmyk_jpeg(tmp_path):
    pixels = photo(64, 48)
    path = save(tmp_path / "print.jpg", pixels, "CMYK", quality=95)  # Pillow inverts ink levels, as Adobe does
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
    with pytest.raises(ImageError, match="pixels in memory: an array of shape"):
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
    if exif:  # turned
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = 3
    pixels = photo(*size)
    path = save(tmp_path / "photo.jpg", pixels[::-1, ::-1] if exif else pixels, **options)
    assert decode(path, shortest).shape[:2] == scaled


@pytest.mark.parametrize("rescaling", ["bilinear", "bicubic"])
def test_a_dct_scaled_photograph_rescales_to_nearly_the_same(tmp_path, rescaling):
    path = save(tmp_path / "photo.jpg", photo(1031, 1283), quality=90)
    for shortest in (60, 128, 256):
        quick, full = rescale(path, shortest, rescaling), rescale(decode(path), shortest, rescaling)
        assert quick.shape[1::-1] == full.shape[1::-1] == rescaled_size(1283, 1031, shortest)
        assert np.abs(quick.astype(int) - full).mean() < (0.7 if rescaling == "bilinear" else 0.8)


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

        monkeypatch.setattr(photograph, "open", refuse, raising=False)
    assert "permission denied" in reason(path)


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
    assert "only JPEG, PNG and WebP are supported" in stated


@pytest.mark.parametrize("name", ["photo.JPEG", "photo.jpg", "photo.PNG", "photo.webp"])
def test_a_name_that_contradicts_the_content(tmp_path, name):
    kind = "JPEG" if name == "photo.PNG" else "PNG"
    path = save(tmp_path / name, photo(8, 8), format=kind)
    assert reason(path) == f"contains {kind} data, but its name ends in {path.suffix}: rename it"


@pytest.mark.parametrize(
    "name", ["photo.jpg", "turned.jpg", "print.jpg", "progressive.jpg", "photo.png", "photo.webp"]
)
@pytest.mark.parametrize("kept", [0.01, 0.3, 0.6, 0.98])
def test_a_truncated_file(tmp_path, name, kept):
    options = {}
    if name == "turned.jpg":
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = 6
    mode = "CMYK" if name == "print.jpg" else None
    path = save(tmp_path / name, photo(150, 100), mode, progressive=name == "progressive.jpg", **options)
    data = path.read_bytes()
    path.write_bytes(data[: max(20, int(len(data) * kept))])
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


@pytest.mark.parametrize("error", [struct.error("bad"), SyntaxError("bad"), OverflowError("bad"), KeyError(6)])
@pytest.mark.parametrize("name", ["photo.png", "photo.jpg"])
def test_whatever_the_decoders_raise_is_an_image_error(tmp_path, monkeypatch, error, name):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(simplejpeg, "decode_jpeg", fail)
    path = save(tmp_path / name, photo(8, 8))
    if name == "photo.jpg":  # Pillow takes over from the fast decoder
        assert decode(path).shape == (8, 8, 3)
    for kind in ("PNG", "JPEG"):
        monkeypatch.setitem(decoding._READERS, kind, fail)
    assert "is damaged" in reason(path)


def test_it_is_said_to_fetch_a_file_again_only_where_that_can_help(tmp_path, monkeypatch):
    path = save(tmp_path / "photo.jpg", photo(16, 16))
    data = path.read_bytes()
    frame = data.index(b"\xff\xc0")
    for at, value, what in ((4, 12, "12 bits per colour"), (1, 0xC3, "lossless"), (9, 2, "2 colour channels")):
        path.write_bytes(data[: frame + at] + bytes([value]) + data[frame + at + 1 :])
        assert what in reason(path)
        assert "convert it" in reason(path)
        assert "fetch" not in reason(path)
    path.write_bytes(data[:-30])
    assert "fetch it again" in reason(path)

    def full(*_, **__):
        raise MemoryError

    monkeypatch.setitem(decoding._READERS, "PNG", full)
    assert reason(save(tmp_path / "a.png", photo(4, 4))).endswith("shrink it or leave it out")


# Metadata


def test_text_and_profiles_of_a_png_do_not_spoil_it(tmp_path):
    pixels = photo(6, 9)
    rows = [row.tobytes() for row in pixels]
    text = zlib.compress(b"x" * 2_000_000)
    spoilt = bytearray(chunk(b"tIME", bytes(7)))
    spoilt[-1] ^= 255
    for extra in (
        chunk(b"zTXt", b"parameters\0\0" + text),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + text),
        chunk(b"iCCP", b"scanner\0\0" + text),
        chunk(b"iCCP", b"scanner\0\7" + text),
        chunk(b"tRNS", b"\0"),
        chunk(b"gAMA", b""),
        bytes(spoilt),
    ):
        for place in ("before", "after"):
            path = png(tmp_path / "photo.png", (9, 6), 8, 2, rows, **{place: extra})
            assert np.array_equal(decode(path), pixels)


def test_segments_of_applications_do_not_spoil_a_jpeg(tmp_path, monkeypatch):
    path = save(tmp_path / "photo.jpg", photo(16, 24))
    data, expected = path.read_bytes(), decode(path)

    def fail(*_, **__):
        raise KeyError

    for extra in (
        segment(0xE2, b"ICC_PROFILE\0"),
        segment(0xE0, b"JFIF"),
        segment(0xEE, b"Adobe"),
        segment(0xE1, b"Exif\0\0" + tiff(1)[:9]),
        segment(0xFE, b"") + b"stray bytes" + segment(0xFE, b"") + b"\xff" * 9,
    ):
        path.write_bytes(data[:2] + extra + data[2:])
        with monkeypatch.context() as patched:
            assert np.array_equal(decode(path), expected)
            patched.setattr(simplejpeg, "decode_jpeg", fail)
            assert np.array_equal(decode(path), expected)


def exif_places(orientation):
    """Ways to store an orientation in a file, each with a function that writes such a file."""
    exif = tiff(orientation)
    raw = b"\nexif\n%8d\n" % (6 + len(exif)) + (b"Exif\0\0" + exif).hex().encode() + b"\n"
    compressed = b"\0" + zlib.compress(raw)

    def as_png(**extra):
        return lambda path, pixels: png(
            path.with_suffix(".png"), pixels.shape[1::-1], 8, 2, [row.tobytes() for row in pixels], **extra
        )

    def as_jpeg(*segments):
        def write(path, pixels):
            path = save(path.with_suffix(".jpg"), pixels, quality=95, subsampling=0)
            path.write_bytes(b"\xff\xd8" + b"".join(segments) + path.read_bytes()[2:])
            return path

        return write

    app1 = segment(0xE1, b"Exif\0\0" + exif)
    return {
        "eXIf": as_png(before=chunk(b"eXIf", exif)),
        "eXIf with its name": as_png(before=chunk(b"eXIf", b"Exif\0\0" + exif)),
        "eXIf after the pixels": as_png(after=chunk(b"eXIf", exif)),
        "zTXt": as_png(before=chunk(b"zTXt", b"Raw profile type exif\0" + compressed)),
        "zTXt of APP1": as_png(after=chunk(b"zTXt", b"Raw profile type APP1\0" + compressed)),
        "tEXt": as_png(before=chunk(b"tEXt", b"Raw profile type exif\0" + raw)),
        "iTXt": as_png(before=chunk(b"iTXt", b"Raw profile type exif\0\1\0\0\0" + compressed[1:])),
        "APP1": as_jpeg(app1),
        "after an empty one": as_jpeg(segment(0xE1, b"Exif\0\0"), app1),
        "after one without tags": as_jpeg(segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"), app1),
        "after stray bytes": as_jpeg(segment(0xFE, b"") + b"stray", app1),
        "in two segments": as_jpeg(*(segment(0xE1, b"Exif\0\0" + part) for part in (exif[:12], exif[12:]))),
    }


@pytest.mark.parametrize("place", exif_places(1))
@pytest.mark.parametrize("orientation", [3, 6])
def test_the_orientation_is_found_wherever_it_is_written_and_sizes_agree(
    tmp_path, monkeypatch, place, orientation
):
    upright = photo(40, 64)
    path = exif_places(orientation)[place](tmp_path / "photo", TURNED[orientation](upright))
    assert photograph_size(path) == (64, 40)

    def fail(*_, **__):
        raise KeyError

    for _ in ("fast", "Pillow's"):
        rgb, size = read(path)
        assert size == (64, 40)
        assert rgb.shape == (40, 64, 3)
        assert np.abs(rgb.astype(int) - upright).mean() < 4
        assert rescale_and_crop(path, 40, 40, (0.0, 0.0)).shape == (40, 40, 3)
        monkeypatch.setattr(simplejpeg, "decode_jpeg", fail)


@pytest.mark.parametrize("name", ["turned.jpg", "turned.png", "turned.webp"])
def test_exif_is_not_given_to_pillow(tmp_path, monkeypatch, name):
    """Older versions of Pillow take minutes for 65,535 tags that all claim the same megabyte."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / name, photo(40, 64), exif=exif)

    def fail(*_, **__):
        raise AssertionError("must not be called")

    monkeypatch.setattr(Image.Exif, "load", fail)
    monkeypatch.setattr(simplejpeg, "decode_jpeg", fail)
    assert decode(path).shape == (64, 40, 3)
    assert examine(path, 8)[0][1] == photograph_size(path) == (40, 64)


@pytest.mark.parametrize("place", ["eXIf after the pixels", "zTXt", "after an empty one"])
def test_an_image_that_pillow_opened_is_what_its_file_is(tmp_path, place):
    path = exif_places(6)[place](tmp_path / "photo", photo(40, 64))
    with Image.open(path) as image:
        assert np.array_equal(decoding.from_pillow(image), decode(path))


# Kinds of JPEG that the fast decoder does not support


def test_chroma_of_a_quarter_of_the_rows(tmp_path):
    """4:4:1: a unit has six blocks, as in 4:2:0, so changing the header turns one into the other."""
    path = save(tmp_path / "photo.jpg", photo(128, 16), subsampling=2)
    data = bytearray(path.read_bytes())
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 256, 8)
    data[frame + 11] = 0x14
    path.write_bytes(data)
    with Image.open(path) as image:
        expected = np.asarray(image)
    assert photograph_size(path) == (8, 256)
    assert np.array_equal(decode(path), expected)
    assert np.array_equal(rescale_and_crop(path, 8, 8, (0.0, 0.1)), expected[24:32])
    assert decode(path, 1).shape == (64, 2, 3)


# Bombs


def progressive(scans, side=16):
    """A grey progressive JPEG whose scans refine the same coefficients again and again."""
    huffman = segment(0xC4, b"\x10" + bytes([0, 0, 0, 1, *bytes(12)]) + b"\xe0")
    frame = segment(0xC2, struct.pack(">BHHBBBB", 8, side, side, 1, 1, 0x11, 0))
    dc = segment(0xC4, b"\0" + bytes([1, *bytes(15)]) + b"\0")
    tables = segment(0xDB, b"\0" + b"\1" * 64)
    first = segment(0xDA, bytes([1, 1, 0, 0, 0, 0])) + bytes(side * side // 512 + 1)
    more = segment(0xDA, bytes([1, 1, 0, 1, 5, 0])) + bytes(4)
    return b"\xff\xd8" + tables + frame + dc + huffman + first + more * (scans - 1) + b"\xff\xd9"


def test_a_jpeg_of_very_many_scans_is_refused_by_its_header(tmp_path, monkeypatch):
    path = tmp_path / "bomb.jpg"
    path.write_bytes(progressive(500, side=64))
    assert "are coded in 500 scans" in reason(path)
    assert "allowed" in reason(path)
    path.write_bytes(progressive(12))
    assert decode(path).shape == (16, 16, 3)
    monkeypatch.setattr(photograph, "MAX_SCANNED_PIXELS", 11 * 16 * 16)
    assert "are coded in 12 scans" in reason(path)


def test_a_very_long_file_is_not_read(tmp_path):
    path = tmp_path / "sparse.jpg"
    path.write_bytes(b"\xff\xd8\xff")
    os.truncate(path, 3_000_000_000)
    assert reason(path).startswith("is 3000000000 bytes long, more than the 500000000 allowed")


@pytest.mark.parametrize("name", ["VP8X", "VP8L"])
def test_a_webp_of_very_many_pixels_is_refused_before_memory_is_taken_for_them(tmp_path, monkeypatch, name):
    def fail(*_, **__):
        raise AssertionError("must be refused by its header")

    monkeypatch.setitem(decoding._READERS, "WebP", fail)
    extended = bytes(4) + (16_383).to_bytes(3, "little") * 2
    lossless = b"\x2f" + (16_383 | 16_383 << 14).to_bytes(4, "little") + bytes(11)
    body = {"VP8X": extended, "VP8L": lossless}[name]
    chunks = b"WEBP" + name.encode() + struct.pack("<I", len(body)) + body
    (tmp_path / "bomb.webp").write_bytes(b"RIFF" + struct.pack("<I", len(chunks)) + chunks)
    assert "its header says 16384 x 16384, which is 268435456 pixels" in reason(tmp_path / "bomb.webp")


def test_a_second_header_cannot_raise_the_number_of_pixels(tmp_path):
    large = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0))
    assert decode(png(tmp_path / "a.png", (2, 2), 8, 0, [b"\1\2"] * 2, large)).shape == (2, 2, 3)
    path = save(tmp_path / "a.jpg", photo(16, 16))
    data = path.read_bytes()
    frame = data.index(b"\xff\xc0")
    path.write_bytes(data[:frame] + segment(0xC0, struct.pack(">BHHBBBB", 8, 8, 8, 1, 1, 0x11, 0)) + data[frame:])
    assert "two frame headers" in reason(path)


def test_very_many_parts_of_a_file_are_not_walked_through(tmp_path):
    path = png(tmp_path / "a.png", (2, 2), 8, 0, [b"\1\2"] * 2, chunk(b"teSt", b"") * 100_001)
    assert "more than 100000 chunks" in reason(path)
    path = save(tmp_path / "a.jpg", photo(16, 16))
    path.write_bytes(b"\xff\xd8" + segment(0xFE, b"") * 100_001 + path.read_bytes()[2:])
    assert "more than 100000 segments" in reason(path)


# Doubts


def test_a_jpeg_cut_in_the_middle_is_doubted_though_it_has_an_end(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for options in ({}, {"progressive": True}, {"exif": exif}, {"mode": "CMYK"}, {"mode": "L"}):
        path = save(tmp_path / "photo.jpg", photo(93, 141), **options)
        assert examine(path, 8)[1] == ""
        data = path.read_bytes()
        path.write_bytes(data[: len(data) * 6 // 10] + b"\xff\xd9")
        for shortest in (None, 8):
            (pixels, size), doubt = examine(path, shortest)
            assert "premature end" in doubt
            assert sorted(size) == [93, 141]
            assert np.array_equal(pixels, read(path, shortest)[0])


@pytest.mark.parametrize("colour", [0, 2, 3, 6])
@pytest.mark.parametrize("after", [b"", chunk(b"eXIf", tiff(6))], ids=["upright", "turned"])
@pytest.mark.parametrize("height", [6, 7])
def test_a_png_without_its_last_rows_is_doubted(tmp_path, colour, after, height):
    channels = {0: 1, 2: 3, 3: 1, 6: 4}[colour]
    levels = np.random.default_rng(0).integers(1, 255, (height, 90, channels), np.uint8)
    palette = chunk(b"PLTE", bytes(range(255)) * 3) if colour == 3 else b""
    rows = [row.tobytes() for row in levels]
    path = png(tmp_path / "a.png", (90, height), 8, colour, rows, palette, after)
    assert examine(path)[1] == ""
    path = png(tmp_path / "a.png", (90, height), 8, colour, rows[:3], palette, after)
    assert examine(path)[1] == "its last rows are missing"
    assert read(path)[1] == examine(path)[0][1]


def test_a_png_that_ends_in_a_black_row_is_not_doubted(tmp_path):
    black = [bytes(range(30)), bytes(30)]
    assert examine(png(tmp_path / "a.png", (10, 2), 8, 2, black))[1] == ""
    bits = [packed([1, 0] * 5, 1)] * 3 + [packed([0] * 10, 1)]
    assert examine(png(tmp_path / "a.png", (10, 4), 1, 0, bits))[1] == ""


def test_an_interlaced_png_is_doubted_without_its_last_pass(tmp_path):
    """The lengths are those of the rows of Adam7's seven passes over 5 x 5 pixels."""
    random = np.random.default_rng(0)
    lengths = (1, 1, 2, *(1, 1), 3, *(2, 2, 2), *(5, 5))
    passes = [random.integers(1, 255, length, np.uint8).tobytes() for length in lengths]
    path = png(tmp_path / "a.png", (5, 5), 8, 0, passes, interlace=1)
    assert examine(path)[1] == ""
    assert (
        examine(png(tmp_path / "a.png", (5, 5), 8, 0, passes[:-2], interlace=1))[1] == "its last rows are missing"
    )


def test_a_png_with_a_wrong_checksum_is_doubted(tmp_path):
    path = png(tmp_path / "a.png", (10, 2), 8, 2, [bytes(range(30)), bytes(range(30, 60))])
    data = bytearray(path.read_bytes())
    data[data.index(b"IEND") - 5] ^= 1
    path.write_bytes(data)
    assert "checksums" in examine(path)[1]


@pytest.mark.parametrize("side", [10_001, 30_000, 60_000])
def test_too_many_pixels_by_the_header(tmp_path, side):
    path = save(tmp_path / "photo.jpg", photo(16, 16))
    data = path.read_bytes()
    at = data.index(b"\xff\xc0") + 5
    path.write_bytes(data[:at] + struct.pack(">HH", side, side) + data[at + 4 :])
    stated = f"its header says {side} x {side}, which is {side * side} pixels, more than the 100000000 allowed"
    assert stated in reason(path)

    cmyk = save(tmp_path / "print.jpg", photo(16, 16), "CMYK")
    data = cmyk.read_bytes()
    at = data.index(b"\xff\xc0") + 5
    cmyk.write_bytes(data[:at] + struct.pack(">HH", side, side) + data[at + 4 :])
    assert stated in reason(cmyk)

    assert stated in reason(png(tmp_path / "photo.png", (side, side), 8, 2, [b"\0\0\0"]))


def test_an_allowed_number_of_pixels_that_pillow_would_warn_of(tmp_path):
    path = png(tmp_path / "bits.png", (10_000, 9_990), 1, 0, [b"\0"])
    assert "pixels" not in reason(path)  # truncated, not too large


def test_errors_survive_the_way_between_processes():
    error = pickle.loads(pickle.dumps(ImageError(Path("a.jpg"), "no such file")))
    assert isinstance(error, UserError)
    assert (error.path, error.reason, str(error)) == (Path("a.jpg"), "no such file", "a.jpg: no such file")
    assert str(ImageError(Path("a\nb.jpg"), "c\nd")) == r"a\nb.jpg: c\nd"
