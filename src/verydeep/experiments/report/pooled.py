"""Sect. 4: the error of a row over several seeds, with its interval over images and its spread over seeds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from verydeep.evaluation.metrics import wilson
from verydeep.experiments.results import Outcomes


@dataclass(frozen=True)
class PooledError:
    """A share of misclassified images, in [0, 1], over several seeds."""

    seeds: tuple[float, ...]
    """The error of each seed."""
    interval: tuple[float, float]
    """The 95% interval of their mean, for the population from which the images were drawn."""

    @property
    def mean(self) -> float:
        """The mean over seeds."""
        return float(np.mean(self.seeds))

    @property
    def spread(self) -> float | None:
        """The standard deviation over seeds, with n - 1; None for one seed."""
        return float(np.std(self.seeds, ddof=1)) if len(self.seeds) > 1 else None


def pooled_error(outcomes: Outcomes, key: str, seeds: Sequence[int], k: int) -> PooledError:
    """Return the top-k error of a row.

    The interval is Wilson's, for the effective number of independent answers: the number that would have the
    variance observed over images. All seeds classify the same images, so three seeds are worth more than one but
    less than three times as many images. With one seed it is the usual Wilson interval.

    Args:
        outcomes: outcomes of the experiment.
        key: key of the row.
        seeds: the seeds that measured it, at least one.
        k: an image is correct if its class is among the k highest posteriors.

    Raises:
        KeyError: if a seed has not measured it.
    """
    wrong = np.stack([outcomes.rank[key, seed] >= k for seed in seeds]).astype(np.float64)
    share, of_image = float(wrong.mean()), wrong.mean(0)
    images = of_image.size
    variance = float(of_image.var()) / images
    answers = share * (1 - share) / variance if variance > 0 else images
    return PooledError(tuple(wrong.mean(1).tolist()), wilson(share, float(answers)))
