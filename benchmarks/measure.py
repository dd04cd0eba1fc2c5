"""What benchmarks measure with: CPU and memory of processes and cores, and latencies.

It reads Linux's ``/proc`` (https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html, proc_pid_status(5)), and
imports nothing but the standard library, so that a measured process is not slowed by what measures it.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
    """Return the CPU seconds used between two samples; a process that started in between counts from its start."""
    earlier = {pid: usage.cpu_seconds for pid, usage in before.items()}
    return sum(usage.cpu_seconds - earlier.get(pid, 0.0) for pid, usage in after.items())


def _mebibytes(field: str) -> float:
    return int(field.split(maxsplit=1)[0]) * 1024 / MIB


def two_cores() -> tuple[int, int]:
    """Return two different cores that this process may use.

    Raises:
        RuntimeError: there is one only, so what is measured would share it with what measures.
    """
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        raise RuntimeError(f"this process may use core {allowed} only: a measurement on one core needs a second one")
    return allowed[0], allowed[1]


def busy_seconds() -> float:
    """Return the CPU seconds that all cores together have been busy with since the boot."""
    user, nice, system, _idle, _wait, irq, softirq = map(int, Path("/proc/stat").read_text().split()[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the value that `percent` (0 to 100) of `values` do not exceed: the nearest rank, no interpolation."""
    ranked = sorted(values)
    rank = -int(-percent * len(ranked) // 100)
    return ranked[max(0, rank - 1)]


def result_moments(samples: Sequence[tuple[float, int]], count: int) -> list[float]:
    """Return when each of the first `count` results was seen, from samples of (moment, results so far).

    A result is older than the sample that counts it, so these moments are late by up to the time between two samples.

    Raises:
        ValueError: the samples do not see that many.
    """
    moments: list[float] = []
    for moment, results in samples:
        moments += [moment] * (min(results, count) - len(moments))
    if len(moments) < count:
        raise ValueError(f"{len(moments)} of {count} results were seen: sample until all have arrived")
    return moments


def latencies(accepted: Sequence[float], seen: Sequence[float]) -> list[float]:
    """Return the seconds from acceptance to result, first to first, second to second.

    Results are counted, not named, while a batch runs. Pairing in order gives the true mean; where images overtake
    each other, by less than a poll of a worker, the percentiles are those of a fleet that keeps their order.
    """
    return [after - before for before, after in zip(sorted(accepted), sorted(seen), strict=True)]
