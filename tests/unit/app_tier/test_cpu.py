from pathlib import Path

import pytest

from app_tier.cpu import has_int8_dot_products


@pytest.mark.parametrize(
    ("flags", "fast"),
    [("fpu avx2 avx512f avx512_vnni", True), ("fpu avx2 avx_vnni", True), ("fpu avx2 avx512f", False), ("", False)],
)
def test_int8_is_fast_where_the_cpu_multiplies_and_adds_at_once(flags: str, fast: bool, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(f"model name\t: a CPU\nflags\t\t: {flags}\n")
    assert has_int8_dot_products(tmp_path / "cpuinfo") is fast


def test_a_machine_that_does_not_tell_is_taken_for_slow(tmp_path: Path) -> None:
    assert not has_int8_dot_products(tmp_path / "missing")
