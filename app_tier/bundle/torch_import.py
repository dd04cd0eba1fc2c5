"""Import torch where it is needed, and only there: building bundles, training, and ``engine: torch``."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from app_tier.bundle.errors import EngineError


def import_torch() -> Any:
    """Import torch. It then loads tensors only: a file could otherwise hold code that runs when it is loaded.

    Raises:
        EngineError: it is not installed; the message says which command installs it.
    """
    # https://docs.pytorch.org/docs/stable/notes/serialization.html: torch.export.load would fall back to pickle.
    os.environ.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    try:
        import torch
    except ImportError as error:
        raise EngineError("torch is not installed: run ./scripts/setup.sh torch") from error
    return torch


@contextmanager
def export_warnings_off() -> Iterator[None]:
    """Silence what torch's export says about its own deprecated internals; none of it is about the network."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        yield
