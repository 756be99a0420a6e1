"""Write a net as a program of torch.export, which torch loads without this package."""

from pathlib import Path

import torch
from torch import Tensor, nn

from verydeep.configurations import STRIDE
from verydeep.errors import UserError
from verydeep.exports.checking import Outputs
from verydeep.network import ConvNet
from verydeep.normalisation import formula
from verydeep.torch_internals import any_size
from verydeep.weights import Content

OLDEST = "2.13"
"""The oldest torch that can export a net for images of any size."""


class Plain(nn.Module):
    """The layers of a net, called one after the other by torch alone, whatever the size of the images."""

    def __init__(self, net: ConvNet) -> None:
        super().__init__()
        self.register_buffer("mean", net.mean.view(1, 3, 1, 1))
        self.kinds = {layer.name: layer.kind for layer in net.layers if layer.kind != "dropout"}
        for name, kind in self.kinds.items():
            if kind != "lrn":
                self.add_module(name, net.get_submodule(name))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return `posteriors` (N x K) and `score_map` (N x K x h x w); for a feature net, the map `pool5`."""
        x = images - self.get_buffer("mean")
        for name, kind in self.kinds.items():
            x = formula(x) if kind == "lrn" else self.get_submodule(name)(x)
        if "fc8" not in self.kinds:
            return {"pool5": x}
        return {"posteriors": x.mean((2, 3)).softmax(1), "score_map": x}


def program(net: ConvNet) -> torch.export.ExportedProgram:
    """Return a net as a program for any number, height and width of images.

    Args:
        net: a net in evaluation mode, in float32, on the CPU. Input and outputs are those of `exports.onnx.model`.

    Raises:
        UserError: if this torch is older than `OLDEST`.
    """
    if torch.__version__ < OLDEST:  # compares as versions, not as text
        raise UserError(
            f"torch {torch.__version__} cannot export a net for images of any size; use torch {OLDEST} or later"
        )
    least = net.crop if net.classes else STRIDE
    batch = torch.export.Dim("batch", min=1)
    height, width = (torch.export.Dim(name, min=least) for name in ("height", "width"))
    images = torch.zeros(2, 3, least + 2 * STRIDE, least + 3 * STRIDE)
    with any_size(), torch.no_grad():
        made = torch.export.export(
            Plain(net).eval(), (images,), dynamic_shapes={"images": {0: batch, 2: height, 3: width}}, strict=False
        )
    made.example_inputs = None  # otherwise stored in the file
    for node in made.graph.nodes:
        node.meta.pop("stack_trace", None)  # has paths of this machine
    return made


def write(net: ConvNet, path: Path) -> None:
    """Write the program of a net, with its card as `card.json`, to a path that nothing else reads yet."""
    made = program(net)
    with path.open("wb") as file:
        torch.export.save(made, file, extra_files={"card.json": Content.of(net).header})


def runner(path: Path) -> Outputs:
    """Return a function that computes the outputs, by name, from a file."""
    with path.open("rb") as file:
        module = torch.export.load(file).module()

    def run(images: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            found: dict[str, Tensor] = module(images)
        return found

    return run
