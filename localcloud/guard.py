"""Outlives the hypervisor: when the top command is gone, by kill -9 too, nothing of an instance stays behind.

The hypervisor may be killed and started again, so instances do not die with it. This process holds nothing but the
lifeline and the state directory, and one of it is enough for each state directory.
"""

import os
import signal
import time
from pathlib import Path

from localcloud.locks import LockHeldError, held, is_held
from localcloud.machines.machine import discard_all, end_all

HYPERVISOR_LOCK = "hypervisor.lock"
GUARD_LOCK = "guard.lock"
GRACE_SECONDS = 2.0
MAX_SWEEP_SECONDS = 10.0


def guard(state_dir: Path, lifeline: int) -> None:
    """Wait for the lifeline to end, then end every instance's process group. Returns at once if another guards.

    Args:
        state_dir: the hypervisor's.
        lifeline: read end of the pipe that only the top command holds open.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole foreground group
    try:
        with held(state_dir / GUARD_LOCK):
            while os.read(lifeline, 1):
                pass
            _sweep(state_dir)
    except LockHeldError:
        return


def _sweep(state_dir: Path) -> None:
    """End instances until none is left and no hypervisor that could start one: it ends at the same sign."""
    started = time.monotonic()
    end_all(state_dir, signal.SIGTERM)
    while end_all(state_dir, 0) or is_held(state_dir / HYPERVISOR_LOCK):
        waited = time.monotonic() - started
        if waited > MAX_SWEEP_SECONDS:
            break
        if waited > GRACE_SECONDS:
            end_all(state_dir, signal.SIGKILL)
        time.sleep(0.05)
    end_all(state_dir, signal.SIGKILL)
    discard_all(state_dir)
