"""A network of one's own: a network namespace that nothing leads out of (man 7 network_namespaces).

A thread enters a namespace for itself alone, and what it makes there, a socket or a process, stays in it. So each
call runs in a thread that ends with it. `os.setns` and `os.unshare` come with Python 3.12.
"""

import ctypes
import os
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

_T = TypeVar("_T")

_CLONE_NEWNET = 0x40000000
_IP_SECONDS = 10

_libc = ctypes.CDLL(None, use_errno=True)


class NotApartError(OSError):
    """Raised when a process that should have a network of its own is in this one's."""


class IpCommandError(OSError):
    """Raised when `ip` refuses to set a network up; the message says which line, and why."""


def in_new_network(what: Callable[[], _T]) -> _T:
    """Call `what` in a new namespace, which lives as long as a socket or a process in it.

    Raises:
        OSError: this process may not make one; it needs to be root.
    """
    return _apart(lambda: _call(_libc.unshare, _CLONE_NEWNET), what)


def in_network_of(pid: int, what: Callable[[], _T]) -> _T:
    """Call `what` in the namespace of a process.

    Raises:
        NotApartError: it is this process's own, so that what belongs there would open here.
        OSError: there is no such process, or this one is not root.
    """
    path = network_of(pid)
    if path.readlink() == Path("/proc/self/ns/net").readlink():
        raise NotApartError(f"process {pid} has no network of its own")
    namespace = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _apart(lambda: _call(_libc.setns, namespace, _CLONE_NEWNET), what)
    finally:
        os.close(namespace)


def network_of(pid: int) -> Path:
    """Return the file that stands for the namespace of a process."""
    return Path(f"/proc/{pid}/ns/net")


def ip(*lines: str) -> None:
    """Set up the network of this thread with lines of `ip -batch` (iproute2); those before one that fails are done.

    Raises:
        IpCommandError: one is refused.
    """
    done = subprocess.run(
        ["ip", "-batch", "-"],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        timeout=_IP_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise IpCommandError(f"ip -batch refuses one of {lines}: {done.stderr.strip()}")


def _apart(enter: Callable[[], None], what: Callable[[], _T]) -> _T:
    def both() -> _T:
        enter()
        return what()

    with ThreadPoolExecutor(1, thread_name_prefix="netns") as thread:
        return thread.submit(both).result()


def _call(function: Callable[..., int], *arguments: int) -> None:
    if function(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
