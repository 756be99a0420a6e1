"""The convolution engine: 3x3 convolutions on CPUs by minimal filtering, with ReLU and pooling on the way.

`network.py` asks `serves` whether the engine takes a layer, and calls `convolution`. What it computes is what
torch's convolution, ReLU and max-pooling compute, to rounding; see docs/engine.md.
"""

from verydeep.engine.choice import Blocks, Choice, blocks, chosen, pairs
from verydeep.engine.operators import (
    convolution,
    convolution_pair,
    fully_connected,
    serves,
    serves_pair,
    serves_testing,
)

__all__ = [
    "Blocks",
    "Choice",
    "blocks",
    "chosen",
    "convolution",
    "convolution_pair",
    "fully_connected",
    "pairs",
    "serves",
    "serves_pair",
    "serves_testing",
]
