"""The convolution engine: 3x3 convolutions on CPUs by minimal filtering, cuDNN's on GPUs, fused with what follows.

`network.py` asks `here` whether the engine computes at all and `served` how many layers it computes in one call,
and calls `convolutions`. The results equal those of torch's convolution, ReLU and max-pooling to rounding, unless
values come near the largest float; see docs/engine.md.
"""

from verydeep.engine.choice import Blocks, Choice, blocks, chosen, pairs
from verydeep.engine.gpu import centred
from verydeep.engine.memory import in_large_pages
from verydeep.engine.operators import (
    Step,
    centres,
    computed_in,
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
    "centred",
    "centres",
    "chosen",
    "computed_in",
    "convolutions",
    "fully_connected",
    "here",
    "in_large_pages",
    "pairs",
    "plain",
    "served",
    "serves_testing",
]
