"""The packages that pyproject.toml asks for, and what requirements/ pins of them and of their dependencies."""

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from packaging.requirements import Requirement

from scripts.run.system import ROOT

REQUIREMENTS = ROOT / "requirements"
SECTIONS = ("run", "worker", "web", "torch", "gpu", "cuda", "photos", "telemetry", "test", "docs")


@dataclass(frozen=True)
class Pin:
    """One exact version of a package, with the SHA-256 of the files that pip may install."""

    requirement: Requirement
    hashes: tuple[str, ...]

    @property
    def name(self) -> str:
        return normal(self.requirement.name)

    @property
    def version(self) -> str:
        return str(self.requirement.specifier).removeprefix("==")


def normal(name: str) -> str:
    """Return a package's name as PEP 503 spells it, without extras."""
    return re.sub(r"[-_.]+", "-", name.partition("[")[0]).lower()


def pins_of(file: Path) -> tuple[Pin, ...]:
    """Return the pins in a file of requirements."""
    text = re.sub(r"#.*", "", file.read_text(encoding="utf-8")).replace("\\\n", " ")
    lines = (line.split("--hash=sha256:") for line in text.splitlines() if line.strip())
    return tuple(Pin(Requirement(first), tuple(map(str.strip, hashes))) for first, *hashes in lines)


@cache
def read_sections() -> Mapping[str, tuple[Pin, ...]]:
    """Return the pins of each section."""
    return {section: pins_of(REQUIREMENTS / f"{section}.txt") for section in SECTIONS}


@cache
def all_pins() -> Mapping[str, Pin]:
    """Return the pins of all sections by their names."""
    return {pin.name: pin for pins in read_sections().values() for pin in pins}


@cache
def sections() -> Mapping[str, dict[str, str]]:
    """Return the versions by section and name, without those that are for Windows alone."""
    return {
        section: {pin.name: pin.version for pin in pins if "win32" not in str(pin.requirement.marker)}
        for section, pins in read_sections().items()
    }


def direct() -> Iterable[tuple[str, str]]:
    """Yield each direct dependency with its section; the section `test` also has the group `checks`."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for group, names in {"run": pyproject["project"]["dependencies"], **pyproject["dependency-groups"]}.items():
        section = "test" if group == "checks" else group
        yield from ((section, normal(Requirement(name).name)) for name in names)
