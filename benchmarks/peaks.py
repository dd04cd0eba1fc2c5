"""The most that this CPU multiplies, as torch's matrix product shows it in each number type."""

from collections.abc import Callable
from typing import Any, Final

from app_tier.bundle.manifest import NumberType
from app_tier.bundle.torch_import import import_torch
from benchmarks.runs import Run

SIDE: Final = 2048
"""Rows and columns of the matrices."""

PEAKS: Final[tuple[NumberType, ...]] = ("fp32", "bf16", "int8")


def matrix_product(kind: NumberType) -> Run:
    """Return a product of two matrices of `kind`, which is 2 x SIDE³ operations, in units of 10^9."""
    torch = import_torch()
    multiply: Callable[[Any, Any], object] = torch._int_mm if kind == "int8" else torch.mm
    left, right = _matrix(kind), _matrix(kind)
    return Run(lambda: multiply(left, right), 2 * SIDE**3 / 1e9)


def _matrix(kind: NumberType) -> Any:
    torch = import_torch()
    if kind == "int8":
        return torch.randint(-128, 128, (SIDE, SIDE), dtype=torch.int8)
    return torch.rand(SIDE, SIDE).to(torch.bfloat16 if kind == "bf16" else torch.float32)
