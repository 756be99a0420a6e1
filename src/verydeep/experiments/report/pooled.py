"""Sect. 4: the error of a row over several seeds, with its interval over images and its spread over seeds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from verydeep.evaluation.metrics import wilson
from verydeep.experiments.results import Outcomes


@dataclass(frozen=True)
class PooledError:
    """A share of images that were classified wrongly, in [0, 1], over seeds."""

    seeds: tuple[float, ...]
    """Of each seed alone."""
    interval: tuple[float, float]
    """Of their mean: what it may be, at 95%, on the population that the images were drawn from."""

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return float(np.mean(self.seeds))

    @property
    def spread(self) -> float | None:
        """Standard deviation over seeds, with n - 1; None for one seed."""
        return float(np.std(self.seeds, ddof=1)) if len(self.seeds) > 1 else None


def pooled_error(outcomes: Outcomes, key: str, seeds: Sequence[int], k: int) -> PooledError:
    """The top-k error of a row.

    The interval is Wilson's, with that number of independent answers that would have the variance which the images
    really show: all seeds answer about the same images, so that three seeds are worth more than one and less than
    three times as many images. With one seed it is Wilson's own.

    Args:
        outcomes: of the experiment.
        key: of the row.
        seeds: those that measured it, at least one.
        k: within how many of the highest posteriors the image's class must be.

    Raises:
        KeyError: where a seed has not measured it.
    """
    wrong = np.stack([outcomes.rank[key, seed] >= k for seed in seeds]).astype(np.float64)
    share, of_image = float(wrong.mean()), wrong.mean(0)
    images = of_image.size
    variance = float(of_image.var()) / images
    answers = share * (1 - share) / variance if variance > 0 else images
    return PooledError(tuple(wrong.mean(1).tolist()), wilson(share, float(answers)))
