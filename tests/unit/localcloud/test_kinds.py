"""The command line of the hypervisor chooses what an instance is, and says what that needs."""

from pathlib import Path

import pytest

from localcloud.__main__ import main

START = ["hypervisor", "--endpoint", "http://127.0.0.1:1", "--state-dir"]


def test_machines_that_boot_need_images(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="--machines nspawn needs --images DIR"):
        main([*START, str(tmp_path), "--machines", "nspawn"])


def test_a_host_that_cannot_boot_images_is_told_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(SystemExit, match="machines of kind nspawn need root"):
        main([*START, str(tmp_path), "--machines", "nspawn", "--images", str(tmp_path)])
