"""The audit in ./scripts/test.sh, and the bill of materials of the pinned packages."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from scripts.run.system import ROOT
from tests.support.pins import REQUIREMENTS, read_sections
from tests.support.reader import command_in

pytestmark = pytest.mark.processes

TEST_SCRIPT = ROOT / "scripts" / "test.sh"

AUDITS = {
    "no data": ('{"name": "a", "skip_reason": "not found"}', 0, "THE AUDIT DID NOT RUN"),
    "harmless": ('{"name": "a", "vulns": []}', 0, "--strict"),
    "vulnerable": ('{"name": "a", "vulns": [{"id": "CVE-1"}]}', 1, "--strict"),
}


@pytest.mark.parametrize(("answer", "status", "printed"), AUDITS.values(), ids=AUDITS)
def test_the_audit_fails_for_a_vulnerability_and_reports_missing_data(
    answer: str, status: int, printed: str, tmp_path: Path
) -> None:
    functions = re.findall(r"^(?:pip_audit|audit)\(\) \{.*?\}$", TEST_SCRIPT.read_text(), re.MULTILINE | re.DOTALL)
    program = tmp_path / ".venv" / "bin" / "pip-audit"
    program.parent.mkdir(parents=True)
    program.write_text(
        f"""#!/bin/sh
        case "$*" in
        *json*) echo '{answer}' ;;
        *) echo "audited $*"; exit {status} ;;
        esac
        """
    )
    program.chmod(0o755)
    shutil.copytree(REQUIREMENTS, tmp_path / "requirements")
    ended = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join([*functions, "audit"])],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (status, "")
    assert printed in ended.stdout


def test_the_bill_of_materials_has_all_pinned_packages_with_version_and_hashes(tmp_path: Path) -> None:
    """The command is the one of CONTRIBUTING.md; cyclonedx-py validates what it writes."""
    for name in (".venv", "requirements", "pyproject.toml"):
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
