"""Tiny nets whose posteriors differ between images, and photographs of many sizes and kinds."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from verydeep.datasets.dataset import Dataset
from verydeep.distributed import Ranks
from verydeep.network import ConvNet

CLASSES = ("ant", "bee", "cat", "dog", "elk", "fox", "gnu")


def scenery(seed, height, width):
    """Return blocks of colour, so that the parts and the mirror image of a photograph look different to a net."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 16 + 1, width // 16 + 1, 3), np.uint8)
    return coarse.repeat(16, 0).repeat(16, 1)[:height, :width]


@pytest.fixture(scope="package", autouse=True)
def one_thread():
    """Run on one thread: more would slow nets this small down, most of all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def new_net():
    """A factory of nets for crops of 32. Their class scores on scenery have mean 0 and standard deviation 1."""

    def make(name="A", seed=0, classes=CLASSES):
        net = ConvNet(name, classes, crop=32, width=0.125, fully_connected=8).eval()
        chance = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in net.parameters():
                deviation = (2 / parameter[0].numel()) ** 0.5 if parameter.ndim > 1 else 0.5
                nn.init.normal_(parameter, 0.0, deviation, generator=chance)
            scores = net(torch.from_numpy(np.stack([scenery(i, 32, 32) for i in range(64)])).permute(0, 3, 1, 2))
            net.fc8.weight /= scores.std(0)[:, None, None, None]
            net.fc8.bias.copy_((net.fc8.bias - scores.mean(0)) / scores.std(0))
        return net

    return make


@pytest.fixture(scope="session")
def net(new_net):
    return new_net()


SIZES = [(40, 60), (90, 70), (33, 33), (64, 48), (40, 60), (32, 100), (128, 96), (100, 32), (80, 120), (50, 50)]
"""Height and width: some that are not neighbours become equal once rescaled."""


@pytest.fixture
def photographs(tmp_path):
    """Photographs in files: colour and grey, JPEG and PNG, one with a palette, one with an EXIF rotation."""
    paths = []
    for row, (height, width) in enumerate(SIZES):
        image = Image.fromarray(scenery(100 + row, height, width))
        options = {}
        if row % 4 == 1:
            image = image.convert("L")
        if row == 6:
            image = image.convert("P")
        if row == 8:
            options["exif"] = Image.Exif()
            options["exif"][0x0112] = 6
        path = tmp_path / "photographs" / f"{row}.{'png' if row % 2 == 0 and row != 8 else 'jpg'}"
        path.parent.mkdir(exist_ok=True)
        image.save(path, **options)
        paths.append(path)
    return Dataset("zoo/val", CLASSES, tuple(paths), np.arange(len(SIZES)) % len(CLASSES))


def softmax_in_numpy(scores):
    """Compute the soft-max over the last axis, in double precision."""
    powers = np.exp(scores.astype(np.float64) - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


@pytest.fixture(scope="session")
def softmax():
    return softmax_in_numpy


@pytest.fixture(scope="session")
def scene():
    return scenery


@dataclass(frozen=True)
class Thread(Ranks):
    """A rank that is one of the threads of this process."""

    barrier: threading.Barrier | None = None
    given: dict | None = None

    def total(self, values):
        self.given[self.rank] = values
        self.wait()
        total = sum(self.given[rank] for rank in range(self.world))
        self.wait()
        return total

    def wait(self):
        self.barrier.wait(60)


@pytest.fixture(scope="session")
def on_ranks():
    """A function that calls another on some number of ranks, and returns the results in the order of the ranks."""

    def call(world, function):
        barrier, given = threading.Barrier(world), {}

        def work(rank):
            try:
                return function(Thread(rank, world, barrier=barrier, given=given))
            except BaseException:
                barrier.abort()
                raise

        with ThreadPoolExecutor(world) as threads:
            return list(threads.map(work, range(world)))

    return call
