"""The command as one file runs where nothing is installed but Python."""

import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from fleetsight_client import single_file

pytestmark = pytest.mark.processes


def test_the_single_file_runs_without_any_installed_package(tmp_path: Path) -> None:
    file = tmp_path / "fleetsight.pyz"
    single_file.write_single_file(file)
    command = [sys.executable, "-I", "-S", str(file), "classify", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True, cwd=tmp_path)
    assert "--manifest" in shown.stdout
    with ZipFile(file) as archive:
        names = archive.namelist()
    assert {f"{name}/__init__.py" for name in ("fleetsight_client", "click", "rich", "urllib3")} <= {*names}
    assert sum("licen" in name.lower() for name in names) >= len(single_file.REQUIRED)
