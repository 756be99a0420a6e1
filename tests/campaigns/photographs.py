"""Mutate photographs, and check that each is read or refused in one line, within bounds of time and memory.

    python tests/campaigns/photographs.py [count: 3000] [seed: 0]

Each file is read as in the survey, as in training, and by its header alone, whose size must be that of the pixels.
Prints the counts, the longest time for a file and the peak memory of the process. The exit code is 1 if a file
ended in anything but pixels or `ImageError` or took more than 2 s of CPU time, or if the process took more than
2.5 GB: `DECODING_BYTES` plus one file and its pixels.
"""

import io
import resource
import struct
import sys
import tempfile
import time
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from verydeep.photographs.photograph import ImageError, examine, photograph_size
from verydeep.photographs.rescaling import rescale_and_crop

MOST_SECONDS, MOST_BYTES = 2.0, 2_500_000_000


def originals():
    """Yield the extension and contents of a file of each supported kind."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[0:61, 0:83]
    rgb = np.stack([x * 3, y * 4, (x + y) * 2], -1).astype(np.uint8) + random.integers(0, 9, (61, 83, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds = [
        ("jpg", "RGB", {}),
        ("jpg", "RGB", {"progressive": True, "exif": exif}),
        ("jpg", "RGB", {"subsampling": 0, "restart_marker_blocks": 3}),
        ("jpg", "L", {}),
        ("jpg", "CMYK", {}),
        ("png", "RGB", {"exif": exif}),
        ("png", "P", {"transparency": 3}),
        ("png", "L", {"transparency": 30}),
        ("png", "1", {}),
        ("png", "I;16", {}),
        ("png", "RGBA", {}),
        ("webp", "RGB", {"exif": exif}),
        ("webp", "RGBA", {"lossless": True}),
    ]
    for suffix, mode, options in kinds:
        file = io.BytesIO()
        image = Image.fromarray(rgb)
        image = Image.fromarray(rgb[..., 0].astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
        image.save(file, {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}[suffix], **options)
        yield suffix, file.getvalue()


def mutated(data, random):
    """Return the file with random changes, mostly in its headers: of bytes, of lengths, of whole pieces."""
    data = bytearray(data)
    for _ in range(random.integers(1, 4)):
        at = int(random.integers(0, len(data) if random.random() < 0.5 else min(len(data), 200)))
        match random.choice(6, p=[0.3, 0.25, 0.2, 0.1, 0.1, 0.05]):
            case 0:
                data[at] = random.integers(256)
            case 1:
                data[at] ^= 1 << random.integers(8)
            case 2:
                data[at : at + 4] = struct.pack(
                    ">I", random.choice([0, 1, 0x7FFF, 0xFFFF, 10_000, 2**31, 2**32 - 1])
                )
            case 3:
                del data[at : at + int(random.integers(1, 40))]
            case 4:
                piece = data[at : at + int(random.integers(1, 200))]
                data[at:at] = piece * int(random.choice([1, 1, 1, 50, 2000]))
            case _:
                data = data[: max(at, 4)]
        if len(data) < 20:
            break
    return with_checksums(bytes(data)) if random.random() < 0.7 else bytes(data)


def with_checksums(data):
    """Return a PNG with correct checksums, so that it is not refused for these alone; other files unchanged."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    data, at = bytearray(data), 8
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4])
        if end > len(data):
            break
        data[end - 4 : end] = struct.pack(">I", zlib.crc32(data[at + 4 : end - 4]))
        at = end
    return bytes(data)


def main():
    count, seed = (int(word) for word in (*sys.argv[1:], *("3000", "0")[len(sys.argv) - 1 :]))
    random, kinds = np.random.default_rng(seed), list(originals())
    outcomes, longest, wrong = Counter(), 0.0, []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            suffix, data = kinds[number % len(kinds)]
            path = Path(folder) / f"{number}.{suffix}"
            path.write_bytes(mutated(data, random))
            started = time.process_time()
            try:
                (_, size), doubt = examine(path, 256)
                if photograph_size(path) != size:
                    wrong.append(f"{path.name}: two sizes, {size} and {photograph_size(path)}")
                rescale_and_crop(path, 64, 32, (0.3, 0.7))
                outcomes["doubted" if doubt else "read"] += 1
            except ImageError as error:
                outcomes["refused"] += 1
                if "\n" in str(error):
                    wrong.append(f"{path.name}: more than one line: {error!r}")
            except Exception as error:
                wrong.append(f"{path.name}: {error!r}")
            took = time.process_time() - started
            longest = max(longest, took)
            if took > MOST_SECONDS:
                wrong.append(f"{path.name}: {took:.1f} s")
            path.unlink()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"{count} files, seed {seed}: {dict(outcomes)}; longest {longest:.2f} s, memory {memory / 1e6:,.0f} MB")
    for line in wrong:
        print(line)
    return 1 if wrong or memory > MOST_BYTES else 0


if __name__ == "__main__":
    sys.exit(main())
