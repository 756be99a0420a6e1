"""Speed of exported files: int8 and float32 in ONNX Runtime, and verydeep itself.

Claim: for one image and for a mini-batch of 8, an int8 file of net D takes at most the time of the float32 file in
ONNX Runtime. The three take turns, with the same number of threads, and medians over the rounds are reported. The
weights are random, which does not change the time. Run it on a machine that does nothing else.

    python benchmarks/export.py PHOTOGRAPHS
"""

import sys
import tempfile
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor

import verydeep
from claims import Claim, Observation, destination, options, record
from photographs import write_photographs
from verydeep.exports.checking import expected
from verydeep.exports.quantisation import median_seconds
from verydeep.exports.runtime import runner

OURS = "verydeep"


def main() -> int:
    parser = options(__doc__, "export")
    parser.add_argument("photographs", nargs="?", type=Path, help="a folder of photographs, for the calibration")
    arguments = parser.parse_args()
    if arguments.photographs is None and not arguments.smoke:
        parser.error("name a folder of photographs")
    small = verydeep.ConvNet("D", crop=64, width=1 / 16, fully_connected=32)
    net = (small if arguments.smoke else verydeep.ConvNet("D")).eval()
    verydeep.initialise(net, "he", seed=0)
    rounds = 3 if arguments.smoke else 51
    with tempfile.TemporaryDirectory() as folder:
        photographs = arguments.photographs or Path(folder) / "photographs"
        if arguments.photographs is None:
            write_photographs(photographs, 10, 80, 100)
        exact = verydeep.export(net, Path(folder) / "float32.onnx")
        int8 = verydeep.export(net, Path(folder) / "int8.onnx", calibrate=photographs)

        def ours(images: Tensor) -> dict[str, Tensor]:
            return expected(net, images)

        runs = {"int8": runner(int8.path), "float32": runner(exact.path), OURS: ours}
        seconds = {}
        for batch in (1, 8):
            images = torch.randint(0, 256, (batch, 3, net.crop, net.crop)).float()
            found = median_seconds(list(runs.values()), images, rounds)
            seconds[batch] = dict(zip(runs, found, strict=True))
    threads = torch.get_num_threads()
    claims = [
        Claim(
            f"int8 file of net D, {batch} of {net.crop} x {net.crop}, in ONNX Runtime with {threads} threads",
            times["int8"] / times["float32"],
            "of the time of the float32 file",
            {"at most": 1.0},
        )
        for batch, times in seconds.items()
    ]
    observations = [
        Observation(
            f"int8 file of net D, {batch} of {net.crop} x {net.crop}, with {threads} threads",
            times["int8"] / times[OURS],
            "of the time of verydeep in float32",
        )
        for batch, times in seconds.items()
    ]
    details = {
        "seconds": {str(batch): times for batch, times in seconds.items()},
        "rounds": rounds,
        "bytes": {"int8": int8.bytes, "float32": exact.bytes},
    }
    versions = {"onnxruntime": onnxruntime.__version__}
    return record(destination(arguments), claims, observations, versions=versions, details=details)


if __name__ == "__main__":
    sys.exit(main())
