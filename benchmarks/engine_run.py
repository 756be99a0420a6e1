"""One measurement of benchmarks/engine.py with torch, in a process of its own; prints JSON."""

import json
import os
import statistics
import sys
import time
from pathlib import Path

WHAT, WHO = sys.argv[1], sys.argv[2]
if WHO != "verydeep":
    os.environ["VERYDEEP_ENGINE"] = "off"
if "compile" in WHO:
    os.environ["TORCHINDUCTOR_FREEZING"] = "1"

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch.nn import functional as F  # noqa: E402

import verydeep  # noqa: E402

torch.set_num_threads(2)


def new_net(name="D", **sizes):
    """Random weights that keep the signal's size, the same ones in each process.

    For PyTorch with channels last those of the convolutions have channels last, too.
    """
    torch.manual_seed(0)
    net = verydeep.ConvNet(name, **sizes)
    for parameter in net.parameters():
        if parameter.ndim == 4:
            torch.nn.init.kaiming_normal_(parameter)
    if WHO != "verydeep" and "NCHW" not in WHO:
        for layer in net.children():
            if isinstance(layer, torch.nn.Conv2d) and layer.padding != (0, 0):
                layer.to(memory_format=torch.channels_last)
    return net


def images(count, height, width):
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, 3, height, width), dtype=np.uint8))


def peak(reset=False):
    """Largest memory of this process in MiB, since it was reset; None where the system does not say."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))


def milliseconds(run, times):
    peak(reset=True)
    run()
    run()
    found = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        found.append(time.perf_counter() - start)
    return 1000 * statistics.median(found)


def testing(x):
    net = new_net().eval()
    if "NCHW" in WHO:
        net._centred = lambda images, *_: images.float() - net.mean.view(-1, 3, 1, 1)
    run = torch.compile(net) if "compile" in WHO else net
    with torch.no_grad():
        taken, most = milliseconds(lambda: run(x), 5), peak()
        scores = run(x[:1])
        exact = exact_scores(x[:1])
    error = float((scores - exact).norm() / exact.norm())
    return {"ms": taken / len(x), "error": error, "peak_mib": most, "version": torch.__version__}


def exact_scores(x):
    net = new_net().eval().double()
    with torch.no_grad():
        return net(x)


def export(folder):
    """D as ONNX for any size of batch, its input (uint8 becomes float) and exact scores."""
    net = new_net().eval()
    folder = Path(folder)
    for batch in (1, 8):
        x = images(batch, 224, 224)
        np.save(folder / f"images-{batch}.npy", x.float().numpy())
    np.save(folder / "scores.npy", exact_scores(images(1, 224, 224)).numpy())
    for batch in (1, 8):
        name = folder / f"D-{batch}.onnx"
        torch.onnx.export(
            net,
            (images(batch, 224, 224).float(),),
            name,
            input_names=["images"],
            output_names=["scores"],
            external_data=False,  # pnnx reads no other file
        )
    (folder / "D.onnx").touch()


def training(which):
    if which == "D":
        net, x, times = new_net(), images(16, 224, 224), 3
    else:
        net = new_net("A", classes=10, crop=64, width=0.25, fully_connected=1024)
        x, times = images(64, 64, 64), 25
    labels = torch.arange(len(x)) % 10
    optimiser = torch.optim.SGD(net.parameters(), lr=1e-9, momentum=0.9)

    def step():
        optimiser.zero_grad()
        F.cross_entropy(net(x), labels).backward()
        optimiser.step()

    return {"ms": milliseconds(step, times), "peak_mib": peak(), "version": torch.__version__}


if WHAT == "export":
    export(sys.argv[2])
elif WHAT == "inference":
    print(json.dumps(testing(images(int(sys.argv[4]), 224, 224))))
elif WHAT == "dense":
    width, height = map(int, sys.argv[3].split("x"))
    print(json.dumps(testing(images(1, height, width))))
elif WHAT == "training":
    print(json.dumps(training(sys.argv[3])))
