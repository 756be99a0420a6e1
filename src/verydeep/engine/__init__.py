"""The convolution engine: 3x3 convolutions on CPUs by minimal filtering, fused with ReLU and pooling.

`network.py` asks `served` how many layers the engine computes in one call, and calls `convolutions`. The results
equal those of torch's convolution, ReLU and max-pooling to rounding, unless values come near the largest float;
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
]
