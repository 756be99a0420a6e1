"""Sect. 3.1 and 3.3: one iteration of mini-batch gradient descent with momentum, on one or several ranks."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from verydeep.distributed import Ranks
from verydeep.network import ConvNet
from verydeep.recipe import Recipe
from verydeep.training.augmentation import MiniBatch


@dataclass(frozen=True)
class Execution:
    """Where and how a training is computed; changes nothing of what it computes but rounding."""

    precision: Literal["fp32", "bf16"] = "fp32"
    micro_batch: int = 0
    """Images that pass through the net at once on each rank; 0 for a rank's whole share of the mini-batch."""
    workers: int = 0
    """Processes a rank that read images ahead; 0 to read between the iterations."""
    compile: bool = False
    recompute: bool = False
    """Activation checkpointing, see `ConvNet`."""


@dataclass(frozen=True)
class Outcome:
    """What an iteration found, over all ranks."""

    loss: float
    """Sum of the images' losses."""
    wrong: int
    """Images whose highest score was not their class's."""
    images: int
    signal: int
    """Highest number of a signal that asked a rank to stop, or 0."""


def new_optimiser(net: ConvNet, recipe: Recipe) -> torch.optim.SGD:
    """Gradient descent with momentum; weights decay, biases do not."""
    biases = [parameter for name, parameter in net.named_parameters() if name.endswith("bias")]
    others = [parameter for name, parameter in net.named_parameters() if not name.endswith("bias")]
    return torch.optim.SGD(
        [{"params": others, "weight_decay": recipe.weight_decay}, {"params": biases, "weight_decay": 0.0}],
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
    )


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Change the learning rate and leave the velocity as it is.

    Krizhevsky et al. and Caffe keep v := momentum * v - rate * gradient, torch keeps v / rate: so torch's buffer
    is scaled along, or the step would shrink at once where the paper's decays over some iterations.
    """
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            if (buffer := optimiser.state[parameter].get("momentum_buffer")) is not None:
                buffer.mul_(group["lr"] / rate)
        group["lr"] = rate


class Step:
    """Learns from mini-batches, one a call: its gradient over all ranks, and the update."""

    def __init__(self, net: ConvNet, optimiser: torch.optim.Optimizer, ranks: Ranks, execution: Execution) -> None:
        self.optimiser, self.ranks, self.execution = optimiser, ranks, execution
        forward: nn.Module = net
        if execution.compile:
            net.compile()
        if ranks.world > 1:
            devices = [ranks.device] if ranks.device.type == "cuda" else None
            forward = DistributedDataParallel(forward, devices, gradient_as_bucket_view=True)
        self.forward = forward

    def __call__(self, share: MiniBatch, images: int, signal: int = 0) -> Outcome:
        """Learn from a mini-batch.

        Args:
            share: this rank's share of it; may be empty.
            images: size of the whole mini-batch.
            signal: number of the signal that this rank was sent, or 0. It travels with the loss, so that all ranks
                learn of it at the same iteration.
        """
        ours = len(share.labels)
        size = self.execution.micro_batch or max(1, ours)
        starts = range(0, max(1, ours), size)
        sums = torch.zeros(2 + self.ranks.world, dtype=torch.float64)
        sums[2 + self.ranks.rank] = signal
        self.optimiser.zero_grad()
        for start in starts:
            with self._gradients_kept(last=start == starts[-1]):
                sums[:2] += self._backward(share.part(slice(start, start + size)), images)
        self.optimiser.step()
        loss, wrong, *signals = self.ranks.total(sums).tolist()
        return Outcome(loss, int(wrong), images, int(max(signals)))

    def _backward(self, part: MiniBatch, images: int) -> Tensor:
        """Add the gradient of a micro-batch; gives the sum of its losses and the count of its errors."""
        device = self.ranks.device
        pixels, labels, shifts, keys = (tensor.to(device, non_blocking=True) for tensor in part)
        half = self.execution.precision == "bf16"
        with torch.autocast(device.type, torch.bfloat16) if half else nullcontext():
            scores = self.forward(pixels, keys, shifts)
        scores = scores.float()
        loss = F.cross_entropy(scores, labels, reduction="sum")
        # DistributedDataParallel takes the mean over ranks; the sum over all images by their number is meant, also
        # where the last mini-batch of an epoch leaves some ranks fewer images or none.
        (loss * (self.ranks.world / images)).backward()  # type: ignore[no-untyped-call]
        wrong = (scores.detach().argmax(1) != labels).sum()
        return torch.stack((loss.detach(), wrong)).cpu().double()  # not every device has float64

    def _gradients_kept(self, last: bool) -> AbstractContextManager[None]:
        """Gradients travel once a mini-batch: with its last micro-batch."""
        if isinstance(self.forward, DistributedDataParallel) and not last:
            return self.forward.no_sync()
        return nullcontext()
