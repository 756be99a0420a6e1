"""VGGs of other systems, made up: random weights, each system's own file, and its own scores in float64.

Nothing here uses this project: files are written from the formats' descriptions, and scores are computed from the
same numbers as that system would.
"""

import io
import json
import pickle
import zipfile
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn import functional as F

TABLE = {
    "A": [[64], [128], [256, 256], [512, 512], [512, 512]],
    "B": [[64, 64], [128, 128], [256, 256], [512, 512], [512, 512]],
    "C": [[64, 64], [128, 128], [256, 256, 256], [512, 512, 512], [512, 512, 512]],
    "D": [[64, 64], [128, 128], [256, 256, 256], [512, 512, 512], [512, 512, 512]],
    "E": [[64, 64], [128, 128], [256] * 4, [512] * 4, [512] * 4],
}

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CAFFE_MEAN = (123.68, 116.779, 103.939)


@dataclass
class Made:
    """A net: kernels outputs x inputs x height x width, matrices outputs x inputs."""

    blocks: list
    dense: list
    normalised: list = field(default_factory=list)
    """Scale, shift, mean and variance after each convolution."""

    @property
    def convolutions(self):
        return [pair for block in self.blocks for pair in block]


def made(name="A", side=1, width=16, hidden=12, classes=5, seed=0, head=True, batch_norm=False):
    """Random numbers, none of them trivial; channels are those of Table 1 divided by `width`."""
    random = np.random.default_rng(seed)
    channels, blocks, normalised = 3, [], []
    for block in TABLE[name]:
        blocks.append([])
        for number, full in enumerate(block):
            k = 1 if name == "C" and number == 2 else 3
            out = full // width
            weight = random.standard_normal((out, channels, k, k)) * np.sqrt(2 / (channels * k * k))
            blocks[-1].append((weight.astype(np.float32), random.standard_normal(out).astype(np.float32)))
            if batch_norm:
                values = [
                    random.uniform(0.5, 2, out),
                    *random.standard_normal((2, out)),
                    random.uniform(0.3, 3, out),
                ]
                normalised.append([value.astype(np.float32) for value in values])
            channels = out
    dense, inputs = [], channels * side * side
    for out in (hidden, hidden, classes) if head else ():
        weight = random.standard_normal((out, inputs)) * np.sqrt(2 / inputs)
        dense.append((weight.astype(np.float32), random.standard_normal(out).astype(np.float32)))
        inputs = out
    return Made(blocks, dense, normalised)


def photographs(side, seed=1, count=2):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (count, 3, side, side), dtype=np.uint8))


def torchvision_input(images):
    """RGB in 0..1, less its mean, divided by its spread."""
    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (MEAN, STD))
    return (images.double() / 255 - mean) / std


def caffe_input(images, mean=CAFFE_MEAN):
    """BGR in 0..255, less the mean colour."""
    return (images.double() - torch.tensor(mean, dtype=torch.float64).view(3, 1, 1)).flip(1)


