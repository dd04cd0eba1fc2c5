"""Import the engines' libraries where they are needed: OpenVINO without its converter, torch without pickle."""

import importlib
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from types import ModuleType
from typing import Any, Final

import numpy as np

from app_tier.bundle import EngineError

_OPERATIONS: Final = [f"openvino.opset{number}" for number in range(1, 18)]

_filling = Lock()


def import_openvino() -> ModuleType:
    """Import ``openvino`` without what inference has no use for, which takes more than half of its import.

    OpenVINO takes a missing model converter for an installation without it. The operations of which networks are made
    are imported at their first use.

    The bindings make their tables of number types here. Each is made at its first use, by a thread that releases the
    interpreter meanwhile. A second thread would wait for the table with the interpreter in hand, and the first one
    for the interpreter: for ever.
    """
    if "openvino" not in sys.modules:
        with not_importable("openvino.tools.ovc"), empty(_OPERATIONS):
            import openvino
        vars(openvino)["__getattr__"] = _operations
    import openvino

    with _filling:
        openvino.Type.f32.to_dtype()
        openvino.Tensor(np.zeros(1, np.float32), shared_memory=True).data.sum()
    return openvino  # type: ignore[no-any-return, unused-ignore]


@contextmanager
def empty(names: Sequence[str]) -> Iterator[None]:
    """Let these submodules of ``openvino`` be empty within the block, and not imported afterwards."""
    sys.modules.update({name: ModuleType(name) for name in names})
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]
    for name in names:
        vars(sys.modules["openvino"]).pop(name.removeprefix("openvino."), None)


def _operations(name: str) -> ModuleType:
    """Return a submodule of ``openvino`` that was skipped, at the first use of the attribute."""
    if (full := f"openvino.{name}") not in _OPERATIONS:
        raise AttributeError(f"module 'openvino' has no attribute {name!r}")
    return importlib.import_module(full)


@contextmanager
def not_importable(name: str) -> Iterator[None]:
    """Let ``import name`` raise ImportError within the block, unless it has been imported already."""
    if name in sys.modules:
        yield
        return
    blocked: dict[str, Any] = sys.modules  # None is how the import system marks a module that is not to be found
    blocked[name] = None
    try:
        yield
    finally:
        del sys.modules[name]


def import_torch() -> Any:
    """Import torch, which then loads tensors only: a file could otherwise contain code that runs when it is loaded.

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
    """Silence the warnings of torch's export about its own deprecated internals."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        yield
