"""What the engine benchmark measures with torch."""

import pytest

from app_tier.bundle.load import load_bundle
from app_tier.engine_imports import import_torch
from app_tier.engines import TorchEngine
from benchmarks.engine import PEAKS, SIDE, gpu_engines, matrix_product


@pytest.mark.parametrize("kind", PEAKS)
def test_a_matrix_product_counts_its_operations_in_thousands_of_millions(kind: str) -> None:
    run = matrix_product(next(peak for peak in PEAKS if peak == kind))
    assert run.amount == 2 * SIDE**3 / 1e9


def test_a_gpu_is_measured_where_there_is_one_in_what_it_is_fast_at(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = load_bundle()
    assert gpu_engines(bundle) == {}
    torch = import_torch()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    opened: list[str] = []
    monkeypatch.setattr(TorchEngine, "__init__", lambda self, bundle, precision: opened.append(precision))
    assert list(gpu_engines(bundle)) == opened == ["fp32", "bf16"]
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    assert list(gpu_engines(bundle)) == ["fp32"]
