"""Import OpenVINO's inference alone: a worker's start is counted in milliseconds, and nothing of ours phones home."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from types import ModuleType
from typing import Any

import numpy as np

_filling = Lock()


def import_openvino() -> ModuleType:
    """Import ``openvino`` without its model converter, a quarter of its import time that inference has no use for.

    OpenVINO takes a missing converter for an installation without it.
    """
    if "openvino" not in sys.modules:
        with not_importable("openvino.tools.ovc"):
            import openvino
    import openvino

    _fill_tables(openvino)
    return openvino  # type: ignore[no-any-return, unused-ignore]


def _fill_tables(openvino: Any) -> None:
    """Have OpenVINO's bindings make their tables of number types, which two threads at once would wait for for ever.

    Each is made at its first use, by a thread that lets go of the interpreter meanwhile: another waits for the table
    with the interpreter in hand, and the one that makes the table waits for the interpreter.
    """
    with _filling:
        openvino.Type.f32.to_dtype()
        openvino.Tensor(np.zeros(1, np.float32), shared_memory=True).data.sum()


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
