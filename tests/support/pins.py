"""The packages that pyproject.toml asks for, and the versions that requirements.txt pins."""

import re
import tomllib
from collections.abc import Iterable
from functools import cache

from scripts.pin import read_sections
from scripts.run.system import ROOT


def normal(name: str) -> str:
    """Return a package's name as PEP 503 spells it, without extras."""
    return re.sub(r"[-_.]+", "-", name.partition("[")[0]).lower()


@cache
def sections() -> dict[str, dict[str, str]]:
    """Return the pinned versions by section and name."""
    return {section: {pin.name: pin.version for pin in pins} for section, pins in read_sections().items()}


def direct() -> Iterable[tuple[str, str]]:
    """Yield each direct dependency with its section."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for section, names in {"run": project["dependencies"], **project["optional-dependencies"]}.items():
        yield from ((section, normal(name.partition(" ")[0])) for name in names)
