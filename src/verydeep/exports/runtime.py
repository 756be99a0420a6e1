"""Run ONNX files in ONNX Runtime."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from verydeep.exports.checking import Outputs
from verydeep.exports.missing import needed
from verydeep.exports.onnx import IMAGES

_ERRORS = 3
"""ONNX Runtime's severity of errors; it would also print warnings."""


def name() -> str:
    """Return the name and version of ONNX Runtime."""
    return f"ONNX Runtime {needed('onnxruntime').__version__}"


def session(path: Path, threads: int) -> Any:
    """Return an `InferenceSession` on the CPU."""
    onnxruntime = needed("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = _ERRORS
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def runner(path: Path, threads: int | None = None) -> Outputs:
    """Return a function that computes the outputs, by name, from a file; threads are torch's by default."""
    running = session(path, threads or torch.get_num_threads())
    names = [each.name for each in running.get_outputs()]

    def run(images: Tensor) -> dict[str, Tensor]:
        found = running.run(None, {IMAGES: images.numpy()})
        return {name: torch.from_numpy(array) for name, array in zip(names, found, strict=True)}

    return run
