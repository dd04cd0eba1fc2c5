"""A local build: what it needs, what it says when a step fails, and that a folder is whole or not there."""

import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import pytest

from ami import ingredients, steps
from ami.ingredients import debian, wheels
from ami.local import ImageBuildError, ImageToolMissingError, image_id
from ami.local import _forget_old as forget_old
from ami.local import _is_in as is_in
from ami.steps import made_whole, need_tools, run
from tests.support.processes import children_of
from tests.support.waiting import DEADLINE_SECONDS, wait_until

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root")


def put_on_path(name: str, script: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `script` be the program `name`."""
    program = folder / "bin" / name
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


def child_with(argument: str) -> int:
    """Return the child of this process whose command line contains `argument`."""
    [found] = [pid for pid in children_of(os.getpid()) if argument in Path(f"/proc/{pid}/cmdline").read_text()]
    return found


def test_only_root_can_make_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ImageToolMissingError, match="only root"):
        need_tools()


def test_tools_that_are_missing_are_named_with_the_way_to_get_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        ImageToolMissingError, match=r"no debootstrap and no systemd-nspawn .*apt install debootstrap"
    ):
        need_tools()


def test_a_step_that_fails_says_what_it_said_last() -> None:
    command = (sys.executable, "-c", "print('the disk is full'); raise SystemExit(3)")
    with pytest.raises(ImageBuildError, match=r"nothing was made: .* ended with 3\nthe disk is full"):
        run("nothing was made", command, 60)


def test_a_step_that_hangs_is_ended() -> None:
    with pytest.raises(ImageBuildError, match=r"nothing was made: sleep was not done after 0 s"):
        run("nothing was made", ("sleep", "60"), 0.05)


def test_a_folder_that_could_not_be_made_is_not_there_half(tmp_path: Path) -> None:
    def fail(new: Path) -> None:
        new.mkdir()
        (new / "a").write_text("half")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"), made_whole(tmp_path / "image") as new:
        fail(new)
    assert list(tmp_path.iterdir()) == []
    with made_whole(tmp_path / "image") as new:
        new.mkdir()
    assert [path.name for path in tmp_path.iterdir()] == ["image"]


@as_root
@pytest.mark.parametrize(
    ("said", "error"),
    [
        ("E: Failed getting release file http://archive.example/debian/dists", ImageToolMissingError),
        ("W: Couldn't download package libc6", ImageToolMissingError),
        ("W: Failure while configuring required packages.", ImageBuildError),
    ],
    ids=["archive", "package", "other"],
)
def test_debian_that_cannot_be_fetched_is_a_missing_tool_and_other_failures_are_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: str, error: type[Exception]
) -> None:
    put_on_path("debootstrap", f'echo "{said}"\nexit 1', tmp_path, monkeypatch)
    with pytest.raises(error, match=r"Debian"):
        debian(tmp_path / "base", lambda _: None)
    assert not list((tmp_path / "base").iterdir())


@as_root
def test_debootstrap_that_is_killed_leaves_neither_a_mount_nor_a_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mounts = 'for folder; do :; done\nmkdir -p "$folder/proc"\nmount -t proc proc "$folder/proc"\n'
    put_on_path("debootstrap", f"{mounts}touch {tmp_path}/mounted\nsleep 600", tmp_path, monkeypatch)
    with ThreadPoolExecutor(1) as builder:
        building = builder.submit(debian, tmp_path / "base", lambda _: None)
        wait_until((tmp_path / "mounted").exists, "debootstrap has mounted /proc")
        os.kill(child_with(str(tmp_path)), signal.SIGKILL)
        with pytest.raises(ImageBuildError, match="ended with -9"):
            building.result(DEADLINE_SECONDS)
    assert str(tmp_path) not in Path("/proc/mounts").read_text()
    assert not list((tmp_path / "base").iterdir())


def test_debian_and_wheels_that_are_there_are_not_fetched_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fetched: list[str] = []

    def fetch(failed: str, command: tuple[str, ...], *_: object) -> None:
        fetched.append(failed)
        if "debootstrap" in command:
            Path(command[-1]).mkdir()

    monkeypatch.setattr(ingredients, "run", fetch)
    for _ in range(2):
        assert debian(tmp_path / "base", lambda _: None).is_dir()
        assert (wheels("web", tmp_path / "wheels", lambda _: None) / "requirements.txt").is_file()
    assert len(fetched) == 2


def test_an_image_has_an_id_of_ec2_and_each_role_its_own() -> None:
    ids = {image_id("worker"), image_id("web")}
    assert len(ids) == 2
    for each in ids:
        assert each.startswith("ami-")
        assert len(each) == 21
        assert int(each[4:], 16)


@pytest.mark.parametrize(
    ("name", "roles"),
    [
        ("core/config.py", {"worker", "web"}),
        ("app_tier/pipeline.py", {"worker"}),
        ("web_tier/app.py", {"web"}),
        ("ami/provision.sh", {"worker", "web"}),
        ("ami/files/web/etc/nginx/nginx.conf", {"worker", "web"}),
        ("ami/local.py", set()),
        ("ami/README.md", set()),
    ],
)
def test_an_image_is_made_again_when_a_file_of_its_own_has_changed(name: str, roles: set[str]) -> None:
    assert {role for role in ("worker", "web") if is_in(role, PurePosixPath(name))} == roles


def test_what_nobody_has_asked_for_is_forgotten_and_what_somebody_has_is_not(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    new.mkdir()
    os.utime(old, (100, 100))
    for each in (old, new):
        forget_old(each, before=200)
    assert list(tmp_path.iterdir()) == [new]


def test_a_container_ends_with_the_command_that_runs_it() -> None:
    command = steps.inside_of(Path("/somewhere"), "--volatile=overlay")
    assert "--kill-child" in command[: command.index("sh")]
    assert {"--private-network", "--register=no", "--directory=/somewhere", "--volatile=overlay"} <= set(command)
