"""The headers of JPEG, PNG and WebP files: size, orientation and coding of the pixels, before they are decoded.

Every answer about a file comes from here, so that its size, its orientation and the limits it is held to agree
with what is decoded. Only what determines the pixels is read, and only that is passed to a decoder. Text, profiles
and thumbnails are skipped, whatever their size or state.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

from verydeep.photographs.exif import orientation

MAX_PARTS = 100_000
"""The most segments of a JPEG, or chunks of a PNG or WebP, that are read: at 8192 bytes each, 800 MB of PNG."""

_RAW_PROFILE = re.compile(rb"Raw profile type (?:exif|APP1)\0", re.IGNORECASE)
_RAW_PROFILE_BYTES = 1 << 20
_RAW_PROFILES = 4


class Damaged(Exception):
    """A file that violates its own format."""


class Jpeg(NamedTuple):
    """The header of a JPEG."""

    width: int
    height: int
    orientation: int
    colours: int
    """Number of colour channels: 1, 3 or 4, rarely another number."""
    frame: int
    """Offset of its frame header."""
    kind: int
    """Marker of its frame header, which says how it is coded."""
    bits: int
    """Bits per colour."""
    scans: int
    """The most passes that a decoder makes over the whole image; 1 for the usual file of one scan."""

    @property
    def in_one_pass(self) -> bool:
        """Whether all colours of a row are decoded before the next row: one sequential, Huffman-coded scan."""
        return self.kind in (0xC0, 0xC1) and self.scans == 1

    @property
    def oddity(self) -> str:
        """A feature that not every decoder supports; empty if there is none."""
        if self.bits != 8:
            return f"{self.bits} bits per colour"
        if self.colours not in (1, 3, 4):
            return f"{self.colours} colour channels"
        if self.kind in (0xC9, 0xCA):
            return "arithmetic coding"
        if self.kind not in (0xC0, 0xC1, 0xC2):
            return "lossless or hierarchical coding"
        return "" if self.height else "no height in its header"


class Png(NamedTuple):
    """The header of a PNG."""

    width: int
    height: int
    orientation: int
    bits: int
    """Bits per sample."""
    colour: int
    """0 grey, 2 RGB, 3 palette, 4 grey with alpha, 6 RGB with alpha."""
    interlaced: bool
    key: tuple[int, ...] | None
    """The grey level or RGB colour that is transparent, in samples of `bits`."""
    needed: tuple[slice, ...]
    """The chunks that determine its pixels."""
    coded: tuple[slice, ...]
    """The chunks of compressed pixels, each from its length field to its checksum."""


class WebP(NamedTuple):
    """The header of a WebP."""

    width: int
    height: int
    orientation: int


Header: TypeAlias = Jpeg | Png | WebP


# JPEG

# The last FF of a run before another byte: this is how libjpeg finds the next marker after stray bytes.
_MARKER = re.compile(rb"\xff[\x01-\xfe]")
_BARE_MARKERS = {0x01, 0xD8, *range(0xD0, 0xD8)}
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_END, _SCAN, _JFIF, _EXIF, _ADOBE = 0xD9, 0xDA, 0xE0, 0xE1, 0xEE


def read_jpeg(data: bytes) -> Jpeg:
    """Return the header of a JPEG, read up to its first pixels.

    Raises `Damaged` if the file ends or breaks its format before them.
    """
    frame, kind, exif = 0, 0, []
    for marker, begin, end in _segments(data):
        if marker in _FRAMES:
            if frame:
                raise Damaged("two frame headers")
            frame, kind = begin, marker
            if end - begin < 10:
                raise Damaged("its frame header is too short")
        elif marker == _SCAN:
            break
        elif marker == _EXIF and data.startswith(b"Exif\0\0", begin + 4):
            exif.append(data[begin + 4 : end])
    else:
        raise Damaged("truncated before its pixels")
    if not frame:
        raise Damaged("no frame header")
    height, width, colours = struct.unpack_from(">HHB", data, frame + 5)
    scans = 1
    if kind not in (0xC0, 0xC1, 0xC9) or data[begin + 4 : begin + 5] != bytes([colours]):
        scans += data.count(b"\xff\xda", begin + 2)
    # An EXIF of more than 64 KB continues in the next segment.
    way = orientation(exif if len(exif) < 2 else [*exif, b"".join(part[6:] for part in exif)])
    return Jpeg(width, height, way, colours, frame, kind, data[frame + 4], scans)


def bare_jpeg(data: bytes) -> bytes:
    """Return a JPEG that `read_jpeg` has accepted, reduced to what determines its pixels."""
    parts = [data[:2]]
    for marker, begin, end in _segments(data):
        if marker == _SCAN:
            return b"".join([*parts, data[begin:]])
        if _decides_pixels(data, marker, begin, end):
            parts.append(data[begin:end])
    raise Damaged("truncated before its pixels")


def _decides_pixels(data: bytes, marker: int, begin: int, end: int) -> bool:
    """Whether a decoder needs a segment: of the application segments, only the two that say how colours are coded.

    libjpeg, too, skips a segment with one of these two names that is too short.
    """
    if marker == _JFIF:
        return end - begin >= 18 and data.startswith(b"JFIF\0", begin + 4)
    if marker == _ADOBE:
        return end - begin >= 16 and data.startswith(b"Adobe", begin + 4)
    return marker < _JFIF


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the marker, beginning and end of each segment, up to the end marker or the end of the data."""
    at = 2
    for _ in range(MAX_PARTS):
        found = _MARKER.search(data, at)
        if found is None:
            return
        begin, marker = found.start(), data[found.start() + 1]
        if marker == _END:
            return
        at = begin + 2
        if marker in _BARE_MARKERS:
            continue
        length = int.from_bytes(data[at : at + 2])
        if at + max(length, 2) > len(data):
            raise Damaged("truncated in its header")
        if length < 2:
            raise Damaged("a segment has no length")
        at += length
        yield marker, begin, at
    raise Damaged(f"more than {MAX_PARTS} segments")


