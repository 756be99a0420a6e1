"""Sect. 2.1: the network of a configuration, always fully convolutional, fed with raw pixels.

Images are RGB in 0..255, (N, 3, H, W). The mean colour is a buffer of the network; fc6, fc7 and fc8 are
convolutions, so that a net trained on crops is applied densely to whole images (Sect. 3.2) as it is.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from verydeep import engine
from verydeep.configurations import STRIDE, Layer, configuration, whole_number
from verydeep.errors import UserError

ILSVRC_MEAN = (123.68, 116.779, 103.939)
"""Mean RGB of the ILSVRC-2012 training set, as published with the authors' models; training replaces it by the
mean of its own training set."""


class LocalResponseNormalisation(nn.Module):
    """Krizhevsky et al. (2012), Sect. 3.3: b = a / (k + alpha * sum of a^2 over n neighbouring channels) ^ beta.

    k = 2, n = 5, alpha = 1e-4, beta = 0.75. Alpha multiplies the plain sum, as written there; torch and Caffe
    divide it by n.
    """

    k, n, alpha, beta = 2.0, 5, 1e-4, 0.75

    def forward(self, a: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C H W"]:
        """Normalise each unit by its neighbours at the same position; channels beyond the ends count as 0."""
        half = self.n // 2
        squares = F.pad(a.float().square(), (0, 0, 0, 0, half, half))
        channels = a.shape[1]
        total = sum((squares[:, i : i + channels] for i in range(1, self.n)), squares[:, :channels])
        return a * (self.k + self.alpha * total).pow(-self.beta).to(a.dtype)


class Dropout(nn.Module):
    """Dropout whose mask is a function of a key an image, and of nothing else.

    So a mask does not depend on the rank, the mini-batch or the worker that happens to meet the image, and a
    recomputed layer (activation checkpointing) meets the same mask again.
    """

    def __init__(self, ratio: float, stream: int) -> None:
        super().__init__()
        self.ratio, self.stream = ratio, stream

    def forward(
        self, x: Float[Tensor, "N C h w"], keys: Int64[Tensor, " N"] | None = None
    ) -> Float[Tensor, "N C h w"]:
        """Set each unit to zero with probability `ratio` and scale the others by 1 / (1 - ratio).

        Without keys they are drawn from torch's generator: dropout alone may be training, in a net that is not.
        """
        if not self.training or self.ratio == 0:
            return x
        if keys is None:
            keys = new_keys(x)
        units = torch.arange(x[0].numel(), device=x.device) if len(x) else torch.zeros(0, device=x.device).long()
        bits = mix(mix(keys + self.stream)[:, None] + units)
        kept = (bits & 0xFFFFFF) >= int(self.ratio * 2**24)
        return x * (kept.view(x.shape).to(x.dtype) / (1 - self.ratio))

    def extra_repr(self) -> str:
        """What `print(net)` shows."""
        return f"ratio={self.ratio}"


def new_keys(images: Tensor) -> Int64[Tensor, " N"]:
    """A random integer an image."""
    return torch.randint(-(2**63), 2**63 - 1, (len(images),), device=images.device)


def mix(x: Int64[Tensor, "*shape"]) -> Int64[Tensor, "*shape"]:
    """Scatter 64-bit integers: the finaliser of SplitMix64 (Steele, Lea and Flood, 2014).

    Integer arithmetic, so that it gives the same bits on every device.
    """
    x = x * -0x61C8864680B583EB
    x = (x ^ shifted_right(x, 30)) * -0x40A7B892E31B1A47
    x = (x ^ shifted_right(x, 27)) * -0x6B2FB644ECCEEE15
    return x ^ shifted_right(x, 31)


def shifted_right(x: Int64[Tensor, "*shape"], bits: int) -> Int64[Tensor, "*shape"]:
    """Logical shift; torch's own fills in the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


