"""What a system on this machine tells its instances to run, by what its instances are."""

from dataclasses import replace
from pathlib import Path

import pytest

from ami.local import LocalImage
from core.config import PATH_VARIABLE
from scripts.run.system import ROOT, StartError, System

IMAGE = LocalImage("ami-0123456789abcdef0", Path("/images/ami-0123456789abcdef0"))


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> System:
    monkeypatch.delenv(PATH_VARIABLE, raising=False)
    return System(tmp_path, {"FLEETSIGHT__WORKER__BUNDLE": "my/bundle", "FLEETSIGHT__WORKER__IDLE_SECONDS": "7"})


def test_a_process_runs_the_worker_of_this_checkout(system: System) -> None:
    script = system.config.fleet.user_data
    assert f"cd {ROOT}\n" in script
    assert "export FLEETSIGHT__WORKER__BUNDLE=my/bundle\n" in script
    assert script.endswith(" -m app_tier\n")


def test_a_machine_starts_what_its_image_has_with_this_systems_settings(system: System) -> None:
    machines = replace(system, image=IMAGE)
    script = machines.config.fleet.user_data
    assert script.endswith("\nexec /opt/fleetsight/start worker\n")
    assert "export FLEETSIGHT__WORKER__IDLE_SECONDS=7\n" in script
    assert f"export FLEETSIGHT__AWS__ENDPOINT_URL={machines.endpoint_url}\n" in script
    assert machines.config.fleet.image_id == IMAGE.image_id


def test_a_machine_is_told_no_path_of_this_machine(system: System) -> None:
    script = replace(system, image=IMAGE).config.fleet.user_data
    assert str(ROOT) not in script
    assert "my/bundle" not in script


def test_a_configuration_that_is_not_in_the_image_is_refused(
    system: System, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = tmp_path / "other.yaml"
    other.write_text((ROOT / "config.yaml").read_text())
    monkeypatch.setenv(PATH_VARIABLE, str(other))
    with pytest.raises(StartError, match=r"other\.yaml, and in the image is"):
        replace(system, image=IMAGE).start()
