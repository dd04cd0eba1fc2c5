"""What a decoder may do to its process, for tests: each does what its item says."""

import os
import resource
import signal
import socket
import time

from services.image_errors import ImageRejectedError

CHANNEL_MARK = b"socket:"


def misbehave(data: bytes, times: int = 1) -> bytes:  # noqa: PLR0912, C901
    word, _, rest = data.decode().partition(" ")
    match word:
        case "signal":
            os.kill(os.getpid(), signal.Signals[rest])
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
        case "rubbish":
            _channel().sendall(bytes.fromhex(rest))
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
    attempts = {
        "file": lambda: os.open("/etc/hostname", os.O_RDONLY),
        "socket": lambda: socket.socket(socket.AF_INET),
        "pipe": os.pipe,
    }
    try:
        attempts[what]()
    except OSError as error:
        return type(error).__name__
    return "nothing stopped it"


def _channel() -> socket.socket:
    """Find the way to whoever waits for the answer, as something hostile would."""
    for descriptor in range(3, 64):
        try:
            return socket.socket(fileno=os.dup2(descriptor, descriptor))
        except OSError:
            continue
    raise LookupError("no socket")
