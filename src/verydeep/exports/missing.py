"""Optional packages that ONNX files need."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from verydeep.errors import UserError

INSTALLATION = "pip install 'verydeep[onnx]'"


def needed(module: str) -> Any:
    """Import a module of an optional package, and return it.

    Raises:
        UserError: if the package is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise UserError(f"this export needs {module.partition('.')[0]}; run {INSTALLATION}") from error


def installed(package: str) -> bool:
    """Return whether a package is installed, without importing it."""
    return find_spec(package) is not None
