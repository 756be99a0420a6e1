"""Training net D from JPEG files on one NVIDIA GPU: images per second, and the share of the time spent waiting.

All cores but one decode, rescale, crop and mirror (Sect. 3.1, S drawn from [256; 512]); the GPU trains in
bfloat16 with 256 images per mini-batch. The photographs of the folder are repeated to form an epoch, so they come
from the system's file cache. The same step with images in the memory of the GPU is measured in the same run.

    python benchmarks/gpu_files.py PHOTOGRAPHS
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

import verydeep
from claims import Observation, destination, options, record
from gpu_machine import device_for, milliseconds, versions
from gpu_throughput import Case, our_training, small
from photographs import write_photographs
from verydeep.datasets.dataset import Dataset
from verydeep.distributed import cores


def main() -> int:
    parser = options(__doc__, "gpu_files")
    parser.add_argument("folder", type=Path, nargs="?", help="a folder of photographs")
    parser.add_argument("--iterations", type=int, default=24, help="mini-batches per epoch [default: %(default)s]")
    arguments = parser.parse_args()
    device = device_for(arguments.smoke)
    if arguments.folder is None and not arguments.smoke:
        parser.error("pass a folder of photographs")
    batch = 2 if arguments.smoke else 256
    recipe = verydeep.Recipe(
        net="A" if arguments.smoke else "D",
        width=1 / 16 if arguments.smoke else 1.0,
        fully_connected=32 if arguments.smoke else 4096,
        training_scale=(256, 512),
        initialisation="glorot",
        batch=batch,
        epochs=3,
        learning_rate=1e-3,
    )
    with tempfile.TemporaryDirectory() as made:
        folder = arguments.folder or Path(made) / "photographs"
        if arguments.folder is None:
            write_photographs(folder, 4, 300, 400)
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
        count = (2 if arguments.smoke else arguments.iterations) * batch
        photographs = tuple(paths[number % len(paths)] for number in range(count))
        classes = tuple(f"class {number}" for number in range(10))
        training = Dataset(str(folder), classes, photographs, np.arange(count) % 10)
        validation = Dataset(str(folder), classes, tuple(paths[:10]), np.arange(min(10, len(paths))))
        precision = "bf16" if device.type == "cuda" else "fp32"
        run = verydeep.train(
            training,
            recipe,
            Path(made) / "run",
            validation=validation,
            device=device.type,
            precision=precision,  # type: ignore[arg-type]
        )
        lines = [json.loads(line) for line in (run.path / "log.jsonl").read_text().splitlines()]
        environment = json.loads((run.path / "environment.json").read_text())
    epoch = [line for line in lines if "images_per_second" in line][-1]
    net = (small() if arguments.smoke else verydeep.ConvNet("D", 10)).to(device)
    verydeep.initialise(net, "glorot", seed=0)
    torch.backends.cudnn.benchmark = True
    step = milliseconds(our_training(net, Case("training", precision, batch, 1), device), device, rounds=5)
    what = f"D, training from JPEG files, {precision}, {batch} images per mini-batch, {cores()} cores"
    seen = [
        Observation(f"{what}: speed", round(epoch["images_per_second"], 1), "images/s"),
        Observation(f"{what}: share of the time spent waiting for images", round(epoch["waiting_share"], 4), ""),
        Observation("the same with images in the memory of the GPU", round(batch / step * 1e3, 1), "images/s"),
    ]
    return record(
        destination(arguments),
        [],
        seen,
        versions=versions(),
        details={"workers": environment[-1]["computing"]["workers"]},
    )


if __name__ == "__main__":
    sys.exit(main())
