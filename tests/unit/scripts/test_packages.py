"""The pinned packages: requirements/, which ./scripts/pin.sh makes from pyproject.toml."""

import re
import sysconfig
import tomllib
from collections.abc import Iterable
from functools import cache
from importlib.metadata import distribution, distributions

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from scripts.direct_packages import CONSTRAINTS, requirements_text
from scripts.run.system import ROOT
from tests.support.pins import REQUIREMENTS, SECTIONS, all_pins, direct, normal, pins_of, read_sections, sections


def test_the_first_run_does_not_wait_for_torch() -> None:
    assert not {"torch", "torchvision"} & sections()["run"].keys()
    assert {"torch", "torchvision"} <= sections()["torch"].keys()


def test_every_pin_has_hashes_and_its_version_is_the_same_in_every_section() -> None:
    versions = {pin.name: pin.version for pin in pins_of(REQUIREMENTS / "constraints.txt")}
    for section, pins in read_sections().items():
        for pin in pins:
            assert pin.hashes, f"{pin.name} in [{section}]: ./scripts/pin.sh"
            assert all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in pin.hashes)
            assert pin.version == versions[pin.name], f"{pin.name} in [{section}] has another version elsewhere"


def test_the_audited_packages_are_those_of_all_sections() -> None:
    audited = {pin.name for pin in pins_of(REQUIREMENTS / "constraints.txt")}
    assert audited == all_pins().keys()


def test_the_file_for_pip_alone_has_the_direct_packages_with_versions_and_reasons() -> None:
    pyproject, constraints = ((ROOT / name).read_text() for name in ("pyproject.toml", CONSTRAINTS))
    text = (ROOT / "requirements.txt").read_text()
    assert text == requirements_text(pyproject, constraints), "requirements.txt is an older one: ./scripts/pin.sh"
    lines = [line for line in text.splitlines() if not line.startswith(("#", "-c "))]
    assert len(text.splitlines()) <= 60
    assert all(re.fullmatch(r"\S+==\S+  # \S.*", line) for line in lines)
    named = {"flask", "boto3", "gunicorn", "torch", "torchvision", "pillow", "jinja2", "moto", "pytest"}
    assert named <= {normal(line.partition("==")[0]) for line in lines}


def test_requirements_contain_no_registry_address() -> None:
    assert [path.name for path in REQUIREMENTS.iterdir() if "://" in path.read_text()] == []


PUT_THERE_BY_VENV = {"pip", "setuptools", "wheel"}


def test_every_installed_package_is_pinned_in_its_version() -> None:
    """The local build of a version, as `2.13.0+cpu`, is that version."""
    pinned = all_pins()
    # Not what is on the path: setuptools, once imported, puts what it carries inside itself there.
    for installed in distributions(path=[sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]):
        name = normal(installed.name)
        if name not in PUT_THERE_BY_VENV - pinned.keys():
            assert name in pinned, f"{name} is installed, and requirements/ has nothing of it"
            assert Version(installed.version).public == Version(pinned[name].version).public or name == "setuptools"


def test_every_package_runs_on_the_python_of_debian_12() -> None:
    field = "Requires-Python"
    stated = {each.name: each.metadata[field] for each in distributions() if field in each.metadata}
    supported = {name: SpecifierSet(pythons) for name, pythons in stated.items()}
    assert [name for name, pythons in supported.items() if "3.11.2" not in pythons] == []


@cache
def requirements_of(name: str) -> list[Requirement]:
    """Return what an installed package needs, on any machine; for some packages pyproject.toml says it."""
    if name in OVERRIDDEN:
        return [*map(Requirement, OVERRIDDEN[name])]
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
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
OVERRIDDEN = {each["name"]: each["requires-dist"] for each in PYPROJECT["tool"]["uv"]["dependency-metadata"]}
LEFT_OUT = {"pip", *PYPROJECT["tool"]["uv"]["exclude-dependencies"]}
"""pip is there already."""
WITHOUT_CUDA = {"torch", "gpu"}
"""Sections without what a build of torch with CUDA needs; `cuda` is installed where there is such a build."""


@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
@pytest.mark.parametrize("machine", [("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64")], ids="-".join)
def test_a_section_has_all_dependencies_of_its_packages(section: str, python: str, machine: tuple[str, str]) -> None:
    """Since it is installed without what it does not name."""
    system, processor = machine
    there = {"python_version": python, "python_full_version": f"{python}.2", "sys_platform": system}
    there |= {"platform_system": system.title(), "platform_machine": processor}
    named = sections()[section].keys()
    direct_ones = [name for each, name in direct() if each == section]
    cuda = sections()["cuda"].keys() if section in WITHOUT_CUDA else set()
    assert needed([*direct_ones, *named], there) <= named | LEFT_OUT | cuda
