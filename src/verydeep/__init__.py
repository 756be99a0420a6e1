"""Very Deep Convolutional Networks for Large-Scale Image Recognition, as a system.

>>> import verydeep
>>> verydeep.CONFIGURATIONS["D"].parameters(classes=1000)
138357544
>>> net = verydeep.ConvNet("D", classes=1000)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from verydeep.configurations import CONFIGURATIONS as CONFIGURATIONS
    from verydeep.datasets import open_dataset as open_dataset
    from verydeep.errors import UserError as UserError
    from verydeep.evaluation.posteriors import posteriors as posteriors
    from verydeep.network import ConvNet as ConvNet
    from verydeep.recipe import Recipe as Recipe
    from verydeep.weights import load as load
    from verydeep.weights import save as save

_HOMES = {
    "CONFIGURATIONS": "configurations",
    "ConvNet": "network",
    "Recipe": "recipe",
    "UserError": "errors",
    "load": "weights",
    "open_dataset": "datasets",
    "posteriors": "evaluation.posteriors",
    "save": "weights",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """Import what is asked for: torch takes seconds that `verydeep --help` should not."""
    if name not in _HOMES:
        raise AttributeError(f"module 'verydeep' has no attribute {name!r}")
    return getattr(import_module(f"verydeep.{_HOMES[name]}"), name)
