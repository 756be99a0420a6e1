"""Optional packages that some formats and places need."""

from importlib import import_module
from typing import Any

from verydeep.errors import UserError


def needed(package: str, use: str = "this format", extra: str = "interop") -> Any:
    """Import an optional package, and return it.

    Args:
        package: its name.
        use: what needs it, for the message.
        extra: the extra of this project that installs it.

    Raises:
        UserError: if it is not installed.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise UserError(f"{use} needs {package}; run pip install 'verydeep[{extra}]'") from error
