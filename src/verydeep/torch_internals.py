"""The private names of torch that we use, each behind a function, so that they can be checked with new releases.

Most of them answer one question: would anything notice if a layer were not called the way torch calls it?
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from traceback import walk_tb
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.experimental import _config as symbolic
from torch.nn import functional as F
from torch.nn.modules import module as modules
from torch.utils._device import DeviceContext
from torch.utils.data import dataloader

FORWARDS: dict[type[nn.Module], Any] = {kind: kind.forward for kind in (nn.Conv2d, nn.ReLU, nn.MaxPool2d)}
CONVOLVE, CALL, CALL_IMPL = nn.Conv2d._conv_forward, nn.Module.__call__, nn.Module._call_impl
CONV2D, RELU, MAX_POOL2D = F.conv2d, F.relu, F.max_pool2d
"""Functions of torch as they were at import. Programs that observe or change all layers, such as profilers,
replace them."""

EXPORTING = "_is_exporting_flag" if hasattr(torch.compiler, "_is_exporting_flag") else "_is_compiling_flag"
"""Name of the flag that an export sets. torch.compiler.is_exporting() returns it from torch 2.12 on; before that
it was also true while compiling. Torch 2.6 has neither; there a non-strict export sets the compiler's flag, which
torch.compile does not."""


def untouched(module: nn.Module | None, kind: type[nn.Module]) -> bool:
    """Return whether calling this module does what its class does, and nothing else.

    This is False for a subclass (a parametrized layer is one), and for a layer with a hook of any kind, with a
    forward set on the instance, or whose forward or call was compiled or replaced in its class.
    """
    if type(module) is not kind:
        return False
    own = module.__dict__
    return not (
        own["_forward_hooks"]
        or own["_forward_pre_hooks"]
        or own["_backward_hooks"]
        or own["_backward_pre_hooks"]
        or "forward" in own
        or "_call_impl" in own
        or own.get("_compiled_call_impl")
        or kind.forward is not FORWARDS.get(kind, kind.forward)
        or kind.__call__ is not CALL
        or kind._call_impl is not CALL_IMPL
    )


def untouched_convolution(module: nn.Module | None) -> bool:
    """Return whether a Conv2d is `untouched`, and its weight and bias are parameters or plain tensors."""
    if not untouched(module, nn.Conv2d):
        return False
    assert module is not None
    parameters = module._parameters
    return (
        nn.Conv2d._conv_forward is CONVOLVE
        and "_conv_forward" not in module.__dict__
        and type(parameters.get("weight")) in (nn.Parameter, Tensor)
        and type(parameters.get("bias")) in (nn.Parameter, Tensor)
    )


def observed() -> bool:
    """Return whether something observes every call of a layer or operator, so that each has to be torch's own.

    That is a hook on all modules, a replaced function of `torch.nn.functional`, or a mode of `torch.overrides` or
    `torch.utils._python_dispatch` (such as an operation counter, but not a default device).
    """
    hooks = (
        modules._global_forward_hooks
        or modules._global_forward_pre_hooks
        or modules._global_backward_hooks
        or modules._global_backward_pre_hooks
    )
    if hooks or F.conv2d is not CONV2D or F.relu is not RELU or F.max_pool2d is not MAX_POOL2D:
        return True
    if torch.compiler.is_compiling():  # the compiler itself is such a mode
        return False
    if torch._C._len_torch_dispatch_stack():
        return True
    modes = (torch._C._get_function_stack_at(i) for i in range(torch._C._len_torch_function_stack()))
    return any(not isinstance(mode, DeviceContext) for mode in modes)


def plain(x: Tensor) -> bool:
    """Return whether this is torch's own tensor, not one of a subclass that may redefine operators."""
    return type(x) is Tensor or type(x) is nn.Parameter


def exporting() -> bool:
    """Return whether the computation is being exported or traced, for use without this package's operators."""
    return getattr(torch.compiler, EXPORTING) or torch.onnx.is_in_onnx_export() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]


