"""Accuracy of the engine in float32, compared with torch in float64.

Claims: the relative L2 error is at most 5e-6 for the output of every 3x3 layer, 2e-5 for the gradient of every
weight, and 2e-5 for the scores of a net. These hold on noise and on photographs (whole ones, of odd sizes) with
random weights, and on photographs with trained weights. A layer is compared with float64 on the same input, the
same upstream gradient (that of the loss) and the same decisions of ReLU and pooling: if rounding changes one of
these decisions, any float32 gradient jumps. The peer is torch in float32, whose error in the scores is also
recorded.

    python benchmarks/engine_accuracy.py --photographs FOLDER --run runs/d --data IMAGENETTE
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

import verydeep
from claims import Claim, Observation, destination, options, record
from plain_torch import plain_torch, pooled
from verydeep.engine import native, operators
from verydeep.photographs.rescaling import rescale

MOST = {
    "layer": ("relative error of a 3x3 layer's output", 5e-6),
    "weight gradient": ("relative error of a weight's or bias's gradient", 2e-5),
    "scores": ("relative error of a net's scores", 2e-5),
}


def error(found: Tensor, exact: Tensor) -> float:
    """Return the relative error in the L2 norm."""
    return float((found.double() - exact).norm() / exact.norm())


def random_net(name: str, **sizes: Any) -> nn.Module:
    """Make a net with random weights that preserve the size of the signal."""
    net = verydeep.ConvNet(name, **sizes).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim == 4:
                parameter.copy_(nn.init.kaiming_normal_(torch.empty(parameter.shape)))
    return net


def noise(count: int, height: int, width: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, 3, height, width), dtype=np.uint8))


def whole(path: Path, scale: int) -> Tensor:
    """Read a photograph, with its smallest side `scale` pixels."""
    return torch.from_numpy(rescale(path, scale)).permute(2, 0, 1)[None]


def rest(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """Compute the class scores from the output of the last pooling."""
    for name in ("fc6", "fc7", "fc8"):
        x = F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"])
        x = x if name == "fc8" else F.relu(x)
    return x.mean((2, 3))


def gradients(gradient: Tensor, x: Tensor, weight: Tensor, y: Tensor, winners: Tensor, pool: bool) -> list[Tensor]:
    """Compute the gradients of weights and bias with torch in float64, for given decisions of ReLU and pooling.

    Args:
        gradient: gradient of the layer's output.
        x: the layer's input.
        weight: its weights.
        y: its output, after ReLU and pooling.
        winners: for each pooling, which of its four pixels was the largest, row by row; 4 if none was above 0.
        pool: whether a pooling follows.
    """
    gradient, x = gradient.double(), x.double()
    if pool:
        count, channels, height, width = gradient.shape
        before = gradient.new_zeros(count, channels, *x.shape[2:])
        for number in range(4):
            row, column = divmod(number, 2)
            part = before[:, :, row : 2 * height : 2, column : 2 * width : 2]
            part.copy_(gradient * (winners == number))
    else:
        before = gradient * (y > 0)
    of_weight = conv2d_weight(x, weight.shape, before, padding=1)  # type: ignore[no-untyped-call]
    return [of_weight, before.sum((0, 2, 3))]


def measure(net: nn.Module, images: Tensor) -> dict[str, Any]:
    """Return the largest errors of a net on some images, and the layers where they occur."""
    weights = {name: tensor.detach() for name, tensor in net.state_dict().items()}
    kept, layers, of_weights = [], {}, {}
    with torch.no_grad():
        x = images.float() - weights["mean"].view(-1, 3, 1, 1)
        for name, pool in pooled(weights).items():
            weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
            y, winners = operators.convolution_for_training(x, weight, bias, True, pool)
            exact = F.relu(F.conv2d(x.double(), weight.double(), bias.double(), padding=1))
            layers[name] = error(y, F.max_pool2d(exact, 2) if pool else exact)
            kept.append((name, weight, pool, x, y, winners))
            x = y
    last = x.clone().requires_grad_()
    scores = rest(weights, last)
    labels = torch.arange(len(images)) % scores.shape[1]
    (gradient,) = torch.autograd.grad(F.cross_entropy(scores, labels), last)
    with torch.no_grad():
        for name, weight, pool, x, y, winners in reversed(kept):
            known = (winners if pool else y, winners, True, pool, True, True)
            inputs, *found = operators.convolution_backward(gradient, x, weight, *known)
            exacts = gradients(gradient, x, weight, y, winners, pool)
            of_weights[name] = max(error(one, other) for one, other in zip(found, exacts, strict=True))
            gradient = inputs
        torchs = plain_torch(weights, dense=True).eval()
        single = torchs(images)
        exact = torchs.double()(images)
        ours, theirs = error(net(images), exact), error(single, exact)
    worst_layer = max(layers, key=lambda name: layers[name])
    worst_weight = max(of_weights, key=lambda name: of_weights[name])
    return {
        "layer": layers[worst_layer],
        "weight gradient": of_weights[worst_weight],
        "scores": ours,
        "scores by torch": theirs,
        "worst": {"layer": worst_layer, "weight gradient": worst_weight},
    }


def cases(arguments: argparse.Namespace) -> Iterator[tuple[str, nn.Module, Tensor]]:
    """Generate the name, net and images of each case."""
    if arguments.smoke:
        small = random_net("D", classes=10, crop=32, width=0.125, fully_connected=16)
        yield "D at an eighth of its channels, random weights, noise 2 x 37 x 50", small, noise(2, 37, 50)
        return
    d, e = random_net("D"), random_net("E")
    yield "D, random weights, noise 2 x 224 x 224", d, noise(2, 224, 224)
    yield "E, random weights, noise 2 x 224 x 224", e, noise(2, 224, 224)
    yield "D, random weights, noise 1 x 227 x 301", d, noise(1, 227, 301)
    for path in sorted(arguments.photographs.iterdir())[:2] if arguments.photographs else ():
        image = whole(path, 256)
        yield f"D, random weights, photograph 1 x {image.shape[2]} x {image.shape[3]}", d, image
        yield f"E, random weights, photograph 1 x {image.shape[2]} x {image.shape[3]}", e, image
    if arguments.run:
        net = verydeep.load(arguments.run).eval()
        crop = 32 * net.state_dict()["fc6.weight"].shape[2]
        found = sorted(path for path in (arguments.data / "val").rglob("*") if path.is_file())
        for scale in (crop, crop + 9, 3 * crop // 2 + 1):
            images = torch.cat([whole(each, scale) for each in found[:: max(1, len(found) // 16)]])
            size = " x ".join(map(str, (len(images), *images.shape[2:])))
            yield f"trained net, crop {crop}, photographs {size}", net, images


def main() -> int:
    parser = options(__doc__, "engine_accuracy")
    parser.add_argument("--photographs", type=Path, help="folder of photographs")
    parser.add_argument("--run", help="run or weight file whose weights are also measured")
    parser.add_argument("--data", type=Path, help="folder of that run's data set; its images have one size")
    arguments = parser.parse_args()
    if arguments.run and arguments.data is None:
        parser.error("--run needs --data, the folder of its data set")
    if (library := native.library()) is None:
        parser.error("the engine is off or was not built; there is nothing to measure")
    results: dict[str, dict[str, Any]] = {}
    for name, net, images in cases(arguments):
        results[name] = measure(net, images)
        print(name, json.dumps(results[name]), flush=True)
    claims = [
        Claim(
            f"{text} in float32 against float64, largest of {len(results)} cases",
            max(result[what] for result in results.values()),
            "of the norm",
            {"at most": most},
        )
        for what, (text, most) in MOST.items()
    ]
    theirs = max(result["scores by torch"] for result in results.values())
    text = f"{MOST['scores'][0]} by torch in float32 against float64"
    observations = [Observation(text, theirs, "of the norm")]
    details = {"library": library.name, "cases": results}
    return record(destination(arguments), claims, observations, details=details)


if __name__ == "__main__":
    sys.exit(main())
