"""What a local image is made of beside this project: Debian, and Python's packages for Debian's Python.

Both are fetched by their ordinary tools, once, and kept by what they are: the same list of packages, the same folder.
"""

import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from ami.steps import OWN_NAMESPACES, ImageToolMissingError, made_whole, run

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ROOT / "ami" / "packages.txt"
RELEASE = "bookworm"
PYTHON_OF_DEBIAN = "3.11"
BASE_SECONDS = 3_600.0
WHEELS_SECONDS = 1_800.0
"""Bounds for what hangs: each takes a minute on a machine that has nothing else to do."""


def debian(folder: Path, say: Callable[[str], None]) -> Path:
    """Return Debian with all packages that either role needs, fetched unless it is there."""
    wanted = packages()
    root = folder / hashlib.sha256(" ".join([RELEASE, *sorted(wanted)]).encode()).hexdigest()[:16]
    if not root.is_dir():
        say("fetching Debian 12 (about 150 MB, a minute) ...")
        with made_whole(root) as new:
            command = ("debootstrap", "--variant=minbase", f"--include={','.join(wanted)}", RELEASE, str(new))
            run("debootstrap could not install Debian", (*OWN_NAMESPACES, *command), BASE_SECONDS, _why_no_debian)
    os.utime(root)
    return root


def wheels(role: str, folder: Path, say: Callable[[str], None]) -> Path:
    """Return a folder with the wheels of `role` for Debian's Python, fetched unless it is there."""
    pinned = section(role)
    there = folder / f"{role}-{hashlib.sha256(pinned.encode()).hexdigest()[:16]}"
    if not there.is_dir():
        say(f"fetching Python's packages for the {role} image ...")
        with made_whole(there) as new:
            new.mkdir()
            requirements = new / "requirements.txt"
            requirements.write_text(pinned)
            fetch = (sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input")
            for_debian = ("--python-version", PYTHON_OF_DEBIAN, "--only-binary", ":all:", *_platforms())
            named = ("--require-hashes", "--no-deps", "--requirement", str(requirements), "--dest", str(new))
            run("Python's packages could not be fetched", (*fetch, *for_debian, *named), WHEELS_SECONDS)
    os.utime(there)
    return there


def _platforms() -> Iterator[str]:
    """Yield pip's options for the wheels that run on Debian 12, with its C library 2.36."""
    machine = os.uname().machine
    for name in ("manylinux1", "manylinux2010", "manylinux2014", *(f"manylinux_2_{minor}" for minor in range(5, 37))):
        yield from ("--platform", f"{name}_{machine}")


def packages() -> list[str]:
    """Return the names of Debian's packages in `packages.txt`, those of both roles, without those for the agents."""
    lines = PACKAGES.read_text(encoding="utf-8").partition("# [agents]")[0].splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def section(name: str) -> str:
    """Return a section of requirements.txt as a file of requirements."""
    parts = (ROOT / "requirements.txt").read_text(encoding="utf-8").split("\n# [")
    (found,) = (body for head, _, body in (part.partition("]\n") for part in parts) if head == name)
    return found


def _why_no_debian(said: str) -> None:
    """Raise ImageToolMissingError where it was Debian's package archive that could not be reached."""
    if "Failed getting release" in said or "Couldn't download" in said:
        raise ImageToolMissingError(f"Debian's package archive could not be reached: {said.strip().splitlines()[-1]}")
