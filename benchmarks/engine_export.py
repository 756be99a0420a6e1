"""Export the net of benchmarks/engine.py for other runtimes: D-BATCH.onnx, in a folder that has its weights.

This needs only torch, onnx and onnxscript, in a separate environment.

    python benchmarks/engine_export.py FOLDER BATCH...
"""

import sys
from pathlib import Path

import numpy as np
import torch

from plain_torch import plain_torch


def main() -> None:
    folder = Path(sys.argv[1])
    net = plain_torch(torch.load(folder / "weights.pt", weights_only=True)).eval()
    for batch in sys.argv[2:]:
        torch.onnx.export(
            net,
            (torch.from_numpy(np.load(folder / f"images-{batch}.npy")),),
            folder / f"D-{batch}.onnx",
            input_names=["images"],
            output_names=["scores"],
            external_data=False,  # pnnx reads only one file
        )


if __name__ == "__main__":
    main()
