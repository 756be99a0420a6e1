"""Sect. 3.1 and 3.3: one iteration of mini-batch gradient descent with momentum, on one or several ranks."""

import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import get_args

import torch
from torch import Tensor

from verydeep.computing import Computing, Precision
from verydeep.configurations import whole_number
from verydeep.distributed import GradientSum, Ranks
from verydeep.errors import UserError
from verydeep.network import ConvNet
from verydeep.recipe import Recipe
from verydeep.training.augmentation import MiniBatch
from verydeep.training.gathering import Gathered, gathering
from verydeep.training.objective import Loss, cross_entropy


@dataclass(frozen=True)
class Execution:
    """How a training is computed; affects its results only by rounding.

    Raises:
        UserError: if the micro-batch is negative, or nets cannot be trained in the precision.
    """

    computing: Computing = field(default_factory=Computing)
    micro_batch: int = 0
    """Images that pass through the net at once on each rank; 0 for the rank's whole share of the mini-batch."""
    compile: bool = False
    recompute: bool = False
    """Activation checkpointing, see `ConvNet`."""

    def __post_init__(self) -> None:
        if self.computing.precision not in get_args(Precision):
            known = ", ".join(get_args(Precision))
            raise UserError(f"precision is {self.computing.precision!r}; training takes one of {known}")
        if whole_number("micro_batch", self.micro_batch) < 0:
            raise UserError(
                f"micro_batch is {self.micro_batch}; give a number of images, or 0 for a rank's whole share"
            )

    def with_workers(self, workers: int) -> "Execution":
        """Return the same with that many workers."""
        return replace(self, computing=replace(self.computing, workers=workers))


@dataclass(frozen=True)
class Outcome:
    """The outcome of an iteration, over all ranks."""

    loss: float
    """Sum of the images' losses."""
    wrong: int
    """Images that the net got wrong."""
    images: int
    signal: int
    """Highest number of a signal that a rank was sent, or 0."""
    save: bool
    """Whether a rank wants a checkpoint."""


@dataclass(frozen=True)
class Begun:
    """An iteration that has been begun, and that a GPU may still be computing."""

    sums: Callable[[], Tensor]
    """Wait for the iteration, and return the sum of its losses, its errors, the wishes for a checkpoint, and the
    signals of the ranks."""
    images: int

    def outcome(self) -> Outcome:
        """Wait for the iteration, and return its outcome."""
        loss, wrong, wanted, *signals = self.sums().tolist()
        return Outcome(loss, int(wrong), self.images, int(max(signals)), wanted > 0)


def new_optimiser(net: ConvNet, recipe: Recipe, rate: float) -> torch.optim.SGD:
    """Return gradient descent with momentum for the parameters that are trained, with an initial rate.

    There are two groups: weights, which decay, and biases, which do not and have a rate of their own. On CUDA all
    weights are updated by one kernel.
    """
    learning = [(name, parameter) for name, parameter in net.named_parameters() if parameter.requires_grad]
    biases = [parameter for name, parameter in learning if name.endswith("bias")]
    others = [parameter for name, parameter in learning if not name.endswith("bias")]
    return torch.optim.SGD(
        [
            {"params": others, "weight_decay": recipe.weight_decay},
            {"params": biases, "weight_decay": 0.0, "lr": rate * recipe.bias_rate},
        ],
        lr=rate,
        momentum=recipe.momentum,
        fused=True if all(parameter.is_cuda for _, parameter in learning) else None,
    )


def set_rate(optimiser: torch.optim.Optimizer, rate: float, bias_rate: float = 1.0) -> None:
    """Change the learning rate and leave the velocity as it is.

    Krizhevsky et al. and Caffe keep v := momentum * v - rate * gradient; torch keeps v / rate. So torch's buffer
    is rescaled, or the step would shrink at once, while the paper's decays over some iterations.

    Args:
        optimiser: of `new_optimiser`.
        rate: new rate of the weights.
        bias_rate: multiplier of the rate for the biases.
    """
    for group, multiple in zip(optimiser.param_groups, (1.0, bias_rate), strict=True):
        for parameter in group["params"]:
            if (buffer := optimiser.state[parameter].get("momentum_buffer")) is not None:
                buffer.mul_(group["lr"] / (rate * multiple))
        group["lr"] = rate * multiple


