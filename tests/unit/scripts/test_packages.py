"""The pinned packages: requirements.txt, its audit, and the bill of materials."""

import json
import re
import sysconfig
from collections.abc import Iterable
from functools import cache
from importlib.metadata import distribution, distributions
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from click.testing import CliRunner
from packaging.requirements import Requirement
from packaging.version import Version

from scripts import audit
from scripts.audit import AuditAnswer
from scripts.cli import fleetsight
from scripts.pin import Pin, RequirementsError, all_pins, is_wanted, read_sections, with_hashes
from scripts.pin import sections as sections_of
from scripts.run.system import ROOT
from scripts.sbom import SbomError, create_sbom
from tests.support.pins import direct, normal, sections


@pytest.mark.parametrize(("section", "name"), list(direct()))
def test_each_direct_dependency_is_pinned_in_its_section(section: str, name: str) -> None:
    assert name in sections()[section]


def test_every_pin_is_one_exact_version() -> None:
    versions = [version for pins in sections().values() for version in pins.values()]
    assert all(re.fullmatch(r"\d[\w.]*", version) for version in versions)


def test_the_first_run_does_not_wait_for_torch() -> None:
    assert not {"torch", "torchvision"} & sections()["run"].keys()
    assert {"torch", "torchvision"} <= sections()["torch"].keys()


def test_every_pin_has_hashes_and_is_the_same_in_every_section() -> None:
    everywhere = all_pins()
    for section, pins in read_sections().items():
        for pin in pins:
            assert pin.hashes, f"{pin.name} in [{section}]: run python -m scripts.pin"
            assert pin == everywhere[pin.name], f"{pin.name} in [{section}] is not as it is elsewhere"


def test_a_section_names_a_package_once_and_in_order() -> None:
    for section, pins in read_sections().items():
        names = [pin.name for pin in pins]
        assert names == sorted(set(names)), section


def test_pillow_has_the_fixes_against_decompression_bombs() -> None:
    for section in ("run", "worker", "web"):
        assert Version(sections()[section]["pillow"]) >= Version("12.3")


def test_requirements_contain_no_registry_address() -> None:
    assert "://" not in (ROOT / "requirements.txt").read_text()


def test_only_hashes_change_under_each_pin() -> None:
    text = (
        '# note\n\n# [run]\na==1 ; python_version < "3.14" \\\n    --hash=sha256:' + "0" * 64 + "\n\n# [web]\na==1\n"
    )
    filled = with_hashes(text, {"a": ("1" * 64, "2" * 64)})
    marked, plain = (sections_of(filled)[name][0] for name in ("run", "web"))
    assert (marked.marker, plain.marker) == ('python_version < "3.14"', "")
    assert marked.hashes == plain.hashes == ("1" * 64, "2" * 64)
    assert filled.startswith("# note\n\n# [run]\na==1 ; ")
    assert with_hashes(filled, {"a": ("1" * 64, "2" * 64)}) == filled


@pytest.mark.parametrize("line", ["a>=1", "a", "--index-url https://example.org", "a==1 --hash=md5:0", "A==1"])
def test_a_line_that_is_neither_pin_nor_hash_is_rejected(line: str) -> None:
    with pytest.raises(RequirementsError, match="line 2"):
        sections_of(f"# [run]\n{line}\n")


@pytest.mark.parametrize(
    ("file", "wanted"),
    [
        ("a-1.0-py3-none-any.whl", True),
        ("a-1.0-py2.py3-none-any.whl", True),
        ("a-1.0-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl", True),
        ("a-1.0-cp310-abi3-macosx_11_0_arm64.whl", True),
        ("a-1.0+cpu-cp314-cp314-linux_aarch64.whl", True),
        ("a-1.0.tar.gz", True),
        ("a-1.1-py3-none-any.whl", False),
        ("b-1.0-py3-none-any.whl", False),
        ("a-1.0-cp310-cp310-manylinux_2_17_x86_64.whl", False),
        ("a-1.0-cp314-cp314t-manylinux_2_17_x86_64.whl", False),
        ("a-1.0-cp311-cp311-win_amd64.whl", False),
        ("a-1.0-cp311-cp311-musllinux_1_2_x86_64.whl", False),
        ("a-1.0-cp311-cp311-macosx_10_9_x86_64.whl", False),
        ("a-1.0.exe", False),
    ],
)
def test_only_files_for_our_machines_are_pinned(file: str, wanted: bool) -> None:
    assert is_wanted(file, Pin("a", "1.0")) is wanted


