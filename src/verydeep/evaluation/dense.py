"""Sect. 3.2: dense testing. The net runs on the whole, uncropped image."""

from jaxtyping import Float, UInt8
from torch import Tensor

from verydeep.configurations import STRIDE
from verydeep.network import ConvNet

MUCH = 0.1
"""If the score map leaves out more than this share of the smallest side, users are told."""


def dense_posteriors(net: ConvNet, images: UInt8[Tensor, "N 3 H W"], flip: bool = True) -> Float[Tensor, "N K"]:
    """Return the soft-max posteriors of whole images, rescaled to the test scale Q.

    The scores are averaged over the score map before the soft-max.

    Args:
        net: the net, in evaluation mode.
        images: raw RGB, all of the same size, with both sides at least as long as the net's crop.
        flip: whether to average the posteriors of each image with those of its mirror image.
    """
    posteriors: Tensor = net(images).float().softmax(1)
    if flip:
        posteriors = (posteriors + net(images.flip(3)).float().softmax(1)) / 2
    return posteriors


def nearest_covered(scale: int) -> int:
    """Return the multiple of 32 nearest to a test scale. At it, the score map covers the whole smallest side.

    If two are equally near, return the larger.
    """
    return (2 * scale + STRIDE) // (2 * STRIDE) * STRIDE


def left_out(scale: int) -> str:
    """Return a line that says how much a score map at test scale Q leaves out; empty if that is little.

    The cells of a score map see crops 32 pixels apart, from the upper left corner on. No cell sees what remains
    of the image at the right and the bottom.
    """
    rest = scale % STRIDE
    if rest <= MUCH * scale:
        return ""
    return (
        f"dense, Q = {scale}: the score map leaves out the last {rest} pixels of the smallest side; "
        f"at Q = {scale - rest} or {scale - rest + STRIDE} it covers the whole side"
    )
