"""Sect. 3.3: data parallelism, and randomness that does not depend on the number of ranks.

Each mini-batch is split over the ranks. Each rank computes the gradient of its share, and the gradients are summed
synchronously, so the result is that of one process. torchrun starts the processes.
"""

import importlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch import distributed as dist

from verydeep.errors import UserError

TIMEOUT = timedelta(hours=3)
"""How long ranks wait for one another: the first may have to survey a large data set meanwhile."""

CUBLAS, CUBLAS_WORKSPACES = "CUBLAS_WORKSPACE_CONFIG", (":4096:8", ":16:8")
"""An environment variable of cuBLAS, and the values with which it always adds in the same order."""

NCCL = {"NCCL_ALGO": "Ring", "NCCL_NVLS_ENABLE": "0"}
"""Environment variables of NCCL with which ranks are always added in the same order: around a ring, and not by the
switches between the GPUs."""


@dataclass(frozen=True)
class Ranks:
    """The rank of this process, the number of ranks, and the device that it computes on."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    """Rank among the processes of this machine."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def first(self) -> bool:
        """Whether this rank prints, logs and writes for all."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """Return this rank's part of `count` things: consecutive, at most one more than any other rank's."""
        return range(self.rank * count // self.world, (self.rank + 1) * count // self.world)

    def total(self, values: Tensor) -> Tensor:
        """Return the sum of the tensors of all ranks, on every rank."""
        if self.world > 1:
            values = values.to(self.device)
            dist.all_reduce(values)
        return values

    def of_all(self, value: float) -> list[float]:
        """Return the values of all ranks, by rank."""
        values = torch.zeros(self.world)
        values[self.rank] = value
        found: list[float] = self.total(values).tolist()
        return found

    def wait(self) -> None:
        """Wait until every rank has called this."""
        if self.world > 1:
            dist.barrier()


@contextmanager
def ranks(device: str = "auto", deterministic: bool = False) -> Iterator[Ranks]:
    """Join the other processes, if torchrun started any, and leave them at the end.

    Args:
        device: cpu, cuda, mps, or auto for the fastest one available.
        deterministic: whether GPUs will be made to give the same bits every time, which has to be prepared here.

    Raises:
        UserError: if the device is not available, or CUDA was used before it could be prepared.
    """
    if deterministic and device != "cpu":
        prepare_deterministic_gpus()
    world, local_world = (int(os.environ.get(name, "1")) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    rank, local_rank = (int(os.environ.get(name, "0")) for name in ("RANK", "LOCAL_RANK"))
    chosen = device_of(device, local_rank, local_world)
    if chosen.type == "cpu" and local_world > 1:
        # torchrun gives every rank one thread, and torch alone gives every rank all cores.
        torch.set_num_threads(max(1, cores() // local_world))
    if world == 1:
        yield Ranks(device=chosen)
        return
    if dist.is_initialized():  # by the program that calls this as a library
        yield Ranks(rank, world, local_rank, chosen)
        return
    # When this module is first imported, as by an optimiser, its functions take the group of all ranks as a
    # default. If that happened later, the group's threads would live on, and sometimes abort the ending process.
    importlib.import_module("torch.distributed.nn.functional")
    if chosen.type == "cuda":
        # NCCL would otherwise guess the GPU of a rank, and set up its connections only when they are first needed.
        dist.init_process_group("nccl", timeout=TIMEOUT, device_id=chosen)
    else:
        dist.init_process_group("gloo", timeout=TIMEOUT)
    yield Ranks(rank, world, local_rank, chosen)
    # Not after an error: it could wait for a rank that has ended.
    dist.destroy_process_group()


def prepare_deterministic_gpus() -> None:
    """Set the environment variables of cuBLAS and NCCL that deterministic computing needs; they stay set.

    This comes before CUDA is used: cuBLAS and NCCL read them once.

    Raises:
        UserError: if CUDA is in use already without them.
    """
    if os.environ.get(CUBLAS) not in CUBLAS_WORKSPACES:
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            raise UserError(
                f"deterministic needs {CUBLAS}={CUBLAS_WORKSPACES[0]}, and CUDA is already in use without it; set "
                "this environment variable before the program starts"
            )
        os.environ[CUBLAS] = CUBLAS_WORKSPACES[0]
    os.environ.update(NCCL)


BUCKET = 25 * 2**20
"""Bytes of gradients that are sent together, since each message has a fixed cost. Larger gradients go alone."""


@runtime_checkable
class Message(Protocol):
    """Numbers of a backward pass that ranks exchange together, from which gradients over all ranks are formed."""

    parts: int
    """How many parts of it have to be ready before it is sent."""

    def watch(self, ready: Callable[[], None]) -> None:
        """Call a function in each backward pass, whenever a part is ready."""

    def send(self) -> dist.Work:
        """Begin to exchange it."""

    def received(self) -> None:
        """Form the gradients, once it has been exchanged."""


class Bucket:
    """The gradients of some parameters, which are added in one piece."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.parts = len(parameters)
        self._parameters = parameters

    def watch(self, ready: Callable[[], None]) -> None:
        """Call a function whenever the gradient of a parameter is complete."""
        for parameter in self._parameters:
            parameter.register_post_accumulate_grad_hook(lambda _: ready())  # type: ignore[no-untyped-call]

    def send(self) -> dist.Work:
        """Begin to add the gradients of all ranks."""
        work: dist.Work = dist.all_reduce(together(self._parameters), async_op=True)
        return work

    def received(self) -> None:
        """Do nothing: the gradients are sums already."""


