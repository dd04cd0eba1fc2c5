"""Limits of a child process, which it sets for itself once everything is loaded and before its first item.

Three layers: resource limits, a seccomp filter, and scrubbing, which removes what a forked process inherited.

The filter allows the few system calls that a child needs for an item; every other one fails with EPERM. So code that
a hostile image runs in a child can open nothing, connect to nothing, start nothing, and reach no other process, even
where resource limits would allow it: a limit of descriptors does not stop `kill`, `ptrace` or `unlink`.
https://www.kernel.org/doc/html/latest/userspace-api/seccomp_filter.html describes the filter. The numbers of the
system calls are those of Linux (`arch/x86/entry/syscalls/syscall_64.tbl`, `include/uapi/asm-generic/unistd.h`).
"""

import ctypes
import errno
import math
import os
import platform
import resource
import signal
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NO_NEW_PRIVS: Final = 38
"""prctl(2), https://man7.org/linux/man-pages/man2/prctl.2.html"""

_STAT: Final = "/proc/self/stat"
_STATM: Final = "/proc/self/statm"
_OOM_SCORE: Final = "/proc/self/oom_score_adj"
_MAX_OOM_SCORE: Final = b"1000"
"""oom_score_adj: if memory is short, the kernel kills this process before any other."""

_IGNORED_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

_MAX_CPU_SECONDS: Final = resource.getrlimit(resource.RLIMIT_CPU)[1]

_BYTES_OFFSET: Final = bytes.__basicsize__ - 1
"""Offset of the content in a bytes object of CPython."""

_PR_SET_SECCOMP: Final = 22
_SECCOMP_MODE_FILTER: Final = 2

_ALLOW: Final = 0x7FFF0000
_REFUSE: Final = 0x00050000 | errno.EPERM
_LOAD_WORD: Final = 0x20
_JUMP_IF_EQUAL: Final = 0x15
_RETURN: Final = 0x06

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
"""mallopt(3), https://man7.org/linux/man-pages/man3/mallopt.3.html"""

_NUMBER_AT, _ARCHITECTURE_AT, _FIRST_ARGUMENT_AT = 0, 4, 16
"""Offsets in `struct seccomp_data`; the low half of an argument comes first on both architectures."""

Prctl = Callable[..., int]


@dataclass(frozen=True)
class _Machine:
    """The number of an architecture in the kernel (`AUDIT_ARCH_…`), and the numbers of its system calls.

    Attributes:
        allowed: allowed with any arguments.
        on_itself: allowed with the process's own id as the first argument, so that it can end itself.
        prlimit64: allowed with process id 0, which is the caller: `setrlimit` is this call in glibc.
    """

    architecture: int
    allowed: Mapping[str, int]
    on_itself: Mapping[str, int]
    prlimit64: int


_MACHINES: Final[Mapping[str, _Machine]] = {
    "x86_64": _Machine(
        0xC000003E,
        {
            "read": 0, "write": 1, "close": 3, "fstat": 5, "lseek": 8, "mmap": 9, "mprotect": 10, "munmap": 11,
            "brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15, "sched_yield": 24, "mremap": 25,
            "madvise": 28, "getpid": 39, "sendto": 44, "recvfrom": 45, "sendmsg": 46, "recvmsg": 47, "exit": 60,
            "getrlimit": 97, "getrusage": 98, "times": 100, "sigaltstack": 131, "gettid": 186, "futex": 202,
            "sched_getaffinity": 204, "restart_syscall": 219, "clock_gettime": 228, "clock_nanosleep": 230,
            "exit_group": 231, "getrandom": 318, "membarrier": 324, "rseq": 334,
        },
        {"kill": 62, "tgkill": 234},
        302,
    ),
    "aarch64": _Machine(
        0xC00000B7,
        {
            "close": 57, "lseek": 62, "read": 63, "write": 64, "fstat": 80, "exit": 93, "exit_group": 94, "futex": 98,
            "clock_gettime": 113, "clock_nanosleep": 115, "sched_getaffinity": 123, "sched_yield": 124,
            "restart_syscall": 128, "sigaltstack": 132, "rt_sigaction": 134, "rt_sigprocmask": 135,
            "rt_sigreturn": 139, "times": 153, "getrlimit": 163, "getrusage": 165, "getpid": 172, "gettid": 178,
            "sendto": 206, "recvfrom": 207, "sendmsg": 211, "recvmsg": 212, "brk": 214, "munmap": 215, "mremap": 216,
            "mmap": 222, "mprotect": 226, "madvise": 233, "getrandom": 278, "membarrier": 283, "rseq": 293,
        },
        {"kill": 129, "tgkill": 131},
        261,
    ),
}  # fmt: skip

_MACHINE: Final = _MACHINES.get(platform.machine())


