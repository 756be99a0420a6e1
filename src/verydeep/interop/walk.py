"""Build a net from the layers that a file lists in order."""

from collections.abc import Iterable, Sequence

import numpy as np

from verydeep.configurations import POOLINGS
from verydeep.errors import UserError
from verydeep.interop.conventions import Convention
from verydeep.interop.foreign import Foreign, Kernel, Order, flattened


class Walk:
    """Collects layers in order, and refuses those that no net of Table 1 has.

    A convolution after the fifth pooling counts as a fully connected layer, since some nets were converted for
    dense testing.
    """

    def __init__(self) -> None:
        self.convolutions: list[Kernel] = []
        self.connected: list[Kernel] = []
        self.kinds: list[str] = []
        self.folded: list[str] = []
        self.ended = False
        """Whether the soft-max has been reached."""

    def convolution(
        self,
        name: str,
        weight: np.ndarray,
        bias: np.ndarray | None,
        *,
        pads: Iterable[int],
        strides: Iterable[int] = (1,),
        dilations: Iterable[int] = (1,),
        groups: int = 1,
    ) -> None:
        """Add a convolution; `weight` is outputs x inputs x height x width.

        Raises:
            UserError: if it is neither a convolution of stride 1 that preserves the size of its input nor a fully
                connected layer.
        """
        kernel = Kernel(weight, np.zeros(len(weight), np.float32) if bias is None else bias)
        head = self.kinds.count("pool") == POOLINGS
        pad = 0 if head else kernel.sides[0] // 2
        found = {"pad": set(pads), "stride": set(strides), "dilation": set(dilations), "groups": {groups}}
        wanted = {"pad": {pad}, "stride": {1}, "dilation": {1}, "groups": {1}}
        for what, values in found.items():
            if values != wanted[what]:
                raise UserError(
                    f"{name} has {what} {', '.join(map(str, sorted(values)))}; a "
                    f"{kernel.sides[0]} x {kernel.sides[1]} convolution of a VGG has {min(wanted[what])} here"
                )
        self._add("conv")
        (self.connected if head else self.convolutions).append(kernel)

    def matrix(self, name: str, weight: np.ndarray, bias: np.ndarray | None, order: Order) -> None:
        """Add a fully connected layer; `weight` is outputs x inputs, `order` how its input was flattened.

        Raises:
            UserError: if the weights are not a matrix, or do not fit the last convolution.
        """
        if weight.ndim != 2:
            raise UserError(f"{name} has weights of shape {weight.shape}; a matrix is expected")
        if not self.convolutions:
            raise UserError(f"{name} is a fully connected layer, but no convolution comes before it")
        channels = self.convolutions[-1].outputs
        kernel = weight[:, :, None, None] if self.connected else flattened(weight, channels, order)
        self._add("conv")
        self.connected.append(Kernel(kernel, np.zeros(len(weight), np.float32) if bias is None else bias))

    def bias(self, name: str, bias: np.ndarray) -> None:
        """Add a bias to the last layer, which must not have one yet.

        Raises:
            UserError: if the last layer is not a convolution or fully connected, or has a bias.
        """
        layers = self.connected or self.convolutions
        if not layers or self.kinds[-1] != "conv" or layers[-1].bias.any():
            raise UserError(f"{name} adds a constant where a VGG has no bias")
        layers[-1] = Kernel(layers[-1].weight, bias.reshape(-1))

    def normalisation(
        self,
        name: str,
        scale: np.ndarray,
        shift: np.ndarray,
        mean: np.ndarray,
        variance: np.ndarray,
        *,
        epsilon: float,
    ) -> None:
        """Fold a batch normalisation into the preceding convolution.

        Raises:
            UserError: if it does not follow a convolution, or does not fit it.
        """
        if not self.kinds or self.kinds[-1] != "conv" or self.connected:
            raise UserError(f"{name} is a batch normalisation that does not follow a convolution")
        self.convolutions[-1] = self.convolutions[-1].normalised(scale, shift, mean, variance, epsilon=epsilon)
        self.folded = ["batch normalisation into the convolutions"]

    def relu(self) -> None:
        """Add a ReLU."""
        self._add("relu")

    def pool(
        self, name: str, *, largest: bool, sides: Iterable[int], strides: Iterable[int], pads: Sequence[int]
    ) -> None:
        """Add a pooling; `pads` are those of top, left, bottom and right, or fewer if they are equal.

        A pad of 1 at the bottom and right is how poolings that round up are stored. It has no effect on maps of
        even sides.

        Raises:
            UserError: if it is not a 2 x 2 max-pooling with stride 2.
        """
        if not largest or set(sides) != {2} or set(strides) != {2} or any(pads[:2]) or not set(pads) <= {0, 1}:
            raise UserError(f"{name} is not a 2 x 2 max-pooling with stride 2")
        self._add("pool")

    def softmax(self) -> None:
        """Note the soft-max. Our nets leave it to the caller."""
        self.ended = True

    def foreign(self, form: str, convention: Convention, class_names: tuple[str, ...] | None = None) -> Foreign:
        """Return the net of the layers added so far."""
        return Foreign(
            form,
            tuple(self.convolutions),
            tuple(self.connected),
            convention,
            tuple(self.kinds),
            class_names,
            tuple(self.folded),
        )

    def _add(self, kind: str) -> None:
        if self.ended:
            raise UserError(f"a layer of kind {kind} follows the soft-max")
        self.kinds.append(kind)
