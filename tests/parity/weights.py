"""Compare nets of torchvision, timm and Keras with those that `verydeep.load` makes from their files.

    python tests/parity/weights.py --data FOLDER

creates every VGG of these systems, with random weights and no trivial parameters, and has each system save it in
its own formats. It compares their scores on photographs, with their own preprocessing, with ours on raw RGB. The
relative error may be at most 1e-5. FOLDER contains photographs (ilsvrc-samples) and the authors' convolutions
(vgg16); without it the images are noise, and these convolutions are not compared.
"""

import os

os.environ.setdefault("KERAS_BACKEND", "torch")

import sys
import tempfile
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import verydeep

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from claims import Claim, destination, options, record

BOUND = 1e-5
NAMES = [f"vgg{depth}{ending}" for depth in (11, 13, 16, 19) for ending in ("", "_bn")]
TITLES = {"torchvision": "torchvision or its export to ONNX", "timm": "timm", "keras": "Keras"}
CROP, IMAGES = 224, 2
CLASSES = 1000
PEERS = ("torchvision", "timm", "keras", "onnx", "onnxscript", "h5py")


def photographs(data: Path | None) -> Tensor:
    """Return crops of photographs as raw RGB, uint8."""
    if data is None:
        return torch.randint(0, 256, (IMAGES, 3, CROP, CROP), dtype=torch.uint8)
    files = sorted((data / "ilsvrc-samples").glob("*.JPEG"))[:IMAGES]
    found = []
    for file in files:
        image = Image.open(file).convert("RGB").resize((CROP, CROP), Image.Resampling.BILINEAR)
        found.append(torch.from_numpy(np.array(image)).permute(2, 0, 1))
    return torch.stack(found)


def randomised(model: nn.Module, seed: int) -> nn.Module:
    """Set all parameters and statistics to random values that neither damp nor amplify the signal much."""
    chance = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                inputs = module.weight[0].numel()
                module.weight.normal_(0, (2 / inputs) ** 0.5, generator=chance)
                module.bias.normal_(0, 0.1, generator=chance)
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5, generator=chance)
                module.bias.normal_(0, 0.1, generator=chance)
                module.running_mean.normal_(0, 0.1, generator=chance)
                module.running_var.uniform_(0.5, 2, generator=chance)
    return model.eval()


def compared(path: Path, images: Tensor, theirs: Tensor) -> float:
    """Return the relative error of our scores for raw RGB, or of pool5 for a feature net."""
    net = verydeep.load(path)
    with torch.no_grad():
        ours = net(images) if net.classes else net.features(images, ["pool5"])["pool5"]
    return ((ours.double() - theirs.double()).abs().max() / theirs.double().abs().max()).item()


def of_torchvision(images: Tensor, folder: Path, data: Path | None) -> Iterator[tuple[str, float]]:
    """Compare torchvision's VGGs: state dicts written by torch.save, and exports to ONNX."""
    from torchvision import models

    for seed, name in enumerate(NAMES):
        model = randomised(models.get_model(name, num_classes=CLASSES), seed)
        prepared = models.get_model_weights(name).DEFAULT.transforms(crop_size=CROP, resize_size=CROP)(images)
        with torch.no_grad():
            theirs = model(prepared)
        torch.save(model.state_dict(), folder / "a.pth")
        yield f"torchvision {name}", compared(folder / "a.pth", images, theirs)
        if name in ("vgg16", "vgg16_bn"):
            for dynamo in (False, True):
                torch.onnx.export(model, (prepared,), folder / "a.onnx", dynamo=dynamo, verbose=False)
                exporter = "torch.export" if dynamo else "TorchScript"
                yield f"ONNX of torchvision {name} by {exporter}", compared(folder / "a.onnx", images, theirs)


