"""A control group for each machine, so that the systemd of one never meets the services of another.

`systemd-nspawn` makes a machine's groups inside the group that it is started in, always under the same name.
"""

import time
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
GONE_SECONDS = 2.0
"""How long the last processes of a machine that was killed may take to leave their groups."""


def folders(machine_id: str, root: Path = ROOT) -> list[Path]:
    """Return the machine's group in each hierarchy that systemd keeps services in, whether it is there or not.

    Those are version 2, or beside version 1 ``systemd`` and, on most hosts, ``unified``
    (systemd's CGROUP_DELEGATION.md calls them unified, legacy and hybrid).
    """
    hierarchies = [root] if (root / "cgroup.controllers").exists() else [root / "systemd", root / "unified"]
    return [path / f"fleetsight-{machine_id}" for path in hierarchies if (path / "cgroup.procs").exists()]


def remove(machine_id: str, root: Path = ROOT, wait_seconds: float = GONE_SECONDS) -> None:
    """Remove the groups of a machine that has ended, from the innermost; of one that has none, nothing."""
    deadline = time.monotonic() + wait_seconds
    for top in folders(machine_id, root):
        while top.exists() and not _removed(top) and time.monotonic() < deadline:
            time.sleep(0.01)


def _removed(top: Path) -> bool:
    """Remove a tree of groups as far as it is empty of processes; say whether all of it was."""
    try:
        for path in sorted((path for path in top.rglob("*") if path.is_dir()), reverse=True):
            path.rmdir()
        top.rmdir()
    except FileNotFoundError:
        return not top.exists()
    except OSError:
        return False
    return True
