"""Sect. 3.2: the net applied densely to the whole, uncropped image."""

from jaxtyping import Float, UInt8
from torch import Tensor

from verydeep.configurations import STRIDE
from verydeep.network import ConvNet

MUCH = 0.1
"""Share of an image's smallest side that is worth a word where the score map leaves it out."""


def dense_posteriors(net: ConvNet, images: UInt8[Tensor, "N 3 H W"], flip: bool = True) -> Float[Tensor, "N K"]:
    """Soft-max posteriors of whole images, rescaled to the test scale Q.

    The scores are averaged over the score map, then comes the soft-max; with `flip` the posteriors of an image and
    its mirror image are averaged.

    Args:
        net: in evaluation mode.
        images: raw RGB, all of one size, both sides at least the net's crop.
        flip: whether to average with the mirrored image.
    """
    posteriors: Tensor = net(images).float().softmax(1)
    if flip:
        posteriors = (posteriors + net(images.flip(3)).float().softmax(1)) / 2
    return posteriors


def nearest_covered(scale: int) -> int:
    """Return the multiple of 32 nearest to a test scale, where the score map covers the whole smallest side.

    Of two that are equally near, it is the larger.
    """
    return (2 * scale + STRIDE) // (2 * STRIDE) * STRIDE


def left_out(scale: int) -> str:
    """A line on what a score map at test scale Q leaves out, where that is much; empty elsewhere.

    Its cells are crops 32 pixels apart from the upper left corner on, so that a rest of the image is in none.
    """
    rest = scale % STRIDE
    if rest <= MUCH * scale:
        return ""
    return (
        f"dense, Q = {scale}: the score map leaves out the last {rest} pixels of the smallest side; "
        f"at Q = {scale - rest} or {scale - rest + STRIDE} it leaves out none"
    )
