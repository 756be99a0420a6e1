"""Make one measurement of benchmarks/engine.py with another runtime, in its own environment, and print JSON."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

WHO, FOLDER, BATCH = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
MODEL = FOLDER / f"D-{BATCH}.onnx"
x = np.load(FOLDER / f"images-{BATCH}.npy")
THREADS = 2

Run = Callable[[], Any]
"""A pass, which returns class scores as a numpy array."""


def onnx_runtime() -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(MODEL, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"images": x})[0]


def openvino() -> Run:
    import openvino as ov

    precision = "bf16" if "bf16" in WHO else "f32"
    settings = {
        "INFERENCE_NUM_THREADS": THREADS,
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "LATENCY",
    }
    model = ov.Core().compile_model(str(MODEL), "CPU", settings)
    return lambda: model([x])[0]


def mnn() -> Run:
    import MNN

    converted = FOLDER / f"D-{BATCH}.mnn"
    if not converted.exists():
        from MNN.tools import mnnconvert  # noqa: F401

        converter = Path(sys.executable).parent / "mnnconvert"
        words: list[Any] = [
            converter,
            "-f",
            "ONNX",
            "--modelFile",
            MODEL,
            "--MNNModel",
            converted,
            "--bizCode",
            "D",
        ]
        subprocess.run(words, check=True, capture_output=True)
    runtime = MNN.nn.create_runtime_manager(
        ({"backend": "CPU", "precision": "high", "numThread": THREADS, "memory": "high"},)
    )
    net = MNN.nn.load_module_from_file(str(converted), ["images"], ["scores"], runtime_manager=runtime)
    placed = MNN.expr.convert(MNN.expr.const(x, list(x.shape), MNN.expr.NCHW), MNN.expr.NC4HW4)
    return lambda: np.array(net.forward([placed])[0].read())


def ncnn() -> Run:
    import ncnn as runtime

    parameters = FOLDER / "D_1.ncnn.param"  # ncnn has no batches: one image after another
    if not parameters.exists():
        words: list[Any] = [Path(sys.executable).parent / "pnnx", "D-1.onnx", "inputshape=[1,3,224,224]", "fp16=0"]
        subprocess.run(words, check=True, capture_output=True, cwd=FOLDER)
    net = runtime.Net()
    net.opt.num_threads = THREADS
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.use_bf16_storage = False
    net.load_param(str(parameters))
    net.load_model(str(parameters.with_suffix(".bin")))

    def run() -> Any:
        scores = []
        for image in x:
            with net.create_extractor() as extractor:
                extractor.input("in0", runtime.Mat(image))
                scores.append(np.array(extractor.extract("out0")[1]).reshape(-1))
        return np.stack(scores)

    return run


run = {"ONNX Runtime": onnx_runtime, "OpenVINO": openvino, "OpenVINO bf16": openvino, "MNN": mnn, "ncnn": ncnn}[
    WHO
]()
found = []
for _ in range(7):
    start = time.perf_counter()
    scores = run()
    found.append(time.perf_counter() - start)
exact = np.load(FOLDER / "scores.npy")
error = float(np.linalg.norm(scores.reshape(BATCH, -1)[:1] - exact) / np.linalg.norm(exact))
package = {"ONNX Runtime": "onnxruntime", "MNN": "MNN", "ncnn": "ncnn"}.get(WHO, "openvino")
print(json.dumps({"ms": 1000 * statistics.median(found[2:]) / BATCH, "error": error, "version": version(package)}))
