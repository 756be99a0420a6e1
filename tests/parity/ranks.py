"""Nets trained by two processes: loss and gradients of a step are those of one process."""

import faulthandler
import tempfile
from pathlib import Path

import torch
from torch import Tensor, distributed, multiprocessing, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from trials import LABELS, Values, gradients, trial

RANKS = 2

PATIENCE = 60
"""Longest time for a trial, in seconds."""


def one_process(net: nn.Module, images: Tensor) -> Values:
    """Return loss and gradients of the whole mini-batch, and the scores after a step."""
    loss = F.cross_entropy(net(images), LABELS)
    loss.backward()
    found = {"loss": loss.detach()} | {name: each.clone() for name, each in gradients(net).items()}
    torch.optim.SGD(net.parameters(), 1e-3).step()
    return found | {"scores after a step": net(images).detach()}


def by_ranks(how: str, net: nn.Module, images: Tensor) -> Values:
    """Compute the same in processes with half of the images each."""
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(rank_main, (how, net, images, folder), RANKS)
        return torch.load(Path(folder) / "found.pt")


def rank_main(rank: int, how: str, net: nn.Module, images: Tensor, folder: str) -> None:
    torch.set_num_threads(1)
    faulthandler.dump_traceback_later(PATIENCE, exit=True)  # shows where ranks wait for each other
    distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=RANKS)
    # Tensors from another process are in shared memory; copies give each rank its own.
    net.load_state_dict({name: each.clone() for name, each in net.state_dict().items()}, assign=True)
    net = wrapped(how, net.requires_grad_())
    half = slice(rank * len(images) // RANKS, (rank + 1) * len(images) // RANKS)
    loss = F.cross_entropy(net(images[half]), LABELS[half])
    loss.backward()
    mean = loss.detach().clone()
    distributed.all_reduce(mean)
    found = {"loss": mean / RANKS}
    for name, each in net.named_parameters():
        whole = each.grad.full_tensor() if isinstance(each.grad, DTensor) else each.grad
        found[name.removeprefix("module.")] = whole.clone()
    torch.optim.SGD(net.parameters(), 1e-3).step()
    scores = [torch.empty(len(images) // RANKS, 7) for _ in range(RANKS)]
    distributed.all_gather(scores, net(images[half]).detach())
    if rank == 0:
        torch.save(found | {"scores after a step": torch.cat(scores)}, Path(folder) / "found.pt")
    distributed.barrier()
    distributed.destroy_process_group()


def wrapped(how: str, net: nn.Module) -> nn.Module:
    if how == "DDP":
        return DistributedDataParallel(net)
    mesh = init_device_mesh("cpu", (RANKS,))
    if how == "FSDP2 of layers":
        for module in net.children():
            if isinstance(module, nn.Conv2d):
                fully_shard(module, mesh=mesh)
    return fully_shard(net, mesh=mesh, mp_policy=MixedPrecisionPolicy())


@trial("torch", "DistributedDataParallel, two gloo ranks: loss, gradients, a step", one_process, training=True)
def data_parallel(net: nn.Module, images: Tensor) -> Values:
    return by_ranks("DDP", net, images)


@trial("torch", "FSDP2, fully_shard(net), two gloo ranks: loss, gradients, a step", one_process, training=True)
def sharded(net: nn.Module, images: Tensor) -> Values:
    return by_ranks("FSDP2", net, images)


@trial("torch", "FSDP2, fully_shard of each convolution and the net: the same", one_process, training=True)
def sharded_by_layers(net: nn.Module, images: Tensor) -> Values:
    return by_ranks("FSDP2 of layers", net, images)
