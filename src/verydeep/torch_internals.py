"""The names of torch that are not public, each behind a function: new releases of torch are checked against these.

All of them answer one question: would somebody notice if a layer were not called the way torch calls it?
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from traceback import walk_tb
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional as F
from torch.nn.modules import module as modules
from torch.utils._device import DeviceContext
from torch.utils.data import dataloader

FORWARDS: dict[type[nn.Module], Any] = {kind: kind.forward for kind in (nn.Conv2d, nn.ReLU, nn.MaxPool2d)}
CONVOLVE, CALL, CALL_IMPL = nn.Conv2d._conv_forward, nn.Module.__call__, nn.Module._call_impl
CONV2D, RELU, MAX_POOL2D = F.conv2d, F.relu, F.max_pool2d
"""As they were at import; programs that watch or change all layers replace them, profilers for example."""

EXPORTING = "_is_exporting_flag" if hasattr(torch.compiler, "_is_exporting_flag") else "_is_compiling_flag"
"""Name of the flag that an export sets. torch.compiler.is_exporting() is it from torch 2.12 on, and was true while
compiling before. Torch 2.6 has neither; there an export that is not strict sets the flag of the compiler, and
torch.compile does not."""


def untouched(module: nn.Module | None, kind: type[nn.Module]) -> bool:
    """Whether to call this module does what its class does, and nothing else.

    False for a subclass (a parametrized layer is one), for a layer with a hook of any kind, with a forward of its
    own on the instance, or with a forward or a call that was compiled or replaced in its class.
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
    """`untouched` for a Conv2d, whose weight and bias are parameters, or plain tensors in their place."""
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
    """Whether something looks on at every call of a layer or of an operator: then each has to be torch's own.

    That is a hook on all modules, a replaced function of `torch.nn.functional`, or a mode of `torch.overrides` or
    `torch.utils._python_dispatch` (a counter of operations, for example; not a default device).
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
    """Whether this is torch's own tensor, and not one of a subclass, which may define each operator anew."""
    return type(x) is Tensor or type(x) is nn.Parameter


def exporting() -> bool:
    """Whether what is computed is being written down for others, who have no operators of this package."""
    return getattr(torch.compiler, EXPORTING) or torch.onnx.is_in_onnx_export() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]


def transformed() -> bool:
    """Whether vmap, grad or another transform of torch.func is at work."""
    active: bool = torch._C._are_functorch_transforms_active()
    return active


def forward_mode() -> bool:
    """Whether derivatives are computed in forward mode."""
    return torch.autograd.forward_ad._current_level >= 0


def valueless(tensor: Tensor) -> bool:
    """Whether a tensor has a shape but no values to look at."""
    return tensor.is_meta or isinstance(tensor, FakeTensor)


def user_level() -> int:
    """The `stacklevel` at which the caller's warning names the line of a user, beyond this package and torch."""
    ours = (str(Path(__file__).parent), str(Path(torch.__file__).parent))
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(ours):
        frame, level = frame.f_back, level + 1
    return level


def wrapped(net: nn.Module) -> nn.Module | None:
    """The module inside of `torch.compile`, DataParallel, DistributedDataParallel or AveragedModel; else None."""
    return net._modules.get("_orig_mod") or net._modules.get("module")


def own_parameter(module: nn.Module, name: str) -> Tensor | None:
    """A parameter that a module holds itself; None for one that is computed (parametrized, pruned)."""
    return module._parameters.get(name)


def abandon(iterator: Iterator[Any]) -> None:
    """Let torch forget the processes of a DataLoader's iterator: it neither reports their end nor waits for it.

    Asked to end, they may not answer; and if one was killed while it held a lock, torch would wait for that lock.
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


def remember(*kinds: type[nn.Module]) -> None:
    """Count the forward of these classes as it is now as theirs, for `untouched`."""
    FORWARDS.update({kind: kind.forward for kind in kinds})
