"""Claim: the engine's float32 is as exact as float32 can be, beside float64.

Relative L2 error of every 3x3 layer's output at most 5e-6, of every weight's gradient at most 2e-5, of the scores
of D and E at most 2e-5. On noise and on photographs with random weights, whole and of odd sizes, and on
photographs with the weights of a training. A layer is compared with float64 torch on the same input, the same
upstream gradient (that of the loss) and the same decisions of ReLU and pooling: where rounding decides these
otherwise, the gradient of any float32 jumps. Torch's own float32 error at the scores stands beside.

    python benchmarks/engine_accuracy.py --photographs FOLDER --run runs/d --data IMAGENETTE
"""

import argparse
import copy
import itertools
import json
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import verydeep
from verydeep.engine import native, operators
from verydeep.images import rescale

MOST = {"layer": 5e-6, "weight gradient": 2e-5, "scores": 2e-5}


def error(found, exact):
    return float((found.double() - exact).norm() / exact.norm())


def random_net(name):
    torch.manual_seed(0)
    net = verydeep.ConvNet(name)
    for parameter in net.parameters():
        if parameter.ndim == 4:
            nn.init.kaiming_normal_(parameter)
    return net.eval()


def noise(count, height, width):
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, 3, height, width), dtype=np.uint8))


def whole(path, scale):
    """A photograph, its smallest side `scale` pixels."""
    return torch.from_numpy(rescale(path, scale)).permute(2, 0, 1)[None]


def blocks_of(net):
    """Its 3x3 layers, each with whether a pooling follows; and the fully connected rest."""
    layers = [layer for layer in net.layers if layer.kind != "relu"]
    found = []
    for layer, after in itertools.pairwise(layers):
        if layer.kind == "conv" and not layer.fully_connected:
            found.append((layer.name, getattr(net, layer.name), after.kind == "pool"))
    return found


def rest(net, x):
    """Class scores from the last pooling's output."""
    for name in ("fc6", "fc7", "fc8"):
        layer = getattr(net, name)
        x = F.conv2d(x, layer.weight, layer.bias)
        x = x if name == "fc8" else F.relu(x)
    return x.mean((2, 3))


def measure(net, images):
    """Largest errors of a net on some images, and at which layer."""
    kept, layers, weights = [], {}, {}
    with torch.no_grad():
        x = images.float() - net.mean.view(-1, 3, 1, 1)
        for name, layer, pool in blocks_of(net):
            y, winners = operators.convolution_for_training(x, layer.weight, layer.bias, True, pool)
            exact = F.relu(F.conv2d(x.double(), layer.weight.double(), layer.bias.double(), padding=1))
            layers[name] = error(y, F.max_pool2d(exact, 2) if pool else exact)
            kept.append((name, layer, pool, x, y, winners))
            x = y
    last = x.clone().requires_grad_()
    scores = rest(net, last)
    labels = torch.arange(len(images)) % net.classes
    gradient = torch.autograd.grad(F.cross_entropy(scores, labels), last)[0]
    with torch.no_grad():
        for name, layer, pool, x, y, winners in reversed(kept):
            known = (winners if pool else y, winners, True, pool, True, True)
            inputs, *found = operators.convolution_backward(gradient, x, layer.weight, *known)
            double = (gradient.double(), x.double(), layer.weight.double())
            _, *exact = operators._backward_by_torch(*double, *known)
            weights[name] = max(error(one, other) for one, other in zip(found, exact, strict=True))
            gradient = inputs
        exact = copy.deepcopy(net).double()(images)
        ours = error(net(images), exact)
        there, operators.available = operators.available, lambda: False
        try:
            torchs = error(net(images), exact)
        finally:
            operators.available = there
    worst = {"layer": max(layers, key=layers.get), "weight gradient": max(weights, key=weights.get)}
    return {
        "layer": layers[worst["layer"]],
        "weight gradient": weights[worst["weight gradient"]],
        "scores": ours,
        "scores by torch": torchs,
        "worst": worst,
    }


def cases(arguments):
    """Name, net and images of each."""
    d, e = random_net("D"), random_net("E")
    yield "D, random weights, noise 2 x 224 x 224", d, noise(2, 224, 224)
    yield "E, random weights, noise 2 x 224 x 224", e, noise(2, 224, 224)
    yield "D, random weights, noise 1 x 227 x 301", d, noise(1, 227, 301)
    for path in sorted(Path(arguments.photographs).iterdir())[:2] if arguments.photographs else ():
        image = whole(path, 256)
        yield f"D, random weights, photograph 1 x {image.shape[2]} x {image.shape[3]}", d, image
        yield f"E, random weights, photograph 1 x {image.shape[2]} x {image.shape[3]}", e, image
    if arguments.run:
        net = verydeep.load(arguments.run)
        found = verydeep.open_dataset(arguments.data, "val").photographs
        name = f"{net.configuration.name} trained, crop {net.crop}"
        for scale in (net.crop, net.crop + 9, 3 * net.crop // 2 + 1):
            images = torch.cat([whole(each, scale) for each in found[:: len(found) // 16]])
            size = " x ".join(map(str, (len(images), *images.shape[2:])))
            yield f"{name}, photographs {size}", net, images


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", help="a folder of photographs")
    parser.add_argument("--run", help="a run or weight file whose weights are tried, too")
    parser.add_argument("--data", help="the data set of that run; its images are of one size")
    parser.add_argument("--json", type=Path, default=Path("results/engine_accuracy.json"))
    arguments = parser.parse_args()
    results = {}
    for name, net, images in cases(arguments):
        results[name] = measure(net, images)
        print(name, json.dumps(results[name]), flush=True)
    largest = {what: max(result[what] for result in results.values()) for what in MOST}
    result = {
        "library": native.library().name,
        "torch": torch.__version__,
        "at most": MOST,
        "largest": largest,
        "holds": all(largest[what] <= most for what, most in MOST.items()),
        "cases": results,
    }
    print(json.dumps({"largest": largest, "holds": result["holds"]}))
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
