"""``python -m scripts.direct_packages``: print requirements.txt, as ./scripts/pin.sh writes it.

It has the direct packages of pyproject.toml that a start and the tests need, each with its version and its reason.
Pip reads the versions of their dependencies from requirements/constraints.txt.
"""

import re
import tomllib
from pathlib import Path
from typing import Final

from fleetsight_client.terminal import clean_terminal_output

ROOT: Final = Path(__file__).resolve().parents[1]
CONSTRAINTS: Final = "requirements/constraints.txt"
GROUPS: Final = ("photos", "torch", "test")
"""The dependency groups of pyproject.toml whose packages are in the file, after the project's own dependencies."""

_HEAD: Final = """\
# What a checkout needs to start and to test itself, on Python 3.11 to 3.13:
#   pip install -r requirements.txt && python -m scripts.cli run --once && pytest
# ./scripts/pin.sh makes this file from pyproject.toml. ./scripts/setup.sh installs requirements/, which has hashes.
# torch brings CUDA on Linux on x86-64: gigabytes. To have the build for CPUs, here or in .venv, first run:
#   pip install torch=={torch} torchvision=={torchvision} --index-url https://download.pytorch.org/whl/cpu
-c {constraints}
"""


def requirements_text(pyproject: str, constraints: str) -> str:
    """Return the text of requirements.txt.

    Args:
        pyproject: text of pyproject.toml, which has a package and its reason on each line.
        constraints: text of the file with the version of each package.
    """
    versions = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", constraints, re.MULTILINE))
    reasons = dict(re.findall(r'^  "([^"]+)",? *(# .*)$', pyproject, re.MULTILINE))
    document = tomllib.loads(pyproject)
    sections = [document["project"]["dependencies"], *(document["dependency-groups"][group] for group in GROUPS)]
    lines = []
    for package in dict.fromkeys(package for section in sections for package in section):
        with_extras = package.partition("<")[0]
        version = versions[re.sub(r"[-_.]+", "-", with_extras.partition("[")[0]).lower()]
        lines.append(f"{with_extras}=={version}  {reasons.get(package, '')}".rstrip())
    return _HEAD.format(constraints=CONSTRAINTS, **versions) + "\n".join(lines) + "\n"


if __name__ == "__main__":
    clean_terminal_output()
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in ("pyproject.toml", CONSTRAINTS)]
    print(requirements_text(*texts), end="")
