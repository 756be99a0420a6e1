"""The engine as torch operators: convolution fused with ReLU and pooling, with gradients.

They are operators rather than functions so that torch.compile, checkpointing and the ranks' summed gradients treat
them like torch's own. Without a native library, or for tensors that it does not support (anything but float32 on a
CPU), they compute the same with torch.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeGuard

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from verydeep.engine import gpu, interface
from verydeep.engine.choice import ROWS, blocks, direct, faster, gradient_block
from verydeep.engine.layout import channels_last, empty, empty_output, pooled_sides
from verydeep.engine.native import address, available, library
from verydeep.engine.schedule import Convolution, program
from verydeep.torch_internals import exporting, forward_mode, transformed, untouched_convolution
from verydeep.torch_internals import plain as plain_tensor

NAMESPACE = "verydeep_2"
"""Namespace of the operators. Increase its number when an operator returns tensors of another shape or layout:
torch.compile caches compiled graphs on disk by the names of the operators, and would reuse those that are out of
date."""


class Step(NamedTuple):
    """A convolution with stride 1, and whether it is followed by a ReLU and by a 2x2 max-pooling with stride 2."""

    layer: nn.Conv2d
    rectify: bool
    pool: bool


def plain(module: nn.Module | None) -> TypeGuard[nn.Conv2d]:
    """Return whether this module convolves with stride 1, a bias and zero padding, and does nothing else.

    A module that replaces a layer, or a layer with hooks, is called as torch calls it.
    """
    return (
        untouched_convolution(module)
        and isinstance(module, nn.Conv2d)
        and module.stride == module.dilation == (1, 1)
        and module.groups == 1
        and module.padding_mode == "zeros"
    )


def served(steps: Sequence[Step], x: Tensor) -> int:
    """Return how many of these steps, beginning with the first, the engine computes in one call.

    The engine computes 3x3 layers in float32 on a CPU, except during an export. If gradients are needed it takes
    one at a time. Otherwise it takes all of them, and the fully connected layers after them if these are applied
    at one position. The result is 0 if the first step is not for the engine.
    """
    if not (steps and here(x)):
        return 0
    if x.is_cuda:
        return _served_on_gpu(steps, x)
    channels, height, width = x.shape[1:]
    with_gradients = torch.is_grad_enabled()
    for number, step in enumerate(steps):
        layer, weight = step.layer, step.layer.weight
        outputs, inputs, *kernel = weight.shape
        if weight.dtype != torch.float32 or inputs != channels:
            return number
        trained = with_gradients and _differentiated(layer, x)
        if kernel == [3, 3] and layer.padding == (1, 1) and faster(inputs, height, width):
            if trained:
                return max(1, number)
            if step.pool:
                height, width = height // 2, width // 2
        elif number and not trained and kernel == [height, width] and layer.padding == (0, 0):
            height, width = 1, 1
        else:
            return number
        channels = outputs
    return len(steps)


def _served_on_gpu(steps: Sequence[Step], x: Tensor) -> int:
    """Return how many of these steps the engine computes in one call on a GPU.

    They have odd square kernels and keep the size of the map. If gradients are needed it takes one at a time.
    """
    channels, (height, width), kind = x.shape[1], x.shape[2:], computed_in(x.dtype)
    for number, step in enumerate(steps):
        layer, weight = step.layer, step.layer.weight
        outputs, inputs, *kernel = weight.shape
        side = kernel[0]
        fits = (
            inputs == channels and kernel == [side, side] and side % 2 and layer.padding == (side // 2, side // 2)
        )
        if not fits or not (weight.dtype == kind or torch.is_autocast_enabled("cuda")):
            return number
        if step.pool:
            height, width = height // 2, width // 2
        if not (outputs and min(height, width)):
            return number
        if torch.is_grad_enabled() and _differentiated(layer, x):
            return max(1, number)
        channels = outputs
    return len(steps)


def computed_in(kind: torch.dtype) -> torch.dtype:
    """Return the type in which a GPU convolves an input of this type, which autocast may change."""
    return torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else kind


def centres(images: Tensor, kind: torch.dtype) -> bool:
    """Return whether the engine subtracts the mean colour of a net of this type: on a GPU, without gradients."""
    return (
        images.is_cuda
        and plain_tensor(images)
        and images.numel() > 0
        and {kind, computed_in(kind)} <= set(gpu.KINDS)  # in float16, torch does, and is watched for overflow
        and not images.requires_grad
        and not (torch.compiler.is_compiling() or exporting() or transformed() or forward_mode())
        and gpu.available(images.device)
    )


def serves_testing(layer: nn.Conv2d, x: Tensor) -> bool:
    """Return whether the engine computes this fully connected layer: in float32 on a CPU, without a gradient."""
    weight = layer.weight
    return (
        layer.padding == (0, 0)
        and x.device.type == "cpu"
        and weight.shape[1] == x.shape[1]
        and weight.shape[2] == weight.shape[3] <= min(x.shape[2:])
        and not _differentiated(layer, x)
        and weight.dtype == x.dtype
        and here(x)
    )


def _differentiated(layer: nn.Conv2d, x: Tensor) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, *layer.parameters()))


def here(x: Tensor) -> bool:
    """Return whether the engine computes with such a tensor, and nothing else is recorded.

    That is float32 on a CPU, and float32 or bfloat16, by itself or by autocast, on a GPU.
    """
    kind = x.device.type
    if kind == "cpu":
        found = x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    else:
        found = kind == "cuda" and computed_in(x.dtype) in gpu.KINDS and x.numel() > 0
    return (
        found
        and not exporting()
        and (torch.compiler.is_compiling() or not (transformed() or forward_mode()))
        and (available() if kind == "cpu" else gpu.available(x.device))
    )


def convolutions(steps: Sequence[Step], x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D h w"]:
    """Compute consecutive convolutions.

    Args:
        steps: the convolutions, as many as `served` returned; a pooling drops an odd last row or column.
        x: input of the first one.
    """
    first = steps[0]
    assert all(step.rectify >= step.pool for step in steps)
    weights, biases = [step.layer.weight for step in steps], [step.layer.bias for step in steps]
    if x.is_cuda:
        kind = computed_in(x.dtype)  # autocast does not convert for operators that are not torch's own
        x, biases = x.to(kind), [bias.to(kind) for bias in biases if bias is not None]  # see `plain`
        weights = [weight.to(kind, memory_format=torch.channels_last) for weight in weights]
    if _differentiated(first.layer, x):
        y: Tensor = convolution_for_training(x, weights[0], biases[0], first.rectify, first.pool)[0]
        return y
    z: Tensor = convolutions_for_testing(
        x,
        weights,
        biases,
        [step.rectify for step in steps],
        [step.pool for step in steps],
        [step.layer.padding == (0, 0) for step in steps],
    )
    return z


def fully_connected(layer: nn.Conv2d, x: Float[Tensor, "N C H W"], rectify: bool) -> Float[Tensor, "N D h w"]:
    """Compute a fully connected layer, which is a convolution without padding, if `serves_testing` returned True.

    Args:
        layer: the layer, with its weights and bias.
        x: its input; the layer is applied at each position where its kernel fits.
        rectify: whether a ReLU follows.
    """
    assert layer.bias is not None
    y: Tensor = fully_connected_for_testing(x, layer.weight, layer.bias, rectify)
    return y


@torch.library.custom_op(f"{NAMESPACE}::fully_connected_for_testing", mutates_args=(), device_types="cpu")
def fully_connected_for_testing(x: Tensor, weight: Tensor, bias: Tensor, rectify: bool) -> Tensor:
    """Compute a fully connected layer. Each weight is read from memory once for many positions."""
    native = library()
    if native is None or not _native_tensors(x, weight, bias):
        y = F.conv2d(x, weight, bias)
        return channels_last(F.relu(y) if rectify else y)
    (images, channels, height, width), (outputs, _, *kernel) = x.shape, weight.shape
    _fit(channels, weight, bias, (kernel[0], kernel[0]))
    x, weight, bias = channels_last(x), weight.contiguous(), bias.contiguous()
    down, across = height - kernel[0] + 1, width - kernel[1] + 1
    if min(down, across) < 1:
        raise ValueError(f"a map of {height} x {width} is smaller than a kernel of {kernel[0]} x {kernel[1]}")
    y = x.new_empty(images, down, across, outputs)
    at_once, rows = max(1, ROWS // (down * across)), max(1, ROWS // across)  # a large image is cut into rows
    for first in range(0, images, at_once):
        for top in range(0, down, rows):
            part, to = x[first : first + at_once], y[first : first + at_once, top : top + rows]
            layer = interface.FullyConnected(
                x=part[:, :, top:].data_ptr(),
                weights=weight.data_ptr(),
                bias=bias.data_ptr(),
                y=to.data_ptr(),
                images=len(part),
                height=to.shape[1] + kernel[0] - 1,
                width=width,
                kernel_height=kernel[0],
                kernel_width=kernel[1],
                rectify=rectify,
                **_channels(weight),
            )
            native.call("fully_connected", layer)
    return y.permute(0, 3, 1, 2)


@fully_connected_for_testing.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, rectify: bool) -> Tensor:
    side = weight.shape[2]
    return empty(x, len(x), len(weight), x.shape[2] - side + 1, x.shape[3] - side + 1)


# Not custom_op: its checks of each call would take longer than everything else done here before the native code.
torch.library.define(
    f"{NAMESPACE}::convolutions_for_testing",
    "(Tensor x, Tensor[] weights, Tensor[] biases, bool[] rectify, bool[] pool, bool[] whole) -> Tensor",
    tags=torch.Tag.pt2_compliant_tag,
)
convolutions_for_testing = getattr(torch.ops, NAMESPACE).convolutions_for_testing.default


@torch.library.impl(f"{NAMESPACE}::convolutions_for_testing", "cpu")
def _(
    x: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    rectify: list[bool],
    pool: list[bool],
    whole: list[bool],
) -> Tensor:
    """Compute consecutive layers, keeping nothing for a backward pass; see schedule.py."""
    native = library()
    if native is None or not _native_tensors(x, *weights, *biases):
        for weight, bias, rectified, pooled, unpadded in zip(weights, biases, rectify, pool, whole, strict=True):
            padding = 0 if unpadded else 1
            x = _forward_by_torch(x, weight, bias, rectified, pooled, winners=False, padding=padding)[0]
        return x
    layers = _layers(x, weights, biases, rectify, pool, whole)
    x, weights = channels_last(x), [weight.contiguous() for weight in weights]
    y = _empty_chain(x, weights, pool, whole)
    parameters = [
        each for weight, bias in zip(weights, biases, strict=True) for each in (weight, bias.contiguous())
    ]
    native.run(program(layers, len(x), *x.shape[2:], torch.get_num_threads()), parameters, x, y)
    return y


@torch.library.impl(f"{NAMESPACE}::convolutions_for_testing", "cuda")
def _(
    x: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    rectify: list[bool],
    pool: list[bool],
    whole: list[bool],
) -> Tensor:
    for weight, bias, rectified, pooled in zip(weights, biases, rectify, pool, strict=True):
        x = gpu.forward(x, weight, bias, rectified, pooled, winners=False)[0]
    return x


@torch.library.register_fake(f"{NAMESPACE}::convolutions_for_testing")  # type: ignore[untyped-decorator]
def _(
    x: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    rectify: list[bool],
    pool: list[bool],
    whole: list[bool],
) -> Tensor:
    return _empty_chain(x, weights, pool, whole)


def _layers(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    rectify: Sequence[bool],
    pool: Sequence[bool],
    whole: Sequence[bool],
) -> tuple[Convolution, ...]:
    """Return the convolutions for schedule.py, after checking their shapes; the native code checks none.

    Raises:
        ValueError: if the weights or bias of a layer do not fit the output of the layer before.
    """
    found = []
    channels, height, width = x.shape[1:]
    for weight, bias, rectified, pooled, unpadded in zip(weights, biases, rectify, pool, whole, strict=True):
        _fit(channels, weight, bias, (height, width) if unpadded else (3, 3))
        found.append(Convolution(channels, len(weight), rectified, pooled, unpadded))
        channels = len(weight)
        if unpadded:
            height, width = 1, 1
        elif pooled:
            height, width = pooled_sides(height, width)
    return tuple(found)


def _fit(channels: int, weight: Tensor, bias: Tensor, kernel: tuple[int, int]) -> None:
    outputs = len(weight)
    if weight.shape != (outputs, channels, *kernel) or bias.shape != (outputs,):
        raise ValueError(
            f"weights {tuple(weight.shape)} and biases {tuple(bias.shape)} do not fit an input with {channels} "
            f"channels and a kernel of {kernel}"
        )


def _empty_chain(x: Tensor, weights: Sequence[Tensor], pool: Sequence[bool], whole: Sequence[bool]) -> Tensor:
    n, _, h, w = x.shape
    poolings = sum(pool)
    sides = (1, 1) if whole[-1] else (h >> poolings, w >> poolings)
    return empty(x, n, len(weights[-1]), *sides)


@torch.library.custom_op(f"{NAMESPACE}::convolution_for_training", mutates_args=(), device_types="cpu")
def convolution_for_training(
    x: Tensor, weight: Tensor, bias: Tensor, rectify: bool, pool: bool
) -> tuple[Tensor, Tensor]:
    """Return the output, and which of the four pixels won each pooling; the backward pass also needs the input."""
    native = library()
    if native is None or not _native_tensors(x, weight, bias):
        return _forward_by_torch(x, weight, bias, rectify, pool, winners=pool)
    (images, channels, height, width), outputs = x.shape, weight.shape[0]
    _fit(channels, weight, bias, (3, 3))
    x, weight, bias = channels_last(x), weight.contiguous(), bias.contiguous()
    y = empty_output(x, outputs, pool)
    won = torch.empty_like(y, dtype=torch.uint8) if pool else x.new_empty(0, dtype=torch.uint8)
    cut = blocks(channels, outputs, images, height, width, torch.get_num_threads())
    layer = interface.Convolution(
        x=x.data_ptr(),
        weights=weight.data_ptr(),
        bias=bias.data_ptr(),
        y=y.data_ptr(),
        winner=won.data_ptr() if pool else None,
        images=images,
        height=height,
        width=width,
        rectify=rectify,
        pool=pool,
        direct=direct(channels),
        tiles=cut.tiles,
        shared=cut.shared,
        **_channels(weight),
    )
    native.call("convolve", layer)
    return y, won


@convolution_for_training.register_kernel("cuda")
def _(x: Tensor, weight: Tensor, bias: Tensor, rectify: bool, pool: bool) -> tuple[Tensor, Tensor]:
    return gpu.forward(x, weight, bias, rectify, pool, winners=pool)


@torch.library.custom_op(f"{NAMESPACE}::convolution_backward", mutates_args=(), device_types="cpu")
def convolution_backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    y: Tensor,
    winners: Tensor,
    rectify: bool,
    pool: bool,
    inputs: bool,
    parameters: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of input, weights and bias.

    The first is empty unless `inputs` is set, the other two unless `parameters` is.
    """
    native = library()
    if native is None or not _native_tensors(gradient, x, weight):
        return _backward_by_torch(gradient, x, weight, y, winners, rectify, pool, inputs, parameters)
    (images, channels, height, width), outputs = x.shape, weight.shape[0]
    gradient, x, weight = channels_last(gradient), channels_last(x), weight.contiguous()
    output = channels_last(y) if rectify and not pool else None
    won = channels_last(winners) if pool else None
    gradients = interface.Gradients(
        gradient=gradient.data_ptr(),
        output=address(output),
        winner=address(won),
        x=x.data_ptr(),
        weights=weight.data_ptr(),
        images=images,
        height=height,
        width=width,
        direct=direct(channels),
        **_channels(weight),
    )
    of_inputs, of_weights, of_bias = x.new_empty(0), weight.new_empty(0), weight.new_empty(0)
    if parameters:
        of_weights, of_bias = torch.empty_like(weight), weight.new_empty(outputs)
        gradients.of_weights, gradients.of_bias = of_weights.data_ptr(), of_bias.data_ptr()
        gradients.tiles = gradient_block(channels, outputs)
        native.call("weight_gradient", gradients)
    if inputs:
        of_inputs = torch.empty_like(x)
        gradients.of_x = of_inputs.data_ptr()
        cut = blocks(outputs, channels, images, height, width, torch.get_num_threads())
        gradients.tiles, gradients.shared = cut.tiles, cut.shared
        native.call("input_gradient", gradients)
    return of_inputs, of_weights, of_bias