# PNG

_LETTERS = re.compile(rb"[A-Za-z]{4}")


def read_png(data: bytes) -> Png:
    """Return the header of a PNG.

    Raises `Damaged` if it has no header or no pixels.
    """
    if data[12:16] != b"IHDR" or len(data) < 33:
        raise Damaged("truncated in its header" if len(data) < 33 else "no IHDR chunk at its beginning")
    width, height, bits, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    samples = {0: 1, 2: 3}.get(colour, 0)
    key: tuple[int, ...] | None = None
    exif: list[bytes] = []
    profiles: list[bytes] = []
    needed, coded = [slice(0, 8)], []
    for name, begin, end in _chunks(data):
        content = slice(begin + 8, end - 4)
        if name == b"IDAT":
            coded.append(slice(begin, end))
        elif name == b"tRNS" and not coded and samples:
            if end - begin - 12 >= 2 * samples:  # a shorter one is ignored
                # Only the low bits of a level count.
                levels = struct.unpack_from(f">{samples}H", data, begin + 8)
                key = tuple(level & ((1 << bits) - 1) for level in levels)
            continue
        elif name in (b"PLTE", b"tRNS"):
            if coded or (name == b"tRNS" and colour != 3):
                continue
        elif name == b"eXIf":
            exif.append(data[content])
            continue
        elif name in (b"tEXt", b"zTXt", b"iTXt"):
            if len(profiles) < _RAW_PROFILES and _RAW_PROFILE.match(data, begin + 8):
                profiles.append(_raw_profile(name, data[content]))
            continue
        elif name != b"IEND" and not (name == b"IHDR" and begin == 8):
            continue
        needed.append(slice(begin, end))
    if not coded:
        raise Damaged("truncated before its pixels")
    return Png(
        width,
        height,
        orientation([*exif, *profiles]),
        bits,
        colour,
        bool(interlaced),
        key,
        tuple(needed),
        tuple(coded),
    )


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the name, beginning and end of each chunk, up to IEND or to something that is not a chunk.

    The end of a chunk is at most the end of the data.
    """
    at = 8
    for _ in range(MAX_PARTS):
        name = data[at + 4 : at + 8]
        if not _LETTERS.fullmatch(name):
            return  # the decoder reports whether that is too early
        end = min(at + 12 + int.from_bytes(data[at : at + 4]), len(data))
        yield name, at, end
        if name == b"IEND":
            return
        at = end
    raise Damaged(f"more than {MAX_PARTS} chunks")


def _raw_profile(name: bytes, content: bytes) -> bytes:
    """Return the EXIF in a text chunk, as ImageMagick writes it; empty if it is damaged."""
    text = content[content.index(b"\0") + 1 :]
    if name == b"iTXt":
        compressed = text[:1] == b"\1"
        text = text[2:].split(b"\0", 2)[-1]
    else:
        compressed = name == b"zTXt"
        text = text[1:] if compressed else text
    try:
        return exif_of_text(zlib.decompressobj().decompress(text, _RAW_PROFILE_BYTES) if compressed else text)
    except zlib.error:
        return b""


def exif_of_text(text: bytes) -> bytes:
    """Return the EXIF in a text of a name, a length and hexadecimal digits; empty for any other text."""
    digits = b"".join(text[:_RAW_PROFILE_BYTES].split()[2:]).decode("ascii", "replace")
    try:
        return bytes.fromhex(digits[: len(digits) // 2 * 2])
    except ValueError:
        return b""


def missing_png_rows(data: bytes, header: Png) -> bool:
    """Whether the compressed pixels of a PNG end before its last row; checksums are not checked."""
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(header.colour, 1)
    passes = _ADAM7 if header.interlaced else ((0, 0, 1, 1),)
    expected = 0
    for x, y, across, down in passes:
        columns, rows = -(-(header.width - x) // across), -(-(header.height - y) // down)
        if columns > 0 and rows > 0:
            expected += rows * (1 + -(-columns * samples * header.bits // 8))
    inflating = zlib.decompressobj()
    for chunk in header.coded:
        rest = data[chunk.start + 8 : chunk.stop - 4]
        while rest and expected > 0 and not inflating.eof:
            try:
                expected -= len(inflating.decompress(rest, 1 << 24))
            except zlib.error:
                return True
            rest = inflating.unconsumed_tail
    return expected > 0


_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def wrong_png_checksum(data: bytes, header: Png) -> bool:
    """Whether any compressed pixels of a PNG do not match their checksum."""
    return any(
        zlib.crc32(data[chunk.start + 4 : chunk.stop - 4]) != int.from_bytes(data[chunk.stop - 4 : chunk.stop])
        for chunk in header.coded
    )


# WebP

_EXIF_FLAG = 0x08


def read_webp(data: bytes) -> WebP:
    """Return the header of a WebP.

    Raises `Damaged` if it has none.
    """
    name, way = data[12:16], orientation(())
    if len(data) < 30 and not (name == b"VP8L" and len(data) >= 25):
        raise Damaged("truncated in its header")
    if name == b"VP8X":
        width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
        if data[20] & _EXIF_FLAG:
            way = orientation(_webp_exif(data))
    elif name == b"VP8L" and data[20] == 0x2F:
        sizes = int.from_bytes(data[21:25], "little")
        width, height = 1 + (sizes & 0x3FFF), 1 + (sizes >> 14 & 0x3FFF)
    elif name == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = (int.from_bytes(data[at : at + 2], "little") & 0x3FFF for at in (26, 28))
    else:
        raise Damaged("no image at its beginning")
    return WebP(width, height, way)


def _webp_exif(data: bytes) -> Iterator[bytes]:
    at = 12
    for _ in range(MAX_PARTS):
        if at + 8 > len(data):
            return
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        if data[at : at + 4] == b"EXIF":
            yield data[at + 8 : at + 8 + length]
        at += 8 + length + length % 2
