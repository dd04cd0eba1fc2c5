"""What a child process may do: set by itself, after everything has been loaded and before it sees an item."""

import math
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from core.confined.seccomp import SetFilter

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NO_NEW_PRIVS: Final = 38
"""prctl(2), https://man7.org/linux/man-pages/man2/prctl.2.html"""

_STATM: Final = "/proc/self/statm"
_OOM_SCORE: Final = "/proc/self/oom_score_adj"
_FIRST_TO_GO: Final = "1000"
"""oom_score_adj: where memory is short, the kernel ends this process before any other."""

_PASSED_ON: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

_MAX_SECONDS: Final = resource.getrlimit(resource.RLIMIT_CPU)[1]

Prctl = Callable[[int, int], int]


def ignore_signals() -> None:
    """Leave the end to the parent of this process: while all are told to stop, its items are still wanted."""
    for number in _PASSED_ON:
        signal.signal(number, signal.SIG_IGN)


def confine(memory_bytes: int, parent: int, prctl: Prctl | None, set_filter: SetFilter | None) -> list[str]:
    """Take from this process, for good, what an item has no use for; return what this platform cannot take.

    Args:
        memory_bytes: what it may take beyond what it has now.
        parent: process id of the one without which it must not live.
        prctl: as `find_prctl` found it.
        set_filter: as `seccomp.find_filter` found it.
    """
    missing: list[str] = []
    with _noted("prctl", missing):
        _end_with(parent, prctl)
    with _noted("oom_score_adj", missing):
        _write(_OOM_SCORE, _FIRST_TO_GO)
    with _noted("RLIMIT_AS", missing):
        _limit(resource.RLIMIT_AS, _address_space() + memory_bytes)
    # No new descriptor at all: no file, no socket, no network. What is open stays open. No new process either.
    for name in ("RLIMIT_CORE", "RLIMIT_FSIZE", "RLIMIT_NPROC", "RLIMIT_NOFILE"):
        with _noted(name, missing):
            _limit(getattr(resource, name), 0)
    # Last, since it refuses most of what stands above.
    with _noted("seccomp", missing):
        _filter_calls(set_filter)
    return missing


def grant_seconds(seconds: float) -> None:
    """Let this process have `seconds` of processor time from now on, rounded up; the kernel ends it after that."""
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(time.process_time() + seconds), _MAX_SECONDS))


def find_prctl() -> Prctl | None:
    """Return Linux's prctl; None where there is none."""
    import ctypes

    try:
        found = ctypes.CDLL(None, use_errno=True).prctl
    except (OSError, AttributeError):
        return None
    return lambda option, value: int(found(option, value, 0, 0, 0))


def _filter_calls(set_filter: SetFilter | None) -> None:
    if set_filter is None:
        raise OSError("no filter for this kind of machine")
    set_filter()


def _end_with(parent: int, prctl: Prctl | None) -> None:
    if prctl is None or prctl(_PR_SET_NO_NEW_PRIVS, 1) or prctl(_PR_SET_PDEATHSIG, signal.SIGKILL):
        raise OSError("no prctl")
    if os.getppid() != parent:  # it ended before it could be noticed
        os._exit(1)


def _limit(kind: int, most: int) -> None:
    hard = resource.getrlimit(kind)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(kind, (most, most))


def _address_space() -> int:
    with open(_STATM, encoding="ascii") as statm:  # noqa: PTH123 (pathlib is 4 ms of a start that is waited for)
        return int(statm.read().split()[0]) * resource.getpagesize()


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:  # noqa: PTH123 (as above)
        file.write(text)


@contextmanager
def _noted(name: str, missing: list[str]) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, AttributeError):
        missing.append(name)
