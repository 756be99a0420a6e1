"""A second device for tests on a machine without a GPU: tensors that say they are on cuda:0, and follow its rules.

Each holds a tensor in the machine's own memory and computes with it. As on a GPU, an operator refuses tensors on
different devices, except CPU tensors without dimensions; only copies cross. What is read back is counted: on a GPU
the program waits there until all that was begun is done. Parameters that are moved stay the same objects, as on a
GPU. What this cannot show is anything about the kernels of a GPU.
"""

from contextlib import contextmanager

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from verydeep import weights
from verydeep.evaluation import batches
from verydeep.training import step

DEVICE = torch.device("cuda", 0)

CROSSING = (torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default)


class Elsewhere(torch.Tensor):
    """A tensor on the second device."""

    @staticmethod
    def __new__(cls, here):
        made = torch.Tensor._make_wrapper_subclass(
            cls, here.shape, strides=here.stride(), storage_offset=here.storage_offset(), dtype=here.dtype
        )
        made.here = here
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @property
    def device(self):
        return DEVICE

    @property
    def is_cpu(self):
        return False

    @property
    def is_cuda(self):
        return True

    def __repr__(self):
        return f"Elsewhere({self.here})"

    def __reduce_ex__(self, protocol):
        return self.here.__reduce_ex__(protocol)  # a file has no device; torch.load puts it where it is told to

    def __tensor_flatten__(self):
        return ["here"], None

    @staticmethod
    def __tensor_unflatten__(inner, meta, size, stride):
        return Elsewhere(inner["here"])

    @classmethod
    def __torch_dispatch__(cls, operator, types, arguments=(), named=None):
        found = []
        tree_map(lambda each: found.append(each) if isinstance(each, torch.Tensor) else None, (arguments, named))
        strangers = [each for each in found if not isinstance(each, Elsewhere) and each.dim()]
        if strangers and operator not in CROSSING:
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but {operator} got one on {DEVICE} and one of "
                f"shape {tuple(strangers[0].shape)} on the CPU"
            )
        if operator is torch.ops.aten.copy_.default and not isinstance(arguments[0], Elsewhere):
            Machine.current.waits.append("copy to the CPU")
        if operator is torch.ops.aten._local_scalar_dense.default:
            Machine.current.waits.append("a number")
        result = operator(*tree_map(unwrapped, arguments), **tree_map(unwrapped, named or {}))
        if arguments and isinstance(arguments[0], torch.Tensor) and operator._schema.is_mutable:
            if torch.Tag.inplace_view in operator.tags:
                raise NotImplementedError(operator)
            if operator._schema.name.endswith("_") and isinstance(result, torch.Tensor):
                return arguments[0]
        return tree_map(lambda each: Elsewhere(each) if isinstance(each, torch.Tensor) else each, result)


def unwrapped(value):
    return value.here if isinstance(value, Elsewhere) else value


class Machine(TorchFunctionMode):
    """The machine with that device: makes tensors there, moves them, and counts how often the program waits."""

    current = None

    def __init__(self):
        super().__init__()
        self.waits = []

    def __torch_function__(self, function, types, arguments=(), named=None):
        named = dict(named or {})
        name = getattr(function, "__name__", "")
        first = arguments[0] if arguments else None
        if isinstance(first, Elsewhere) and name in ("tolist", "cpu", "numpy"):
            if name == "numpy":
                raise TypeError("can't convert cuda:0 device type tensor to numpy")
            self.waits.append(name)
            found = _Home.apply(first) if name == "cpu" else first.here.tolist()
            return found
        if name == "to" and isinstance(first, torch.Tensor):
            return self._moved(first, arguments[1:], named)
        if name == "pin_memory":
            return first
        if (device := named.get("device")) is not None and torch.device(device).type == DEVICE.type:
            made = function(*arguments, **named | {"device": "cpu"})
            return made if isinstance(made, Elsewhere) else Elsewhere(made)
        return function(*arguments, **named)

    def _moved(self, tensor, arguments, named):
        """Tensor.to: convert, and move if a device is among its arguments."""
        given = [*arguments, named.get("device"), named.get("dtype"), named.get("other")]
        places = [each for each in given if isinstance(each, str | torch.device)]
        kinds = [each for each in given if isinstance(each, torch.dtype)]
        for like in (each for each in given if isinstance(each, torch.Tensor)):
            places, kinds = [*places, like.device], [*kinds, like.dtype]
        layout = {"memory_format": named["memory_format"]} if "memory_format" in named else {}
        converted = tensor.to(kinds[0] if kinds else tensor.dtype, **layout)
        if not places or (there := torch.device(places[0])).type == converted.device.type:
            return converted
        if there.type == DEVICE.type:
            return _Away.apply(converted)
        self.waits.append("to")
        return _Home.apply(converted)


class _Away(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor):
        return Elsewhere(tensor.detach().clone())

    @staticmethod
    def backward(ctx, gradient):
        return gradient.here


class _Home(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor):
        return tensor.here.clone()

    @staticmethod
    def backward(ctx, gradient):
        return Elsewhere(gradient)


def fetched(numbers):
    """As `step.fetched`, without pinned memory and events."""
    copy = numbers.here.clone()

    def wait():
        Machine.current.waits.append("cpu")
        return copy

    return wait


@contextmanager
def second_device():
    """Yield a machine with a second device, which is there while inside."""
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)  # moved parameters stay the same objects
    machine = Machine.current = Machine()
    try:
        with pytest.MonkeyPatch.context() as patch, machine:
            # A weight file takes no subclass of Tensor, and a tensor on a GPU is none.
            def kind(one):
                return torch.Tensor if type(one) is Elsewhere else type(one)

            patch.setattr(weights, "type", kind, raising=False)
            patch.setattr(batches, "free_memory", lambda device: 2**33)
            patch.setattr(step, "fetched", fetched)
            yield machine
    finally:
        Machine.current = None
        torch.__future__.set_swap_module_params_on_conversion(before)
