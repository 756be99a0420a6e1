"""Input conventions: the preprocessing that another system's net expects, and how it is folded into conv1_1.

A convention maps a raw pixel value x of channel c to (x - mean_c) / std_c, and may reverse the channels. Our nets
subtract their mean colour before conv1_1 pads its input with zeros; other systems, too, pad after their
normalisation. So the mean becomes the net's mean colour, 1 / std scales the kernel of conv1_1, and for BGR the
kernel's input channels are reversed. The resulting net takes raw RGB, and is exact also at the borders.

This works only for a preprocessing that is the same at every position. A mean image, with a different mean at each
pixel, is not: a mean colour cannot express it, and a bias of conv1_1 would be wrong where the kernel meets the
padding.
"""

from dataclasses import dataclass, replace

import numpy as np

from verydeep.errors import UserError

ILSVRC_MEAN = (123.68, 116.779, 103.939)
"""Mean RGB of the ILSVRC-2012 training set, as the authors published it."""


@dataclass(frozen=True)
class Convention:
    """The preprocessing that a net expects.

    Raises:
        UserError: if a mean or a standard deviation is not finite, or a standard deviation is not positive.
    """

    name: str
    mean: tuple[float, float, float]
    """Mean RGB in 0..255, subtracted from every pixel."""
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """The divisor of the difference, RGB in 0..255."""
    bgr: bool = False
    """Whether the net takes BGR instead of RGB."""

    def __post_init__(self) -> None:
        if not (np.isfinite(self.mean).all() and np.isfinite(self.std).all() and min(self.std) > 0):
            raise UserError(
                f"preprocessing {self.name}: mean {self.mean} and std {self.std}; both must be finite "
                "and std positive"
            )

    def sentence(self) -> str:
        """Return the convention in words, as a card states it."""
        order = "BGR" if self.bgr else "RGB"
        mean, std = ([float(f"{value:.6g}") for value in values] for values in (self.mean, self.std))
        return f"{self.name}: (x - {mean}) / {std} for RGB x in 0..255, fed as {order}"

    def folded(self, weight: np.ndarray) -> np.ndarray:
        """Return the kernel of conv1_1 for RGB pixels minus `mean`.

        Args:
            weight: the kernel for input in this convention, O x 3 x k x k.
        """
        rgb = weight[:, ::-1] if self.bgr else weight
        with np.errstate(over="ignore"):  # values that are not finite are refused later, with the layer's name
            return np.ascontiguousarray(rgb / np.asarray(self.std)[:, None, None], dtype=np.float32)


def _in_unit_range(*values: float) -> tuple[float, float, float]:
    first, second, third = (255 * value for value in values)
    return first, second, third


TORCHVISION = Convention("torchvision", _in_unit_range(0.485, 0.456, 0.406), _in_unit_range(0.229, 0.224, 0.225))
CAFFE = Convention("caffe", ILSVRC_MEAN, bgr=True)
CAFFE_RGB = Convention("caffe-rgb", ILSVRC_MEAN)
FEATURES = replace(CAFFE_RGB, mean=_in_unit_range(0.48235, 0.45882, 0.40784))
"""Convention of torchvision's IMAGENET1K_FEATURES: the authors' convolutions, with their mean rounded."""

CONVENTIONS = {
    each.name: each
    for each in (
        TORCHVISION,
        CAFFE,
        CAFFE_RGB,
        Convention("half", (127.5,) * 3, (127.5,) * 3),
        Convention("unit", (0.0,) * 3, (255.0,) * 3),
        Convention("raw", (0.0,) * 3),
    )
}
"""Conventions by name. `caffe` is also that of Keras; `half` is -1..1, `unit` 0..1."""


def convention(given: str | Convention) -> Convention:
    """Return the convention with a name, or the given convention itself.

    Raises:
        UserError: if the name is not in `CONVENTIONS`.
    """
    if isinstance(given, Convention):
        return given
    if not isinstance(given, str) or given not in CONVENTIONS:
        raise UserError(f"unknown preprocessing {given!r}; choose one of {', '.join(CONVENTIONS)}")
    return CONVENTIONS[given]
