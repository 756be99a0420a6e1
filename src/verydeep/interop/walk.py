"""From the layers that a file lists, one after the other, to a net."""

from collections.abc import Iterable, Sequence

import numpy as np

from verydeep.configurations import POOLINGS
from verydeep.errors import UserError
from verydeep.interop.conventions import Convention
from verydeep.interop.foreign import Foreign, Kernel, Order, flattened


class Walk:
    """Collects layers in their order and refuses those that no net of Table 1 has.

    After the fifth pooling a convolution is a fully connected layer, as in the nets that others have converted for
    dense testing.
    """

    def __init__(self) -> None:
        self.convolutions: list[Kernel] = []
        self.connected: list[Kernel] = []
        self.kinds: list[str] = []
        self.folded: list[str] = []
        self.ended = False
        """Whether the soft-max has come."""

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
            UserError: if it is not one with stride 1 that keeps the size of its input, or a fully connected layer.
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
        """Add a fully connected layer; `weight` is outputs x inputs, `order` how its input was flattened."""
        if weight.ndim != 2:
            raise UserError(f"{name} has weights of shape {weight.shape}; a matrix is expected")
        if not self.convolutions:
            raise UserError(f"{name} is a fully connected layer before any convolution")
        channels = self.convolutions[-1].outputs
        kernel = weight[:, :, None, None] if self.connected else flattened(weight, channels, order)
        self._add("conv")
        self.connected.append(Kernel(kernel, np.zeros(len(weight), np.float32) if bias is None else bias))

    def bias(self, name: str, bias: np.ndarray) -> None:
        """Add a bias to the last layer, whose own is then zero."""
        layers = self.connected or self.convolutions
        if not layers or self.kinds[-1] != "conv" or layers[-1].bias.any():
            raise UserError(f"{name} adds a constant where a VGG does not")
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
        """Fold a batch normalisation into the convolution that it follows."""
        if not self.kinds or self.kinds[-1] != "conv" or self.connected:
            raise UserError(f"{name} is a batch normalisation that follows no convolution")
        self.convolutions[-1] = self.convolutions[-1].normalised(scale, shift, mean, variance, epsilon=epsilon)
        self.folded = ["batch normalisation into the convolutions"]

    def relu(self) -> None:
        """Add a ReLU."""
        self._add("relu")

    def pool(
        self, name: str, *, largest: bool, sides: Iterable[int], strides: Iterable[int], pads: Sequence[int]
    ) -> None:
        """Add a pooling; `pads` are those of top, left, bottom and right, or fewer if they are alike.

        A pad at the bottom and right stands for poolings that round up: it changes nothing on maps of even sides.
        """
        if not largest or set(sides) != {2} or set(strides) != {2} or any(pads[:2]) or not set(pads) <= {0, 1}:
            raise UserError(f"{name} is not a 2 x 2 max-pooling with stride 2")
        self._add("pool")

    def softmax(self) -> None:
        """Note the soft-max, which our nets leave to their caller."""
        self.ended = True

    def foreign(self, form: str, convention: Convention, class_names: tuple[str, ...] | None = None) -> Foreign:
        """The net of the layers that were added."""
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
