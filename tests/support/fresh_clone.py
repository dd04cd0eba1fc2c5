"""A clone of this checkout in which a command finds only the packages that it installs itself."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

from scripts.home import HOME_VARIABLE
from tests.support.checkouts import link_checkout
from tests.support.pins import normal, sections
from tests.support.waiting import DEADLINE_SECONDS

SETUP = """#!/bin/sh
printf '%s\\n' "$@" >>'{installed}'
"""
PYTHON = """#!/bin/sh
PYTHONPATH="{hidden}:$PYTHONPATH" exec '{python}' "$@"
"""
HIDES_PACKAGES = """
import json, re, sys
from importlib.machinery import PathFinder
from pathlib import Path

sections = Path({installed!r}).read_text().split() if Path({installed!r}).exists() else []
packages = json.loads(Path({packages!r}).read_text())
installed = {{name for section in sections for name in packages["sections"][section]}}
hidden = {{module for module, names in packages["modules"].items() if not installed & set(names)}}

class FinderOfInstalled:
    @staticmethod
    def find_spec(name, path=None, target=None):
        return None if name.partition(".")[0] in hidden else PathFinder.find_spec(name, path, target)

    @staticmethod
    def find_distributions(context):
        is_hidden = context.name and re.sub(r"[-_.]+", "-", context.name).lower() not in installed
        return iter(()) if is_hidden else PathFinder.find_distributions(context)

sys.meta_path[:] = [FinderOfInstalled if finder is PathFinder else finder for finder in sys.meta_path]
"""
"""The sitecustomize.py of each Python of the clone, also of those that a command starts."""


@dataclass(frozen=True)
class FreshClone:
    """A clone in `folder`; see `clone_into`."""

    folder: Path
    environment: Mapping[str, str]

    @contextmanager
    def start(self, *command: str | Path) -> Iterator["subprocess.Popen[str]"]:
        """Start a command in the clone; it is killed if it still runs after the block."""
        with subprocess.Popen(
            list(map(str, command)),
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def run(self, *command: str | Path) -> tuple[int, str]:
        """Run a command in the clone; return its status and what it prints."""
        with self.start(*command) as process:
            printed, _ = process.communicate(timeout=DEADLINE_SECONDS)
        return process.returncode, printed


def clone_into(folder: Path, **variables: str) -> FreshClone:
    """Make a clone in `folder` without packages; its setup.sh makes those of the named sections visible."""
    link_checkout(folder)
    installed, packages, hidden = folder / "installed", folder / "packages.json", folder / "hidden"
    packages.write_text(_installed_packages())
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text(HIDES_PACKAGES.format(installed=str(installed), packages=str(packages)))
    (folder / "scripts" / "setup.sh").write_text(SETUP.format(installed=installed))
    (folder / ".venv").unlink()
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "lib").symlink_to(Path(sys.prefix) / "lib")
    python = folder / ".venv" / "bin" / "python"
    python.write_text(PYTHON.format(hidden=hidden, python=sys.executable))
    python.chmod(0o755)
    return FreshClone(folder, {**os.environ, HOME_VARIABLE: str(folder / "home"), **variables})


@cache
def _installed_packages() -> str:
    """Return the packages of each module, and those of each section, as JSON."""
    modules = {module: sorted(map(normal, names)) for module, names in packages_distributions().items()}
    return json.dumps(
        {"modules": modules, "sections": {section: sorted(pins) for section, pins in sections().items()}}
    )
