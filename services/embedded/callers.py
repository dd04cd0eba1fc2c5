"""Which process of this machine made a call: found by the port of its connection. Linux only."""

import contextlib
import os
import signal
from pathlib import Path

PROC = Path("/proc")


def kill_caller(port: int) -> list[int]:
    """End the processes that hold the client's end of a connection from loopback, as kill -9 does.

    Args:
        port: of the client's end.

    Returns:
        Their process ids; none where they cannot be found.
    """
    found = processes_of(port)
    for pid in found:
        with contextlib.suppress(OSError):  # it has ended in this moment
            os.kill(pid, signal.SIGKILL)
    return found


def processes_of(port: int) -> list[int]:
    """Return the processes that hold a socket with this local port on 127.0.0.1, other than this one."""
    inode = _inode_of(port)
    if inode is None:
        return []
    target = f"socket:[{inode}]"
    others = (process for process in PROC.iterdir() if process.name.isdigit() and int(process.name) != os.getpid())
    return sorted(int(process.name) for process in others if _holds(process, target))


def _inode_of(port: int) -> str | None:
    local = f"0100007F:{port:04X}"
    with contextlib.suppress(OSError):
        for line in (PROC / "net" / "tcp").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[1] == local and fields[9] != "0":
                return fields[9]
    return None


def _holds(process: Path, target: str) -> bool:
    with contextlib.suppress(OSError):
        for handle in (process / "fd").iterdir():
            with contextlib.suppress(OSError):
                if str(handle.readlink()) == target:
                    return True
    return False