class ConvNet(nn.Module):
    """A net of Table 1.

    Args:
        name: the configuration: A, A-LRN, B, C, D, E or B-5x5.
        classes: their number, or their names in the order of the class scores.
        crop: side of the training crop in pixels, a multiple of 32; the smallest image that the net takes.
        width: multiplier of the channels of all convolutional layers.
        fully_connected: channels of fc6 and fc7.
        dropout: ratio of the units of relu6 and relu7 that are dropped in training.

    Attributes:
        layers: the layers, in order, as `Configuration.layers` lists them. Each layer that computes is a
            submodule of the same name: `net.conv1_1.weight`, `net.fc6.weight`.
        mean: mean colour, RGB in 0..255, subtracted from every pixel; a buffer.
        class_names: names of the classes, or None where only their number is known.
        recompute: keep only the poolings' outputs for the backward pass and compute the rest again
            (activation checkpointing): less memory for about a third more time.

    Raises:
        UserError: for an unknown configuration or a size out of its range.
    """

    mean: Tensor

    def __init__(
        self,
        name: str,
        classes: int | Sequence[str] = 1000,
        crop: int = 224,
        width: float = 1.0,
        fully_connected: int = 4096,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.configuration = configuration(name)
        if isinstance(classes, str):
            raise UserError(f"classes is {classes!r}; give their number, or a list of their names")
        self.class_names = tuple(classes) if isinstance(classes, Sequence) else None
        self.classes = len(classes) if isinstance(classes, Sequence) else whole_number("classes", classes)
        self.crop = whole_number("crop", crop)
        self.fully_connected = whole_number("fully_connected", fully_connected)
        self.width, self.dropout = width, dropout
        if not 0 <= dropout < 1:
            raise UserError(f"dropout is {dropout}; it is the ratio of units dropped, in [0, 1)")
        self.layers = self.configuration.layers(self.classes, self.crop, width, self.fully_connected)
        self.recompute = False
        for position, layer in enumerate(self.layers):
            if (module := new_module(layer, dropout, position)) is not None:
                self.add_module(layer.name, module)
        self.register_buffer("mean", torch.tensor(ILSVRC_MEAN))
        self.lay_out()

    def forward(
        self,
        images: Tensor,
        keys: Int64[Tensor, " N"] | None = None,
        shift: Float[Tensor, "N 3"] | None = None,
    ) -> Float[Tensor, "N K"]:
        """Class scores before the soft-max: the score map averaged over positions (Sect. 3.2).

        Args:
            images: RGB in 0..255, uint8 or floating point; both sides at least `crop`.
            keys: a random integer an image that its dropout masks follow from; drawn from torch's generator
                where None. Only training uses them.
            shift: added to all pixels of an image, RGB in 0..255: the colour shift of Sect. 3.1.

        Raises:
            UserError: for images of another shape, type or range.
        """
        scores = self.score_map(images, keys, shift)
        # Over one position it is the score itself, and a kernel that is not called spares its way into the caches,
        # which are full of fc6's weights.
        return scores.flatten(1) if scores.shape[2:] == (1, 1) else scores.mean((2, 3))

    def score_map(
        self,
        images: Tensor,
        keys: Int64[Tensor, " N"] | None = None,
        shift: Float[Tensor, "N 3"] | None = None,
    ) -> Float[Tensor, "N K h w"]:
        """Class score map (Sect. 3.2): one cell for each crop-sized window, 32 pixels apart; 1 x 1 for one crop.

        Takes and raises what `forward` does.
        """
        x = self._centred(images, self.crop, shift)
        if keys is None and self.training:
            keys = new_keys(x)
        if not (self.recompute and torch.is_grad_enabled()):
            return self._run(x, self.layers, keys)
        for block in self._blocks():
            if block[0].name.startswith("conv"):
                x = checkpoint(self._run, x, block, keys, use_reentrant=False)
            else:
                x = self._run(x, block, keys)
        return x

    def features(self, images: Tensor, layers: Collection[str]) -> dict[str, Float[Tensor, "N _ _ _"]]:
        """Outputs of the named layers: conv3_3, relu5_1, lrn1_1, pool4, fc7, drop7, ...

        Each is what that layer computes and stays so: nothing after it writes into it. Layers after the last
        one asked for are not run; convolutional features may be taken of images smaller than the crop.

        Args:
            images: as in `forward`; both sides at least 32, or `crop` where a layer from fc6 on is asked for.
            layers: names of layers; the result has them in the order of the net.

        Raises:
            UserError: for a name that the net has not, and for what `forward` refuses.
        """
        known = [layer.name for layer in self.layers]
        if isinstance(layers, str) or not layers:
            raise UserError(f"layers is {layers!r}; it must be a list of names such as ['conv3_3', 'fc7']")
        if unknown := sorted(set(layers) - set(known)):
            raise UserError(
                f"net {self.configuration.name} has no layer {unknown[0]!r}; it has {', '.join(known)}"
            )
        last = max(known.index(name) for name in layers)
        x = self._centred(images, self.crop if last >= known.index("fc6") else STRIDE)
        keys = new_keys(x) if self.training else None
        found = {}
        for layer in self.layers[: last + 1]:
            x = self._layer(layer, x, keys, in_place=False)
            if layer.name in layers:
                found[layer.name] = x
        return found

    def lay_out(self) -> None:
        """Lay the weights out in memory as they are read fastest; for weights that came from elsewhere."""
        for parameter in self.parameters():
            if parameter.ndim == 4:
                parameter.data = engine.in_large_pages(parameter.data)

    def extra_repr(self) -> str:
        """What `print(net)` shows."""
        return (
            f"{self.configuration.name}, classes={self.classes}, crop={self.crop}, width={self.width}, "
            f"fully_connected={self.fully_connected}, dropout={self.dropout}"
        )

    def _blocks(self) -> Iterator[tuple[Layer, ...]]:
        """The layers cut after each pooling, where the least has to be kept."""
        block: list[Layer] = []
        for layer in self.layers:
            block.append(layer)
            if layer.kind == "pool":
                yield tuple(block)
                block = []
        yield tuple(block)

    def _run(self, x: Tensor, layers: Sequence[Layer], keys: Tensor | None) -> Tensor:
        at = 0
        while at < len(layers):
            # The engine takes as many convolutions at once as it can, and rectifies and pools on the way.
            steps, ends = self._steps(layers, at)
            if number := engine.served(steps, x):
                x = engine.convolutions(steps[:number], x)
                at = ends[number - 1]
            elif steps and layers[at].fully_connected and engine.serves_testing(steps[0].layer, x):
                x = engine.fully_connected(steps[0].layer, x, steps[0].rectify)
                at += 1 + steps[0].rectify
            else:
                x = self._layer(layers[at], x, keys, in_place=True)
                at += 1
        return x

    def _steps(self, layers: Sequence[Layer], at: int) -> tuple[list[engine.Step], list[int]]:
        """The plain convolutions from a layer on, up to what is neither ReLU nor pooling; and where each ends."""
        steps: list[engine.Step] = []
        ends: list[int] = []
        modules, end = self._modules, len(layers)
        while at < end and engine.plain(module := modules.get(layers[at].name)):
            rectify = at + 1 < end and layers[at + 1].kind == "relu"
            pool = rectify and at + 2 < end and layers[at + 2].kind == "pool"
            steps.append(engine.Step(module, rectify, pool))
            at += 1 + rectify + pool
            if at < end and layers[at].kind == "dropout" and not self.get_submodule(layers[at].name).training:
                at += 1
            ends.append(at)
        return steps, ends

    def _layer(self, layer: Layer, x: Tensor, keys: Tensor | None, in_place: bool) -> Tensor:
        """Output of one layer; `in_place` lets a ReLU overwrite its input, which spares its memory."""
        module: Any = getattr(self, layer.name, None)
        match layer.kind:
            case "relu":
                y = F.relu(x, inplace=in_place)
            case "pool":
                y = F.max_pool2d(x, layer.kernel, layer.stride)
            case "dropout":
                y = module(x, keys)
            case "conv" if engine.plain(module):
                y = self._convolution(layer, module, x)
            case _:
                y = module(x)
        return y

    def _convolution(self, layer: Layer, module: nn.Conv2d, x: Tensor) -> Tensor:
        if layer.fully_connected and engine.serves_testing(module, x):
            return engine.fully_connected(module, x, rectify=False)
        if layer.fully_connected and module.padding == (0, 0) and x.shape[2:] == module.weight.shape[2:]:
            return matrix_product(module, x)
        step = engine.Step(module, False, False)
        return engine.convolutions([step], x) if engine.served([step], x) else module(x)

    def _centred(self, images: Tensor, smallest: int, shift: Tensor | None = None) -> Tensor:
        """Images less the mean colour, in the net's own precision."""
        check_images(images, smallest)
        colour = self.mean if shift is None else self.mean - shift
        x = images.to(self.mean.dtype) - colour.view(-1, 3, 1, 1)
        # vmap knows no layouts.
        return x if engine.transformed() else x.contiguous(memory_format=torch.channels_last)


def new_module(layer: Layer, dropout: float, position: int) -> nn.Module | None:
    """The module of a layer; None for those that have neither parameters nor a state."""
    match layer.kind:
        case "conv":
            return nn.Conv2d(layer.in_channels, layer.out_channels, layer.kernel, padding=layer.padding)
        case "lrn":
            return LocalResponseNormalisation()
        case "dropout":
            return Dropout(dropout, position)
        case _:
            return None


def matrix_product(convolution: nn.Conv2d, x: Float[Tensor, "N C k k"]) -> Float[Tensor, "N D 1 1"]:
    """A convolution whose kernel covers its whole input: a matrix product."""
    return F.linear(x.flatten(1), convolution.weight.flatten(1), convolution.bias)[:, :, None, None]


def check_images(images: object, smallest: int) -> None:
    """Refuse what is not a batch of raw RGB images.

    Args:
        images: anything that was given as images.
        smallest: least allowed height and width in pixels.

    Raises:
        UserError: says what was given and what is wanted. The range is not looked at where there are no values to
            look at, or what follows must not depend on them: on the meta device, in torch.compile, exports and
            torch.func.
    """
    wanted = "wanted are RGB images in 0..255, uint8 or floating point, of shape (N, 3, H, W)"
    if not isinstance(images, Tensor):
        raise UserError(f"images are a {type(images).__name__}; {wanted}, as a torch tensor")
    shape = tuple(images.shape)
    if images.ndim == 3 and 3 in shape:
        raise UserError(f"images have shape {shape}, a single image; {wanted}: add a dimension with images[None]")
    if images.ndim != 4:
        raise UserError(f"images have shape {shape}; {wanted}")
    if shape[1] != 3:
        hint = ": use images.permute(0, 3, 1, 2)" if shape[3] == 3 else ""
        raise UserError(f"images have shape {shape} with {shape[1]} channels; {wanted}{hint}")
    if min(shape[2:]) < smallest:
        raise UserError(
            f"images are {shape[2]} x {shape[3]} pixels (height x width); this net needs at least "
            f"{smallest} x {smallest}: rescale them"
        )
    if images.dtype == torch.uint8:
        return
    if not images.is_floating_point():
        raise UserError(f"images are {images.dtype}; {wanted}: use images.float() or images.to(torch.uint8)")
    valueless = images.is_meta or isinstance(images, FakeTensor) or images.numel() == 0
    if valueless or engine.transformed() or torch.compiler.is_compiling():
        return
    low, high = (value.item() for value in torch.aminmax(images))
    if not (low >= 0 and high <= 255):  # also true for NaN
        raise UserError(
            f"images lie in {low:.4g}..{high:.4g}; {wanted}: the net itself subtracts the mean colour, so give "
            "raw pixels, neither normalised nor centred"
        )
    if 0 < high <= 1 and bool((images != images.round()).any()):
        raise UserError(f"images lie in {low:.4g}..{high:.4g}, it seems that they were divided by 255; {wanted}")
