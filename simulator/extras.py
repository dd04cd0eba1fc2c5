"""Packages that only the fleet simulator needs; they are not installed for classification."""

import importlib
from types import ModuleType

from services.errors import FleetsightError


class MissingError(FleetsightError):
    """Raised when a package that only simulations need is not installed; the message says how to install it."""


def need(module: str, section: str = "simulate") -> ModuleType:
    """Return a module such as ``scipy.optimize``, of that section of requirements.txt.

    Raises:
        MissingError: when its package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingError(f"the fleet simulator needs {error.name}: ./scripts/setup.sh {section}") from error
