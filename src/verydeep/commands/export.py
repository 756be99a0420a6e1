"""`verydeep export`: a net as a file of another system."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from verydeep.commands.arguments import Json
from verydeep.terminal import write_json, write_line, write_table

if TYPE_CHECKING:
    from verydeep.exports.quantisation import Quantised


def export(
    weights: str,
    /,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    calibrate: Path | None = None,
    json_: Json = False,
) -> None:
    """Write a net for ONNX Runtime, torch.export or torchvision, by the ending of the file.

    A .onnx or .pt2 file takes raw RGB images of any number and size, and returns posteriors as in dense testing,
    and the score map. It is compared with the net at three sizes. A .pth or .pt file is a state dict of
    torchvision's vgg11, vgg13, vgg16 or vgg19.

    For example:

    - `verydeep export runs/d -o d.onnx`
    - `verydeep export runs/d -o d-int8.onnx --calibrate photographs/val`
    - `verydeep export vgg16.safetensors -o vgg16.pth`

    Args:
        weights: a run directory, a weight file, or a file that `verydeep convert` reads.
        out: the file to write, .onnx, .pt2, .pth or .pt; replaced if it exists.
        calibrate: write an int8 .onnx file, with ranges from the photographs in this folder; at most 256 are used,
            and at most 512 others to compare it with float32.
    """
    from verydeep.exports.exporting import export as export_net

    exported = export_net(weights, out, calibrate=calibrate)
    if json_:
        write_json({**asdict(exported), "path": str(exported.path)})
        return
    write_line(f"{exported.path}: {exported.format}, {_megabytes(exported.bytes)}")
    for note in exported.notes:
        write_line(note)
    if exported.check is not None:
        write_line(str(exported.check))
    if exported.quantised is not None:
        _write_quantised(exported.quantised)


def _write_quantised(found: "Quantised") -> None:
    used = f"calibrated with {found.calibrated} photographs, compared on {found.compared} others"
    write_line(f"{used}; {found.protocol}")
    of = "of a posterior" if found.agreement is not None else "of the map, relative to its mean"
    write_line(f"time: for one image, with {found.threads} threads; difference: mean absolute, {of}")
    rows = [
        {
            "file": name,
            "size": _megabytes(size),
            "time": f"{1000 * seconds:.3g} ms",
            "same top-1 class": agreement,
            "difference": difference,
        }
        for name, size, seconds, agreement, difference in (
            ("float32", found.float32_bytes, found.float32_seconds, "", ""),
            ("int8", found.bytes, found.seconds, _share(found), f"{found.difference:.2g}"),
        )
    ]
    write_table("int8 and float32 in ONNX Runtime", rows, numeric=["size", "time", "difference"])


def _share(found: "Quantised") -> str:
    if found.agreement is None or found.interval is None:
        return ""
    low, high = found.interval
    return f"{found.agreement:.2%} [{low:.2%}, {high:.2%}]"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
