"""One of several ranks that learn from the same few mini-batches in several ways; a program for test_gathering.py.

    RANK=0 WORLD_SIZE=1 python tests/gathering_rank.py FOLDER WAY...

The first rank writes how much the parameters have changed to FOLDER/WAY-RANKS.pt. All ranks have to have the same.
"""

import sys
from pathlib import Path

import torch

from verydeep.computing import Computing
from verydeep.distributed import ranks
from verydeep.network import ConvNet
from verydeep.recipe import Recipe
from verydeep.training.augmentation import MiniBatch
from verydeep.training.gathering import Gathered
from verydeep.training.initialisation import initialise
from verydeep.training.loop import let_learn
from verydeep.training.step import Execution, Step, new_optimiser

IMAGES = (7, 6, 7, 1, 2)
"""Sizes of the mini-batches: with two or three ranks, some have fewer images than others or none."""

WAYS = {
    "added": {},
    "gathered": {},
    "parts": {"micro_batch": 2},
    "recomputed": {"recompute": True},
    "bf16": {"computing": Computing("bf16")},
    "added-bf16": {"computing": Computing("bf16")},
    "compiled": {"compile": True},
    "some-learn": {},
    "added-some-learn": {},
    "resumed": {},
}
LEARNING = ("conv5_2", "fc7")


def batch_of(count, seed):
    chance = torch.Generator().manual_seed(seed)
    return MiniBatch(
        torch.randint(0, 256, (count, 3, 64, 64), dtype=torch.uint8, generator=chance),
        torch.randint(0, 5, (count,), generator=chance),
        torch.randn(count, 3, generator=chance),
        torch.randint(0, 2**62, (count,), generator=chance),
    )


def new_step(here, way):
    """A net whose fc6 has kernels of 2 x 2, and its step."""
    net = ConvNet("A", 5, crop=64, width=0.125, fully_connected=16)
    initialise(net, "glorot")
    let_learn(net, LEARNING if "some-learn" in way else ())
    execution = Execution(**WAYS[way])
    net.train().recompute = execution.recompute
    layers = [net.fc8, net.fc7, net.fc6]
    gathered = [Gathered(each, max(IMAGES), here) for each in layers if each.weight.requires_grad]
    if here.world == 1 or "added" in way:
        gathered = []
    return Step(net, new_optimiser(net, Recipe(), 1e-3), here, execution, gathered=gathered)


def learn(here, way):
    """Return how much the parameters change in a few mini-batches."""
    step = new_step(here, way)
    start = {name: parameter.detach().clone() for name, parameter in step.net.named_parameters()}
    # In bf16, differences in the last bit of a gradient grow fast.
    for number, images in enumerate(IMAGES[:1] if "bf16" in way else IMAGES):
        if way == "resumed" and number == 2:
            before, step = step, new_step(here, way)
            step.net.load_state_dict(before.net.state_dict())
            step.optimiser.load_state_dict(before.optimiser.state_dict())
        share = here.share(images)
        step(batch_of(images, number).part(slice(share.start, share.stop)), images)
    assert not any("forward" in vars(module) for module in step.net.modules())
    return {name: parameter.detach() - start[name] for name, parameter in step.net.named_parameters()}


def main(folder, ways):
    with ranks("cpu") as here:
        for way in ways:
            found = learn(here, way)
            for parameter in found.values():
                bits = parameter.view(torch.int32).double().sum().item()
                assert len(set(here.of_all(bits % 2**24))) == 1
            if here.first:
                torch.save(found, folder / f"{way}-{here.world}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
