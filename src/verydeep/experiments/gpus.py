"""Published training speeds of net D (VGG-16) on GPUs, and estimates of a plan's time and cost from them."""

from dataclasses import dataclass

from verydeep.configurations import CONFIGURATIONS
from verydeep.training.cost import FORTH_AND_BACK


@dataclass(frozen=True)
class Gpu:
    """One GPU, or several in one machine, with a published measurement."""

    name: str
    precision: str
    images_per_second: float
    """Training net D with 1000 classes on crops of 224."""
    source: str
    """Publication of the measurement, and its conditions."""
    dollars_an_hour: float | None = None
    """US dollars per hour for all of it; None if no price with a source is known."""
    price_source: str = ""


GPUS = (
    Gpu(
        "4 x Titan Black",
        "fp32",
        370_000 * 256 / (2.5 * 7 * 86_400),
        "Simonyan and Zisserman (2015), Sect. 3.1 and 3.3: 370,000 iterations of 256 images in two to three "
        "weeks, taken as two and a half; real data",
    ),
    Gpu(
        "K80 (one of its two GPUs)",
        "fp32",
        36.3,
        "tensorflow.org/performance/benchmarks, May 2017: Amazon EC2 p2, batch 64, synthetic data",
        0.90,
        "Amazon EC2 on demand, p2.xlarge, Linux, N. Virginia, November 2023",
    ),
    Gpu(
        "P100",
        "fp32",
        154.0,
        "tensorflow.org/performance/benchmarks, May 2017: one GPU of a DGX-1, batch 64, synthetic data",
    ),
    Gpu(
        "V100",
        "fp32",
        226.0,
        "github.com/tensorpack/benchmarks, other-wrappers, 2018: one GPU of Amazon's p3.16xlarge, synthetic data",
        3.06,
        "Amazon EC2 on demand, p3.2xlarge, Linux, N. Virginia, 14 September 2026",
    ),
    Gpu(
        "8 x V100",
        "fp32",
        1471.0,
        "github.com/tensorpack/benchmarks, other-wrappers, 2018: Amazon EC2 p3.16xlarge, synthetic data",
    ),
    Gpu(
        "RTX 3090",
        "fp16 wherever torch's autocast uses it",
        546.06,
        "github.com/huggingface/pytorch-image-models, results/benchmark-train-amp-nhwc-pt112-cu113-rtx3090.csv, "
        "2022: batch 384, synthetic data",
    ),
)
"""Published measurements only. None is known for training this net on the H100 and other recent GPUs."""


@dataclass(frozen=True)
class GpuEstimate:
    """The time and cost of a plan on a GPU."""

    gpu: Gpu
    hours: float
    dollars: float | None
    """US dollars; None if no price is known."""


def gpu_estimates(multiply_adds: float) -> tuple[GpuEstimate, ...]:
    """Estimate the time and cost of this number of multiply-adds, of nets at full size, on each of `GPUS`.

    Every net is assumed to run at the speed of training net D, in multiply-adds per second, in testing too.
    """
    training_step = FORTH_AND_BACK * CONFIGURATIONS["D"].multiply_adds()
    return tuple(_estimate(gpu, multiply_adds / training_step / gpu.images_per_second / 3600) for gpu in GPUS)


def _estimate(gpu: Gpu, hours: float) -> GpuEstimate:
    return GpuEstimate(gpu, hours, None if gpu.dollars_an_hour is None else hours * gpu.dollars_an_hour)