@contextmanager
def any_size() -> Iterator[None]:
    """Let an export assume nothing about sizes; otherwise it excludes maps with a height or width of 1."""
    with symbolic.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        yield


def allow_recompilation(count: int) -> None:
    """Let torch.compile compile one function at least that often, for different arguments, before it gives up."""
    config = torch._dynamo.config
    name = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"
    setattr(config, name, max(count, getattr(config, name)))


def transformed() -> bool:
    """Return whether vmap, grad or another transform of torch.func is active."""
    active: bool = torch._C._are_functorch_transforms_active()
    return active


def forward_mode() -> bool:
    """Return whether derivatives are being computed in forward mode."""
    return torch.autograd.forward_ad._current_level >= 0


def valueless(tensor: Tensor) -> bool:
    """Return whether a tensor has a shape but no values."""
    return tensor.is_meta or isinstance(tensor, FakeTensor)


def user_level() -> int:
    """Return the `stacklevel` with which a warning points to user code, outside this package and torch."""
    ours = (str(Path(__file__).parent), str(Path(torch.__file__).parent))
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(ours):
        frame, level = frame.f_back, level + 1
    return level


def wrapped(net: nn.Module) -> nn.Module | None:
    """Return the module inside torch.compile, DataParallel, DistributedDataParallel or AveragedModel, or None."""
    return net._modules.get("_orig_mod") or net._modules.get("module")


def own_parameter(module: nn.Module, name: str) -> Tensor | None:
    """Return a module's own parameter; None if it is computed (parametrized, pruned)."""
    return module._parameters.get(name)


def abandon(iterator: Iterator[Any]) -> None:
    """Make torch forget the workers of a DataLoader's iterator: it neither reports their end nor waits for it.

    Workers may ignore a request to end, and if one was killed while it held a lock, torch would wait for that
    lock.
    """
    if getattr(iterator, "_worker_pids_set", False):
        torch._C._remove_worker_pids(id(iterator))
        vars(iterator)["_worker_pids_set"] = False
    vars(iterator)["_shutdown"] = True
    if done := getattr(iterator, "_pin_memory_thread_done_event", None):
        done.set()


def abandon_unfinished(error: BaseException) -> None:
    """Let torch forget the DataLoader iterator that an error kept from being made; its finaliser would fail."""
    for frame, _ in walk_tb(error.__traceback__):
        unfinished = frame.f_locals.get("self")
        if isinstance(unfinished, dataloader._MultiProcessingDataLoaderIter):
            abandon(unfinished)


@contextmanager
def float32_on_gpus(tf32: bool) -> Iterator[None]:
    """Compute float32 convolutions and matrix products on CUDA GPUs in TF32 or in IEEE float32.

    Torch's own defaults are TF32 for convolutions and IEEE for products. The switches are restored afterwards.

    From torch 2.9 on there are two sets of switches, and reading an old one that contradicts the new ones is an
    error. So both sets are written. If they contradict each other already, only the new ones are used.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before: list[tuple[Any, str, Any]] = []
    for switches in (matmul, cudnn):
        with suppress(RuntimeError):
            before.append((switches, "allow_tf32", switches.allow_tf32))
    if hasattr(cudnn, "conv"):
        new: tuple[Any, ...] = (matmul, cudnn.conv, cudnn.rnn)  # the old switch of cuDNN is for both
        before += [(switches, "fp32_precision", switches.fp32_precision) for switches in new]
    for switches, name, _ in before:
        setattr(switches, name, tf32 if name == "allow_tf32" else ("tf32" if tf32 else "ieee"))
    try:
        yield
    finally:
        for switches, name, value in before:
            setattr(switches, name, value)


def remember(*kinds: type[nn.Module]) -> None:
    """Record the current forward of these classes as their own, for `untouched`."""
    FORWARDS.update({kind: kind.forward for kind in kinds})
