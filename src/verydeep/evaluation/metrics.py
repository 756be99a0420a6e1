"""Sect. 4: top-1 and top-5 error, and the loss."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64

from verydeep.errors import UserError

Z = 1.959963984540054
"""The 97.5% quantile of the normal distribution."""


@dataclass(frozen=True)
class Error:
    """The share of images that were classified wrongly, in [0, 1], with its 95% interval."""

    wrong: int
    images: int

    @property
    def value(self) -> float:
        """The error, in [0, 1]."""
        return self.wrong / self.images

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95% score interval for the error on the population that the images were drawn from."""
        return wilson(self.value, float(self.images))

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.2%} [{low:.2%}, {high:.2%}]"


def wilson(share: float, n: float) -> tuple[float, float]:
    """Return Wilson's 95% score interval for a share, in [0, 1], of n independent answers."""
    centre = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * np.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def top_error(posteriors: Float[np.ndarray, "N K"], labels: Int64[np.ndarray, " N"], k: int) -> Error:
    """Return the top-k error: the share of images whose class is not among the k with the highest posteriors.

    Of equal posteriors, the first counts as higher.

    Raises:
        UserError: if there are no images, or some posteriors are not finite.
    """
    return Error(int((class_ranks(posteriors, labels) >= k).sum()), len(labels))


def mean_loss(posteriors: Float[np.ndarray, "N K"], labels: Int64[np.ndarray, " N"]) -> float:
    """Return the mean of -ln(posterior of the true class). A posterior that has underflowed to 0 counts as 1e-38.

    Raises:
        UserError: if there are no images.
    """
    if not len(labels):
        raise UserError("there are no images to compute a loss on")
    own = np.take_along_axis(posteriors, labels[:, None], axis=1)
    return float(-np.log(np.maximum(own, np.finfo(np.float32).tiny), dtype=np.float64).mean())


def class_ranks(posteriors: Float[np.ndarray, "N K"], labels: Int64[np.ndarray, " N"]) -> Int64[np.ndarray, " N"]:
    """Return the rank of each image's class among its posteriors, 0 for the highest; errors as in `top_error`."""
    if not len(labels):
        raise UserError("there are no images to compute an error on")
    if not np.isfinite(posteriors).all():
        raise UserError("some posteriors are not finite; the net's training has diverged")
    own = np.take_along_axis(posteriors, labels[:, None], axis=1)
    before = np.arange(posteriors.shape[1]) < labels[:, None]
    ranks: Int64[np.ndarray, " N"] = ((posteriors > own) | ((posteriors == own) & before)).sum(1)
    return ranks