class GradientSum:
    """Sums the gradients of the ranks during the backward pass: those of some layers as soon as they are ready.

    Which gradients are sent together never changes: the position of a number in a message decides the order in
    which the ranks are added, and a resumed training must add as it did before. All ranks send their messages in
    the same order.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], ranks: Ranks, messages: Sequence[Message] = ()) -> None:
        """Begin to watch for gradients.

        Args:
            parameters: parameters whose gradients are added, in the order of the net.
            ranks: of this process.
            messages: those of parameters whose gradients are formed in another way. They are sent first.
        """
        self._active = False
        self._sent: list[dist.Work] = []
        self._missing: list[int] = []
        summed = [Bucket(bucket) for bucket in buckets(parameters)] if ranks.world > 1 else []
        self._messages: list[Message] = [*messages, *summed]
        for number, message in enumerate(self._messages):
            message.watch(partial(self._ready, number))

    @contextmanager
    def summing(self) -> Iterator[None]:
        """Sum the gradients that a backward pass inside completes; on exit they are those of all ranks."""
        self._missing = [message.parts for message in self._messages]
        self._active = True
        yield
        self._active = False
        for work, message in zip(self._sent, self._messages, strict=True):
            work.wait()
            message.received()
        self._sent.clear()

    def _ready(self, number: int) -> None:
        """Note that a part of a message is ready; send complete messages, in the same order on all ranks."""
        if not self._active:
            return
        self._missing[number] -= 1
        while (next_ := len(self._sent)) < len(self._messages) and not self._missing[next_]:
            self._sent.append(self._messages[next_].send())


def gathered(numbers: Float[Tensor, "n m"], ranks: Ranks) -> tuple[Float[Tensor, "_ m"], dist.Work]:
    """Begin to gather the rows of all ranks, which have the same number of them.

    Returns:
        The rows, by rank, which are there once the work is done; and the work.
    """
    rows = numbers.new_empty(ranks.world * len(numbers), numbers.shape[1])
    # Named all_gather_single from torch 2.13 on. As bytes, since gloo does not know every type.
    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    return rows, gather(rows.view(torch.uint8), numbers.contiguous().view(torch.uint8), async_op=True)


def buckets(parameters: Iterable[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Group parameters whose gradients are sent together: neighbours, up to `BUCKET` bytes, last layers first."""
    found: list[list[nn.Parameter]] = []
    room = 0
    for parameter in reversed(list(parameters)):
        room -= parameter.nbytes
        if room < 0:
            found.append([])
            room = BUCKET - parameter.nbytes
        found[-1].append(parameter)
    return found


def together(bucket: Sequence[nn.Parameter]) -> Float[Tensor, " n"]:
    """Move the gradients of some parameters into one piece of memory, and return it."""
    # In the order of memory, whatever it is: the position of a number must not change between iterations.
    gradients = [parameter.grad for parameter in bucket if parameter.grad is not None]
    flat = [gradient.as_strided((gradient.numel(),), (1,)) for gradient in gradients]
    if len(flat) == 1:
        return flat[0]
    whole = torch.cat(flat)
    parts = torch.split(whole, [len(each) for each in flat])
    for parameter, gradient, part in zip(bucket, gradients, parts, strict=True):
        parameter.grad = part.as_strided(gradient.shape, gradient.stride())
    return whole


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def local_ranks() -> int:
    """Return the number of ranks of this training on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def local_cores() -> int:
    """Return the number of cores per rank of this machine, at least 1."""
    return max(1, cores() // local_ranks())


def device_of(name: str, local_rank: int = 0, local_world: int = 1) -> torch.device:
    """Return the device of a rank; each rank takes its own GPU.

    Args:
        name: cpu, cuda, mps, or auto for the fastest one available.
        local_rank: rank among those of this machine.
        local_world: number of ranks of this machine.

    Raises:
        UserError: if the device is not available.
    """
    there = ["cpu"]
    if torch.backends.mps.is_available():
        there.insert(0, "mps")
    if torch.cuda.is_available():
        there.insert(0, "cuda")
    try:
        device = torch.device(there[0] if name == "auto" else name)
    except RuntimeError as error:
        raise UserError(f"device {name!r} is not known; this machine has {', '.join(there)}") from error
    if device.type not in there:
        raise UserError(f"device {name!r} is not on this machine; it has {', '.join(there)}")
    if local_world > 1 and (device.type == "mps" or device.index is not None):
        raise UserError(f"device {name!r} is one for {local_world} ranks; use cpu, or cuda without a number")
    if device.type == "cuda":
        number, count = local_rank if device.index is None else device.index, torch.cuda.device_count()
        if number >= count:
            raise UserError(f"GPU {number} is not on this machine, which has {count}; start at most {count} ranks")
        device = torch.device("cuda", number)
        torch.cuda.set_device(device)
    return device


STREAMS = ("order", "image", "weights")
"""What is drawn: the order of an epoch, everything for one image of one mini-batch, initial weights."""


def generator(seed: int, stream: str, *address: int) -> np.random.Generator:
    """Return the generator of an address: (epoch) for an order, (iteration, index in the batch) for an image.

    It is counter-based (Philox), so it starts anywhere at no cost, and no address depends on the draws of another.
    """
    counter = np.zeros(4, np.uint64)
    counter[4 - len(address) :] = address  # the low word counts the draws within one address
    return np.random.Generator(np.random.Philox(key=[seed, STREAMS.index(stream)], counter=counter))
