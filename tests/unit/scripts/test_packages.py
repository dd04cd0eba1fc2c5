"""The pinned packages: requirements/, which ./scripts/pin.sh makes from pyproject.toml."""

import re
import sysconfig
from importlib.metadata import distributions

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from scripts.direct_packages import CONSTRAINTS, requirements_text
from scripts.run.system import ROOT
from tests.support.pins import REQUIREMENTS, all_pins, normal, pins_of, read_sections, sections


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
