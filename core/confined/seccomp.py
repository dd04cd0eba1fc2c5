"""A seccomp filter: the few system calls that a child needs for an item, and EPERM for every other one.

So code that a hostile image brings to run in a child can open nothing, connect to nothing, start nothing, and reach
no other process, also where the limits would allow it: a limit of descriptors does not stop `kill`, `ptrace` or
`unlink`.

https://www.kernel.org/doc/html/latest/userspace-api/seccomp_filter.html describes the filter. The numbers of the
calls are those of Linux (`arch/x86/entry/syscalls/syscall_64.tbl`, `include/uapi/asm-generic/unistd.h`).
"""

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

_PR_SET_SECCOMP: Final = 22
_SECCOMP_MODE_FILTER: Final = 2

_ALLOW: Final = 0x7FFF0000
_REFUSE: Final = 0x00050000 | errno.EPERM
_LOAD_WORD: Final = 0x20
_JUMP_IF_EQUAL: Final = 0x15
_RETURN: Final = 0x06

_NUMBER_AT, _ARCHITECTURE_AT, _FIRST_ARGUMENT_AT = 0, 4, 16
"""Offsets in `struct seccomp_data`; the low half of an argument comes first on both architectures."""


@dataclass(frozen=True)
class _Machine:
    """What the kernel calls an architecture (`AUDIT_ARCH_…`), and the numbers of its system calls there.

    Attributes:
        allowed: with any arguments.
        on_itself: with the process's own id alone as the first argument, so that it can end itself.
        prlimit64: with process id 0 alone, which is the caller: `setrlimit` is this call in glibc.
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

SetFilter = Callable[[], None]
"""Sets the filter for the process that calls it, for good; raises OSError where the kernel refuses."""


class _Program(ctypes.Structure):
    """`struct sock_fprog`."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def find_filter() -> SetFilter | None:
    """Return what sets the filter, so that a child needs to load nothing; None on an unknown kind of machine."""
    machine = _MACHINES.get(platform.machine())
    try:
        prctl = ctypes.CDLL(None, use_errno=True).prctl
    except (OSError, AttributeError):
        return None
    if machine is None:
        return None

    def set_filter() -> None:
        instructions = _instructions(machine, os.getpid())
        program = _Program(len(instructions), b"".join(instructions))
        if prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0):
            raise OSError(ctypes.get_errno(), "no seccomp filter")

    return set_filter


def _instructions(machine: _Machine, own_id: int) -> Sequence[bytes]:
    """Return the filter of the process `own_id`."""
    numbers = machine.allowed.values()
    by_argument = [(machine.prlimit64, 0), *((number, own_id) for number in machine.on_itself.values())]
    return [
        _instruction(_LOAD_WORD, _ARCHITECTURE_AT),
        _instruction(_JUMP_IF_EQUAL, machine.architecture, if_true=1),
        _instruction(_RETURN, _REFUSE),
        _instruction(_LOAD_WORD, _NUMBER_AT),
        *(each for number, argument in by_argument for each in _allowed_with(number, argument)),
        # From behind each comparison, past the others and the refusal, to where it is allowed.
        *(_instruction(_JUMP_IF_EQUAL, number, if_true=len(numbers) - place) for place, number in enumerate(numbers)),
        _instruction(_RETURN, _REFUSE),
        _instruction(_RETURN, _ALLOW),
    ]


def _allowed_with(number: int, first_argument: int) -> Sequence[bytes]:
    """Return what allows a call with this first argument, refuses it with another, and goes on at other calls."""
    return [
        _instruction(_JUMP_IF_EQUAL, number, if_false=4),
        _instruction(_LOAD_WORD, _FIRST_ARGUMENT_AT),
        _instruction(_JUMP_IF_EQUAL, first_argument, if_true=1),
        _instruction(_RETURN, _REFUSE),
        _instruction(_RETURN, _ALLOW),
    ]


def _instruction(code: int, constant: int, *, if_true: int = 0, if_false: int = 0) -> bytes:
    """Return a `struct sock_filter`; a jump leaves out so many of the instructions that follow."""
    return struct.pack("=HBBI", code, if_true, if_false, constant)
