"""What a person would see, of every kind of file; and what is refused."""

import os
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from synthetic import photo, save
from verydeep import photographs
from verydeep.errors import UserError
from verydeep.images import rescale, rescaled_size
from verydeep.photographs import ImageError, decode
from verydeep.printable import printable

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
    assert str(caught.value) == printable(f"{path}: {caught.value.reason}")
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

        monkeypatch.setattr(photographs, "open", refuse, raising=False)
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

    monkeypatch.setitem(photographs._READERS, "PNG", fail)
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
    assert str(ImageError(Path("a\nb.jpg"), "c\nd")) == r"a\nb.jpg: c\nd"


# Rescaling
