"""Paired tests: whether one way of classifying has a lower error than another on the same images and seeds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64
from scipy import stats

DRAWS = 10_000
_LEVEL = 0.95
_QUANTILE_OF_POWER = float(stats.norm.ppf(0.8))
_CHUNK = 4_000_000  # counts held at once, 32 MB
_ROUNDING = 1e-12  # differences are of the order of 1; their sums are off by less


@dataclass(frozen=True)
class Difference:
    """A mean difference over images and seeds, with its uncertainty. All but p have the unit of the sample."""

    mean: float
    low: float
    """Lower end of the 95% interval."""
    high: float
    p: float
    """Two-sided, for the hypothesis of no difference; never below 2 / draws."""
    detectable: float
    """The smallest true difference detectable at the 5% level with 80% power, given this spread."""
    by_seed: tuple[float, ...]
    """The mean over the images, per seed."""


def differences(
    samples: Sequence[Float64[np.ndarray, "_ N"]], draws: int = DRAWS, seed: int = 0
) -> list[Difference]:
    """Return mean differences with 95% intervals over both images and seeds, by a bootstrap.

    Images are resampled, with their values averaged over seeds, so their spread already includes the effect of a
    seed on single images. Seeds are too few to resample: three give only ten distinct resamples, with two thirds
    of the right variance. Instead, each draw adds a t-distributed seed effect, with one degree of freedom less
    than there are seeds. Its variance is the variance of the seeds' means that single images do not explain: the
    estimate of a two-way analysis of variance, or 0 if that is negative.

    With three or more seeds, 3 to 7% of true zeros fall outside the interval, and up to 9% if seeds matter several
    times as much as images. Two seeds say so little about their own spread that none of it is attributed to
    images; 0 to 4% of true zeros fall outside.

    Each resample also draws from two additional images, one gained and one lost (after Agresti and Min, Statistics
    in Medicine 24, 2005). Without them, data without any difference would imply certainty that there is none.

    Args:
        samples: differences of the order of 1 (of errors, or of log-losses in nats), one row per seed and one
            column per image. All samples are of the same images, which are resampled together; the number of seeds
            may differ. With one seed, the interval covers other images but the same trained nets.
        draws: number of resamples.
        seed: seed of the resampling. The result of a sample does not depend on the others.
    """
    if not samples:
        return []
    deviations = _resampled(np.stack([sample.mean(0) for sample in samples], axis=1), draws, seed)
    return [_difference(sample, deviations[:, column], seed) for column, sample in enumerate(samples)]


def mcnemar(gained: int, lost: int) -> float:
    """Return the exact two-sided p of McNemar's test, if gaining and losing an image are equally likely."""
    return float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def gained_and_lost(wrong: Bool[np.ndarray, " N"], against: Bool[np.ndarray, " N"]) -> tuple[int, int]:
    """Return the number of images that only `against` gets wrong, and the number that only `wrong` does."""
    return int((against & ~wrong).sum()), int((wrong & ~against).sum())


def _resampled(values: Float64[np.ndarray, "N R"], draws: int, seed: int) -> Float64[np.ndarray, "draws R"]:
    """Return the deviations of the columns' means over resampled images from their means over all images."""
    images, columns = values.shape
    one_each_way = np.array([[1.0], [-1.0]]) * np.ones(columns)
    centred = np.concatenate([values - values.mean(0), one_each_way])
    share = np.full(len(centred), 1 / len(centred))
    rng = np.random.default_rng(seed)
    at_once = max(1, _CHUNK // len(centred))
    chunks = [min(at_once, draws - first) for first in range(0, draws, at_once)]
    drawn = np.concatenate([rng.multinomial(images, share, size=n) @ centred for n in chunks])
    return np.asarray(drawn / images)


def _difference(
    sample: Float64[np.ndarray, "S N"], deviations: Float64[np.ndarray, " draws"], seed: int
) -> Difference:
    seeds, draws = len(sample), len(deviations)
    mean, variance = float(sample.mean()), _variance_of_seeds(sample)
    drawn = mean + deviations
    if variance:
        effects = np.random.default_rng((seed, seeds)).standard_t(seeds - 1, draws)
        drawn = drawn + np.sqrt(variance) * effects
    low, high = np.quantile(drawn, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    beyond = min((drawn <= _ROUNDING).sum(), (drawn >= -_ROUNDING).sum())
    error = np.sqrt(deviations.var() + variance)
    return Difference(
        mean,
        float(low),
        float(high),
        p=min(1.0, 2 * max(1, int(beyond)) / draws),
        detectable=float((high - low) / 2 + _QUANTILE_OF_POWER * error),
        by_seed=tuple(sample.mean(1).tolist()),
    )


def _variance_of_seeds(sample: Float64[np.ndarray, "S N"]) -> float:
    """Return the variance of the mean due to seeds, beyond that of the images each gets right by chance."""
    seeds, images = len(sample), len(sample[0])
    if seeds == 1:
        return 0.0
    by_seed, by_image = sample.mean(1, keepdims=True), sample.mean(0, keepdims=True)
    between = float(by_seed.var(ddof=1)) / seeds
    if seeds == 2 or images == 1:
        return between
    rest = sample - by_seed - by_image + sample.mean()
    chance = float((rest**2).sum()) / ((seeds - 1) * (images - 1) * seeds * images)
    return max(0.0, between - chance)
