"""Photographs, folders and data sets made for tests."""

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from verydeep.datasets.dataset import Dataset
from verydeep.errors import UserError
from verydeep.training.augmentation import MiniBatch


def pixels(seed, height=6, width=9):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def write(path, seed=0, height=6, width=9, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    format = None if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp") else "JPEG"
    Image.fromarray(pixels(seed, height, width)).save(path, format=format, **options)
    return path


def touch(path, text=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def refusal(call, *arguments, **named):
    with pytest.raises(UserError) as caught:
        call(*arguments, **named)
    message = str(caught.value)
    assert "\n" not in message
    return message


def memory(count=40, size=(5, 7)):
    images = tuple(pixels(seed, *size) // (1 + seed % 3) for seed in range(count))
    return Dataset("memory/train", ("a", "b"), images, np.arange(count) % 2)


def mini_batch(count, seed=0, crop=32, classes=5):
    chance = torch.Generator().manual_seed(seed)
    return MiniBatch(
        torch.randint(0, 256, (count, 3, crop, crop), dtype=torch.uint8, generator=chance),
        torch.randint(0, classes, (count,), generator=chance),
        torch.randn(count, 3, generator=chance),
        torch.randint(0, 2**62, (count,), generator=chance),
    )


def photo(height, width, seed=0):
    """A smooth scene with edges and a little grain, like a photograph."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    scene = np.stack([np.sin(9 * x + 3 * y), np.cos(7 * y - 2 * x), np.sin(5 * x * y + 1)], axis=-1) * 80 + 128
    scene[(x - 0.4) ** 2 + (y - 0.3) ** 2 < 0.04] = (230, 60, 40)
    return np.clip(scene + random.normal(0, 3, scene.shape), 0, 255).astype(np.uint8)


def save(path, pixels, mode=None, **options):
    image = Image.fromarray(np.ascontiguousarray(pixels))
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def chunk(name, body):
    """A chunk of a PNG."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(path, size, depth, colour, rows, before=b"", after=b"", interlace=0):
    """Write a PNG of a kind that Pillow cannot write, with chunks before and after its pixels."""
    header = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, interlace)
    pixels = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + pixels + after + chunk(b"IEND", b""))
    return path


def tiff(orientation, order="<", kind=3, before=()):
    """EXIF with an orientation, after some other tags."""
    codes = {1: "B3x", 3: "H2x", 4: "I"}
    entries = [struct.pack(f"{order}HHIHH", tag, 3, 1, 7, 0) for tag in before]
    entries.append(struct.pack(f"{order}HHI{codes[kind]}", 0x0112, kind, 1, orientation))
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", 8)
    return head + struct.pack(f"{order}H", len(entries)) + b"".join(entries) + bytes(4)


def segment(marker, body):
    """A segment of a JPEG."""
    return bytes([0xFF, marker]) + struct.pack(">H", 2 + len(body)) + body
