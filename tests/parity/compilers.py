"""Tools that convert a net to a graph."""

import tempfile
from pathlib import Path

import onnxruntime
import torch
from layers import scores, trained
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from trials import Values, trial


@trial("torch", "torch.compile (inductor): scores in testing", scores)
def compiled(net: nn.Module, images: Tensor) -> Values:
    return scores(torch.compile(net, fullgraph=True), images)


@trial("torch", "torch.compile (inductor): scores and gradients in training", trained, training=True)
def compiled_in_training(net: nn.Module, images: Tensor) -> Values:
    found = trained(torch.compile(net, fullgraph=True), images)
    return {name.removeprefix("_orig_mod."): value for name, value in found.items()}


@trial("torch", "torch.export.export, for batches of any size", scores)
def exported(net: nn.Module, images: Tensor) -> Values:
    sizes = ({0: torch.export.Dim("batch", min=2)},)
    program = torch.export.export(net, (images[:2],), dynamic_shapes=sizes)
    assert not any("verydeep" in str(node.target) for node in program.graph.nodes)
    return scores(program.module(), images)


@trial(
    "torch",
    "torch.fx.symbolic_trace, which other libraries' feature extractors use",
    scores,
    limit="of type Proxy",
)
def traced_by_fx(net: nn.Module, images: Tensor) -> Values:
    return scores(torch.fx.symbolic_trace(net), images)


@trial("torch", "make_fx", scores)
def traced_by_make_fx(net: nn.Module, images: Tensor) -> Values:
    with torch.no_grad():
        traced = make_fx(net)(images)
    assert "verydeep" not in str(traced.graph)
    return scores(traced, images)


@trial("torch", "torch.jit.trace", scores)
def traced_by_jit(net: nn.Module, images: Tensor) -> Values:
    return scores(torch.jit.trace(net, images), images)


@trial("onnxruntime", "torch.onnx.export (dynamo), run by onnxruntime", scores)
def by_onnx(net: nn.Module, images: Tensor) -> Values:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        torch.onnx.export(net, (images,), path, dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    return {"scores": torch.from_numpy(found)}
