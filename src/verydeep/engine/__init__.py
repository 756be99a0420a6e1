"""The convolution engine: 3x3 convolutions on CPUs by minimal filtering, fused with ReLU and pooling.

`network.py` asks `here` whether the engine computes at all and `served` how many layers it computes in one call,
and calls `convolutions`. The results equal those of torch's convolution, ReLU and max-pooling to rounding, unless
values come near the largest float; see docs/engine.md.
"""

from verydeep.engine.choice import Blocks, Choice, blocks, chosen, pairs
from verydeep.engine.memory import in_large_pages
from verydeep.engine.operators import (
    Step,
    convolutions,
    fully_connected,
    here,
    plain,
    served,
    serves_testing,
)

__all__ = [
    "Blocks",
    "Choice",
    "Step",
    "blocks",
    "chosen",
    "convolutions",
    "fully_connected",
    "here",
    "in_large_pages",
    "pairs",
    "plain",
    "served",
    "serves_testing",
]
