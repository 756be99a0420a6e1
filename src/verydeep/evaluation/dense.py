"""Sect. 3.2: the net applied densely to the whole, uncropped image."""

from jaxtyping import Float, UInt8
from torch import Tensor

from verydeep.network import ConvNet


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
