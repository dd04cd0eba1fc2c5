"""What a booted machine leaves is removed, and nothing of another machine."""

from pathlib import Path

from localcloud.machines.machine import Machine
from tests.support.booted.leftovers import cgroup_folders, discard, disk_of


def group_of(machine_id: str, root: Path) -> Path:
    (root / "systemd").mkdir(parents=True, exist_ok=True)
    (root / "systemd" / "cgroup.procs").touch()
    (group,) = cgroup_folders(machine_id, root)
    return group


def test_disk_and_groups_of_one_machine_are_removed_and_those_of_another_stay(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "instances" / "i-1")
    disk_of(machine).mkdir(parents=True)
    mine, other = group_of("i-1", tmp_path), group_of("i-2", tmp_path)
    for group in (mine / "payload" / "system.slice" / "a.service", mine / "supervisor", other):
        group.mkdir(parents=True)
    discard(machine, root=tmp_path)
    assert not mine.exists()
    assert not disk_of(machine).exists()
    assert other.exists()


def test_a_group_that_a_process_does_not_leave_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    mine = group_of("i-1", tmp_path)
    (mine / "payload").mkdir(parents=True)
    (mine / "payload" / "stays").touch()
    discard(Machine(tmp_path / "instances" / "i-1"), wait_seconds=0.05, root=tmp_path)
    assert (mine / "payload" / "stays").exists()
