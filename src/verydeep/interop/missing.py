"""Optional packages that some formats need."""

from importlib import import_module
from typing import Any

from verydeep.errors import UserError


def needed(package: str) -> Any:
    """Import an optional package, and return it.

    Raises:
        UserError: if it is not installed.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise UserError(f"this format needs {package}; run pip install 'verydeep[interop]'") from error
