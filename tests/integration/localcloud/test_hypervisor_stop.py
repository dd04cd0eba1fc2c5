"""The hypervisor ends however often it is told to."""

import subprocess
import sys
from pathlib import Path

from tests.support.waiting import DEADLINE_SECONDS

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
