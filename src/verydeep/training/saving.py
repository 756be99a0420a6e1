"""Saving a training without stopping it: its state is copied, and a thread writes the copy to its files."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from verydeep import weights
from verydeep.network import ConvNet
from verydeep.training import checkpoint, step
from verydeep.training.checkpoint import Progress
from verydeep.training.directory import Entered
from verydeep.training.weight_files import WeightFiles

AT_ONCE = ("cpu",)
"""Kinds of devices on which a training waits for its files. There a copy would take as much memory again as the
weights and velocities, and a thread would only take cores from the training."""


@dataclass(frozen=True)
class State:
    """What is saved of a training."""

    net: ConvNet
    optimiser: dict[str, Any]
    progress: Progress


class Saving:
    """Saves the states of a training, one after another. On leaving its context it waits for the last write."""

    def __init__(self, entered: Entered, files: WeightFiles, device: torch.device) -> None:
        self._entered, self._files = entered, files
        self._thread = None if device.type in AT_ONCE else ThreadPoolExecutor(1, "saving")
        self._last: Future[None] | None = None

    def __enter__(self) -> "Saving":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.wait()
        finally:
            if self._thread is not None:
                self._thread.shutdown()

    def begin(self, net: ConvNet, optimiser: torch.optim.Optimizer, progress: Progress) -> None:
        """Wait for the last write, then copy the state and begin to write it. On a CPU, write it at once.

        Raises:
            UserError: if this write, or the last one, failed: the disk is full, or the run directory was moved or
                replaced. What was saved before is kept.
        """
        self.wait()
        if self._thread is None:
            write(self._entered, self._files, State(net, optimiser.state_dict(), progress))
            return
        arrived = copied(net, optimiser, progress)
        self._last = self._thread.submit(lambda: write(self._entered, self._files, arrived()))

    def check(self) -> None:
        """Do not wait, but raise the error of a write that has failed; errors are those of `begin`."""
        if self._last is not None and self._last.done():
            self.wait()

    def wait(self) -> None:
        """Wait for the write under way, if there is one; errors are those of `begin`."""
        last, self._last = self._last, None
        if last is not None:
            last.result()


def write(entered: Entered, files: WeightFiles, state: State) -> None:
    """Write the checkpoint and, after an epoch, the weight files.

    The weights of the last epoch come before the checkpoint, so that they are never older. Only the first
    checkpoint comes before them, since weights without a checkpoint are not overwritten. The weights of the best
    epoch come last; see `WeightFiles.write_best`.

    Raises:
        UserError: if a file cannot be written; what was saved before is kept.
    """
    first = not (entered.path / checkpoint.CHECKPOINT).exists()
    if first:
        checkpoint.save(entered, state.net, state.optimiser, state.progress)
    if state.progress.between_epochs:
        files.write_last(state.net, state.progress)
    if not first:
        checkpoint.save(entered, state.net, state.optimiser, state.progress)
    files.write_best(state.net, state.progress)


def copied(net: ConvNet, optimiser: torch.optim.Optimizer, progress: Progress) -> Callable[[], State]:
    """Begin to copy the state of a training; return a function that waits for the copy, in any thread.

    A GPU copies before it computes what is begun later, so the training may go on at once.
    """
    card, then, saved = net.card, deepcopy(progress), optimiser.state_dict()
    tensors = {name: _copied(tensor) for name, tensor in net.state_dict().items()}
    velocities = {
        number: {name: _copied(value) for name, value in values.items()}
        for number, values in saved["state"].items()
    }

    def arrived() -> State:
        twin = weights.with_tensors(card, {name: copy() for name, copy in tensors.items()})
        state = {number: {name: copy() for name, copy in values.items()} for number, values in velocities.items()}
        return State(twin, saved | {"state": state}, then)

    return arrived


def _copied(value: Tensor | None) -> Callable[[], Any]:
    """Begin to copy a tensor to this process's memory; return a function that waits for the copy."""
    if value is None:
        return lambda: None
    if value.is_cuda:
        return step.fetched(value)
    copy = value.detach().to("cpu", copy=True)
    return lambda: copy
