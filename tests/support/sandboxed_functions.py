"""Functions for sandboxed processes with faults on request: the item names the fault."""

import ctypes
import os
import resource
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app_tier.central_crop import central_crop
from core.images import ImageRejectedError

ZYGOTE = os.getpid()
"""The child's parent, which loads this module."""

LIBC = ctypes.CDLL(None, use_errno=True)
PTRACE_ATTACH = 16


def misbehave(data: bytes, times: int = 1) -> bytes:  # noqa: PLR0912, C901
    word, _, rest = data.decode().partition(" ")
    match word:
        case "signal":
            os.kill(os.getpid(), signal.Signals[rest])
        case "stop_in":
            if os.getpid() == int(rest):
                os.kill(os.getpid(), signal.SIGSTOP)
        case "exit":
            os._exit(int(rest))
        case "spin":
            while True:
                pass
        case "burn":
            until = time.process_time() + float(rest)
            while time.process_time() < until:
                pass
        case "sleep":
            time.sleep(600)
        case "allocate":
            return str(len(bytearray(int(rest)))).encode()
        case "long":
            return bytes(int(rest))
        case "refuse":
            raise ImageRejectedError("truncated", rest)
        case "fail":
            raise LookupError(rest)
        case "raw":
            _write_to_channel(bytes.fromhex(rest))
            time.sleep(600)
        case "try":
            return _attempt(rest).encode()
        case "limits":
            names = ("RLIMIT_NOFILE", "RLIMIT_CORE", "RLIMIT_FSIZE", "RLIMIT_NPROC")
            return repr([resource.getrlimit(getattr(resource, name)) for name in names]).encode()
        case "environment":
            return repr(dict(os.environ)).encode()
    return str(os.getpid()).encode() * times


def _attempt(what: str) -> str:
    """Return the error that an attempt ends with."""
    name, _, rest = what.partition(" ")
    attempts: dict[str, Callable[[], object]] = {
        "open": lambda: os.open("/etc/hostname", os.O_RDONLY),
        "socket": lambda: socket.socket(socket.AF_INET),
        "pipe": os.pipe,
        "execve": lambda: os.execv("/bin/true", ["true"]),  # noqa: S606 - must fail
        "fork": os.fork,
        "ptrace": lambda: _call("ptrace", PTRACE_ATTACH, ZYGOTE, 0, 0),
        "kill": lambda: os.kill(ZYGOTE, 0),
        "prlimit": lambda: resource.prlimit(ZYGOTE, resource.RLIMIT_CPU),
        "process_vm_readv": lambda: _call("process_vm_readv", ZYGOTE, None, 0, None, 0, 0),
        "unlink": lambda: Path(rest).unlink(),
        "mkdir": lambda: Path(rest).mkdir(),
        "chmod": lambda: Path(rest).chmod(0o700),
        "setuid": lambda: os.setuid(os.getuid()),
    }
    try:
        attempts[name]()
    except OSError as error:
        return type(error).__name__
    return "nothing stopped it"


def _call(name: str, *arguments: int | None) -> None:
    """Make a call that Python has no name for."""
    if LIBC[name](*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)


def _write_to_channel(data: bytes) -> None:
    """Send `data` to the process that waits for the reply, as hostile code would."""
    for descriptor in range(3, 64):
        try:
            os.write(descriptor, data)
        except OSError:
            continue
        return
    raise LookupError("no channel")


def draw(data: bytes, limits: tuple[int, int, int], side: int) -> bytes:
    """Return a thumbnail for the item `picture`, else cause the fault that the item names."""
    return b"\xff\xd8\xff drawn" if data == b"picture" else misbehave(data)


def crash(data: bytes, **arguments: Any) -> bytes:
    """Decode an image; one that is the name of a signal ends the process by it."""
    if data.startswith(b"SIG"):
        os.kill(os.getpid(), signal.Signals[data.decode()])
    return central_crop(data, **arguments)