class Step:
    """Learns from one mini-batch per call: its gradient over all ranks, and the update.

    Raises:
        UserError: if the net is to be compiled and there is no C++ compiler.
    """

    def __init__(
        self,
        net: ConvNet,
        optimiser: torch.optim.Optimizer,
        ranks: Ranks,
        execution: Execution,
        loss: Loss = cross_entropy,
        gathered: Sequence[Gathered] = (),
    ) -> None:
        """Prepare to learn.

        Args:
            net: the net; its parameters that require gradients learn.
            optimiser: of `new_optimiser`.
            ranks: of this process.
            execution: how to compute.
            loss: of the net's outputs.
            gathered: layers whose weight gradients are formed from the inputs and output gradients of all ranks,
                last layers first.
        """
        self.net, self.optimiser, self.ranks, self.execution, self.loss = net, optimiser, ranks, execution, loss
        self.late = ranks.device.type == "cuda"
        """Whether the device computes by itself, so that the next iteration may begin before this one is done."""
        self.gathered = gathered
        apart = {id(each.layer.weight) for each in gathered}
        added = [each for each in net.parameters() if each.requires_grad and id(each) not in apart]
        self.gradients = GradientSum(added, ranks, gathered)
        if execution.compile:
            compiler = os.environ.get("CXX", "c++")
            if ranks.device.type == "cpu" and not (shutil.which(compiler) or shutil.which("g++")):
                raise UserError(f"--compile needs a C++ compiler, and there is no {compiler}; leave it out")
            net.compile_blocks()

    def __call__(self, share: MiniBatch, images: int, signal: int = 0, save: bool = False) -> Outcome:
        """Learn from a mini-batch, and wait for the outcome; see `begin`."""
        return self.begin(share, images, signal, save).outcome()

    def begin(self, share: MiniBatch, images: int, signal: int = 0, save: bool = False) -> Begun:
        """Learn from a mini-batch. On CUDA this does not wait for the GPU.

        Args:
            share: this rank's share of it; may be empty.
            images: size of the whole mini-batch.
            signal: number of the signal that this rank was sent, or 0.
            save: whether this rank wants a checkpoint. Signal and save are sent with the loss, so that all ranks
                know of them at the same iteration.
        """
        ours = len(share.images)
        size = self.execution.micro_batch or max(1, ours)
        starts = range(0, max(1, ours), size)
        # Not every device has float64, in which the losses are added.
        sums = torch.zeros(
            3 + self.ranks.world, dtype=torch.float64, device=self.ranks.device if self.late else "cpu"
        )
        if save or signal:
            sums[2].fill_(float(save))  # an assignment would copy the number, and wait for the GPU
            sums[3 + self.ranks.rank].fill_(signal)
        self.optimiser.zero_grad()
        for start in starts:
            # Gradients are sent once per mini-batch: with its last micro-batch.
            with self.gradients.summing() if start == starts[-1] else nullcontext():
                sums[:2] += self._backward(share.part(slice(start, start + size)), images).to(sums.device).double()
        self.optimiser.step()
        total = self.ranks.total(sums)
        return Begun(fetched(total) if self.late else lambda: total, images)

    def _backward(self, part: MiniBatch, images: int) -> Tensor:
        """Add the gradient of a micro-batch; return the sum of its losses and the count of its errors."""
        device = self.ranks.device
        pixels, targets, shifts, keys = (tensor.to(device, non_blocking=True) for tensor in part)
        # Of a part without images, compiled code would leave out everything, also what ranks exchange.
        stance = (
            torch.compiler.set_stance("force_eager")
            if self.execution.compile and not len(pixels)
            else nullcontext()
        )
        with self.execution.computing.autocast(device), gathering(self.gathered), stance:
            outputs = self.net(pixels, keys, shifts)
        losses = self.loss(outputs.float(), targets)
        # Summed over micro-batches and ranks, this is the mean over the images of the mini-batch, even if some
        # ranks have fewer images or none.
        (losses.total / images).backward()  # type: ignore[no-untyped-call]
        return torch.stack((losses.total.detach(), losses.wrong))


def fetched(numbers: Tensor) -> Callable[[], Tensor]:
    """Begin to copy numbers from a GPU; return a function that waits for them, and not for what is begun later."""
    copy = torch.empty_like(numbers, device="cpu", pin_memory=True)
    copy.copy_(numbers, non_blocking=True)
    arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
    arrived.record()

    def wait() -> Tensor:
        arrived.synchronize()
        return copy

    return wait