PINS = [Pin("flask", "3.1.3"), Pin("pillow", "12.2.0")]
HARMLESS: AuditAnswer = {"name": "flask", "version": "3.1.3", "vulns": []}
BROKEN: AuditAnswer = {"name": "pillow", "version": "12.2.0", "vulns": [{"id": "CVE-1", "fix_versions": ["12.3.0"]}]}
UNKNOWN: AuditAnswer = {"name": "pillow", "skip_reason": "not found"}


class Known:
    """What is known outside; counts what is asked for."""

    def __init__(self, *answers: AuditAnswer) -> None:
        self.answers = {answer["name"]: answer for answer in answers}
        self.requested = 0

    def __call__(self, pins: Iterable[Pin]) -> list[AuditAnswer]:
        names = [pin.name for pin in pins]
        self.requested += len(names)
        return [self.answers[name] for name in names]


@pytest.mark.parametrize(
    ("answer", "lines"),
    [
        (BROKEN, ["pillow 12.2.0: CVE-1, fixed in 12.3.0"]),
        ({**HARMLESS, "name": "pillow"}, []),
        (UNKNOWN, ["pillow: not audited: not found"]),
    ],
    ids=["vulnerable", "harmless", "unknown"],
)
def test_the_audit_reports_vulnerabilities_and_packages_without_data_with_status_1(
    answer: AuditAnswer, lines: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(audit, "all_pins", lambda: {pin.name: pin for pin in PINS})
    monkeypatch.setattr(audit, "pip_audit", Known(HARMLESS, answer))
    with pytest.raises(SystemExit) as ended:
        audit.main()
    assert int(ended.value.code or 0) == bool(lines)
    assert capsys.readouterr().out.splitlines() == (lines or ["no known vulnerability in 2 packages"])


def test_without_a_database_one_package_is_tried_and_the_audit_is_reported_as_skipped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = Known({**UNKNOWN, "name": "flask"}, UNKNOWN)
    monkeypatch.setattr(audit, "all_pins", lambda: {pin.name: pin for pin in PINS})
    monkeypatch.setattr(audit, "pip_audit", known)
    audit.main()
    assert known.requested == 1
    assert capsys.readouterr().out.startswith("the audit is skipped, ")


SCHEMAS = files("cyclonedx.schema") / "_res"


@pytest.fixture(scope="module")
def bill() -> dict[str, Any]:
    """The bill of what runs on one machine."""
    made: dict[str, Any] = json.loads(create_sbom("run"))
    return made


def schema(uri: str) -> Any:
    """Return a schema that CycloneDX's refers to."""
    name = uri.rpartition("/")[2].replace(".SNAPSHOT", "").replace(".schema.json", ".SNAPSHOT.schema.json")
    return json.loads((SCHEMAS / name).read_text())


def test_the_sbom_is_valid_cyclonedx(bill: dict[str, Any]) -> None:
    rules = json.loads((SCHEMAS / "bom-1.6.SNAPSHOT.schema.json").read_text())
    jsonschema_rs.validator_for(rules, retriever=schema).validate(bill)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    with pytest.raises(jsonschema_rs.ValidationError):
        jsonschema_rs.validator_for(rules, retriever=schema).validate(bill | {"components": [{"name": "x"}]})


def test_the_sbom_has_all_pinned_packages_with_version_hashes_and_licence(bill: dict[str, Any]) -> None:
    components = {each["name"]: each for each in bill["components"]}
    pins = {pin.name: pin for pin in read_sections()["run"]}
    assert components.keys() == pins.keys()
    for name, pin in pins.items():
        found = components[name]
        assert found["version"] == pin.version
        assert found["purl"] == f"pkg:pypi/{name}@{pin.version}"
        assert {each["content"] for each in found["hashes"]} == set(pin.hashes)
        assert found["licenses"], f"{name} says nothing of its licence"


def test_the_sbom_has_the_dependency_graph(bill: dict[str, Any]) -> None:
    needs = {each["ref"]: set(each.get("dependsOn", ())) for each in bill["dependencies"]}
    assert len(needs["fleetsight"]) == len(bill["components"])
    flask = next(needs[ref] for ref in needs if ref.startswith("pkg:pypi/flask@"))
    assert any(ref.startswith("pkg:pypi/werkzeug@") for ref in flask)


def test_the_command_writes_the_bill_of_a_machine(tmp_path: Path) -> None:
    file = tmp_path / "sbom.json"
    assert CliRunner().invoke(fleetsight, ["sbom", str(file), "--section", "worker"]).exit_code == 0
    names = {each["name"] for each in json.loads(file.read_text())["components"]}
    assert names == {pin.name for pin in read_sections()["worker"]}


def test_an_unknown_section_lists_the_known_ones() -> None:
    with pytest.raises(SbomError, match=r"no section \[all\]; there are: run, worker, web"):
        create_sbom("all")


PUT_THERE_BY_VENV = {"pip", "setuptools", "wheel"}


def test_every_installed_package_is_pinned_in_its_version() -> None:
    """The local build of a version, as `2.13.0+cpu`, is that version."""
    pinned = all_pins()
    # Not what is on the path: setuptools, once imported, puts what it carries inside itself there.
    for installed in distributions(path=[sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]):
        name = normal(installed.name)
        if name not in PUT_THERE_BY_VENV - pinned.keys():
            assert name in pinned, f"{name} is installed, and requirements.txt has nothing of it"
            assert Version(installed.version).public == Version(pinned[name].version).public or name == "setuptools"


@cache
def requirements_of(name: str) -> list[Requirement]:
    """Return what an installed package needs, on any machine."""
    return [*map(Requirement, distribution(name).requires or ())] if name in INSTALLED else []


def needed(pins: Iterable[str], machine: dict[str, str]) -> set[str]:
    """Return what these packages say that they need on a machine, themselves included."""
    found, left = set(pins), [Requirement(name) for name in pins]
    while left:
        package = left.pop()
        for each in requirements_of(package.name):
            extras = ("", *package.extras)
            if each.marker is None or any(each.marker.evaluate({**machine, "extra": extra}) for extra in extras):
                if normal(each.name) not in found or each.extras:
                    left.append(Requirement(f"{normal(each.name)}{sorted(each.extras) or ''}".replace("'", "")))
                found.add(normal(each.name))
    return found


INSTALLED = {normal(each.name) for each in distributions()}
LEFT_OUT = {"pip", "setproctitle", "novasvg", "quickjs-ng", "termaid"}
"""pip is there already. mutmut runs without setproctitle, with which gunicorn would overwrite its environment. The
last three run mermaid.js in Python; the documentation site takes that file from mermaidx and nothing else."""


@pytest.mark.parametrize("section", ["run", "torch", "simulate", "telemetry", "test", "docs"])
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
@pytest.mark.parametrize("machine", [("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64")], ids="-".join)
def test_a_section_has_all_dependencies_of_its_packages(section: str, python: str, machine: tuple[str, str]) -> None:
    """Since it is installed without what it does not name.

    What a build of torch with CUDA wants is installed where there is such a build.
    """
    system, processor = machine
    there = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": system}
    there |= {"platform_system": system.title(), "platform_machine": processor}
    named = sections()["run"].keys() | sections()[section].keys()
    direct_ones = [name for each, name in direct() if each in {"run", section}]
    with_torch = sections()["cuda"].keys() if section == "torch" else set()
    assert needed([*direct_ones, *named], there) <= named | LEFT_OUT | with_torch


@pytest.mark.parametrize("role", ["web", "worker"])
def test_an_image_that_exports_traces_has_all_dependencies_of_opentelemetry(role: str) -> None:
    there = {"python_version": "3.11", "python_full_version": "3.11.0", "sys_platform": "linux"}
    there |= {"platform_system": "Linux", "platform_machine": "x86_64"}
    named = sections()[role].keys() | sections()["telemetry"].keys()
    assert needed(sections()["telemetry"], there) <= named


def test_a_worker_with_a_gpu_has_all_dependencies_of_torch() -> None:
    there = {"python_version": "3.11", "python_full_version": "3.11.0", "sys_platform": "linux"}
    there |= {"platform_system": "Linux", "platform_machine": "x86_64"}
    named = sections()["worker"].keys() | sections()["gpu"].keys()
    assert needed(named, there) <= named | sections()["cuda"].keys()
