"""What gets installed is pinned, and pinned in the section that needs it."""

import re
import tomllib
from collections.abc import Iterable

import pytest

from scripts.run.system import ROOT


def normal(name: str) -> str:
    """Return a package's name as PEP 503 spells it, without extras."""
    return re.sub(r"[-_.]+", "-", name.partition("[")[0]).lower()


def sections() -> dict[str, dict[str, str]]:
    """Return the pinned versions by section and name."""
    found: dict[str, dict[str, str]] = {}
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        if match := re.fullmatch(r"# \[(\w+)\]", line):
            pins = found.setdefault(match[1], {})
        elif line and not line.startswith("#"):
            name, _, version = line.partition("==")
            pins[normal(name)] = version
    return found


def direct() -> Iterable[tuple[str, str]]:
    """Yield each direct dependency with its section."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for section, names in {"run": project["dependencies"], **project["optional-dependencies"]}.items():
        yield from ((section, normal(name)) for name in names)


@pytest.mark.parametrize(("section", "name"), list(direct()))
def test_each_direct_dependency_is_pinned_in_its_section(section: str, name: str) -> None:
    assert name in sections()[section]


def test_every_pin_is_one_exact_version() -> None:
    versions = [version for pins in sections().values() for version in pins.values()]
    assert all(re.fullmatch(r"\d[\w.]*", version) for version in versions)


def test_the_first_run_does_not_wait_for_torch() -> None:
    assert not {"torch", "torchvision"} & sections()["run"].keys()
    assert {"torch", "torchvision"} <= sections()["torch"].keys()
