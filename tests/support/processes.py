"""What the kernel knows of processes: https://man7.org/linux/man-pages/man5/proc_pid.5.html"""

import ctypes
import os
import resource
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.conftest import ROOT
from tests.support.waiting import DEADLINE_SECONDS


def run_python(program: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a Python program in a process of its own until it ends; its exit status must be 0."""
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=DEADLINE_SECONDS,
    )


def children_of(process: int) -> list[int]:
    """Return the ids of the processes that any thread of `process` has started, or none if `process` has ended."""
    children: list[int] = []
    with suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{process}/task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
                children += map(int, (task / "children").read_text().split())
    return children


def state_of(process: int) -> str:
    """Return the letter of the state of `process`: T if it is stopped, Z if it has ended or is not there."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    return "Z"


def has_ended(process: int) -> bool:
    """Return True if `process` runs no more, also if its parent has not taken note of it yet."""
    return state_of(process) == "Z"


def processes_of(port: int) -> set[int]:
    """Return each living process of a `run.sh` on `port`: its folder or port is in its command or its environment."""
    found = processes_with(("cmdline", "environ"), f"run-{port}", f"FLEETSIGHT__WEB__PORT={port}")
    return {process for process in found if not has_ended(process)} - {os.getpid()}


def processes_with(names: Iterable[str], *marks: str) -> set[int]:
    """Return each process with one of `marks` in the files `names` of its folder in /proc."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has just ended
            process_data = b"".join((folder / name).read_bytes() for name in names)
            if any(mark.encode() in process_data for mark in marks):
                found.add(int(folder.name))
    return found


def take_memory(processes: Iterable[int]) -> None:
    """Let processes allocate no more than they have."""
    for process in processes:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[0])
        most = resource.prlimit(process, resource.RLIMIT_AS)[1]
        resource.prlimit(process, resource.RLIMIT_AS, (pages * resource.getpagesize(), most))


@contextmanager
def other_machine() -> Iterator[None]:
    """Let new processes believe that this is a 32-bit machine, for which the sandbox has no system call filter."""
    linux, linux32 = 0x0000, 0x0008  # https://man7.org/linux/man-pages/man2/personality.2.html
    assert ctypes.CDLL(None).personality(linux32) >= 0
    try:
        yield
    finally:
        ctypes.CDLL(None).personality(linux)
