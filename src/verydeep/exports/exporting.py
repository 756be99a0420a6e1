"""Export a net to a file of another system; the file's ending says which."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from verydeep.datasets.listing import listed
from verydeep.errors import UserError
from verydeep.exports import onnx, program, quantisation, runtime, torchvision
from verydeep.exports.checking import Check, checked
from verydeep.exports.missing import INSTALLATION, installed
from verydeep.exports.quantisation import Quantised
from verydeep.files import written_aside
from verydeep.network import ConvNet
from verydeep.procedures import Net, loaded
from verydeep.weights import Content, assembled


class Format(NamedTuple):
    """A format that nets are exported to."""

    what: str
    """The format, in words."""
    write: Callable[[ConvNet, Path], None]
    """Writes a net, in evaluation mode, in float32, on the CPU."""
    check: Callable[[ConvNet, Path], Check | None]
    """Compares a written file with its net; None if that is not possible."""
    described: Callable[[ConvNet], tuple[str, ...]]
    """Lines that say how to use the file."""


def _check_onnx(net: ConvNet, path: Path) -> Check | None:
    return checked(net, runtime.name(), runtime.runner(path)) if installed("onnxruntime") else None


def _check_program(net: ConvNet, path: Path) -> Check:
    return checked(net, f"torch {torch.__version__}", program.runner(path))


def _not_checked(net: ConvNet, path: Path) -> None:
    """Check nothing: a state dict contains only the net's own numbers."""


ONNX = Format(f"ONNX, operator set {onnx.OPSET}", onnx.write, _check_onnx, onnx.described)
PROGRAM = Format("program of torch.export", program.write, _check_program, onnx.described)
TORCHVISION = Format("state dict of torchvision", torchvision.write, _not_checked, torchvision.described)

FORMATS = {".onnx": ONNX, ".pt2": PROGRAM, ".pth": TORCHVISION, ".pt": TORCHVISION}
"""The format for each ending of a file's name."""


@dataclass(frozen=True)
class Exported:
    """A file that was written."""

    path: Path
    format: str
    """The format, in words."""
    bytes: int
    """Size of the file."""
    notes: tuple[str, ...]
    """Lines that say how to use the file, and what could not be checked."""
    check: Check | None
    """The comparison with the net; None if there was none."""
    quantised: Quantised | None
    """The comparison of an int8 file with float32; None for other files."""


def export(net: Net, path: str | os.PathLike[str], *, calibrate: str | os.PathLike[str] | None = None) -> Exported:
    """Write a net to a file of another system, completely or not at all.

    - `.onnx`: for any number, height and width of images. The input `images` is N x 3 x H x W, float32, raw RGB in
      0..255. The outputs are `posteriors` (N x K), as in dense testing, and `score_map` (N x K x h x w); for a
      feature net, the map `pool5`. The file is compared with the net in ONNX Runtime, if that is installed.
    - `.pt2`: the same as a program of torch.export, which `torch.export.load` reads without this package.
    - `.pth` or `.pt`: a state dict of torchvision's vgg11, vgg13, vgg16 or vgg19. A net that was loaded from such
      a file gives that file's tensors bit for bit, if they were float32 and without batch normalisation.

    Args:
        net: a `ConvNet`, a run, or the path of a run or of a file that `verydeep.load` reads. It does not change.
        path: the file; replaced if it exists.
        calibrate: a folder of photographs. If given, the ONNX file computes in int8, quantised by ONNX Runtime
            with the ranges of these photographs. Every fifth of them is used only to compare it with float32.

    Raises:
        UserError: if the ending or the net is not supported, a package is missing, the net has replaced layers or
            weights that are not finite, or the file cannot be written.
    """
    file = Path(path)
    form = format_of(file, calibrate is not None)
    photographs = None if calibrate is None else listed([calibrate], bytes)
    own = in_memory(net)
    lines = form.described(own)
    quantised = None
    with written_aside(file) as aside:
        if photographs is None:
            form.write(own, aside)
            check = form.check(own, aside)
        else:
            quantised, check = quantisation.write(own, photographs, aside), None
        size = aside.stat().st_size
    if form is ONNX and check is None and quantised is None:
        lines = (*lines, f"not checked: onnxruntime is not installed ({INSTALLATION})")
    return Exported(file, form.what if quantised is None else f"{form.what}, int8", size, lines, check, quantised)


def format_of(path: Path, quantised: bool = False) -> Format:
    """Return the format for a file, by its ending.

    Raises:
        UserError: if the ending is unknown, or not that of a format that can be quantised.
    """
    form = FORMATS.get(path.suffix)
    if form is None:
        raise UserError(f"{path}: the name of an exported file must end in {', '.join(FORMATS)}")
    if quantised and form is not ONNX:
        raise UserError(f"{path}: only .onnx files can be calibrated for int8")
    return form


def in_memory(net: Net) -> ConvNet:
    """Return a net as its weight file would give it back: in evaluation mode, in float32, on the CPU.

    Raises:
        UserError: if it could not be written to a weight file.
    """
    inner = loaded(net, "cpu")
    content = Content.of(inner)
    return assembled(inner.card, {name: torch.from_numpy(array) for name, array in content.arrays.items()})