def ignore_signals() -> None:
    """Ignore the signals that stop services: the parent ends this process, and its items still matter until then."""
    for number in _IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def confine(memory_bytes: int, parent: int, prctl: Prctl | None, *, has_threads: bool = False) -> list[str]:
    """Remove the rights of this process that an item does not need; return the names of limits that were not set.

    Args:
        memory_bytes: memory beyond what the process has now.
        parent: process id of the parent; this process ends with it.
        prctl: from `find_prctl`.
        has_threads: the function opens files and starts threads, so only memory and the end of the process are set.
    """
    missing: list[str] = []
    with _recorded("prctl", missing):
        if (
            prctl is None
            or prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            or prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        ):
            raise OSError("no prctl")
        if os.getppid() != parent:  # the parent ended before the call above
            os._exit(1)
    # Calls of the system: open() would copy 200 pages that the child shares with the zygote, 0.8 ms of a start.
    with _recorded("oom_score_adj", missing):
        file = os.open(_OOM_SCORE, os.O_WRONLY)
        os.write(file, _MAX_OOM_SCORE)
        os.close(file)
    with _recorded("RLIMIT_AS", missing):
        file = os.open(_STATM, os.O_RDONLY)
        address_space = int(os.read(file, 100).split()[0]) * resource.getpagesize()
        os.close(file)
        _limit(resource.RLIMIT_AS, address_space + memory_bytes)
    # No new descriptor: no file, no socket, no network. Open ones stay open. No new process either.
    for name in ("RLIMIT_CORE", *(() if has_threads else ("RLIMIT_FSIZE", "RLIMIT_NPROC", "RLIMIT_NOFILE"))):
        with _recorded(name, missing):
            _limit(getattr(resource, name), 0)
    if has_threads:
        return missing
    # Last, since the filter refuses most of the calls above.
    with _recorded("seccomp", missing):
        if prctl is None or _MACHINE is None:
            raise OSError("no filter for this kind of machine")
        instructions = _instructions(_MACHINE, os.getpid())
        program = _Program(len(instructions), b"".join(instructions))
        if prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0):
            raise OSError(ctypes.get_errno(), "no seccomp filter")
    return missing


def grant_seconds(seconds: float) -> None:
    """Limit the CPU time of this process to `seconds` from now on, rounded up; the kernel ends it after that."""
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(time.process_time() + seconds), _MAX_CPU_SECONDS))


def find_prctl() -> Prctl | None:
    """Return prctl of Linux, or None on another platform."""
    try:
        return ctypes.CDLL(None, use_errno=True).prctl
    except (OSError, AttributeError):
        return None


def keep_freed_memory() -> None:
    """Let this process and each of its children keep up to 16 MB that an item has freed, for the next item.

    Without it glibc returns less before its first large block, which costs small images 15% of their time, and up to
    64 MB less after it. A pool keeps several idle children.
    """
    with suppress(OSError, AttributeError):  # another platform
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, 8 * 2**20)
        library.mallopt(_M_TRIM_THRESHOLD, 16 * 2**20)


def limit_arenas(count: int) -> None:
    """Let this process's threads share so many heaps: glibc has eight for each core, and each keeps freed memory."""
    with suppress(OSError, AttributeError):  # another platform
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, count)


def _limit(kind: int, maximum: int) -> None:
    hard = resource.getrlimit(kind)[1]
    maximum = maximum if hard == resource.RLIM_INFINITY else min(maximum, hard)
    resource.setrlimit(kind, (maximum, maximum))


@contextmanager
def _recorded(name: str, missing: list[str]) -> Iterator[None]:
    """Add `name` to `missing` if the platform refuses the limit."""
    try:
        yield
    except (OSError, ValueError, AttributeError):
        missing.append(name)


class _Program(ctypes.Structure):
    """`struct sock_fprog`."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def _instructions(machine: _Machine, own_id: int) -> Sequence[bytes]:
    """Return the filter of the process `own_id`."""
    numbers = machine.allowed.values()
    # Allowed with this first argument only.
    by_argument = [(machine.prlimit64, 0), *((number, own_id) for number in machine.on_itself.values())]
    return [
        _instruction(_LOAD_WORD, _ARCHITECTURE_AT),
        _instruction(_JUMP_IF_EQUAL, machine.architecture, if_true=1),
        _instruction(_RETURN, _REFUSE),
        _instruction(_LOAD_WORD, _NUMBER_AT),
        *(
            instruction
            for number, argument in by_argument
            for instruction in (
                _instruction(_JUMP_IF_EQUAL, number, if_false=4),
                _instruction(_LOAD_WORD, _FIRST_ARGUMENT_AT),
                _instruction(_JUMP_IF_EQUAL, argument, if_true=1),
                _instruction(_RETURN, _REFUSE),
                _instruction(_RETURN, _ALLOW),
            )
        ),
        # From each comparison over the remaining ones and the refusal to the last instruction, which allows.
        *(_instruction(_JUMP_IF_EQUAL, number, if_true=len(numbers) - place) for place, number in enumerate(numbers)),
        _instruction(_RETURN, _REFUSE),
        _instruction(_RETURN, _ALLOW),
    ]


def _instruction(code: int, constant: int, *, if_true: int = 0, if_false: int = 0) -> bytes:
    """Return a `struct sock_filter`; a jump skips that many of the following instructions."""
    return struct.pack("=HBBI", code, if_true, if_false, constant)


def scrub_environment() -> None:
    """Overwrite the environment of this process in the kernel's view and in Python's memory, then empty it."""
    areas: list[tuple[int, int]] = []
    # What this process started with: https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html, fields 50 and 51.
    with suppress(OSError), open(_STAT, encoding="utf-8", errors="replace") as stat:  # noqa: PTH123
        fields = stat.read().rpartition(")")[2].split()
        areas.append((int(fields[47]), int(fields[48]) - int(fields[47])))
    # Each ``name=value`` of today (https://man7.org/linux/man-pages/man7/environ.7.html).
    strings = ctypes.POINTER(ctypes.c_void_p).in_dll(ctypes.CDLL(None), "environ")
    place = 0
    while strings and (address := strings[place]):
        areas.append((address, len(ctypes.string_at(address))))
        place += 1
    # Python's own copies. CPython may share a bytes object of one byte between all equal ones.
    areas += [(id(value) + _BYTES_OFFSET, len(value)) for value in os.environb.values() if len(value) > 1]
    for address, size in areas:
        ctypes.memset(address, 0, size)
    os.environ.clear()


def close_all_but(kept: int) -> None:
    """Close every file except standard input, output and error, and `kept`."""
    os.closerange(3, kept)
    os.closerange(kept + 1, os.sysconf("SC_OPEN_MAX"))
