"""Processes end with their parent: lifelines, locks, and a hypervisor that is stopped."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from localcloud.parent_watch import Lifeline, LockHeldError, file_lock, is_locked, watch_lifeline
from tests.support.waiting import DEADLINE_SECONDS


def test_a_cut_lifeline_is_noticed_and_an_intact_one_is_not() -> None:
    lifeline, ended = Lifeline(), threading.Event()
    reader = os.dup(lifeline.read_end)
    watch_lifeline(reader, ended.set)
    assert not ended.wait(0.05)
    lifeline.cut()
    assert ended.wait(DEADLINE_SECONDS)
    lifeline.cut()
    os.close(reader)


@pytest.mark.processes
def test_a_lifeline_ends_with_its_owner_even_by_kill_9() -> None:
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    owner = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], pass_fds=[writer])
    os.close(writer)
    ended = threading.Event()
    watch_lifeline(reader, ended.set)
    assert not ended.wait(0.2)
    owner.kill()
    owner.wait(DEADLINE_SECONDS)
    assert ended.wait(DEADLINE_SECONDS)
    os.close(reader)


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


INTERRUPTED = """
import signal, sys
from pathlib import Path
from localcloud.hypervisor import Hypervisor

hypervisor = Hypervisor("http://127.0.0.1:1", Path(sys.argv[1]))
signal.signal(signal.SIGALRM, lambda *_: hypervisor.stop())
signal.setitimer(signal.ITIMER_REAL, 0.00005, 0.00005)
for _ in range(20_000):
    hypervisor.stop()
signal.setitimer(signal.ITIMER_REAL, 0)
hypervisor.run()
"""


def test_a_stop_that_interrupts_another_does_not_wait_for_it_for_ever(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", INTERRUPTED, str(tmp_path)], timeout=DEADLINE_SECONDS, check=False)
    assert ended.returncode == 0
