"""Runs a step of the tests, and writes the CPU seconds of all its processes into a file.

    python -m tests.support.reaper FILE COMMAND...

The kernel adds the CPU time of a process to that of its parent once the parent waits for it. This process adopts what
a parent leaves behind, such as the fork server of a pytest, and waits for it, so that nothing is missing.
"""

import ctypes
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

PATIENCE_SECONDS: Final = 30.0
"""How long what a step has left behind may take to end, before it is killed and the step fails."""

_PR_SET_CHILD_SUBREAPER: Final = 36


def run(command: Sequence[str]) -> tuple[int, list[str], float]:
    """Run a command; return its exit status, the command lines that had to be killed, and the CPU seconds of all."""
    if ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1) != 0:
        raise OSError("this kernel has no subreapers, which Linux has since 3.4")
    with subprocess.Popen(command) as process:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command has its own, and is waited for
        status, killed = process.wait(), list[str]()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while children := _children():
        if time.monotonic() > deadline:
            for child in children:
                killed.append(
                    Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                )
                os.kill(child, signal.SIGKILL)
        os.waitpid(-1, 0 if time.monotonic() > deadline else os.WNOHANG)
        time.sleep(0.01)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return status, killed, used.ru_utime + used.ru_stime


def _children() -> list[int]:
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


if __name__ == "__main__":
    result, left, seconds = run(sys.argv[2:])
    for line in left:
        sys.stdout.write(f"left running for {PATIENCE_SECONDS:.0f} s after the end, and killed: {line[:300]}\n")
    Path(sys.argv[1]).write_text(f"{seconds:.0f}\n", encoding="ascii")
    sys.exit(result or bool(left))
