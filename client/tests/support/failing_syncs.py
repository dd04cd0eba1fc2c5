"""A disk that synchronizes nothing: what promises to survive a power failure must fail on it.

In one thread the kernel answers each fsync(2) and fdatasync(2) with EIO, by a seccomp filter. Code that reports
success there has not waited for the disk. https://www.kernel.org/doc/html/latest/userspace-api/seccomp_filter.html
"""

import ctypes
import errno
import platform
import struct
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

T = TypeVar("T")
S = TypeVar("S")

_SYNC_CALLS: Final[Mapping[str, tuple[int, int]]] = {"x86_64": (74, 75), "aarch64": (82, 83)}
"""Numbers of fsync and fdatasync by machine."""

CAN_FAIL_SYNCS: Final = platform.system() == "Linux" and platform.machine() in _SYNC_CALLS

_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, _PR_SET_NO_NEW_PRIVS = 22, 2, 38
_LOAD_CALL, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _FAIL = 0x7FFF0000, 0x00050000 | errno.EIO


class _Program(ctypes.Structure):
    """`struct sock_fprog`."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def with_failing_syncs(prepare: Callable[[], S], act: Callable[[S], T]) -> T:
    """Return what `act` returns for the result of `prepare`; no sync succeeds in `act`.

    Both run in a thread of their own, which ends with them, since a filter cannot be taken back.
    """

    def run() -> T:
        prepared = prepare()
        _fail_syncs()
        return act(prepared)

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(run).result()


def _fail_syncs() -> None:
    instructions = [(_LOAD_CALL, 0, 0, 0)]
    for number in _SYNC_CALLS[platform.machine()]:
        instructions += [(_JUMP_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, _FAIL)]
    instructions.append((_RETURN, 0, 0, _ALLOW))
    program = _Program(len(instructions), b"".join(struct.pack("HBBI", *each) for each in instructions))
    prctl: Any = ctypes.CDLL(None, use_errno=True).prctl
    if prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or prctl(
        _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0
    ):
        raise OSError(ctypes.get_errno(), "no seccomp filter")
