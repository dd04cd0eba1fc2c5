"""What this machine's CPU can do that OpenVINO's own list does not tell."""

from pathlib import Path
from typing import Final

CPUINFO: Final = Path("/proc/cpuinfo")

_DOT_PRODUCTS: Final = frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp"})
"""What Linux calls the instructions that multiply int8 and add up in int32 at once, on x86 and on ARM."""


def has_int8_dot_products(cpuinfo: Path = CPUINFO) -> bool:
    """Whether int8 is fast and right here: without such instructions its sums also overflow at 16 bits."""
    try:
        words = cpuinfo.read_text().split()
    except OSError:
        return False
    return not _DOT_PRODUCTS.isdisjoint(words)