def _channels(weight: Tensor) -> dict[str, int]:
    """Return the channels as fields of a structure; a dictionary, since `in` is a keyword of Python."""
    return {"in": weight.shape[1], "out": weight.shape[0]}


def _native_tensors(*tensors: Tensor) -> bool:
    """Return whether the native code can use these tensors: float32, on the CPU and not empty."""
    for tensor in tensors:  # a plain loop: it runs over all weights in each pass, with cold caches
        if tensor.dtype != torch.float32 or not tensor.is_cpu or not tensor.numel():
            return False
    return True


def _forward_by_torch(
    x: Tensor, weight: Tensor, bias: Tensor, rectify: bool, pool: bool, winners: bool, padding: int = 1
) -> tuple[Tensor, Tensor]:
    """Compute with torch what the native code computes: the reference, in any precision."""
    y = F.conv2d(x, weight, bias, padding=padding)
    if rectify:
        y = F.relu(y)
    won = x.new_empty(0, dtype=torch.uint8)
    if pool:
        before = y
        y = F.max_pool2d(before, 2)
        if winners:
            four = _windows(before)
            won = torch.where(y > 0, (four == y[..., None]).to(torch.uint8).argmax(-1), 4).to(torch.uint8)
    return channels_last(y), channels_last(won) if winners else won


