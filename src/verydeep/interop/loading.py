"""Load a net from a file of this project or another system, and convert it to a weight file.

A format is recognised by a file's first bytes, not by its name. No reader runs code from a file. Each checks the
sizes that a file claims against the file's size before it allocates anything, and a net is made from all of the
weights or not at all.
"""

import os
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

from verydeep import weights
from verydeep.card import Card
from verydeep.errors import UserError, reason
from verydeep.files import digest, is_file
from verydeep.interop import caffe, keras, matconvnet, onnx, torchvision
from verydeep.interop.conventions import Convention, convention
from verydeep.interop.foreign import Foreign, net_of
from verydeep.network import ConvNet
from verydeep.printable import decoded, printable
from verydeep.published.registry import recognised

_LONGEST_MESSAGE = 300


class Reader(NamedTuple):
    """The reader of a format."""

    what: str
    """The format, in words."""
    read: Callable[[Path, Convention | None], Foreign]


TORCH = Reader("a file of torch.save", torchvision.read_torch)
SAFETENSORS = Reader("a safetensors file", torchvision.read_safetensors)
HDF5 = Reader("an HDF5 file", keras.read_hdf5)
KERAS = Reader("a .keras file", keras.read_archive)
CAFFE = Reader("a .caffemodel", caffe.read)
MATCONVNET = Reader("a MATLAB file", matconvnet.read)
ONNX = Reader("an ONNX model", onnx.read)

FORMATS = (
    "a run directory or weight file of verydeep, a state dict of torchvision or timm (.pth, .bin, .safetensors), "
    "Keras weights (.h5, .weights.h5, .keras), a .caffemodel, a MatConvNet .mat or an ONNX model"
)


def load(source: str | os.PathLike[str], preprocessing: str | Convention | None = None) -> ConvNet:
    """Load a net, in evaluation mode: one of this project, or another system's VGG.

    Another system's net becomes one that takes raw RGB in 0..255 and returns the scores before the soft-max. Its
    configuration, classes, width and crop are inferred from its weights. A file of only convolutions becomes a
    feature net with 0 classes. A published file is recognised by its digest: then the card names its publisher and
    licence, and its classes by their WordNet ids.

    Args:
        source: a run directory, a weight file, a file of torchvision, timm, Keras, Caffe, MatConvNet or ONNX, or
            the name of published weights, such as torchvision/vgg16, which are downloaded once.
        preprocessing: the preprocessing that another system's net expects: torchvision, caffe (also Keras),
            caffe-rgb, half (-1..1), unit (0..1), raw, or a `Convention`; if None, that of the system's published
            VGGs.

    Raises:
        UserError: if the file is missing, damaged or hostile, has none of these formats, or does not contain a net
            of Table 1; also if a preprocessing is given for a net of this project, whose file states it.
    """
    given = None if preprocessing is None else convention(preprocessing)
    path = weights.weight_file(source)
    reader = reader_of(path)
    if reader is None:
        if given is not None:
            raise UserError(f"{path} states its own preprocessing; do not pass {given.name}")
        return weights.load(path)
    try:
        sha256 = digest(path)
        foreign = reader.read(path, given)
        provenance: dict[str, Any] = {"source": decoded(path.name), "sha256": sha256}
        if (published := recognised(path, sha256)) is not None:
            provenance |= published.provenance()
            if foreign.class_names is None:
                foreign = replace(foreign, class_names=published.class_names)
        return net_of(foreign, provenance)
    except UserError as error:
        raise UserError(_cut(f"{path}: {error}")) from error
    except MemoryError as error:
        raise UserError(f"{path}: not enough memory to load it") from error
    except Exception as error:  # a library may raise anything on damaged bytes
        raise UserError(_cut(f"{path} cannot be read as {reader.what}: {reason(error)}")) from error


def read_card(source: str | os.PathLike[str]) -> Card:
    """Return the card of a net. For another system's net, it is the card that `load` makes.

    Raises:
        UserError: as `load` does.
    """
    path = weights.weight_file(source)
    return weights.read_card(path) if reader_of(path) is None else load(path).card


def convert(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    half: bool = False,
    preprocessing: str | Convention | None = None,
) -> ConvNet:
    """Convert another system's net to a weight file of this project, and return the net.

    Args:
        source: as in `load`.
        path: the file to write.
        half: whether to store the weights as float16.
        preprocessing: as in `load`.

    Raises:
        UserError: as `load` and `save` do.
    """
    if reader_of(weights.weight_file(source)) is None:
        raise UserError(f"{os.fspath(source)} is already a weight file or run of verydeep")
    net = load(source, preprocessing)
    weights.save(net, path, half=half)
    return net


def reader_of(path: Path) -> Reader | None:
    """Return the reader for a file, by its first bytes; None for this project's own files.

    Raises:
        UserError: if the format is unknown, or the system cannot read the file.
    """
    if not is_file(path):
        raise UserError(f"{path} is not a regular file; pass {FORMATS}")
    try:
        with path.open("rb") as file:
            start = file.read(16)
        if _own(path, start):
            return None
        if start.startswith(b"PK\x03\x04"):
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
            return KERAS if keras.WEIGHTS in names or keras.CONFIGURATION in names else TORCH
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError) as error:
        raise UserError(f"cannot read {path}: {reason(error)}") from error
    if _is_safetensors(start):  # before formats recognised by one byte, which the length may begin with
        return SAFETENSORS
    if start.startswith(b"MATLAB 7.3"):
        raise UserError(f"{path} is a MATLAB file of version 7.3; save it with MATLAB's -v7")
    for opening, reader in (
        (b"\x89HDF\r\n\x1a\n", HDF5),
        (b"MATLAB 5.0", MATCONVNET),
        (b"\x80", TORCH),  # a pickle, as torch wrote before version 1.6
        (b"\x08", ONNX),  # ModelProto.ir_version
        (b"\x0a", CAFFE),  # NetParameter.name
        (b"\x12", CAFFE),  # NetParameter.layers
        (b"\xa2\x06", CAFFE),  # NetParameter.layer
    ):
        if start.startswith(opening):
            return reader
    raise UserError(f"{path} has an unknown format; pass {FORMATS}")


def _own(path: Path, start: bytes) -> bool:
    """Whether a file is this project's, even if it is damaged."""
    if not _is_safetensors(start):
        return False
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            names = set(file.keys())
    except SafetensorError:
        return True  # this project's messages say what is wrong with it
    return weights.CARD in metadata or "mean" in names


def _is_safetensors(start: bytes) -> bool:
    """Whether a file starts with the length of a header, below 4 GB, and a header of JSON."""
    return start[4:9] == b"\0\0\0\0{"


def _cut(message: str) -> str:
    shown = printable(message)
    return shown if len(shown) <= _LONGEST_MESSAGE else shown[:_LONGEST_MESSAGE] + "..."
