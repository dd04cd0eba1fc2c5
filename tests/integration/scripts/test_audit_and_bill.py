"""The audit of the pinned packages, and their bill of materials."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scripts.run.system import ROOT
from tests.support.pins import REQUIREMENTS, read_sections
from tests.support.reader import command_in

pytestmark = pytest.mark.processes

SKIPPED, HARMLESS = {"name": "a", "skip_reason": "not found"}, {"name": "b", "version": "1", "vulns": []}
VULNERABLE = {"name": "c", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}]}

AUDITS: dict[str, tuple[list[dict[str, Any]], int, str]] = {
    "nothing": ([], 2, "NOT AUDITED: PyPI's database of vulnerabilities did not answer for any package"),
    "no data": ([SKIPPED, HARMLESS], 2, "did not answer for 1 of 2 packages"),
    "harmless": ([HARMLESS], 0, "No vulnerability is known of 1 packages."),
    "vulnerable": ([SKIPPED, VULNERABLE], 1, "c 2: CVE-1, fixed in 3\nNOT AUDITED"),
}


@pytest.mark.parametrize(("packages", "status", "printed"), AUDITS.values(), ids=AUDITS)
def test_the_audit_tells_vulnerable_packages_from_missing_data(
    packages: list[dict[str, Any]], status: int, printed: str, tmp_path: Path
) -> None:
    answer = json.dumps({"dependencies": packages}) if packages else "no connection"
    program = tmp_path / ".venv" / "bin" / "pip-audit"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{answer}\nEND\n")
    program.chmod(0o755)
    shutil.copytree(REQUIREMENTS, tmp_path / "requirements")
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "audit.py", tmp_path / "scripts")
    (tmp_path / "fleetsight_client").symlink_to(ROOT / "fleetsight_client")
    ended = subprocess.run(
        [sys.executable, "-m", "scripts.audit"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (status, "")
    assert printed in ended.stdout


@pytest.mark.thorough
def test_the_bill_of_materials_has_all_pinned_packages_with_version_and_hashes(tmp_path: Path) -> None:
    """The command is the one of CONTRIBUTING.md; cyclonedx-py validates what it writes."""
    (tmp_path / ".venv").symlink_to(sys.prefix)
    for name in ("requirements", "pyproject.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    command = command_in("CONTRIBUTING.md", "cyclonedx_py")
    subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, check=True)
    bill = json.loads((tmp_path / "sbom.json").read_text())
    assert (bill["bomFormat"], bill["metadata"]["component"]["name"]) == ("CycloneDX", "fleetsight")
    components = {each["name"]: each for each in bill["components"]}
    pins = {pin.name: pin for pin in read_sections()["run"]}
    assert components.keys() == pins.keys()
    for name, pin in pins.items():
        assert components[name]["purl"] == f"pkg:pypi/{name}@{pin.version}"
        (distribution,) = components[name]["externalReferences"]
        assert {each["content"] for each in distribution["hashes"]} == set(pin.hashes)
