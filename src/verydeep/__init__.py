"""Very Deep Convolutional Networks for Large-Scale Image Recognition: the nets, their training and testing.

>>> import verydeep
>>> verydeep.CONFIGURATIONS["D"].parameters(classes=1000)
138357544
>>> net = verydeep.ConvNet("D", classes=1000)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from verydeep.card import Card as Card
    from verydeep.computing import Computing as Computing
    from verydeep.configurations import CONFIGURATIONS as CONFIGURATIONS
    from verydeep.configurations import Architecture as Architecture
    from verydeep.datasets.dataset import Dataset as Dataset
    from verydeep.datasets.dataset import open_dataset as open_dataset
    from verydeep.description import Description as Description
    from verydeep.description import describe as describe
    from verydeep.distributed import Ranks as Ranks
    from verydeep.errors import Interrupted as Interrupted
    from verydeep.errors import UserError as UserError
    from verydeep.evaluation.maps import class_maps as class_maps
    from verydeep.evaluation.maps import draw_maps as draw_maps
    from verydeep.evaluation.posteriors import posteriors as posteriors
    from verydeep.evaluation.testing import Result as Result
    from verydeep.exports.exporting import Exported as Exported
    from verydeep.exports.exporting import export as export
    from verydeep.features import Features as Features
    from verydeep.features import extract as extract
    from verydeep.inspection import Inspection as Inspection
    from verydeep.inspection import inspect as inspect
    from verydeep.interop.loading import convert as convert
    from verydeep.interop.loading import load as load
    from verydeep.localisation.data import open_boxes as open_boxes
    from verydeep.localising import draw_predictions as draw_predictions
    from verydeep.localising import predict_boxes as predict_boxes
    from verydeep.localising import test_boxes as test_boxes
    from verydeep.localising import train_boxes as train_boxes
    from verydeep.network import ConvNet as ConvNet
    from verydeep.photographs.photograph import ImageError as ImageError
    from verydeep.procedures import Prediction as Prediction
    from verydeep.procedures import predict as predict
    from verydeep.procedures import resume as resume
    from verydeep.procedures import test as test
    from verydeep.procedures import train as train
    from verydeep.published.download import download as download
    from verydeep.published.registry import registry as registry
    from verydeep.publishing import push as push
    from verydeep.recipe import Recipe as Recipe
    from verydeep.training.initialisation import initialise as initialise
    from verydeep.training.run import Run as Run
    from verydeep.training.run import read_run as read_run
    from verydeep.weights import feature_net as feature_net
    from verydeep.weights import save as save

    __version__: str

_HOMES = {
    "Architecture": "configurations",
    "CONFIGURATIONS": "configurations",
    "Card": "card",
    "Computing": "computing",
    "ConvNet": "network",
    "Dataset": "datasets.dataset",
    "Exported": "exports.exporting",
    "Description": "description",
    "Features": "features",
    "ImageError": "photographs.photograph",
    "Inspection": "inspection",
    "Interrupted": "errors",
    "Prediction": "procedures",
    "Ranks": "distributed",
    "Recipe": "recipe",
    "Result": "evaluation.testing",
    "Run": "training.run",
    "UserError": "errors",
    "class_maps": "evaluation.maps",
    "download": "published.download",
    "convert": "interop.loading",
    "describe": "description",
    "draw_maps": "evaluation.maps",
    "draw_predictions": "localising",
    "export": "exports.exporting",
    "extract": "features",
    "feature_net": "weights",
    "inspect": "inspection",
    "initialise": "training.initialisation",
    "load": "interop.loading",
    "open_boxes": "localisation.data",
    "open_dataset": "datasets.dataset",
    "posteriors": "evaluation.posteriors",
    "predict": "procedures",
    "predict_boxes": "localising",
    "push": "publishing",
    "read_run": "training.run",
    "registry": "published.registry",
    "resume": "procedures",
    "save": "weights",
    "test": "procedures",
    "test_boxes": "localising",
    "train": "procedures",
    "train_boxes": "localising",
}

__all__ = [*_HOMES, "__version__"]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    """Import a public name on first use: importing torch takes seconds, and `verydeep --help` does not need it."""
    if name == "__version__":
        from importlib.metadata import version

        return version("verydeep")
    if name not in _HOMES:
        raise AttributeError(f"module 'verydeep' has no attribute {name!r}")
    return getattr(import_module(f"verydeep.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
