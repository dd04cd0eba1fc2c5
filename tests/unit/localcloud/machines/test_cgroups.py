"""A machine's control groups are found in the hierarchies that there are, and removed from the innermost."""

from pathlib import Path

import pytest

from localcloud.machines.cgroups import folders, remove


def hierarchy(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / "cgroup.procs").touch()
    return path


def test_version_2_has_one_group_for_a_machine(tmp_path: Path) -> None:
    hierarchy(tmp_path)
    (tmp_path / "cgroup.controllers").touch()
    assert folders("i-1", tmp_path) == [tmp_path / "fleetsight-i-1"]


@pytest.mark.parametrize("names", [["systemd", "unified"], ["systemd"]], ids=["hybrid", "legacy"])
def test_version_1_has_one_in_each_that_systemd_uses(tmp_path: Path, names: list[str]) -> None:
    for name in (*names, "memory"):
        hierarchy(tmp_path / name)
    assert folders("i-1", tmp_path) == [tmp_path / name / "fleetsight-i-1" for name in names]


def test_the_groups_of_one_machine_are_removed_and_those_of_another_stay(tmp_path: Path) -> None:
    hierarchy(tmp_path / "systemd")
    (mine,) = folders("i-1", tmp_path)
    (other,) = folders("i-2", tmp_path)
    for group in (mine / "payload" / "system.slice" / "a.service", mine / "supervisor", other):
        group.mkdir(parents=True)
    remove("i-1", tmp_path)
    assert not mine.exists()
    assert other.exists()


def test_a_group_that_a_process_does_not_leave_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    hierarchy(tmp_path / "systemd")
    (mine,) = folders("i-1", tmp_path)
    (mine / "payload").mkdir(parents=True)
    (mine / "payload" / "stays").touch()
    remove("i-1", tmp_path, wait_seconds=0.05)
    assert (mine / "payload" / "stays").exists()


def test_a_machine_without_groups_has_nothing_to_remove(tmp_path: Path) -> None:
    remove("i-1", tmp_path)
    assert folders("i-1", tmp_path) == []
