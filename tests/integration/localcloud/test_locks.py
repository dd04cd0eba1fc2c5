"""A lock is held by one process and freed with it, however that ends."""

import subprocess
import sys
from pathlib import Path

import pytest

from localcloud.parent_watch import LockHeldError, file_lock, is_locked

HOLD = "import sys, time\nfrom pathlib import Path\nfrom localcloud.parent_watch import file_lock\n"
HOLD += "with file_lock(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(600)\n"


def test_a_lock_is_held_for_as_long_as_the_block_runs(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not is_locked(path)
    with file_lock(path):
        assert is_locked(path)
        with pytest.raises(LockHeldError, match=str(path)), file_lock(path):
            pytest.fail("it is held")
    assert not is_locked(path)


@pytest.mark.processes
def test_a_lock_is_freed_when_its_holder_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE)
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert is_locked(path)
        holder.kill()
    assert not is_locked(path)