def maps(net, x):
    """The first convolution's output and the last pooling's, in float64."""
    first, statistics = None, iter(net.normalised)
    for block in net.blocks:
        for weight, bias in block:
            w, b = torch.from_numpy(weight).double(), torch.from_numpy(bias).double()
            x = F.conv2d(x, w, b, padding=w.shape[-1] // 2)
            if net.normalised:
                scale, shift, mean, variance = (torch.from_numpy(each).double() for each in next(statistics))
                x = F.batch_norm(x, mean, variance, scale, shift, eps=1e-5)
            first = x if first is None else first
            x = F.relu(x)
        x = F.max_pool2d(x, 2)
    return first, x


def scores(net, x, order="CHW"):
    """Class scores in float64; the map is flattened as `order` says."""
    _, x = maps(net, x)
    x = (x if order == "CHW" else x.permute(0, 2, 3, 1)).flatten(1)
    for number, (weight, bias) in enumerate(net.dense):
        x = F.linear(x, torch.from_numpy(weight).double(), torch.from_numpy(bias).double())
        x = F.relu(x) if number < 2 else x
    return x


def difference(found, wanted):
    """Largest error relative to the largest value."""
    return ((found.double() - wanted).abs().max() / wanted.abs().max()).item()


# torch


def torchvision_state(net):
    state, number = {}, 0
    statistics = iter(net.normalised)
    for block in net.blocks:
        for weight, bias in block:
            state |= {f"features.{number}.weight": weight, f"features.{number}.bias": bias}
            number += 1
            if net.normalised:
                names = ("weight", "bias", "running_mean", "running_var")
                state |= {
                    f"features.{number}.{name}": one for name, one in zip(names, next(statistics), strict=True)
                }
                state[f"features.{number}.num_batches_tracked"] = np.array(7)
                number += 1
            number += 1
        number += 1
    for number, (weight, bias) in zip((0, 3, 6), net.dense, strict=False):
        state |= {f"classifier.{number}.weight": weight, f"classifier.{number}.bias": bias}
    return {name: torch.from_numpy(np.array(value)) for name, value in state.items()}


def timm_state(net):
    """timm keeps fc6 and fc7 as convolutions."""
    state = {name: value for name, value in torchvision_state(net).items() if name.startswith("features")}
    channels = net.convolutions[-1][0].shape[0]
    for name, (weight, bias) in zip(("pre_logits.fc1", "pre_logits.fc2", "head.fc"), net.dense, strict=True):
        tensor = torch.from_numpy(weight)
        if name == "pre_logits.fc1":
            side = int((weight.shape[1] // channels) ** 0.5)
            tensor = tensor.reshape(-1, channels, side, side)
        elif name == "pre_logits.fc2":
            tensor = tensor[:, :, None, None]
        state |= {f"{name}.weight": tensor, f"{name}.bias": torch.from_numpy(bias)}
    return state


# Keras


def keras_layers(net):
    """Name, kernel (height x width x inputs x outputs, or inputs x outputs) and bias of each layer."""
    for b, block in enumerate(net.blocks, start=1):
        for c, (weight, bias) in enumerate(block, start=1):
            yield f"block{b}_conv{c}", weight.transpose(2, 3, 1, 0), bias
    for name, (weight, bias) in zip(("fc1", "fc2", "predictions"), net.dense, strict=False):
        yield name, weight.T, bias


def write_keras_published(path, net):
    import h5py

    with h5py.File(path, "w") as file:
        for name, kernel, bias in keras_layers(net):
            group = file.create_group(name)
            group[f"{name}_W_1:0"], group[f"{name}_b_1:0"] = kernel, bias
        file.create_group("block1_pool")


def write_keras_2(path, net):
    """A whole model of Keras 2, with its optimiser."""
    import h5py

    with h5py.File(path, "w") as file:
        for name, kernel, bias in keras_layers(net):
            group = file.create_group(f"model_weights/{name}/{name}")
            group["kernel:0"], group["bias:0"] = kernel, bias
        file["optimizer_weights/Adam/iterations:0"] = np.array(3, np.int64)
        file["optimizer_weights/Adam/block1_conv1/kernel/m:0"] = np.ones((3, 3, 3, 4), np.float32)


def write_keras_3(target, net):
    """`.weights.h5` of Keras 3, which numbers the layers of each class."""
    import h5py

    counts = {"conv2d": 0, "dense": 0}
    with h5py.File(target, "w") as file:
        for _, kernel, bias in keras_layers(net):
            kind = "conv2d" if kernel.ndim == 4 else "dense"
            name = f"{kind}_{counts[kind]}" if counts[kind] else kind
            counts[kind] += 1
            file[f"layers/{name}/vars/0"], file[f"layers/{name}/vars/1"] = kernel, bias
        file.create_group("layers/max_pooling2d/vars")
        file["layers/dropout/seed_generator/vars/0"] = np.array([1, 2], np.uint32)
        file["optimizer/vars/0"] = np.array(3, np.int64)


def keras_configuration(net, **changed):
    """`config.json`; `changed` replaces settings of the second layer."""
    layers = [("InputLayer", {"name": "input_layer"})]
    for b, block in enumerate(net.blocks, start=1):
        for c, (weight, bias) in enumerate(block, start=1):
            convolution = {
                "name": f"block{b}_conv{c}",
                "filters": len(bias),
                "kernel_size": list(weight.shape[2:]),
                "strides": [1, 1],
                "padding": "same",
                "dilation_rate": [1, 1],
                "groups": 1,
                "activation": "relu",
            }
            layers.append(("Conv2D", convolution))
        pooling = {"name": f"block{b}_pool", "pool_size": [2, 2], "padding": "valid", "strides": [2, 2]}
        layers.append(("MaxPooling2D", pooling))
    if net.dense:
        layers.append(("Flatten", {"name": "flatten"}))
    for name, activation in zip(("fc1", "fc2", "predictions"), ("relu", "relu", "softmax"), strict=True):
        if net.dense:
            layers.append(("Dense", {"name": name, "activation": activation}))
    layers[1] = (changed.pop("class_name", layers[1][0]), layers[1][1] | changed)
    return {"config": {"layers": [{"class_name": kind, "config": settings} for kind, settings in layers]}}


def write_keras_archive(path, net, compression=zipfile.ZIP_STORED, **changed):
    weights = io.BytesIO()
    write_keras_3(weights, net)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("metadata.json", "{}")
        archive.writestr("config.json", json.dumps(keras_configuration(net, **changed)))
        archive.writestr("model.weights.h5", weights.getvalue())


# Protocol buffers


def varint(value):
    value &= 2**64 - 1
    data = b""
    while value >= 0x80:
        data += bytes([value & 0x7F | 0x80])
        value >>= 7
    return data + bytes([value])


def number(key, value):
    return varint(key << 3) + varint(value)


def data(key, content):
    content = content.encode() if isinstance(content, str) else content
    return varint(key << 3 | 2) + varint(len(content)) + content


def float32(key, value):
    return varint(key << 3 | 5) + np.float32(value).tobytes()


# Caffe

OLD = {"Convolution": 4, "InnerProduct": 14, "ReLU": 18, "Pooling": 17, "Dropout": 6, "Softmax": 20}


def caffe_layers(net):
    """Name, type, arrays and parameters of each layer, as the authors' prototxt lists them."""
    for b, block in enumerate(net.blocks, start=1):
        for c, (weight, bias) in enumerate(block, start=1):
            pad = number(3, weight.shape[2] // 2) if weight.shape[2] > 1 else b""
            param = number(1, len(bias)) + pad + number(4, weight.shape[2])
            yield f"conv{b}_{c}", "Convolution", (weight, bias), param
            yield f"relu{b}_{c}", "ReLU", (), b""
        yield f"pool{b}", "Pooling", (), number(1, 0) + number(2, 2) + number(3, 2)
    for digit, (weight, bias) in zip("678", net.dense, strict=False):
        yield f"fc{digit}", "InnerProduct", (weight, bias), number(1, len(bias))
        if digit != "8":
            yield f"relu{digit}", "ReLU", (), b""
            yield f"drop{digit}", "Dropout", (), b""
    if net.dense:
        yield "prob", "Softmax", (), b""


def caffe_old(layers, name="VGG"):
    """The old format: types are numbers, and each array has four sides."""
    content = data(1, name)
    for layer, kind, arrays, param in layers:
        message = data(4, layer) + number(5, OLD[kind])
        for array in arrays:
            shape = (1,) * (4 - array.ndim) + array.shape
            sides = b"".join(number(key, side) for key, side in enumerate(shape, start=1))
            message += data(6, sides + data(5, array.tobytes()))
        key = {"Convolution": 10, "InnerProduct": 17, "Pooling": 19}.get(kind)
        content += data(2, message + (data(key, param) if key else b""))
    return content


def caffe_new(layers, name="VGG"):
    """The new format: types are names, and arrays have any shape."""
    content = data(1, name)
    for layer, kind, arrays, param in layers:
        message = data(1, layer) + data(2, kind)
        for array in arrays:
            sides = data(1, b"".join(map(varint, array.shape)))
            message += data(7, data(5, array.tobytes()) + data(7, sides))
        key = {"Convolution": 106, "InnerProduct": 117, "Pooling": 121}.get(kind)
        content += data(100, message + (data(key, param) if key else b""))
    return content


# MatConvNet


def write_matconvnet(path, net, mean=CAFFE_MEAN, names=("cat", "dog", "owl", "ox", "yak"), older=False, **options):
    from scipy.io import savemat

    layers = []
    cells = [("conv", name, *pair) for name, pair in _matconvnet_weights(net)]
    order = iter(cells)
    for b, block in enumerate(net.blocks, start=1):
        for c, (weight, _) in enumerate(block, start=1):
            layers += [_matconvnet_convolution(next(order), weight.shape[2] // 2, older)]
            layers += [{"type": "relu", "name": f"relu{b}_{c}"}]
        pool = {"pool": [2.0, 2.0], "stride": [2.0, 2.0], "pad": [0.0, 1.0, 0.0, 1.0], "method": "max"}
        layers.append({"type": "pool", "name": f"pool{b}"} | pool)
    for digit, cell in zip("678", order, strict=False):
        layers.append(_matconvnet_convolution(cell, 0, older))
        if digit != "8":
            layers.append({"type": "relu", "name": f"relu{digit}"})
    layers.append({"type": "softmax", "name": "prob"})
    listed = np.empty((1, len(layers)), object)
    listed[0, :] = layers
    described = np.empty((1, len(names)), object)
    described[0, :] = names
    about = {
        "normalization": {"averageImage": np.array(mean, np.float32), "imageSize": [224.0, 224.0, 3.0]},
        "classes": {"name": described, "description": described},
    }
    savemat(path, {"layers": listed} | (about if older else {"meta": about}), **options)


def _matconvnet_weights(net):
    for b, block in enumerate(net.blocks, start=1):
        for c, (weight, bias) in enumerate(block, start=1):
            yield f"conv{b}_{c}", (weight.transpose(2, 3, 1, 0), bias)
    channels = net.convolutions[-1][0].shape[0]
    for digit, (weight, bias) in zip("678", net.dense, strict=True):
        side = int((weight.shape[1] // channels) ** 0.5) if digit == "6" else 1
        kernel = weight.reshape(len(bias), -1, side, side)
        yield f"fc{digit}", (kernel.transpose(2, 3, 1, 0), bias)


def _matconvnet_convolution(cell, pad, older):
    kind, name, weight, bias = cell
    pair = np.empty((1, 2), object)
    pair[0, :] = [weight, bias.reshape(1, -1)]
    arrays = {"filters": weight, "biases": bias.reshape(1, -1)} if older else {"weights": pair}
    return {"type": kind, "name": name, "stride": [1.0, 1.0], "pad": [float(pad)] * 4} | arrays


# ONNX


def onnx_tensor(name, array):
    kind = {"float32": 1, "float16": 10, "float64": 11, "int64": 7}[array.dtype.name]
    dims = b"".join(number(1, side) for side in array.shape)
    return dims + number(2, kind) + data(8, name) + data(9, array.tobytes())


def onnx_node(operator, inputs, output, **attributes):
    message = b"".join(data(1, each) for each in inputs) + data(2, output) + data(4, operator)
    for name, value in attributes.items():
        if isinstance(value, bytes):
            content = data(4, value)
        elif isinstance(value, float):
            content = float32(2, value)
        else:
            content = number(3, value) if isinstance(value, int) else data(8, b"".join(map(varint, value)))
        message += data(5, data(1, name) + content)
    return data(1, message)


def onnx_model(producer, shape, nodes, tensors):
    sides = b"".join(data(1, number(1, side) if isinstance(side, int) else data(2, side)) for side in shape)
    image = data(1, "image") + data(2, data(1, number(1, 1) + data(2, sides)))
    graph = nodes + b"".join(data(5, each) for each in tensors) + data(11, image) + data(12, data(1, "scores"))
    return number(1, 8) + data(2, producer) + data(7, graph)


def onnx_pytorch(net, side, ending=b""):
    """As torch exports torchvision's VGG; `ending` are more nodes after the scores."""
    tensors, nodes, at = [], b"", "image"
    for n, block in enumerate(net.blocks):
        for c, (weight, bias) in enumerate(block):
            name = f"conv{n}.{c}"
            tensors += [onnx_tensor(f"{name}.w", weight), onnx_tensor(f"{name}.b", bias)]
            k = weight.shape[2]
            sizes = {
                "kernel_shape": [k, k],
                "pads": [k // 2] * 4,
                "strides": [1, 1],
                "dilations": [1, 1],
                "group": 1,
            }
            nodes += onnx_node("Conv", [at, f"{name}.w", f"{name}.b"], name, **sizes)
            nodes += onnx_node("Relu", [name], f"{name}.r")
            at = f"{name}.r"
        pool = {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [0] * 4, "ceil_mode": 0}
        nodes += onnx_node("MaxPool", [at], f"pool{n}", **pool)
        at = f"pool{n}"
    if net.dense:
        nodes += onnx_node("AveragePool", [at], "average", kernel_shape=[1, 1], strides=[1, 1])
        nodes += onnx_node("Flatten", ["average"], "flat", axis=1)
        at = "flat"
    for n, (weight, bias) in enumerate(net.dense):
        tensors += [onnx_tensor(f"fc{n}.w", weight), onnx_tensor(f"fc{n}.b", bias)]
        nodes += onnx_node("Gemm", [at, f"fc{n}.w", f"fc{n}.b"], f"fc{n}", alpha=1.0, beta=1.0, transB=1)
        at = f"fc{n}"
        if n < 2:
            nodes += onnx_node("Relu", [at], f"{at}.r") + onnx_node("Dropout", [f"{at}.r"], f"{at}.d")
            at = f"{at}.d"
    return onnx_model("pytorch", ["n", 3, side, side], nodes + ending, tensors)


def onnx_keras(net, side):
    """As tf2onnx exports Keras' VGG: channels last outside, and matrix products with a sum behind them."""
    tensors = [onnx_tensor("shape", np.array([-1, net.dense[0][0].shape[1]], np.int64))]
    nodes, at = onnx_node("Transpose", ["image"], "turned", perm=[0, 3, 1, 2]), "turned"
    for n, block in enumerate(net.blocks):
        for c, (weight, bias) in enumerate(block):
            name = f"conv{n}.{c}"
            tensors += [onnx_tensor(f"{name}.w", weight), onnx_tensor(f"{name}.b", bias[None, :, None, None])]
            k = weight.shape[2]
            nodes += onnx_node("Conv", [at, f"{name}.w"], name, kernel_shape=[k, k], auto_pad=b"SAME_UPPER")
            nodes += onnx_node("Add", [name, f"{name}.b"], f"{name}.s") + onnx_node(
                "Relu", [f"{name}.s"], f"{name}.r"
            )
            at = f"{name}.r"
        nodes += onnx_node("MaxPool", [at], f"pool{n}", kernel_shape=[2, 2], strides=[2, 2], auto_pad=b"VALID")
        at = f"pool{n}"
    nodes += onnx_node("Transpose", [at], "back", perm=[0, 2, 3, 1])
    nodes += onnx_node("Reshape", ["back", "shape"], "flat")
    at = "flat"
    for n, (weight, bias) in enumerate(net.dense):
        tensors += [onnx_tensor(f"fc{n}.w", np.ascontiguousarray(weight.T)), onnx_tensor(f"fc{n}.b", bias)]
        nodes += onnx_node("MatMul", [at, f"fc{n}.w"], f"fc{n}") + onnx_node(
            "Add", [f"fc{n}.b", f"fc{n}"], f"fc{n}.s"
        )
        at = f"fc{n}.s"
        if n < 2:
            nodes += onnx_node("Relu", [at], f"{at}.r")
            at = f"{at}.r"
    return onnx_model("tf2onnx", ["n", side, side, 3], nodes + onnx_node("Softmax", [at], "scores"), tensors)


class Hostile:
    """What a pickle would run."""

    def __reduce__(self):
        return (print, ("run",))


def hostile_pickle():
    return pickle.dumps(Hostile(), protocol=2)
