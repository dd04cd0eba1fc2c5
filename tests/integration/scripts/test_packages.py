"""What is installed, and all that it needs, is what `requirements.txt` names."""

import sysconfig
from collections.abc import Iterable
from importlib.metadata import distribution, distributions

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from scripts.pin import all_pins
from tests.support.pins import direct, normal, sections

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


def needed(pins: Iterable[str], machine: dict[str, str]) -> set[str]:
    """Return what these packages say that they need on a machine, themselves included."""
    found, left = set(pins), [Requirement(name) for name in pins]
    while left:
        package = left.pop()
        says = distribution(package.name).requires if package.name in INSTALLED else ()
        for each in map(Requirement, says or ()):
            extras = ("", *package.extras)
            if each.marker is None or any(each.marker.evaluate({**machine, "extra": extra}) for extra in extras):
                if normal(each.name) not in found or each.extras:
                    left.append(Requirement(f"{normal(each.name)}{sorted(each.extras) or ''}".replace("'", "")))
                found.add(normal(each.name))
    return found


INSTALLED = {normal(each.name) for each in distributions()}


@pytest.mark.parametrize("section", ["run", "torch", "simulate", "test"])
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
@pytest.mark.parametrize("machine", [("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64")], ids="-".join)
def test_a_section_has_all_dependencies_of_its_packages(section: str, python: str, machine: tuple[str, str]) -> None:
    """Since it is installed without what it does not name; pip is there already.

    What a build of torch with CUDA wants is installed where there is such a build.
    """
    system, processor = machine
    there = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": system}
    there |= {"platform_system": system.title(), "platform_machine": processor}
    named = sections()["run"].keys() | sections()[section].keys()
    direct_ones = [name for each, name in direct() if each in {"run", section}]
    with_torch = sections()["cuda"].keys() if section == "torch" else set()
    assert needed([*direct_ones, *named], there) <= named | {"pip"} | with_torch


def test_a_worker_with_a_gpu_has_all_dependencies_of_torch() -> None:
    there = {"python_version": "3.11", "python_full_version": "3.11.0", "sys_platform": "linux"}
    there |= {"platform_system": "Linux", "platform_machine": "x86_64"}
    named = sections()["worker"].keys() | sections()["gpu"].keys()
    assert needed(named, there) <= named | sections()["cuda"].keys()
