"""Sect. 2.1: the network of a configuration, always fully convolutional, with raw pixels as its input.

Images are RGB in 0..255, (N, 3, H, W). The mean colour is a buffer of the network. fc6, fc7 and fc8 are
convolutions, so that a net trained on crops can be applied densely to whole images (Sect. 3.2) without change.
"""

import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, Unpack

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from verydeep import engine
from verydeep.card import Card
from verydeep.configurations import STRIDE, Architecture, Configuration, Layer, Sizes, configuration
from verydeep.errors import UserError
from verydeep.linear import LinearClassifier
from verydeep.normalisation import LocalResponseNormalisation
from verydeep.overflow import HalfWatch, in_half
from verydeep.torch_internals import (
    allow_recompilation,
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
"""Mean RGB of the ILSVRC-2012 training set, as published with the authors' models. Training replaces it with the
mean of its own training set."""


WANTED = "RGB images in 0..255, uint8 or floating point, of shape (N, 3, H, W)"
"""The input of a net, for messages."""


class Dropout(nn.Dropout):
    """Dropout whose mask depends only on a per-image key.

    So the mask does not depend on the rank, mini-batch or worker that processes the image, and a recomputed layer
    (activation checkpointing) draws the same mask again.
    """

    def __init__(self, ratio: float, stream: int) -> None:
        super().__init__(ratio)
        self.stream = stream

    def forward(
        self, x: Float[Tensor, "N C h w"], keys: Int64[Tensor, " N"] | None = None
    ) -> Float[Tensor, "N C h w"]:
        """Set each unit to zero with probability `p` and scale the others by 1 / (1 - p).

        If no keys are passed they are drawn from torch's generator, since the dropout may be in training mode in a
        net that is not.
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
    """Draw a random 64-bit integer per image."""
    return torch.randint(-(2**63), 2**63 - 1, (len(images),), device=images.device)


def mix(x: Int64[Tensor, "*shape"]) -> Int64[Tensor, "*shape"]:
    """Hash 64-bit integers with the finaliser of SplitMix64 (Steele, Lea and Flood, 2014).

    This uses integer arithmetic only, so the bits are the same on every device.
    """
    x = x * -0x61C8864680B583EB
    x = (x ^ shifted_right(x, 30)) * -0x40A7B892E31B1A47
    x = (x ^ shifted_right(x, 27)) * -0x6B2FB644ECCEEE15
    return x ^ shifted_right(x, 31)


def shifted_right(x: Int64[Tensor, "*shape"], bits: int) -> Int64[Tensor, "*shape"]:
    """Shift right, filling with zeros; torch's own shift fills with the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


class ConvNet(nn.Module):
    """A net of Table 1.

    A new net has the random weights that torch draws for a new `nn.Conv2d`. `verydeep.initialise` draws those of
    the paper, of Glorot and Bengio or of He et al.

    Every layer is a submodule under its usual name (`net.conv1_1`, `net.relu1_1`, `net.pool1`, `net.fc6`,
    `net.drop6`), so hooks, pruning, parametrizations and replaced layers work as in any torch module.

    Args:
        architecture: a configuration's name (A, A-LRN, B, C, D, E or B-5x5), or an `Architecture` with all sizes.
        classes: the number of classes, or their names in the order of the class scores; 1000 by default. A net of
            0 classes is a feature net: its layers end at pool5, and it has features but no class scores.
        sizes: `crop`, `width`, `fully_connected` and `dropout` of the `Architecture`, if they differ from the
            paper's.

    In half precision, by its own type (`net.bfloat16()`) or under autocast, it computes fc8 in float32, so its
    class scores are float32.

    Attributes:
        mean: mean colour, RGB in 0..255, subtracted from every pixel; a buffer that stays float32.
        recompute: whether to keep only the poolings' outputs for the backward pass and compute the rest again
            (activation checkpointing): less memory for about a third more time.
        classifier: a linear classifier on the net's descriptors (Appendix B), which `verydeep.predict` then uses
            instead of the net's own classes; None for a net without one.

    Raises:
        UserError: if the configuration is unknown or a size is out of range.
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
            raise UserError(f"classes is {classes!r}; pass their number or a list of their names")
        names = tuple(classes) if isinstance(classes, Sequence) else None
        if names == ():
            raise UserError(f"classes is {classes!r}; name at least one class, or give 0 for a feature net")
        count = len(classes) if isinstance(classes, Sequence) else classes
        base = architecture if isinstance(architecture, Architecture) else Architecture(architecture)
        made = replace(base, classes=base.classes if count is None else count, **sizes)
        self._card = Card(made, names)
        self.recompute = False
        self.classifier: LinearClassifier | None = None
        self._compiled: Callable[[Tensor, Sequence[Layer], Tensor | None], Tensor] | None = None
        self._range_seen = False
        self._half = HalfWatch()
        for position, layer in enumerate(made.layers):
            self.add_module(layer.name, new_module(layer, made.dropout, position))
        self.register_buffer("mean", torch.tensor(ILSVRC_MEAN))
        self.lay_out()

    @property
    def card(self) -> Card:
        """The net's metadata: architecture, class names, training scale, provenance.

        It can be set to a card of the same architecture. The number of classes is that of fc8, even if that layer
        was replaced.
        """
        made = self._card.architecture
        if not made.classes:
            return self._card
        fc8 = self.get_submodule("fc8")
        weight = own_parameter(fc8, "weight")  # does not compute a weight that is parametrized
        classes = getattr(fc8, "out_channels", made.classes) if weight is None else len(weight)
        if classes == made.classes:
            return self._card
        return replace(self._card, architecture=replace(made, classes=classes), class_names=None)

    @card.setter
    def card(self, card: Card) -> None:
        if not isinstance(card, Card):
            raise UserError(f"the card is {card!r}; pass a verydeep.Card")
        if card.architecture != self.card.architecture:
            raise UserError(f"the card is for {card.architecture}; this net is {self.card.architecture}")
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
        """Side of the training crop in pixels, which is also the smallest image that the net accepts."""
        return self._card.architecture.crop

    @property
    def classes(self) -> int:
        """Number of class scores."""
        return self.architecture.classes

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the classes in the order of the scores, or None if only their number is known."""
        return self.card.class_names

    def forward(
        self,
        images: Tensor,
        keys: Int64[Tensor, " N"] | None = None,
        shift: Float[Tensor, "N 3"] | None = None,
    ) -> Float[Tensor, "N K"]:
        """Return the class scores before the soft-max: the score map averaged over positions (Sect. 3.2).

        Args:
            images: RGB in 0..255, uint8 or floating point; both sides at least `crop`. Values outside 0..255 are
                used as they are. If the first images that a net sees look as if they had been divided by 255,
                normalised or centred, a warning says so.
            keys: a random integer per image, which determines its dropout masks; by default drawn from torch's
                generator. Used only in training.
            shift: the colour shift of Sect. 3.1, added to all pixels of an image: RGB, in units of 0..255.

        Raises:
            UserError: if the images have another shape or type, or this is a feature net.
        """
        scores = self.score_map(images, keys, shift)
        # The mean over one position is the score itself. Skipping that kernel saves loading its code into the
        # caches, which are full of fc6's weights.
        return scores.flatten(1) if scores.shape[2:] == (1, 1) else scores.mean((2, 3))

    def score_map(
        self,
        images: Tensor,
        keys: Int64[Tensor, " N"] | None = None,
        shift: Float[Tensor, "N 3"] | None = None,
    ) -> Float[Tensor, "N K h w"]:
        """Return the class score map (Sect. 3.2): one cell per crop-sized window, 32 pixels apart.

        For one crop it is 1 x 1. Arguments and errors are those of `forward`.
        """
        if not self._card.architecture.classes:
            raise UserError(
                f"this net {self._card.architecture.configuration} is a feature net without fc6, fc7 and fc8; it "
                "has no class scores. Use net.features, or train these layers with --start-from"
            )
        x = self._centred(images, self.crop, shift)
        if keys is None:
            keys = self._drawn(x)
        recompute = self.recompute and torch.is_grad_enabled()
        compiled = self._compiled if self.training else None
        run = compiled or self._run
        for block in self._blocks() if recompute or compiled else (self.layers,):
            if recompute and block[0].name.startswith("conv"):
                x = checkpoint(run, x, block, keys, use_reentrant=False)
            else:
                x = run(x, block, keys)
        self._half.end()
        return x.contiguous()

    def compile_blocks(self) -> None:
        """Compile the layers up to each pooling, and those after the last, each by itself, for training.

        If the whole net is compiled (`net.compile()`), its backward pass is one step, at whose end all gradients
        are ready. So ranks could not exchange any of them during that pass.
        """
        allow_recompilation(4 * sum(1 for _ in self._blocks()))
        self._compiled = torch.compile(self._run)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out compiled code, which can be neither copied nor stored."""
        state: dict[str, Any] = super().__getstate__()  # type: ignore[no-untyped-call]
        return state | {"_compiled": None}

    def features(self, images: Tensor, layers: Collection[str]) -> dict[str, Float[Tensor, "N _ _ _"]]:
        """Return the outputs of the named layers: conv3_3, relu5_1, lrn1_1, pool4, fc7, drop7, ...

        Each output is the layer's own: later layers do not write into it. Layers after the last requested one are
        not run, so convolutional features can be computed from images smaller than the crop.

        Args:
            images: as in `forward`; both sides at least 32, or `crop` if fc6 or a later layer is requested.
            layers: names of the requested layers; the result has them in the order of the net.

        Raises:
            UserError: if the net has no layer of one of these names, or `forward` would raise one.
        """
        known = [layer.name for layer in self.layers]
        if isinstance(layers, str) or not isinstance(layers, Collection) or not layers:
            raise UserError(f"layers is {layers!r}; pass a list of names such as ['conv3_3', 'fc7']")
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
        self._half.end()
        return found

    def lay_out(self) -> None:
        """Move the weights to huge pages, from which they are read fastest; for weights that were replaced."""
        for parameter in self.parameters():
            if parameter.ndim == 4:
                parameter.data = engine.in_large_pages(parameter.data)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "ConvNet":
        """Move or convert all tensors, for `to`, `cuda`, `bfloat16` and the like; the mean colour keeps its type.

        bfloat16 has eight bits, so a mean colour of that type would be off by up to half a unit.
        """
        before = self.mean
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.mean.dtype != before.dtype:
            self.mean = before.to(self.mean.device)
        return self

    def extra_repr(self) -> str:
        """Return what `print(net)` shows besides the layers."""
        made = self.architecture
        return (
            f"{made.configuration}, classes={made.classes}, crop={made.crop}, width={made.width}, "
            f"fully_connected={made.fully_connected}, dropout={made.dropout}"
        )

    def _blocks(self) -> Iterator[tuple[Layer, ...]]:
        """Divide the layers after each pooling, where the outputs to keep are smallest."""
        block: list[Layer] = []
        for layer in self.layers:
            block.append(layer)
            if layer.kind == "pool":
                yield tuple(block)
                block = []
        yield tuple(block)

    def _run(self, x: Tensor, layers: Sequence[Layer], keys: Tensor | None) -> Tensor:
        """Compute some layers: by the engine if nothing can tell the difference, otherwise as torch calls them."""
        if observed():
            x = x.contiguous()
            for layer in layers:
                x = self._scores(x, layer, keys) if gives_scores(layer, x) else self._call(layer, x, keys)
            return x
        at = 0
        while at < len(layers):
            if gives_scores(layers[at], x):
                x = self._scores(x, layers[at], keys)
                at += 1
                continue
            if not plain(x):
                x = self._call(layers[at], x.contiguous(), keys)
                self._look(layers[at], x)
                at += 1
                continue
            # The engine computes as many convolutions per call as it can, fused with ReLU and pooling. Where it
            # does not compute, only the next layer is looked at.
            here = engine.here(x)
            steps, ends = self._steps(layers, at, len(layers) if here else 1)
            if here and (number := engine.served(steps, x)):
                x = engine.convolutions(steps[:number], x)
                at = ends[number - 1]
            elif here and steps and layers[at].fully_connected and engine.serves_testing(steps[0].layer, x):
                x = engine.fully_connected(steps[0].layer, x, steps[0].rectify)
                at += 1 + steps[0].rectify
            elif steps:
                x = by_torch(steps[0].layer, x, layers[at].fully_connected)
                if steps[0].rectify:  # in place: nothing but the untouched ReLU sees the convolution's output
                    x = F.relu(x, inplace=True)
                self._look(layers[at], x)
                at += 1 + steps[0].rectify
            else:
                x = self._call(layers[at], x, keys)
                self._look(layers[at], x)
                at += 1
        return x

    def _scores(self, x: Tensor, fc8: Layer, keys: Tensor | None) -> Float[Tensor, "N K h w"]:
        """Compute fc8 in float32 from a map in half precision, in which near scores would become equal."""
        module = self.get_submodule(fc8.name)
        kind = floating_type(module)
        with without_autocast(x.device.type):
            if kind not in HALVES:
                return self._run(x.to(kind), (fc8,), keys)
            if plain(x) and engine.plain(module) and not observed():
                assert module.bias is not None
                return F.conv2d(x.float(), module.weight.float(), module.bias.float())
        return self._call(fc8, x, keys).float()

    def _look(self, layer: Layer, x: Tensor) -> None:
        """Take in how large the output of a convolution gets, in a pass in float16 that is looked at."""
        if self._half.looking and layer.kind == "conv":
            self._half.look(layer.name, x)

    def _steps(self, layers: Sequence[Layer], at: int, most: int) -> tuple[list[engine.Step], list[int]]:
        """Return up to `most` consecutive plain convolutions with ReLU and pooling, and the layer after each."""
        steps: list[engine.Step] = []
        ends: list[int] = []
        modules, end = self._modules, len(layers)
        while at < end and len(steps) < most and engine.plain(module := modules.get(layers[at].name)):
            rectify = at + 1 < end and untouched(modules.get(layers[at + 1].name), nn.ReLU)
            pool = rectify and at + 2 < end and halves(modules.get(layers[at + 2].name))
            steps.append(engine.Step(module, rectify, pool))
            at += 1 + rectify + pool
            if at < end and idle(modules.get(layers[at].name)):
                at += 1
            ends.append(at)
        return steps, ends

    def _drawn(self, x: Tensor) -> Int64[Tensor, " N"] | None:
        """Draw a key per image if dropout is active. Otherwise draw none, so that vmap needs no `randomness`."""
        active = self.training and any(isinstance(m, Dropout) and m.training and m.p for m in self.children())
        return new_keys(x) if active else None

    def _call(self, layer: Layer, x: Tensor, keys: Tensor | None) -> Tensor:
        """Call one layer like any torch module.

        Replaced layers and hooks receive contiguous maps, not maps with channels last: `view` works, and so does
        code that reads strides (Opacus).
        """
        module = self.get_submodule(layer.name)
        if not untouched(module, KINDS[layer.kind]):
            x = x.contiguous()
        y: Tensor = module(x, keys) if keys is not None and isinstance(module, Dropout) else module(x)
        return y

    def _centred(self, images: Tensor, smallest: int, shift: Tensor | None = None) -> Tensor:
        """Return the images minus the mean colour, subtracted in float32 or wider, in the type of the net."""
        check_images(images, smallest)
        if not self._range_seen and images.is_floating_point() and looks_at_values(images):
            self._range_seen = True  # only once: later images may come from an algorithm that optimises pixels
            warn_of_range(images)
        kind = floating_type(self)
        wide = torch.promote_types(kind, torch.float32)
        mean = self.mean.to(wide)
        colour = mean if shift is None else mean - shift
        if engine.centres(images, kind):
            seen = observed() or not engine.plain(self._modules.get(self.layers[0].name))
            return engine.centred(images, colour.view(-1, 3), kind if seen else engine.computed_in(kind))
        x = (images.to(wide) - colour.view(-1, 3, 1, 1)).to(kind)
        if looks_at_values(x) and in_half(x):
            self._half.begin(x)
        # vmap does not support memory formats.
        return x if transformed() else x.contiguous(memory_format=torch.channels_last)


def new_module(layer: Layer, dropout: float, position: int) -> nn.Module:
    """Build the module of a layer."""
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
"""The class of a layer's module, by kind."""


remember(LocalResponseNormalisation, Dropout)


def halves(module: nn.Module | None) -> bool:
    """Return whether this is an untouched 2 x 2 max-pooling with stride 2, as all those of Table 1 are."""
    return (
        untouched(module, nn.MaxPool2d)
        and isinstance(module, nn.MaxPool2d)
        and module.kernel_size == module.stride == 2
        and module.padding == 0
        and module.dilation == 1
        and not (module.ceil_mode or module.return_indices)
    )


HALVES = (torch.bfloat16, torch.float16)


def gives_scores(layer: Layer, x: Tensor) -> bool:
    """Return whether this is fc8, and its input is in half precision."""
    return layer.name == "fc8" and x.dtype in HALVES


def floating_type(module: nn.Module) -> torch.dtype:
    """Return the type of a module's first floating point parameter; float32 if it has none."""
    return next((each.dtype for each in module.parameters() if each.is_floating_point()), torch.float32)


def without_autocast(kind: str) -> AbstractContextManager[object]:
    """Return a context in which this kind of device computes in the types of its inputs."""
    active = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.autocast(kind, enabled=False) if active else nullcontext()


def idle(module: nn.Module | None) -> bool:
    """Return whether this is an untouched dropout that drops nothing."""
    return untouched(module, Dropout) and module is not None and not module.training


def by_torch(convolution: nn.Conv2d, x: Tensor, fully_connected: bool) -> Tensor:
    """Compute a plain convolution with torch, as a matrix product if the kernel covers the whole input."""
    if fully_connected and convolution.padding == (0, 0) and x.shape[2:] == convolution.weight.shape[2:]:
        return matrix_product(convolution, x)
    y: Tensor = convolution(x)
    return y


def matrix_product(convolution: nn.Conv2d, x: Float[Tensor, "N C k k"]) -> Float[Tensor, "N D 1 1"]:
    """Compute a convolution whose kernel covers its whole input as a matrix product.

    This rearranges the map, which is small, and not the weights.
    """
    return F.linear(x.flatten(1), convolution.weight.flatten(1), convolution.bias)[:, :, None, None]


def check_images(images: object, smallest: int) -> None:
    """Check that the input is a batch of RGB images.

    Args:
        images: the input, which may be anything.
        smallest: smallest allowed height and width in pixels.

    Raises:
        UserError: if it is not; the message says what was given and what is needed.
    """
    wanted = f"pass {WANTED}"
    if not isinstance(images, Tensor):
        raise UserError(f"images are of type {type(images).__name__}; {wanted}, as a torch tensor")
    shape = tuple(images.shape)
    if images.ndim == 3 and 3 in shape:
        raise UserError(
            f"images have shape {shape}, that of a single image; {wanted}: add a dimension with images[None]"
        )
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
    """Return whether values can be read: not on the meta device, in compilers, exports, traces or torch.func."""
    if images.numel() == 0 or torch.compiler.is_compiling():
        return False
    return not (observed() or exporting() or transformed() or valueless(images))


def warn_of_range(images: Tensor) -> None:
    """Warn if images do not look like raw pixels.

    They do not if all values are in -3..3 and some are not whole numbers, as after a division by 255 or a
    normalisation, or if a value is below -100, as after a subtraction of the mean colour. Values a little outside
    0..255 come from algorithms that change pixels, and cause no warning.
    """
    low, high = (value.item() for value in torch.aminmax(images.detach()))
    divided = low >= -3 and high <= 3 and bool((images != images.round()).any())
    if divided or low < -100:
        what = "divided by 255 or normalised" if divided else "centred"
        warnings.warn(
            f"image values are in {low:.4g}..{high:.4g}, as if {what}. The net takes {WANTED}, and subtracts its "
            "own mean colour. The values were used as they are; this warning appears once per net.",
            stacklevel=user_level(),
        )
