"""Which processes a process has started: https://man7.org/linux/man-pages/man5/proc_tid_children.5.html"""

from contextlib import suppress
from pathlib import Path


def children_of(process: int) -> list[int]:
    """Return the ids of the processes that any thread of `process` has started, or none if `process` has ended."""
    children: list[int] = []
    with suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{process}/task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
                children += map(int, (task / "children").read_text().split())
    return children
