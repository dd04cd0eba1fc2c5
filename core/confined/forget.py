"""Makes a forked process forget what it has of its parent: its environment, where keys may stand, and open files."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_STAT = Path("/proc/self/stat")
_START_OF_BYTES = bytes.__basicsize__ - 1
"""Where CPython keeps what a bytes object holds."""


def forget_environment() -> None:
    """Overwrite the environment of this process where the system shows it and where Python keeps it, and empty it."""
    for address, size in (*_first_strings(), *_strings_of_the_system(), *_strings_of_python()):
        ctypes.memset(address, 0, size)
    os.environ.clear()


def close_all_but(kept: int) -> None:
    """Close every file but standard input, output and error, and `kept`."""
    os.closerange(3, kept)
    os.closerange(kept + 1, os.sysconf("SC_OPEN_MAX"))


def _first_strings() -> Iterator[tuple[int, int]]:
    """Yield where the environment was that this process began with, not what has been set or taken out since.

    https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html, fields 50 and 51
    """
    with suppress(OSError):
        fields = _STAT.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        start, end = int(fields[47]), int(fields[48])
        yield start, end - start


def _strings_of_the_system() -> Iterator[tuple[int, int]]:
    """Yield address and size of each ``name=value`` (https://man7.org/linux/man-pages/man7/environ.7.html)."""
    strings = ctypes.POINTER(ctypes.c_void_p).in_dll(ctypes.CDLL(None), "environ")
    place = 0
    while strings and (address := strings[place]):
        yield address, len(ctypes.string_at(address))
        place += 1


def _strings_of_python() -> Iterator[tuple[int, int]]:
    # A bytes object of one byte may be shared with all that is equal.
    return ((id(value) + _START_OF_BYTES, len(value)) for value in os.environb.values() if len(value) > 1)
