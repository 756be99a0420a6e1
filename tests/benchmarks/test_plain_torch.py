"""The peer in plain torch computes the same as the nets of the package."""

import pytest
import torch

import verydeep
from plain_torch import plain_torch, pooled


@pytest.mark.parametrize("name", ["A", "B", "C", "D", "E", "B-5x5"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_it_gives_the_same_scores(name, layout):
    torch.manual_seed(0)
    net = verydeep.ConvNet(name, classes=5, crop=64, width=0.125, fully_connected=16).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim == 4:
                torch.nn.init.kaiming_normal_(parameter)
        crops = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
        image = torch.randint(0, 256, (1, 3, 70, 131), dtype=torch.uint8)
        weights = net.state_dict()
        for images, dense in ((crops, False), (crops, True), (image, True)):
            exact = plain_torch(weights, dense, layout).eval().double()(images)
            scores = net(images)
            assert scores.std() > 0.01
            torch.testing.assert_close(scores.double(), exact, rtol=1e-4, atol=1e-4 * float(exact.abs().max()))


def test_its_weights_are_its_own():
    net = verydeep.ConvNet("A", classes=5, crop=32, width=0.125, fully_connected=16)
    before = net.state_dict()["conv1_1.weight"].clone()
    with torch.no_grad():
        for parameter in plain_torch(net.state_dict()).parameters():
            parameter.zero_()
    assert torch.equal(net.state_dict()["conv1_1.weight"], before)
    assert before.any()


def test_it_pools_behind_each_block():
    weights = verydeep.ConvNet("D", classes=5, crop=32, width=0.125, fully_connected=16).state_dict()
    assert [name for name, pool in pooled(weights).items() if pool] == [
        "conv1_2", "conv2_2", "conv3_3", "conv4_3", "conv5_3",
    ]  # fmt: skip
    assert len(pooled(weights)) == 13
