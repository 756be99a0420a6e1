"""Speed of whole testing passes of net D on one NVIDIA GPU, and what each of their measures gains.

The images are noise that lies in memory at its rescaled size, so that decoding does not hide what is compared.
Workers read them as usual; mirror images are used. Each variant of a pass differs in one thing from what the
package does: smaller or larger mini-batches, weights that autocast converts at every call, posteriors that are
fetched after each mini-batch, or cuDNN's benchmark the other way round. The variants take turns for several
rounds; rates are medians, and include the start of the workers. Nothing is claimed.

    python benchmarks/gpu_testing.py
"""

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from unittest.mock import patch

import numpy as np
import torch

import verydeep
from claims import Observation, destination, options, record
from verydeep.computing import Computing
from verydeep.datasets.dataset import Dataset
from verydeep.distributed import Ranks
from verydeep.evaluation import batches, posteriors
from verydeep.evaluation.protocols import Pass
from verydeep.workers import reading_workers

OURS = "verydeep"
SHAPES = ((256, 341), (341, 256), (256, 384))
"""Height and width of the images, rescaled to Q = 256."""


@dataclass(frozen=True)
class Case:
    """A pass over some images."""

    one: Pass
    images: int


CASES = (Case(Pass("dense", 256), 4000), Case(Pass("multi-crop", 256), 400), Case(Pass("centre-crop", 256), 12000))


@contextmanager
def fetched_at_once() -> Iterator[None]:
    """Copy posteriors back after each mini-batch."""
    original = posteriors.Rows.add

    def add(self: posteriors.Rows, rows: list[int], found: torch.Tensor) -> None:
        original(self, rows, found)
        self.fetch()

    with patch.object(posteriors.Rows, "add", add):
        yield


@contextmanager
def other_benchmark() -> Iterator[None]:
    """Turn cuDNN's benchmark on where it is off, and off where it is on."""
    original = Computing.settings

    def settings(
        self: Computing, device: torch.device, fixed_shapes: bool = False
    ) -> AbstractContextManager[None]:
        return original(self, device, not fixed_shapes)

    with patch.object(Computing, "settings", settings):
        yield


VARIANTS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    OURS: nullcontext,
    "mini-batches of 2^21 pixels": lambda: patch.object(batches, "GPU_BATCH_PIXELS", 2**21),
    "mini-batches of 2^24 pixels": lambda: patch.object(batches, "GPU_BATCH_PIXELS", 2**24),
    "weights converted by autocast": lambda: patch.object(posteriors, "half_weights", lambda *_: nullcontext()),
    "posteriors fetched at once": fetched_at_once,
    "cuDNN's benchmark the other way round": other_benchmark,
}


def images_of(count: int) -> Dataset:
    """Return a data set of noise, of which each shape is a third."""
    chance = np.random.default_rng(0)
    few = [chance.integers(0, 256, (*shape, 3), np.uint8) for shape in SHAPES]
    photographs = tuple(few[row % len(few)] for row in range(count))
    return Dataset("noise", tuple(map(str, range(1000))), photographs, np.zeros(count, np.int64))


def compare(case: Case, net: verydeep.ConvNet, here: Ranks, computing: Computing, rounds: int) -> dict[str, float]:
    """Return images per second of each variant."""
    dataset = images_of(case.images)
    rates: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for number in range(rounds + 1):  # the first is not counted
        for name, variant in VARIANTS.items():
            with variant():
                started = time.perf_counter()
                posteriors.posteriors(
                    net, dataset, [case.one.scale], case.one.method, ranks=here, computing=computing
                )
                taken = time.perf_counter() - started
            if number:
                rates[name].append(case.images / taken)
    return {name: round(statistics.median(each), 1) for name, each in rates.items()}


def main() -> int:
    parser = options(__doc__, "gpu_testing")
    parser.add_argument("--rounds", type=int, default=2, help="[default: %(default)s]")
    parser.add_argument("--only", nargs="*", help="methods, such as dense [default: all]")
    parser.add_argument("--precision", default="bf16", help="[default: %(default)s]")
    given = parser.parse_args()
    if not torch.cuda.is_available() and not given.smoke:
        raise SystemExit("no CUDA GPU; --smoke tries the script on a CPU")
    here = Ranks(device=torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    workers = 0 if given.smoke else reading_workers(None, here.device)
    computing = Computing(given.precision, workers, progress=False)
    small = {"width": 1 / 16, "fully_connected": 32} if given.smoke else {}
    net = verydeep.ConvNet("D", **small).to(here.device).eval()  # type: ignore[arg-type]
    versions = {"GPU": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    seen: list[Observation] = []
    for case in CASES:
        if given.only and case.one.method not in given.only:
            continue
        rates = compare(
            Case(case.one, 1 if given.smoke else case.images),
            net,
            here,
            computing,
            1 if given.smoke else given.rounds,
        )
        ours = rates.pop(OURS)
        what = f"D, {case.one.method}, Q = {case.one.scale}, {given.precision}, {workers} workers"
        seen.append(Observation(f"{what}: speed of a pass", ours, "images/s", rates))
        # Written after each case, so that a time limit costs one case.
        record(destination(given), [], seen, versions=versions)
    return 0


if __name__ == "__main__":
    sys.exit(main())
