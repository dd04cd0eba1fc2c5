"""What a booted machine leaves: its disk, and its control groups."""

import shutil
import time
from pathlib import Path

from localcloud.machines.machine import Machine

CGROUP_ROOT = Path("/sys/fs/cgroup")

CGROUP_EXIT_SECONDS = 2.0
"""Longest wait in seconds for the last processes of a killed machine to leave their control groups."""

MAX_EXIT_SECONDS = 60.0
"""The same for the guard, which is the last that can remove what they leave."""


def disk_of(machine: Machine) -> Path:
    """Return the folder of a machine's disk."""
    return machine.directory / "disk"


def cgroup_folders(machine_id: str, root: Path = CGROUP_ROOT) -> list[Path]:
    """Return the machine's control group in each hierarchy of systemd's services, whether it exists or not.

    Each machine has its own group, so that its systemd does not meet the services of another machine: systemd-nspawn
    creates a machine's groups in the group in which it is started, always under the same name. The hierarchies are
    version 2, or with version 1 ``systemd`` and, on most hosts, ``unified`` (systemd's CGROUP_DELEGATION.md).
    """
    hierarchies = [root] if (root / "cgroup.controllers").exists() else [root / "systemd", root / "unified"]
    return [path / f"fleetsight-{machine_id}" for path in hierarchies if (path / "cgroup.procs").exists()]


def discard(machine: Machine, wait_seconds: float = CGROUP_EXIT_SECONDS, root: Path = CGROUP_ROOT) -> None:
    """Remove the control groups, innermost first, and the disk of a machine that will not start again."""
    deadline = time.monotonic() + wait_seconds
    for top in cgroup_folders(machine.directory.name, root):
        while top.exists() and not _remove_tree(top) and time.monotonic() < deadline:
            time.sleep(0.01)
    # The disk last: processes that are ending write to it until they have left their groups.
    shutil.rmtree(disk_of(machine), ignore_errors=True)


def _remove_tree(top: Path) -> bool:
    """Remove the groups of a tree that have no processes; return True if all were removed."""
    try:
        for path in sorted((path for path in top.rglob("*") if path.is_dir()), reverse=True):
            path.rmdir()
        top.rmdir()
    except FileNotFoundError:
        return not top.exists()
    except OSError:
        return False
    return True
