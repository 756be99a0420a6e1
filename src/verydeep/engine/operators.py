"""The engine as torch operators: convolution, ReLU and pooling in one, with their gradients.

Operators, not functions, so that torch.compile, checkpointing and the ranks' summed gradients treat them as
torch's own. Where the native library is not there, or the tensors are not its (float32 on a CPU), they compute
the same with torch.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from verydeep.engine.choice import ROWS, block_of_a_thread, blocks, chosen, direct, gradient_block, pairs
from verydeep.engine.native import available, library


def serves(layer: nn.Conv2d, x: Tensor) -> bool:
    """Whether the engine computes this layer: 3x3, padding 1, in float32 on a CPU, and not for an export."""
    if layer.kernel_size != (3, 3) or layer.padding != (1, 1) or not _here(layer, x):
        return False
    return chosen(3, layer.in_channels, x.shape[2], x.shape[3]).path != "torch"


def serves_testing(layer: nn.Conv2d, x: Tensor) -> bool:
    """Whether the engine computes this fully connected layer: where no gradient is needed, else as `serves`."""
    return layer.padding == (0, 0) and not _differentiated(layer, x) and _here(layer, x)


def serves_pair(first: nn.Conv2d, second: nn.Conv2d, x: Tensor) -> bool:
    """Whether the engine computes two layers and the ReLU between them in one: conv1_1 and conv1_2, in testing."""
    return (
        pairs(3, first.in_channels, first.out_channels)
        and not (_differentiated(first, x) or _differentiated(second, x))
        and serves(first, x)
        and serves(second, x)
    )


def _differentiated(layer: nn.Conv2d, x: Tensor) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, *layer.parameters()))


def _here(layer: nn.Conv2d, x: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype == layer.weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and not _leaves_this_process()
        and (torch.compiler.is_compiling() or not _differentiated_otherwise())
        and available()
    )


def _leaves_this_process() -> bool:
    """Whether what is computed is being written down for others, who have no such operators."""
    # torch.compiler.is_exporting() is this flag from torch 2.12 on, was true while compiling before, and is not
    # there in 2.6.
    exporting = getattr(torch.compiler, "_is_exporting_flag", False)
    return exporting or torch.onnx.is_in_onnx_export() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]


def _differentiated_otherwise() -> bool:
    """Whether torch.func or forward-mode derivatives are at work, which the operators have no rules for."""
    functions: bool = torch._C._are_functorch_transforms_active()
    return functions or torch.autograd.forward_ad._current_level >= 0


def convolution(
    layer: nn.Conv2d, x: Float[Tensor, "N C H W"], rectify: bool, pool: bool
) -> Float[Tensor, "N D h w"]:
    """A 3x3 convolution with stride 1 and padding 1, then a ReLU and a 2x2 max-pooling with stride 2.

    Args:
        layer: weights and bias.
        x: its input.
        rectify: whether the ReLU follows.
        pool: whether the pooling follows the ReLU; a last odd row or column is dropped.
    """
    assert layer.bias is not None
    assert rectify or not pool
    if _differentiated(layer, x):
        y: Tensor = convolution_for_training(x, layer.weight, layer.bias, rectify, pool)[0]
        return y
    z: Tensor = convolution_for_testing(x, layer.weight, layer.bias, rectify, pool)
    return z


def convolution_pair(
    first: nn.Conv2d, second: nn.Conv2d, x: Float[Tensor, "N C H W"], rectify: bool, pool: bool
) -> Float[Tensor, "N D h w"]:
    """Two 3x3 convolutions with a ReLU between them; where `serves_pair` says yes.

    Args:
        first: weights and bias of the one.
        second: of the other.
        x: the first one's input.
        rectify: whether a ReLU follows the second.
        pool: whether a pooling follows that ReLU.
    """
    assert first.bias is not None
    assert second.bias is not None
    parameters = (first.weight, first.bias, second.weight, second.bias)
    y: Tensor = convolution_pair_for_testing(x, *parameters, rectify, pool)
    return y


def fully_connected(layer: nn.Conv2d, x: Float[Tensor, "N C H W"], rectify: bool) -> Float[Tensor, "N D h w"]:
    """A fully connected layer, a convolution without padding, then a ReLU; where `serves_testing` says yes.

    Args:
        layer: weights and bias.
        x: its input, on which it is applied at each position that it fits in.
        rectify: whether the ReLU follows.
    """
    assert layer.bias is not None
    y: Tensor = fully_connected_for_testing(x, layer.weight, layer.bias, rectify)
    return y


@torch.library.custom_op("verydeep::fully_connected_for_testing", mutates_args=(), device_types="cpu")
def fully_connected_for_testing(x: Tensor, weight: Tensor, bias: Tensor, rectify: bool) -> Tensor:
    """Each weight is read from memory once for many positions, whose inputs are written side by side."""
    native = library()
    if native is None or not _native_tensors(x, weight, bias):
        y = F.conv2d(x, weight, bias)
        return _last(F.relu(y) if rectify else y)
    weight, bias = _last(weight), bias.contiguous()
    outputs, side, depth = len(weight), weight.shape[2], weight[0].numel()
    windows = x.unfold(2, side, 1).unfold(3, side, 1).permute(0, 2, 3, 4, 5, 1)
    n, h, w = windows.shape[:3]
    y = x.new_empty(n, h, w, outputs)
    images, rows = max(1, ROWS // (h * w)), max(1, ROWS // w)  # one image is cut into rows where it is large
    for first in range(0, n, images):
        for top in range(0, h, rows):
            part = slice(first, first + images), slice(top, top + rows)
            inputs, to = windows[part].contiguous(), y[part]
            native.call("fully_connected", inputs, weight, bias, to, to[..., 0].numel(), depth, outputs, rectify)
    return y.permute(0, 3, 1, 2)


@fully_connected_for_testing.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, rectify: bool) -> Tensor:
    side = weight.shape[2]
    return _empty(x, len(x), len(weight), x.shape[2] - side + 1, x.shape[3] - side + 1)


@torch.library.custom_op("verydeep::convolution_for_testing", mutates_args=(), device_types="cpu")
def convolution_for_testing(x: Tensor, weight: Tensor, bias: Tensor, rectify: bool, pool: bool) -> Tensor:
    """Nothing is kept for a backward pass."""
    return _forward(x, weight, bias, rectify, pool, winners=False)[0]


@torch.library.custom_op("verydeep::convolution_pair_for_testing", mutates_args=(), device_types="cpu")
def convolution_pair_for_testing(
    x: Tensor, first: Tensor, first_bias: Tensor, second: Tensor, bias: Tensor, rectify: bool, pool: bool
) -> Tensor:
    """The map between the two exists a few rows at a time, and never leaves the cache."""
    native = library()
    if native is None or not _native_tensors(x, first, first_bias, second, bias):
        middle = _forward_by_torch(x, first, first_bias, True, False, winners=False)[0]
        return _forward_by_torch(middle, second, bias, rectify, pool, winners=False)[0]
    (images, channels, height, width), (outputs, between) = x.shape, second.shape[:2]
    x, first, second = _last(x), _last(first), _last(second)
    y = _empty_output(x, outputs, pool)
    tensors = (x, first, first_bias.contiguous(), second, bias.contiguous(), y)
    shape = (images, height, width, channels, between, outputs)
    native.call("convolve_twice", *tensors, *shape, rectify, pool, block_of_a_thread(between, outputs))
    return y


@convolution_pair_for_testing.register_fake
def _(
    x: Tensor, first: Tensor, first_bias: Tensor, second: Tensor, bias: Tensor, rectify: bool, pool: bool
) -> Tensor:
    return _empty_output(x, len(second), pool)


@torch.library.custom_op("verydeep::convolution_for_training", mutates_args=(), device_types="cpu")
def convolution_for_training(
    x: Tensor, weight: Tensor, bias: Tensor, rectify: bool, pool: bool
) -> tuple[Tensor, Tensor]:
    """Output, and which of four pixels won in each pooling: all that the backward pass needs besides the input."""
    return _forward(x, weight, bias, rectify, pool, winners=pool)


@torch.library.custom_op("verydeep::convolution_backward", mutates_args=(), device_types="cpu")
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
    """Gradients of input, weights and bias; empty unless `inputs`, and unless `parameters`."""
    native = library()
    if native is None or not _native_tensors(gradient, x, weight):
        return _backward_by_torch(gradient, x, weight, y, winners, rectify, pool, inputs, parameters)
    (images, channels, height, width), outputs = x.shape, weight.shape[0]
    gradient, x, weight = _last(gradient), _last(x), _last(weight)
    output = _last(y) if rectify and not pool else None
    won = _last(winners) if pool else None
    shape = (images, height, width, channels, outputs)
    of_weights, of_bias = weight.new_empty(0), weight.new_empty(0)
    if parameters:
        of_weights, of_bias = torch.empty_like(weight), weight.new_empty(outputs)
        gradients = (of_weights, of_bias)
        cut = (direct(channels), gradient_block(channels, outputs))
        native.call("weight_gradient", x, gradient, output, won, *gradients, *shape, *cut)
    if not inputs:
        return x.new_empty(0), of_weights, of_bias
    of_inputs = torch.empty_like(x)
    block = blocks(outputs, channels, images, height, width, torch.get_num_threads())
    native.call("input_gradient", gradient, output, won, weight, of_inputs, *shape, block.tiles, block.shared)
    return of_inputs, of_weights, of_bias


def _forward(
    x: Tensor, weight: Tensor, bias: Tensor, rectify: bool, pool: bool, winners: bool
) -> tuple[Tensor, Tensor]:
    native = library()
    if native is None or not _native_tensors(x, weight, bias):
        return _forward_by_torch(x, weight, bias, rectify, pool, winners)
    (images, channels, height, width), outputs = x.shape, weight.shape[0]
    x, weight, bias = _last(x), _last(weight), bias.contiguous()
    y = _empty_output(x, outputs, pool)
    won = torch.empty_like(y, dtype=torch.uint8) if winners else x.new_empty(0, dtype=torch.uint8)
    tensors = (bias, y, won if winners else None)
    shape = (images, height, width, channels, outputs)
    if direct(channels):
        native.call("convolve_directly", x, weight, *tensors, *shape, rectify, pool)
    else:
        cut = blocks(channels, outputs, images, height, width, torch.get_num_threads())
        native.call("convolve", x, weight, *tensors, *shape, rectify, pool, cut.tiles, cut.shared)
    return y, won


def _native_tensors(*tensors: Tensor) -> bool:
    """Whether the native code takes them; there is nothing for it to do where there are no images."""
    return all(
        tensor.dtype == torch.float32 and tensor.device.type == "cpu" and tensor.numel() > 0 for tensor in tensors
    )


def _last(x: Tensor) -> Tensor:
    """With channels last in memory, as the native code reads it; torch leaves the strides of sides of 1 open."""
    _, c, h, w = x.shape
    return x if x.stride() == (h * w * c, 1, w * c, c) else x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


def _empty_output(x: Tensor, outputs: int, pool: bool) -> Tensor:
    n, _, h, w = x.shape
    return _empty(x, n, outputs, h // 2 if pool else h, w // 2 if pool else w)


def _empty(like: Tensor, n: int, c: int, h: int, w: int) -> Tensor:
    return like.new_empty((n, h, w, c)).permute(0, 3, 1, 2)


def _forward_by_torch(
    x: Tensor, weight: Tensor, bias: Tensor, rectify: bool, pool: bool, winners: bool
) -> tuple[Tensor, Tensor]:
    """What the native code computes, written with torch: the reference, in any precision."""
    y = F.conv2d(x, weight, bias, padding=1)
    if rectify:
        y = F.relu(y)
    won = x.new_empty(0, dtype=torch.uint8)
    if pool:
        before = y
        y = F.max_pool2d(before, 2)
        if winners:
            four = _windows(before)
            won = torch.where(y > 0, (four == y[..., None]).to(torch.uint8).argmax(-1), 4).to(torch.uint8)
    return _last(y), _last(won) if winners else won


def _windows(x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C h w 4"]:
    """The four pixels of each pooling, row by row."""
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
        four = gradient[..., None] * (winners[..., None] == torch.arange(4))
        rows = four.reshape(n, k, h, w, 2, 2).permute(0, 1, 2, 4, 3, 5).reshape(n, k, 2 * h, 2 * w)
        height, width = x.shape[2:]
        gradient = F.pad(rows, (0, width - 2 * w, 0, height - 2 * h))
    elif rectify:
        gradient = gradient * (y > 0)
    of_inputs, of_weights, of_bias = torch.ops.aten.convolution_backward(
        gradient, x, weight, [len(weight)], *[[1, 1]] * 3, False, [0, 0], 1, [inputs, parameters, parameters]
    )
    return (
        _last(of_inputs) if inputs else x.new_empty(0),
        _last(of_weights) if parameters else x.new_empty(0),
        of_bias if parameters else x.new_empty(0),
    )


@convolution_for_testing.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, rectify: bool, pool: bool) -> Tensor:
    return _empty_output(x, weight.shape[0], pool)


@convolution_for_training.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, rectify: bool, pool: bool) -> tuple[Tensor, Tensor]:
    y = _empty_output(x, weight.shape[0], pool)
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
        _empty(x, *x.shape) if inputs else x.new_empty(0),
        _empty(weight, *weight.shape) if parameters else x.new_empty(0),
        x.new_empty(len(weight) if parameters else 0),
    )


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, _, ctx.rectify, ctx.pool = inputs
    y, winners = output
    ctx.mark_non_differentiable(winners)
    # Behind a pooling the winners say all; the output itself is needed by the next layer alone.
    ctx.save_for_backward(x, weight, y if ctx.rectify and not ctx.pool else None, winners)


def _differentiate(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, y, winners = ctx.saved_tensors
    inputs, parameters = ctx.needs_input_grad[0], any(ctx.needs_input_grad[1:3])
    kept = winners if y is None else y  # an operator takes no None here; what is not needed is not read
    # A derivative of this derivative is wanted where gradients are on: torch has it.
    again = torch.is_grad_enabled() and not torch.compiler.is_compiling()
    backward = _backward_by_torch if again else convolution_backward
    of_inputs, of_weights, of_bias = backward(
        gradient, x, weight, kept, winners, ctx.rectify, ctx.pool, inputs, parameters
    )
    found = (of_inputs if inputs else None, *((of_weights, of_bias) if parameters else (None, None)))
    return *found, None, None


convolution_for_training.register_autograd(_differentiate, setup_context=_keep)
