"""Sect. 3.1: initialisation, and the weights of another net to start from."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from verydeep.distributed import generator
from verydeep.errors import UserError
from verydeep.network import ConvNet

Distribution = Literal["normal", "glorot", "he"]
"""Of random weights: N(0, std), Glorot and Bengio's, or He et al.'s."""

PRE_INITIALISED = ("conv1_1", "conv2_1", "conv3_1", "conv3_2", "fc6", "fc7", "fc8")
"""What a deeper net takes from net A: the first four convolutional layers, by their position, and the last three
fully connected layers. All of them are trained further at the full rate."""

RAW_PIXELS = 128.0
"""Range of pixels less their mean. He et al.'s initialisation passes the range of the pixels on to the scores,
where the soft-max overflows; see Sect. 2.2 of their paper."""

DEAD = 1e-4
"""Root mean square of the first scores below which plain SGD hardly starts: the gradient of each layer passes
through all the others and shrinks as much."""
EXPLODED = 1e2
"""Root mean square of the first scores above which the first steps at the paper's rate diverge."""


def initialise(net: ConvNet, distribution: Distribution = "normal", std: float = 0.01, seed: int = 0) -> None:
    """Draw all weights at random and set the biases to zero (Sect. 3.1).

    Each layer has its own generator, so a layer of a given shape starts the same in every net.

    Args:
        net: the net, on any device; its weights are overwritten.
        distribution: `normal` is N(0, std) (the paper's "10^-2 variance" read as a standard deviation, see
            docs/decisions.md), `glorot` the uniform distribution of Glorot and Bengio (2010), `he` the normal
            distribution of He et al. (2015) with their factor for pixels that are not divided by their standard
            deviation: 128 ^ (-1/L) on each of L layers.
        std: standard deviation of `normal`.
        seed: seed of the draws.

    Raises:
        UserError: if the distribution is unknown, or std is negative.
    """
    if not std >= 0:
        raise UserError(f"std is {std}; a standard deviation is at least 0")
    if distribution not in get_args(Distribution):
        raise UserError(f"distribution is {distribution!r}; choose one of {', '.join(get_args(Distribution))}")
    for number, layer in enumerate(net.layers):
        if layer.kind != "conv":
            continue
        convolution = net.get_submodule(layer.name)
        if not isinstance(convolution, nn.Conv2d) or convolution.bias is None:
            raise UserError(f"{layer.name} is {convolution}; initialise takes convolutions with a bias")
        layer_seed = int(generator(seed, "weights", number).integers(2**63))
        chance = torch.Generator().manual_seed(layer_seed)
        with torch.no_grad():
            weight = torch.empty(convolution.weight.shape, device="cpu")  # the same numbers on every device
            match distribution:
                case "normal":
                    weight.normal_(0.0, std, generator=chance)
                case "glorot":
                    nn.init.xavier_uniform_(weight, generator=chance)
                case "he":
                    nn.init.kaiming_normal_(weight, nonlinearity="relu", generator=chance)
                    weight.mul_(RAW_PIXELS ** (-1 / net.configuration.weight_layers))
            convolution.weight.copy_(weight)
            convolution.bias.zero_()


def start_from(net: ConvNet, source: ConvNet) -> tuple[str, ...]:
    """Copy layers of a trained net into `net`, and its mean colour; return the names of the layers.

    All layers are copied from a net of the same configuration, `PRE_INITIALISED` from another one. fc8 is left as
    it is if the classes differ, and so are fc6 and fc7 if the source is a feature net, which has none of these.

    Raises:
        UserError: if a layer to be copied has another shape in the source.
    """
    same_net = net.configuration == source.configuration
    same_classes = (net.class_names or net.classes) == (source.class_names or source.classes)
    copied, sizes = [], source.architecture
    for layer in net.layers:
        if layer.kind != "conv" or not (same_net or layer.name in PRE_INITIALISED):
            continue
        if (layer.name == "fc8" and not same_classes) or (layer.fully_connected and not source.classes):
            continue
        ours, theirs = net.get_submodule(layer.name), getattr(source, layer.name, None)
        shapes = [
            tuple(module.weight.shape) if isinstance(module, nn.Conv2d) else None for module in (ours, theirs)
        ]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"{layer.name} of net {net.configuration.name} has shape {shapes[0]}, in the net to start from "
                f"(net {source.configuration.name}, crop {source.crop}, width {sizes.width}, fully connected "
                f"{sizes.fully_connected}) it has {shapes[1]}; train both with the same crop, width and "
                "fully_connected, and start from a net of 3x3 layers"
            )
        assert theirs is not None
        ours.load_state_dict(theirs.state_dict())
        copied.append(layer.name)
    net.mean.copy_(source.mean)  # which the copied layers were trained with
    return tuple(copied)


@dataclass(frozen=True)
class Signal:
    """Root mean squares of the input of a net, and of its scores."""

    pixels: float
    scores: float

    def sentence(self) -> str:
        """Return a line on the size of the signal, and on what to try if it is too small or too large."""
        line = (
            f"signal: {self.pixels:.3g} at the input (pixels less their mean), {self.scores:.3g} at the scores, "
            f"a gain of {self.scores / self.pixels if self.pixels else math.nan:.2g}"
        )
        if not DEAD <= self.scores <= EXPLODED:
            size = "small" if self.scores < DEAD else "large"
            line += (
                f": too {size} to learn from; try --initialisation glorot or he, "
                "or start from a shallower net (--start-from)"
            )
        return line


def signal(net: ConvNet, images: UInt8[Tensor, "N 3 H W"]) -> Signal:
    """Measure the signal of some training images, without dropout; the net's mode is the same afterwards."""
    was_training = net.training
    net.eval()
    with torch.no_grad():
        pixels = images.float() - net.mean.view(-1, 1, 1)
        scores = net(images)
    net.train(was_training)
    return Signal(pixels.square().mean().sqrt().item(), scores.square().mean().sqrt().item())