def _windows(x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C h w 4"]:
    """Return the four pixels of each pooling window, row by row."""
    h, w = x.shape[2] // 2, x.shape[3] // 2
    n, c = x.shape[:2]
    x = x[:, :, : 2 * h, : 2 * w].reshape(n, c, h, 2, w, 2)
    return x.permute(0, 1, 2, 4, 3, 5).flatten(4)


def _backward_by_torch(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    y: Tensor,
    winners: Tensor,
    rectify: bool,
    pool: bool,
    inputs: bool,
    parameters: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    if pool:
        n, k, h, w = gradient.shape
        four = gradient[..., None] * (winners[..., None] == torch.arange(4, device=winners.device))
        rows = four.reshape(n, k, h, w, 2, 2).permute(0, 1, 2, 4, 3, 5).reshape(n, k, 2 * h, 2 * w)
        height, width = x.shape[2:]
        gradient = F.pad(rows, (0, width - 2 * w, 0, height - 2 * h))
    elif rectify:
        gradient = gradient * (y > 0)
    padding = [weight.shape[2] // 2] * 2
    of_inputs, of_weights, of_bias = torch.ops.aten.convolution_backward(
        gradient,
        x,
        weight,
        [len(weight)],
        [1, 1],
        padding,
        [1, 1],
        False,
        [0, 0],
        1,
        [inputs, parameters, parameters],
    )
    return (
        channels_last(of_inputs) if inputs else x.new_empty(0),
        of_weights.contiguous() if parameters else x.new_empty(0),
        of_bias if parameters else x.new_empty(0),
    )


convolution_backward.register_kernel("cuda")(gpu.backward)


@convolution_for_training.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, rectify: bool, pool: bool) -> tuple[Tensor, Tensor]:
    y = empty_output(x, weight.shape[0], pool)
    return y, torch.empty_like(y, dtype=torch.uint8) if pool else x.new_empty(0, dtype=torch.uint8)


@convolution_backward.register_fake
def _(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    y: Tensor,
    winners: Tensor,
    rectify: bool,
    pool: bool,
    inputs: bool,
    parameters: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        empty(x, *x.shape) if inputs else x.new_empty(0),
        weight.new_empty(weight.shape) if parameters else x.new_empty(0),
        x.new_empty(len(weight) if parameters else 0),
    )


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, _, ctx.rectify, ctx.pool = inputs
    y, winners = output
    ctx.set_materialize_grads(False)  # winners have no gradient, and zeros would be written for it
    ctx.mark_non_differentiable(winners)
    # After a pooling the winners are enough; only the next layer needs the output itself.
    ctx.save_for_backward(x, weight, y if ctx.rectify and not ctx.pool else None, winners)


def _differentiate(ctx: Any, gradient: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    if gradient is None:
        return (None,) * 5
    x, weight, y, winners = ctx.saved_tensors
    inputs, parameters = ctx.needs_input_grad[0], any(ctx.needs_input_grad[1:3])
    kept = winners if y is None else y  # the operator takes no None here, and does not read what it does not need
    # If gradients are enabled, this derivative will itself be differentiated; torch can do that.
    again = torch.is_grad_enabled() and not torch.compiler.is_compiling()
    backward = _backward_by_torch if again else convolution_backward
    of_inputs, of_weights, of_bias = backward(
        gradient, x, weight, kept, winners, ctx.rectify, ctx.pool, inputs, parameters
    )
    # Contiguous, as from torch, since hooks on a weight see them. Autograd would copy them later if this did not.
    found = (of_inputs if inputs else None, *((of_weights.contiguous(), of_bias) if parameters else (None, None)))
    return *found, None, None


convolution_for_training.register_autograd(_differentiate, setup_context=_keep)
