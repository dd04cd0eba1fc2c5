"""The processes of a local cloud, as the kernel lists them."""

from pathlib import Path


def children_of(pid: int) -> list[int]:
    """Return the process numbers of the children of a process."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            stat = (entry / "stat").read_text()
        except OSError:
            continue  # the process ended meanwhile
        if int(stat.rpartition(")")[2].split()[1]) == pid:
            found.append(int(entry.name))
    return found
