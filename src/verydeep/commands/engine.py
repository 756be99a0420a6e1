"""`verydeep engine`: how the convolution engine computes each layer."""

from dataclasses import asdict
from typing import TYPE_CHECKING

from verydeep import recipe as recipes
from verydeep.commands.arguments import Json, Whole
from verydeep.configurations import Architecture
from verydeep.terminal import Cell, write, write_json, write_line, write_table

if TYPE_CHECKING:
    from verydeep.engine.explanation import Explanation


def engine(
    net: str = "D",
    /,
    *,
    images: Whole = 1,
    crop: Whole = recipes.PAPER_CROP,
    width: float = 1.0,
    json_: Json = False,
) -> None:
    """Show how the convolution engine computes each layer of a net on this machine's CPU, and why.

    Set the environment variable VERYDEEP_ENGINE to `off` to turn the engine off, or to `avx512`, `avx2` or `plain`
    to choose its library.

    For example:

    - `verydeep engine` shows net D for one image.
    - `verydeep engine E --images 8` shows net E for a mini-batch of 8.
    - `verydeep engine A --crop 64 --width 0.25` shows a miniature.

    Args:
        net: a configuration of Table 1.
        images: images per mini-batch. In testing, the engine computes the first layers for fewer at a time.
        crop: side of the images in pixels.
        width: multiplier of the channels.
    """
    import torch

    from verydeep.engine.explanation import explain
    from verydeep.engine.native import library

    layers = explain(Architecture(net, crop=crop, width=width), images)
    if json_:
        write_json([asdict(each) for each in layers])
        return
    used = library()
    name = used.name if used else "none"
    title = f"library {name}, {torch.get_num_threads()} threads, {images} image(s) of {crop} x {crop}, float32"
    reasons = list(dict.fromkeys(each.reason for each in layers))
    write_table(title, [_engine_row(each, 1 + reasons.index(each.reason)) for each in layers])
    write("\n")
    for number, reason in enumerate(reasons, start=1):
        write_line(f"({number}) {reason}")


def _engine_row(layer: "Explanation", reason: int) -> dict[str, Cell]:
    return {
        "layer": layer.layer,
        "channels": f"{layer.inputs} to {layer.outputs}",
        "output": f"{layer.side} x {layer.side}",
        "path": layer.path,
        "tiles of a block": layer.tiles or "",
        "blocks": ("shared" if layer.shared else "one per thread") if layer.tiles else "",
        "why": f"({reason})",
    }
