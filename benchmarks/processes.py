"""What processes cost: CPU seconds and memory, read from Linux's ``/proc``.

https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html, proc_pid_status(5)
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

MIB = 2**20


@dataclass(frozen=True)
class Usage:
    """What one process has used so far.

    Attributes:
        cpu_seconds: user and system time, without that of children.
        resident_mb: memory resident now, in MiB.
        peak_mb: most memory that was ever resident since its exec, in MiB.
    """

    cpu_seconds: float
    resident_mb: float
    peak_mb: float


def usage_of(pid: int) -> Usage | None:
    """Return what process `pid` has used, or None when it has gone."""
    folder = Path("/proc", str(pid))
    try:
        # The command, in parentheses, may hold spaces: the fields are counted from behind it.
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
    except (FileNotFoundError, ProcessLookupError):
        return None
    if "VmHWM" not in status:  # it has ended, and its parent has not looked yet
        return None
    ticks = int(fields[11]) + int(fields[12])
    return Usage(ticks / os.sysconf("SC_CLK_TCK"), _mebibytes(status["VmRSS"]), _mebibytes(status["VmHWM"]))


def tree(pid: int) -> Iterator[int]:
    """Yield `pid` and every process below it; nothing when it has gone."""
    try:
        threads = list(Path("/proc", str(pid), "task").iterdir())
        children = [int(child) for thread in threads for child in (thread / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return
    yield pid
    for child in children:
        yield from tree(child)


def usages(pids: Iterable[int], below: bool = True) -> dict[int, Usage]:
    """Return what each process has used, and unless not `below` each child of it, by process id."""
    found = {each: usage_of(each) for pid in pids for each in (tree(pid) if below else [pid])}
    return {pid: usage for pid, usage in found.items() if usage is not None}


def cpu_seconds_between(before: Mapping[int, Usage], after: Mapping[int, Usage]) -> float:
    """Return the CPU seconds used between two looks; a process that started in between counts from its start."""
    earlier = {pid: usage.cpu_seconds for pid, usage in before.items()}
    return sum(usage.cpu_seconds - earlier.get(pid, 0.0) for pid, usage in after.items())


def machine_cpu_seconds() -> float:
    """Return the CPU seconds that all processors together have been busy with, for all processes, since the boot."""
    user, nice, system, _idle, _wait, irq, softirq, *_ = map(int, Path("/proc/stat").read_text().split()[1:11])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def _mebibytes(field: str) -> float:
    return int(field.split(maxsplit=1)[0]) * 1024 / MIB
