"""Maps with channels last in memory, as all native code reads and writes them."""

from torch import Tensor


def channels_last(x: Tensor) -> Tensor:
    """Return x, (N, C, H, W), with channels last in memory; a copy only if they are not.

    This compares strides, since torch's own check ignores those of dimensions of size 1.
    """
    n, c, h, w = x.shape
    return x if x.stride() == (h * w * c, 1, w * c, c) else empty(x, n, c, h, w).copy_(x)


def empty(like: Tensor, n: int, c: int, h: int, w: int) -> Tensor:
    """Return a new map of this shape, with type and device of another tensor."""
    return like.new_empty_strided((n, c, h, w), (h * w * c, 1, w * c, c))


def empty_output(x: Tensor, outputs: int, pool: bool) -> Tensor:
    """Return a new map for the output of a convolution with that many channels, and of a pooling."""
    n, _, h, w = x.shape
    return empty(x, n, outputs, *(pooled_sides(h, w) if pool else (h, w)))


def pooled_sides(height: int, width: int) -> tuple[int, int]:
    """Return height and width after a 2x2 pooling with stride 2.

    Raises:
        ValueError: if the map has no 2 x 2 pixels.
    """
    if min(height, width) < 2:
        raise ValueError(f"a map of {height} x {width} has no 2 x 2 pixels to pool")
    return height // 2, width // 2
