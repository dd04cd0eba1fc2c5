"""What the tests of booted images read: a machine's console, its network from inside, and what is left of it."""

from pathlib import Path

from localcloud.launch import LocalCloud
from localcloud.machines.machine import Machine
from tests.support.booted.leftovers import cgroup_folders
from tests.support.processes import processes_with
from tests.support.waiting import wait_until


def machine_of(cloud: LocalCloud, instance_id: str) -> Machine:
    return Machine(cloud.state_dir / "instances" / instance_id)


def console_says(machine: Machine, words: str) -> None:
    wait_until(lambda: words in console_of(machine), f"the console says {words!r}")


def console_of(machine: Machine) -> str:
    return machine.console.read_text(errors="replace") if machine.console.exists() else ""


def left_of(directory: Path) -> set[int]:
    """Find every process of a machine: those in its control groups, or with its disk mounted."""
    return processes_with(("mounts", "cgroup"), f"/fleetsight-{directory.name}/", f"{directory}/disk")


def traces_of(state_dir: Path, instance_id: str = "i-*") -> list[str]:
    """Return what is left of the machines below `state_dir`: processes, disks, control groups."""
    found: list[str] = []
    for directory in (state_dir / "instances").glob(instance_id):
        found += map(str, left_of(directory))
        found += [str(path) for path in (directory / "disk", *cgroup_folders(directory.name)) if path.exists()]
    return found
