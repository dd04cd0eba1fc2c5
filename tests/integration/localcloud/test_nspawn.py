"""What boots an image: the command, and the reasons for which nothing is booted."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from localcloud.machines import nspawn
from localcloud.machines.machine import BootFailedError, Machine, children_of
from localcloud.machines.nspawn import (
    Nspawn,
    NspawnMissingError,
    check_tools,
    command,
    hypervisor_uuid,
)

ENDPOINT = "http://127.0.0.1:5000"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path / "instances" / "i-0123456789abcdef0")
    made.prepare()
    return made


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host on which images can be booted."""
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("shutil.which", lambda name, path=None: f"/usr/bin/{name}")


def test_an_image_that_is_not_there_fails_the_boot_with_those_that_are(
    able: None, machine: Machine, tmp_path: Path
) -> None:
    (tmp_path / "images" / "ami-2" / "usr").mkdir(parents=True)
    (tmp_path / "images" / "ami-3").mkdir()  # half made
    kind = Nspawn(ENDPOINT, tmp_path / "images")
    with pytest.raises(
        BootFailedError, match=re.escape(f"no image ami-1 in {tmp_path / 'images'}; there are: ami-2")
    ):
        kind.boot(machine, {"image_id": "ami-1"})
    assert "boot failed: there is no image ami-1" in machine.console.read_text()


def test_an_image_id_is_no_path(able: None, machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "usr").mkdir(parents=True)
    (tmp_path / "images").mkdir()
    with pytest.raises(BootFailedError):
        Nspawn(ENDPOINT, tmp_path / "images").boot(machine, {"image_id": "../elsewhere"})


def test_without_root_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(NspawnMissingError, match="need root"):
        check_tools()


def test_a_command_that_is_missing_is_named_with_its_package(able: None, monkeypatch: pytest.MonkeyPatch) -> None:
    there = {name: f"/usr/bin/{name}" for name in nspawn.TOOLS if name != "systemd-nspawn"}
    monkeypatch.setattr("shutil.which", lambda name, path=None: there.get(name))
    with pytest.raises(NspawnMissingError, match="need systemd-nspawn: apt install systemd-container"):
        check_tools()


def test_a_host_without_time_namespaces_is_refused(
    able: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(nspawn, "TIME_NAMESPACE", tmp_path / "none")
    with pytest.raises(NspawnMissingError, match=r"Linux 5\.6"):
        check_tools()


def test_the_hardware_says_ec2_and_which_instance_it_is() -> None:
    uuid = hypervisor_uuid("i-0123456789abcdef0")
    assert re.fullmatch(r"ec2[0-9a-f]{5}-([0-9a-f]{4}-){3}[0-9a-f]{12}\n", uuid)
    assert uuid.replace("-", "").strip().endswith("0123456789abcdef0")


def test_a_folder_with_a_space_in_its_name_is_one_word_to_the_shell(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "my state" / "instances" / "i-1")
    image = tmp_path / "my images" / "ami-1"
    script = command(machine, image)[-1]
    subprocess.run(["/bin/sh", "-nc", script], check=True)
    assert f"'{machine.disk}/root'" in script
    assert (
        f"'lowerdir={tmp_path}/my images/ami-1,upperdir={machine.disk}/upper,workdir={machine.disk}/work'" in script
    )


def test_the_children_of_a_process_are_found() -> None:
    sleep = shutil.which("sleep") or "sleep"
    with subprocess.Popen(["/bin/sh", "-c", f"{sleep} 60 & wait"]) as shell:
        try:
            found: list[int] = []
            while not found:
                found = children_of(shell.pid)
            assert len(found) == 1
        finally:
            subprocess.run(["kill", *map(str, children_of(shell.pid)), str(shell.pid)], check=True)
