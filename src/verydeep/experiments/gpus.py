"""What GPUs make of net D (VGG-16) by published measurements, and what they make of a plan by that."""

from dataclasses import dataclass

from verydeep.configurations import CONFIGURATIONS
from verydeep.experiments.cost import FORTH_AND_BACK


@dataclass(frozen=True)
class Gpu:
    """One GPU, or several in one machine, and a published measurement of it."""

    name: str
    precision: str
    images_per_second: float
    """Training of net D with 1000 classes on crops of 224."""
    source: str
    """Where that is published, and how it was measured."""
    dollars_an_hour: float | None = None
    """US dollars for all of it; None where no price with a source is known."""
    price_source: str = ""


GPUS = (
    Gpu(
        "4 x Titan Black",
        "fp32",
        370_000 * 256 / (2.5 * 7 * 86_400),
        "Simonyan and Zisserman (2015), Sect. 3.1 and 3.3: 370,000 iterations of 256 images in two to three "
        "weeks, here two and a half; real data",
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
        "github.com/tensorpack/benchmarks, other-wrappers, 2018: one GPU of Amazon's p3.16xlarge, made-up data",
        3.06,
        "Amazon EC2 on demand, p3.2xlarge, Linux, N. Virginia, 14 September 2026",
    ),
    Gpu(
        "8 x V100",
        "fp32",
        1471.0,
        "github.com/tensorpack/benchmarks, other-wrappers, 2018: Amazon EC2 p3.16xlarge, made-up data",
    ),
    Gpu(
        "RTX 3090",
        "fp16 where torch's autocast uses it",
        546.06,
        "github.com/huggingface/pytorch-image-models, results/benchmark-train-amp-nhwc-pt112-cu113-rtx3090.csv, "
        "2022: batch 384, made-up data",
    ),
)
"""Measured and published numbers alone; for the H100 and other newer ones there is none of this net's training."""


@dataclass(frozen=True)
class GpuEstimate:
    """What a plan takes on a GPU."""

    gpu: Gpu
    hours: float
    dollars: float | None
    """None where no price is known."""


def gpu_estimates(multiply_adds: float) -> tuple[GpuEstimate, ...]:
    """Time and cost of so many multiply-adds of nets at full size on each of `GPUS`.

    Each is taken to last as long as one of net D's training, whichever net's it is, and in testing, too.
    """
    training_step = FORTH_AND_BACK * CONFIGURATIONS["D"].multiply_adds()
    return tuple(_estimate(gpu, multiply_adds / training_step / gpu.images_per_second / 3600) for gpu in GPUS)


def _estimate(gpu: Gpu, hours: float) -> GpuEstimate:
    return GpuEstimate(gpu, hours, None if gpu.dollars_an_hour is None else hours * gpu.dollars_an_hour)
