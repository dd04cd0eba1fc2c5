"""The memory of images goes back to the system."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.support.waiting import DEADLINE_SECONDS

PROGRAM = """
from pathlib import Path
from web_tier.memory import return_freed_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

return_freed_memory()
bytes(4_000_000)  # once freed, blocks of this size are kept from here on, unless told otherwise
before = resident()
blocks = [bytearray(1_000_000) for _ in range(100)]
for block in blocks:
    block[::4096] = bytes(len(range(0, 1_000_000, 4096)))
last = bytearray(1_000_000)  # above the others, so that a heap cannot shrink
del blocks, block
print(resident() - before)
"""


@pytest.mark.processes
@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_large_blocks_that_are_freed_go_back_to_the_system() -> None:
    command = [sys.executable, "-c", PROGRAM]
    kept = int(subprocess.run(command, cwd=ROOT, capture_output=True, check=True, timeout=DEADLINE_SECONDS).stdout)
    assert kept < 20_000_000