def of_timm(images: Tensor, folder: Path, data: Path | None) -> Iterator[tuple[str, float]]:
    """Compare timm's VGGs, in safetensors and in torch's format."""
    import timm
    from safetensors.torch import save_file
    from timm.data import create_transform, resolve_data_config

    for seed, name in enumerate(NAMES):
        model = randomised(timm.create_model(name, num_classes=CLASSES), seed)
        transform: Any = create_transform(**resolve_data_config({"crop_pct": 1.0}, model=model))
        prepared = torch.stack([transform(Image.fromarray(each.permute(1, 2, 0).numpy())) for each in images])
        with torch.no_grad():
            theirs = model(prepared)
        save_file(model.state_dict(), folder / "a.safetensors")
        yield f"timm {name}, safetensors", compared(folder / "a.safetensors", images, theirs)
        if name == "vgg16":
            torch.save(model.state_dict(), folder / "pytorch_model.bin")
            yield f"timm {name}, .bin", compared(folder / "pytorch_model.bin", images, theirs)


def of_keras(images: Tensor, folder: Path, data: Path | None) -> Iterator[tuple[str, float]]:
    """Compare Keras' VGGs, in its three formats, with and without a head, and with the authors' convolutions."""
    from keras import applications

    chance = np.random.default_rng(0)
    raw = images.permute(0, 2, 3, 1).numpy().astype(np.float32)
    for kind, name in (("vgg16", "VGG16"), ("vgg19", "VGG19")):
        module = getattr(applications, kind)
        prepared = module.preprocess_input(raw.copy())
        for top in (True, False):
            model = getattr(module, name)(weights=None, include_top=top, classifier_activation=None)
            arrays = [(weight.shape, int(np.prod(weight.shape[:-1]))) for weight in model.weights]
            model.set_weights(
                [
                    (chance.standard_normal(shape) * ((2 / inputs) ** 0.5 if len(shape) > 1 else 0.1)).astype("f4")
                    for shape, inputs in arrays
                ]
            )
            theirs = _keras_output(model, prepared)
            ending = "" if top else " without a head"
            for file in ("a.weights.h5", "a.keras", "a.h5"):
                (model.save_weights if file == "a.weights.h5" else model.save)(folder / file)
                yield f"Keras {name}{ending}, {file[1:]}", compared(folder / file, images, theirs)
    h5 = data / "vgg16" / "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5" if data else None
    if h5 and h5.exists():
        model = applications.VGG16(weights=None, include_top=False)
        model.load_weights(h5)
        theirs = _keras_output(model, applications.vgg16.preprocess_input(raw.copy()))
        yield "Keras VGG16 with the authors' convolutions", compared(h5, images, theirs)


def _keras_output(model: Any, prepared: np.ndarray) -> Tensor:
    """Return a model's scores, or its map with channels first."""
    output = torch.from_numpy(model.predict(prepared, verbose=0))
    return output if output.ndim == 2 else output.permute(0, 3, 1, 2)


def claim(title: str, errors: dict[str, float]) -> Claim:
    """Return the claim that the errors of a system's files are within the bound."""
    files = f"scores of nets loaded from files of {title}"
    what = f"{files}, compared with that system's own: the largest of {len(errors)}"
    return Claim(what, max(errors.values()), "relative error", {"at most": BOUND}, errors)


def main() -> int:
    """Compare all systems; the exit code is 1 if a net differs."""
    parser = options(__doc__, "parity")
    parser.add_argument("--data", type=Path, help="folder of photographs and weights")
    parser.add_argument("--only", choices=("torchvision", "timm", "keras"), help="compare only this system")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    images = photographs(arguments.data)
    systems = {"torchvision": of_torchvision, "timm": of_timm, "keras": of_keras}
    claims = []
    for name, system in systems.items():
        if arguments.only not in (None, name):
            continue
        if arguments.smoke:
            del NAMES[1:]
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            errors = {}
            for what, error in system(images, Path(folder), arguments.data):
                print(f"{what}: {error:.2g}", flush=True)
                errors[what] = error
            claims.append(claim(TITLES[name], errors))
        if arguments.smoke:
            break
    found = {package: version(package) for package in PEERS if find_spec(package) is not None}
    return record(destination(arguments), claims, versions=found)


if __name__ == "__main__":
    sys.exit(main())
