"""Small nets that are exported."""

import pytest
import torch

import verydeep


@pytest.fixture
def small():
    """A function that makes a small net."""

    def make(configuration="A", classes=5, crop=32, **named):
        torch.manual_seed(1)
        net = verydeep.ConvNet(configuration, classes, crop=crop, width=1 / 16, fully_connected=12, **named)
        verydeep.initialise(net, "he", seed=1)
        return net.eval()

    return make


@pytest.fixture
def images():
    """A function that makes raw images, float32."""

    def make(number, height, width, seed=0):
        seeded = torch.Generator().manual_seed(seed)
        return torch.randint(0, 256, (number, 3, height, width), generator=seeded).float()

    return make
