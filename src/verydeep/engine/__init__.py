"""The convolution engine: 3x3 convolutions on CPUs by minimal filtering, with ReLU and pooling on the way.

`network.py` asks `served` how many layers the engine takes in one, and calls `convolutions`. What it computes is
what torch's convolution, ReLU and max-pooling compute, to rounding, unless numbers come near the largest float;
see docs/engine.md.
"""

from verydeep.engine.choice import Blocks, Choice, blocks, chosen, pairs
from verydeep.engine.memory import in_large_pages
from verydeep.engine.operators import (
    Step,
    convolutions,
    fully_connected,
    plain,
    served,
    serves_testing,
    transformed,
)

__all__ = [
    "Blocks",
    "Choice",
    "Step",
    "blocks",
    "chosen",
    "convolutions",
    "fully_connected",
    "in_large_pages",
    "pairs",
    "plain",
    "served",
    "serves_testing",
    "transformed",
]
