"""Sect. 2.1: the network of a configuration, always fully convolutional, fed with raw pixels.

Images are RGB in 0..255, (N, 3, H, W). The mean colour is a buffer of the network; fc6, fc7 and fc8 are
convolutions, so that a net trained on crops is applied densely to whole images (Sect. 3.2) as it is.
"""

import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Unpack

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from verydeep import engine
from verydeep.card import Card
from verydeep.configurations import STRIDE, Architecture, Configuration, Layer, Sizes, configuration
from verydeep.errors import UserError
from verydeep.normalisation import LocalResponseNormalisation
from verydeep.torch_internals import (
    exporting,
    observed,
    own_parameter,
    plain,
    remember,
    transformed,
    untouched,
    user_level,
    valueless,
)

ILSVRC_MEAN = (123.68, 116.779, 103.939)
"""Mean RGB of the ILSVRC-2012 training set, as published with the authors' models; training replaces it by the
mean of its own training set."""


WANTED = "RGB images in 0..255, uint8 or floating point, of shape (N, 3, H, W)"
"""What a net takes."""


class Dropout(nn.Dropout):
    """Dropout whose mask is a function of a key an image, and of nothing else.

    So a mask does not depend on the rank, the mini-batch or the worker that happens to meet the image, and a
    recomputed layer (activation checkpointing) meets the same mask again.
    """

    def __init__(self, ratio: float, stream: int) -> None:
        super().__init__(ratio)
        self.stream = stream

    def forward(
        self, x: Float[Tensor, "N C h w"], keys: Int64[Tensor, " N"] | None = None
    ) -> Float[Tensor, "N C h w"]:
        """Set each unit to zero with probability `p` and scale the others by 1 / (1 - p).

        Without keys they are drawn from torch's generator: dropout alone may be training, in a net that is not.
        """
        if not self.training or self.p == 0:
            return x
        if keys is None:
            keys = new_keys(x)
        units = torch.arange(x[0].numel(), device=x.device) if len(x) else torch.zeros(0, device=x.device).long()
        bits = mix(mix(keys + self.stream)[:, None] + units)
        kept = (bits & 0xFFFFFF) >= int(self.p * 2**24)
        return x * (kept.view(x.shape).to(x.dtype) / (1 - self.p))


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

    Its weights are random: those that torch draws for a new `nn.Conv2d`. `verydeep.initialise` draws the paper's,
    Glorot and Bengio's or He et al.'s.

    Every layer is a submodule under the field's name (`net.conv1_1`, `net.relu1_1`, `net.pool1`, `net.fc6`,
    `net.drop6`), so that hooks, pruning, parametrizations and replaced layers act as in any net of torch.

    Args:
        architecture: a configuration's name (A, A-LRN, B, C, D, E or B-5x5), or an `Architecture` with all sizes.
        classes: their number, or their names in the order of the class scores; 1000 where not given. A net of 0
            classes is a feature net: its layers end at pool5, and it has features but no class scores.
        sizes: `crop`, `width`, `fully_connected` and `dropout` of the `Architecture`, those that are not the
            paper's.

    Attributes:
        mean: mean colour, RGB in 0..255, subtracted from every pixel; a buffer.
        recompute: keep only the poolings' outputs for the backward pass and compute the rest again
            (activation checkpointing): less memory for about a third more time.

    Raises:
        UserError: for an unknown configuration or a size out of its range.
    """

    mean: Tensor

    def __init__(
        self,
        architecture: str | Architecture,
        classes: int | Sequence[str] | None = None,
        **sizes: Unpack[Sizes],
    ) -> None:
        super().__init__()
        if isinstance(classes, str):
            raise UserError(f"classes is {classes!r}; give their number, or a list of their names")
        names = tuple(classes) if isinstance(classes, Sequence) else None
        if names == ():
            raise UserError(f"classes is {classes!r}; name at least one class, or give 0 for a feature net")
        count = len(classes) if isinstance(classes, Sequence) else classes
        base = architecture if isinstance(architecture, Architecture) else Architecture(architecture)
        made = replace(base, classes=base.classes if count is None else count, **sizes)
        self._card = Card(made, names)
        self.recompute = False
        self._range_seen = False
        for position, layer in enumerate(made.layers):
            self.add_module(layer.name, new_module(layer, made.dropout, position))
        self.register_buffer("mean", torch.tensor(ILSVRC_MEAN))
        self.lay_out()

    @property
    def card(self) -> Card:
        """What is known of the net besides its numbers; may be set, to one of the same sizes.

        Its classes are those of fc8 as it is, also where another layer was put in its place.
        """
        made = self._card.architecture
        if not made.classes:
            return self._card
        fc8 = self.get_submodule("fc8")
        weight = own_parameter(fc8, "weight")  # one that is parametrized is not computed for this
        classes = getattr(fc8, "out_channels", made.classes) if weight is None else len(weight)
        if classes == made.classes:
            return self._card
        return replace(self._card, architecture=replace(made, classes=classes), class_names=None)

    @card.setter
    def card(self, card: Card) -> None:
        if not isinstance(card, Card):
            raise UserError(f"the card is {card!r}; give a verydeep.Card")
        if card.architecture != self.card.architecture:
            raise UserError(f"the card is one of {card.architecture}; this net is {self.card.architecture}")
        self._card = card

    @property
    def architecture(self) -> Architecture:
        """Configuration and sizes."""
        return self.card.architecture

    @property
    def configuration(self) -> Configuration:
        """The column of Table 1."""
        return configuration(self._card.architecture.configuration)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers in order, as `Architecture.layers` lists them."""
        return self._card.architecture.layers

    @property
    def crop(self) -> int:
        """Side of the training crop in pixels; the smallest image that the net takes."""
        return self._card.architecture.crop

    @property
    def classes(self) -> int:
        """Number of class scores."""
        return self.architecture.classes

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the classes in the order of the scores, or None where only their number is known."""
        return self.card.class_names

    def forward(
        self,
        images: Tensor,
        keys: Int64[Tensor, " N"] | None = None,
        shift: Float[Tensor, "N 3"] | None = None,
    ) -> Float[Tensor, "N K"]:
        """Class scores before the soft-max: the score map averaged over positions (Sect. 3.2).

        Args:
            images: RGB in 0..255, uint8 or floating point; both sides at least `crop`. Values outside of 0..255
                are taken as they are; where the first images of a net look as if they had been divided by 255,
                normalised or centred, a warning says so.
            keys: a random integer an image that its dropout masks follow from; drawn from torch's generator
                where None. Only training uses them.
            shift: added to all pixels of an image, RGB in 0..255: the colour shift of Sect. 3.1.

        Raises:
            UserError: for images of another shape or type, and by a feature net.
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
        if not self._card.architecture.classes:
            raise UserError(
                f"this net {self._card.architecture.configuration} is a feature net without fc6, fc7 and fc8; it "
                "has no class scores. Use net.features, or train these layers with --start-from"
            )
        x = self._centred(images, self.crop, shift)
        if keys is None:
            keys = self._drawn(x)
        if not (self.recompute and torch.is_grad_enabled()):
            return self._run(x, self.layers, keys).contiguous()
        for block in self._blocks():
            if block[0].name.startswith("conv"):
                x = checkpoint(self._run, x, block, keys, use_reentrant=False)
            else:
                x = self._run(x, block, keys)
        return x.contiguous()

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
        if isinstance(layers, str) or not isinstance(layers, Collection) or not layers:
            raise UserError(f"layers is {layers!r}; it must be a list of names such as ['conv3_3', 'fc7']")
        if unknown := [name for name in layers if name not in known]:
            raise UserError(
                f"net {self.configuration.name} has no layer {unknown[0]!r}; it has {', '.join(known)}"
            )
        ends = sorted({known.index(name) + 1 for name in layers})
        fully_connected = any(layer.fully_connected for layer in self.layers[: ends[-1]])
        x = self._centred(images, self.crop if fully_connected else STRIDE)
        keys = self._drawn(x)
        found = {}
        for start, end in zip([0, *ends], ends, strict=False):
            x = self._run(x, self.layers[start:end], keys)
            found[known[end - 1]] = x.contiguous()
        return found

    def lay_out(self) -> None:
        """Put the weights into large pages of memory, which are read fastest; for weights from elsewhere."""
        for parameter in self.parameters():
            if parameter.ndim == 4:
                parameter.data = engine.in_large_pages(parameter.data)

    def extra_repr(self) -> str:
        """What `print(net)` shows."""
        made = self.architecture
        return (
            f"{made.configuration}, classes={made.classes}, crop={made.crop}, width={made.width}, "
            f"fully_connected={made.fully_connected}, dropout={made.dropout}"
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
        """Output of some layers: by the engine where nobody can tell the difference, else as torch calls them."""
        if observed():
            x = x.contiguous()
            for layer in layers:
                x = self._call(layer, x, keys)
            return x
        at = 0
        while at < len(layers):
            if not plain(x):
                x = self._call(layers[at], x.contiguous(), keys)
                at += 1
                continue
            # The engine takes as many convolutions at once as it can, and rectifies and pools on the way.
            steps, ends = self._steps(layers, at)
            if number := engine.served(steps, x):
                x = engine.convolutions(steps[:number], x)
                at = ends[number - 1]
            elif steps and layers[at].fully_connected and engine.serves_testing(steps[0].layer, x):
                x = engine.fully_connected(steps[0].layer, x, steps[0].rectify)
                at += 1 + steps[0].rectify
            elif steps:
                x = by_torch(steps[0].layer, x, layers[at].fully_connected)
                if steps[0].rectify:  # in place: what a convolution gives to an untouched ReLU nobody else sees
                    x = F.relu(x, inplace=True)
                at += 1 + steps[0].rectify
            else:
                x = self._call(layers[at], x, keys)
                at += 1
        return x

    def _steps(self, layers: Sequence[Layer], at: int) -> tuple[list[engine.Step], list[int]]:
        """The plain convolutions from a layer on, up to what is neither ReLU nor pooling; and where each ends."""
        steps: list[engine.Step] = []
        ends: list[int] = []
        modules, end = self._modules, len(layers)
        while at < end and engine.plain(module := modules.get(layers[at].name)):
            rectify = at + 1 < end and untouched(modules.get(layers[at + 1].name), nn.ReLU)
            pool = rectify and at + 2 < end and halves(modules.get(layers[at + 2].name))
            steps.append(engine.Step(module, rectify, pool))
            at += 1 + rectify + pool
            if at < end and idle(modules.get(layers[at].name)):
                at += 1
            ends.append(at)
        return steps, ends

    def _drawn(self, x: Tensor) -> Int64[Tensor, " N"] | None:
        """A key an image where dropout is active; drawing none elsewhere, vmap needs no `randomness`."""
        active = self.training and any(isinstance(m, Dropout) and m.training and m.p for m in self.children())
        return new_keys(x) if active else None

    def _call(self, layer: Layer, x: Tensor, keys: Tensor | None) -> Tensor:
        """Output of one layer, called as any module of torch.

        What somebody has attached or put there meets maps laid out as torch lays them out, not with channels last:
        `view` works, and so does code that reads strides (Opacus).
        """
        module = self.get_submodule(layer.name)
        if not untouched(module, KINDS[layer.kind]):
            x = x.contiguous()
        y: Tensor = module(x, keys) if keys is not None and isinstance(module, Dropout) else module(x)
        return y

    def _centred(self, images: Tensor, smallest: int, shift: Tensor | None = None) -> Tensor:
        """Images less the mean colour, in the net's own precision."""
        check_images(images, smallest)
        if not self._range_seen and images.is_floating_point() and looks_at_values(images):
            self._range_seen = True  # once: later ones may come from an algorithm that walks through colours
            warn_of_range(images)
        colour = self.mean if shift is None else self.mean - shift
        x = images.to(self.mean.dtype) - colour.view(-1, 3, 1, 1)
        # vmap knows no layouts.
        return x if transformed() else x.contiguous(memory_format=torch.channels_last)


def new_module(layer: Layer, dropout: float, position: int) -> nn.Module:
    """The module of a layer."""
    match layer.kind:
        case "conv":
            return nn.Conv2d(layer.in_channels, layer.out_channels, layer.kernel, padding=layer.padding)
        case "relu":
            return nn.ReLU()
        case "lrn":
            return LocalResponseNormalisation()
        case "pool":
            return nn.MaxPool2d(layer.kernel, layer.stride)
        case "dropout":
            return Dropout(dropout, position)


KINDS: dict[str, type[nn.Module]] = {
    "conv": nn.Conv2d,
    "relu": nn.ReLU,
    "lrn": LocalResponseNormalisation,
    "pool": nn.MaxPool2d,
    "dropout": Dropout,
}
"""The class of a layer's module by its kind."""


remember(LocalResponseNormalisation, Dropout)


def halves(module: nn.Module | None) -> bool:
    """Whether this is an untouched 2 x 2 max-pooling with stride 2, as all of Table 1."""
    return (
        untouched(module, nn.MaxPool2d)
        and isinstance(module, nn.MaxPool2d)
        and module.kernel_size == module.stride == 2
        and module.padding == 0
        and module.dilation == 1
        and not (module.ceil_mode or module.return_indices)
    )


def idle(module: nn.Module | None) -> bool:
    """Whether this is an untouched dropout that lets everything pass."""
    return untouched(module, Dropout) and module is not None and not module.training


def by_torch(convolution: nn.Conv2d, x: Tensor, fully_connected: bool) -> Tensor:
    """Output of a plain convolution by torch; as a matrix product where its kernel covers all of its input."""
    if fully_connected and convolution.padding == (0, 0) and x.shape[2:] == convolution.weight.shape[2:]:
        return matrix_product(convolution, x)
    y: Tensor = convolution(x)
    return y


def matrix_product(convolution: nn.Conv2d, x: Float[Tensor, "N C k k"]) -> Float[Tensor, "N D 1 1"]:
    """A convolution whose kernel covers its whole input: a matrix product.

    The map is rearranged, which is small, and not the weights.
    """
    return F.linear(x.flatten(1), convolution.weight.flatten(1), convolution.bias)[:, :, None, None]


def check_images(images: object, smallest: int) -> None:
    """Refuse what is not a batch of RGB images.

    Args:
        images: anything that was given as images.
        smallest: least allowed height and width in pixels.

    Raises:
        UserError: says what was given and what is wanted.
    """
    wanted = f"wanted are {WANTED}"
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
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise UserError(f"images are {images.dtype}; {wanted}: use images.float() or images.to(torch.uint8)")


def looks_at_values(images: Tensor) -> bool:
    """Whether values may be looked at: not on the meta device, in compilers, exports, traces and torch.func."""
    if images.numel() == 0 or torch.compiler.is_compiling():
        return False
    return not (observed() or exporting() or transformed() or valueless(images))


def warn_of_range(images: Tensor) -> None:
    """Warn where images look as if they were not raw pixels.

    That is where all of them lie in -3..3, as after a division by 255 or a normalisation, and are not just black
    and white; or below -100, as after a subtraction of the mean colour. A few values outside of 0..255 are pixels
    that an algorithm has moved.
    """
    low, high = (value.item() for value in torch.aminmax(images.detach()))
    divided = low >= -3 and high <= 3 and bool((images != images.round()).any())
    if divided or low < -100:
        what = "divided by 255 or normalised" if divided else "centred"
        warnings.warn(
            f"image values lie in {low:.4g}..{high:.4g}, as if {what}. The net takes {WANTED}, and subtracts its "
            "own mean colour. The values were used as they are; this warning appears once per net.",
            stacklevel=user_level(),
        )
