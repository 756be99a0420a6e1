"""`verydeep convert`: another system's weights as a weight file."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from verydeep.commands.arguments import Json
from verydeep.terminal import write_json, write_line


def convert(
    source: str,
    /,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    half: Annotated[bool, Parameter(negative=())] = False,
    preprocessing: Annotated[str | None, Parameter(show_default=False)] = None,
    json_: Json = False,
) -> None:
    """Convert another system's VGG to a weight file that takes raw RGB.

    The source may be a state dict of torchvision or timm, Keras .h5 or .keras, .caffemodel, MatConvNet .mat, or
    ONNX. Configuration, classes, width and crop are inferred from the weights, and the preprocessing is folded
    into them. A file of only convolutions becomes a feature net, which `verydeep train --start-from` can use.

    For example:

    - `verydeep convert vgg16-397923af.pth -o vgg16.safetensors`
    - `verydeep convert torchvision/vgg16 -o vgg16.safetensors`
    - `verydeep convert vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5 -o features.safetensors`

    Args:
        source: the other system's file, or the name of published weights (see `verydeep weights`).
        out: the weight file to write; replaced if it exists.
        half: store the weights as float16, at half the size.
        preprocessing: the preprocessing that the net expects: torchvision, caffe (also Keras), caffe-rgb,
            half (-1..1), unit (0..1) or raw [default: that of the system's published VGGs].
    """
    from verydeep.interop.loading import convert as convert_weights

    net = convert_weights(source, out, half=half, preprocessing=preprocessing)
    made, provenance = asdict(net.architecture), net.card.provenance
    if json_:
        write_json({"path": str(out), "architecture": made, "provenance": provenance})
        return
    kind = f"{net.classes} classes, crop {net.crop}" if net.classes else "a feature net"
    write_line(f"{out}: net {net.configuration.name}, {kind}, width {net.architecture.width:g}")
    write_line(f"from {provenance['source']}, {provenance['format']}, SHA-256 {provenance['sha256']}")
    if "published" in provenance:
        write_line(f"published as {provenance['published']}, licence: {provenance['licence']}")
    for folded in provenance["folded"]:
        write_line(f"folded: {folded}")
