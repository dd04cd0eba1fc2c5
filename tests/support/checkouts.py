"""A checkout of links to this one, in which commands run without touching this one's files."""

import sys
from pathlib import Path

from tests.conftest import ROOT


def link_checkout(folder: Path) -> None:
    """Link all but the files of running systems and caches into `folder`, with a `setup.sh` that does nothing.

    Everything is installed, and other tests use the environment at the same time, which is its .venv.
    """
    for entry in ROOT.iterdir():
        if entry.name not in {".fleetsight", ".git", ".venv", "scripts"} and not entry.name.endswith("cache"):
            (folder / entry.name).symlink_to(entry)
    (folder / "scripts").mkdir()
    for entry in (ROOT / "scripts").iterdir():
        if entry.name != "setup.sh":
            (folder / "scripts" / entry.name).symlink_to(entry)
    without_setup(folder)


def without_setup(folder: Path) -> None:
    """Give a checkout this environment, and a `setup.sh` that does nothing."""
    (folder / ".venv").symlink_to(sys.prefix)
    setup = folder / "scripts" / "setup.sh"
    setup.write_text("#!/bin/sh\n")
    setup.chmod(0o755)
