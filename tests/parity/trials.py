"""Trials of a tool on one of our nets, and on the same layers in a plain torch.nn.Sequential."""

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version

import torch
from torch import Tensor, nn

from verydeep import ConvNet

Values = dict[str, Tensor]
"""Results of a tool, by name."""

TOLERANCE = 1e-4
"""Largest allowed difference, relative to the largest value: the rounding of float32 through eleven layers."""


@dataclass(frozen=True)
class Trial:
    """One use of one tool.

    Attributes:
        tool: name of its distribution.
        what: description of what is done.
        run: function that does it with a net and images, and returns values.
        reference: function that computes the expected values from the plain net; by default `run`.
        limit: words of the error with which our nets refuse the tool; docs/tools.md says what to do instead.
        training: whether the nets are in training mode (with a dropout ratio of 0, so that masks do not differ).
    """

    tool: str
    what: str
    run: Callable[[nn.Module, Tensor], Values]
    reference: Callable[[nn.Module, Tensor], Values] | None = None
    training: bool = False
    limit: str = ""


@dataclass(frozen=True)
class Outcome:
    """A row of the table."""

    tool: str
    version: str
    what: str
    result: str
    agrees: bool


TRIALS: list[Trial] = []


def trial(
    tool: str,
    what: str,
    reference: Callable[[nn.Module, Tensor], Values] | None = None,
    training: bool = False,
    limit: str = "",
) -> Callable[[Callable[[nn.Module, Tensor], Values]], Callable[[nn.Module, Tensor], Values]]:
    """Add a function to the trials."""

    def added(run: Callable[[nn.Module, Tensor], Values]) -> Callable[[nn.Module, Tensor], Values]:
        TRIALS.append(Trial(tool, what, run, reference, training, limit))
        return run

    return added


class Centre(nn.Module):
    """Subtract the mean colour."""

    def __init__(self, mean: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)

    def forward(self, images: Tensor) -> Tensor:
        return images.to(self.mean.dtype) - self.mean.view(-1, 1, 1)


def nets(training: bool) -> tuple[ConvNet, nn.Sequential]:
    """Make a small net A, and torch's own layers with copies of its weights, under the same names."""
    torch.manual_seed(0)
    net = ConvNet("A", classes=7, crop=32, width=0.25, fully_connected=16, dropout=0.0 if training else 0.5)
    for parameter in net.parameters():  # He et al.'s, with biases, so that scores are far from 0 and differ
        nn.init.normal_(parameter, 0.0, (2 / parameter[0].numel()) ** 0.5 if parameter.ndim > 1 else 0.5)
    plain: OrderedDict[str, nn.Module] = OrderedDict(centre=Centre(net.mean.clone()))
    for layer in net.layers:
        match layer.kind:
            case "conv":
                plain[layer.name] = nn.Conv2d(
                    layer.in_channels, layer.out_channels, layer.kernel, padding=layer.padding
                )
            case "relu":
                plain[layer.name] = nn.ReLU()
            case "pool":
                plain[layer.name] = nn.MaxPool2d(2, 2)
            case "dropout":
                plain[layer.name] = nn.Dropout(net.architecture.dropout)
    sequential = nn.Sequential(plain).append(nn.Flatten())
    copied = {name: tensor.clone() for name, tensor in net.state_dict().items() if name != "mean"}
    sequential.load_state_dict(copied | {"centre.mean": net.mean.clone()})
    return net.train(training), sequential.train(training)


def batch(number: int = 4) -> Tensor:
    """Make images of raw pixels, in floating point for gradients."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (number, 3, 32, 32), generator=generator).float()


LABELS = torch.tensor([0, 3, 6, 2])
"""The classes of the batch."""


def gradients(net: nn.Module) -> Values:
    """Return the gradients of parameters that have one."""
    return {name: each.grad for name, each in net.named_parameters() if each.grad is not None}


def attempted(each: Trial) -> Outcome:
    """Run a trial with both nets, and compare."""
    ours, plain = nets(each.training)
    torch.manual_seed(2)
    expected = (each.reference or each.run)(plain, batch())
    torch.manual_seed(2)
    try:
        found = each.run(ours, batch())
    except Exception as error:
        if each.limit and each.limit in str(error):
            return outcome(each, f"a known limit: {each.limit}", True)
        return outcome(each, f"fails: {type(error).__name__}: {str(error).strip().splitlines()[0][:200]}", False)
    if each.limit:
        return outcome(each, "works, but is listed as a limit", False)
    if found.keys() != expected.keys():
        return outcome(each, f"other values: {sorted(found.keys() ^ expected.keys())[:4]}", False)
    worst = max(difference(found[name], expected[name]) for name in expected)
    return outcome(each, f"{len(expected)} values, largest difference {worst:.1e}", worst <= TOLERANCE)


def difference(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference relative to the largest expected value; infinite if shapes differ."""
    if found.shape != expected.shape or not expected.numel():
        return math.inf
    scale = float(expected.detach().abs().max())
    if scale == 0:  # the comparison would be empty
        return math.inf
    return float((found.detach().double() - expected.detach().double()).abs().max()) / scale


def outcome(each: Trial, result: str, agrees: bool) -> Outcome:
    return Outcome(each.tool, version(each.tool), each.what, result, agrees)


def outcomes(only: str) -> Iterator[Outcome]:
    """Run all trials whose tool or description contains `only`."""
    for each in TRIALS:
        if only in f"{each.tool} {each.what}":
            try:
                yield attempted(each)
            except Exception as error:  # the tool failed on the plain net
                first = str(error).strip().splitlines()[0][:200]
                yield outcome(each, f"fails on torch's own layers too: {type(error).__name__}: {first}", False)
