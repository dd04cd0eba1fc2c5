"""Makes an image on this machine: Debian by mmdebstrap, then `provision.sh` inside systemd-nspawn.

The result is the root of a Debian that systemd boots, in a folder that is named after the image's id. What is made is
kept by what it is made of: the same content is the same id, and is there at once. Packages are fetched once for both
roles.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ami.archive import contents, write_archive
from core.config import DEMO_BUNDLE, load_config
from services.errors import FleetsightError

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = ROOT / "ami" / "packages.txt"
RELEASE = "bookworm"
PYTHON_OF_DEBIAN = "3.11"

BASE_SECONDS = 3_600.0
WHEELS_SECONDS = 1_800.0
PROVISION_SECONDS = 1_800.0
"""Bounds for what hangs: each takes a minute on a machine that has nothing else to do."""

KEPT_SECONDS = 86_400.0
"""An image, Debian or wheels that were not asked for in a day are removed when an image is made."""

OF_THE_IMAGE = frozenset({"files", "keys", "packages.txt", "provision.sh", "used_files.py"})
"""What of the folder `ami` goes into an image, or decides what does."""

TOOLS = ("mmdebstrap", "systemd-nspawn", "unshare")

OWN_NAMESPACES = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
"""Runs a command with mounts and processes of its own, which end with the command, also when it is killed.

mmdebstrap mounts /proc in the folder that it fills. Without a namespace of its own, a killed mmdebstrap leaves that
mount behind, and deleting the folder as root walks through it.
"""


class ImageToolMissingError(FleetsightError):
    """Raised when this machine cannot make images; the message names what is missing and how to get it."""


class ImageBuildError(FleetsightError):
    """Raised when an image could not be made; the message ends with the last part of the failed step's output."""

    def __init__(self, message: str, output: str = "") -> None:
        self.output = output
        super().__init__(message)


Role = Literal["worker", "web"]


@dataclass(frozen=True)
class LocalImage:
    """An image on this machine.

    Attributes:
        image_id: as EC2 writes them, `ami-` and 17 hexadecimal digits; derived from the content.
        root: the folder that holds its root file system.
    """

    image_id: str
    root: Path


def build_image(
    role: Role,
    images_dir: Path,
    *,
    bundle: Path = ROOT / DEMO_BUNDLE,
    say: Callable[[str], None] = print,
) -> LocalImage:
    """Return the image for `role` with this project's code and `bundle`, made now unless it is there.

    Args:
        role: worker or web.
        images_dir: where images are kept, each in a folder of its id; Debian and wheels are kept beside it.
        bundle: folder of the model bundle.
        say: receives a sentence about each step that takes a while.

    Raises:
        ImageToolMissingError: no root, no mmdebstrap, no systemd-nspawn, or no Debian to fetch.
        ImageBuildError: a step failed.
        ArchiveError: bundle or project are not whole.
    """
    need_tools()
    images_dir.mkdir(parents=True, exist_ok=True)
    image = LocalImage(image_id(role, bundle), (images_dir / image_id(role, bundle)).resolve())
    with (images_dir / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two builds at once would fetch and make everything twice
        if not image.root.is_dir():
            cache = images_dir.resolve().parent
            base = debian(cache / "base", say)
            wheelhouse = wheels(cache / "wheels", say)
            say(f"making the {role} image {image.image_id} ...")
            _provision(role, image.root, base, wheelhouse, bundle)
            for unused in (*images_dir.glob("ami-*"), *(cache / "base").iterdir(), *(cache / "wheels").glob("*")):
                if unused.stat().st_mtime < time.time() - KEPT_SECONDS:  # an image takes half a gigabyte
                    shutil.rmtree(unused, ignore_errors=True)
        os.utime(image.root)
    return image


def image_id(role: Role, bundle: Path = ROOT / DEMO_BUNDLE) -> str:
    """Return the id of the image that `build_image` makes of this project as it is now."""
    others = {"worker": "web_tier", "web": "app_tier"}[role]
    digest = hashlib.sha256()
    for name, source in contents(bundle, ROOT):
        if name.parts[0] != others and (name.parts[0] != "ami" or name.parts[1] in OF_THE_IMAGE):
            entry = hashlib.sha256(source.read_bytes()).hexdigest()
            digest.update(f"{name}\0{source.stat().st_mode & 0o100}\0{entry}\n".encode())
    content = f"{role}\n{RELEASE}\n{digest.hexdigest()}\n"
    return f"ami-{hashlib.sha256(content.encode()).hexdigest()[:17]}"


def _provision(role: Role, root: Path, base: Path, wheelhouse: Path, bundle: Path) -> None:
    """Copy `base`, turn the copy into the image, and give it its name once it is whole."""
    with tempfile.TemporaryDirectory(prefix="fleetsight-image-") as work, made_whole(root) as new:
        source = Path(work)
        write_archive(source / "source.tar.gz", bundle, ROOT)
        with tarfile.open(source / "source.tar.gz") as archive:
            archive.extractall(source / "source", filter="data")
        run("Debian could not be copied", ("cp", "-a", "--reflink=auto", str(base), str(new)), PROVISION_SECONDS)
        options = ("--role", role, "--source", "/run/source", "--wheelhouse", "/run/wheels")
        inside = ("/run/source/ami/provision.sh", *options)
        binds = (f"--bind-ro={source / 'source'}:/run/source", f"--bind-ro={wheelhouse.resolve()}:/run/wheels")
        run(f"the {role} image could not be made", (*inside_of(new, *binds), *inside), PROVISION_SECONDS)


def debian(folder: Path, say: Callable[[str], None]) -> Path:
    """Return Debian with all packages that either role needs, fetched unless it is there.

    Raises:
        ImageToolMissingError: Debian's package archive could not be reached.
        ImageBuildError: the installation failed.
    """
    wanted = packages()
    root = folder / hashlib.sha256(" ".join([RELEASE, *sorted(wanted)]).encode()).hexdigest()[:16]
    if not root.is_dir():
        say("fetching Debian 12 (about 150 MB, a minute) ...")
        with made_whole(root) as new:
            # It takes half of debootstrap's CPU time.
            command = ("mmdebstrap", "--variant=minbase", "--mode=root", "--format=directory")
            include = f"--include={','.join(wanted)}"
            try:
                run(
                    "mmdebstrap could not install Debian",
                    (*OWN_NAMESPACES, *command, include, RELEASE, str(new)),
                    BASE_SECONDS,
                )
            except ImageBuildError as error:
                failed = [line for line in error.output.splitlines() if line.startswith("E: Failed to fetch")]
                if not failed:
                    raise
                raise ImageToolMissingError(f"Debian's package archive could not be reached: {failed[0]}") from error
    os.utime(root)
    return root


def wheels(folder: Path, say: Callable[[str], None]) -> Path:
    """Return a folder with the wheels of the system for Debian's Python, fetched unless it is there.

    Each role's are among them, and those of the container image.
    """
    is_tracing = load_config(ROOT / "config.yaml", {}).tracing.endpoint is not None
    pinned = section("run") + (section("telemetry") if is_tracing else "")
    there = folder / hashlib.sha256(pinned.encode()).hexdigest()[:16]
    if not there.is_dir():
        say("fetching Python's packages ...")
        with made_whole(there) as new:
            new.mkdir()
            requirements = new / "requirements.txt"
            requirements.write_text(pinned)
            fetch = (sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input")
            # Debian 12 has the C library 2.36.
            names = [f"manylinux{version}" for version in (1, 2010, 2014, *(f"_2_{minor}" for minor in range(5, 37)))]
            platforms = [part for name in names for part in ("--platform", f"{name}_{os.uname().machine}")]
            for_debian = ("--python-version", PYTHON_OF_DEBIAN, "--only-binary", ":all:", *platforms)
            named = ("--require-hashes", "--no-deps", "--requirement", str(requirements), "--dest", str(new))
            run("Python's packages could not be fetched", (*fetch, *for_debian, *named), WHEELS_SECONDS)
    os.utime(there)
    return there


def packages() -> list[str]:
    """Return the names of Debian's packages in `packages.txt`, those of both roles, without those for the agents."""
    lines = PACKAGES.read_text(encoding="utf-8").partition("# [agents]")[0].splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def section(name: str) -> str:
    """Return the text of a section of the requirements."""
    return (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")


def need_tools() -> None:
    """Check that this machine can make images.

    Raises:
        ImageToolMissingError: it cannot.
    """
    if os.geteuid() != 0:
        raise ImageToolMissingError("only root can make an image: run this as root")
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        raise ImageToolMissingError(
            f"there is no {' and no '.join(missing)}; "
            "on Debian and Ubuntu: apt install mmdebstrap systemd-container util-linux"
        )


def inside_of(root: Path, *options: str) -> tuple[str, ...]:
    """Return the beginning of a command that runs in the system in `root`, without a network.

    Args:
        root: of the file system.
        options: more of systemd-nspawn; `--volatile=overlay` keeps what is written from `root`.
    """
    # nspawn keeps notes in /run, which no other program needs: in a mount namespace of its own they go with it. And
    # nspawn that is killed leaves its container behind, but not in a process namespace that ends with this command.
    alone = 'mkdir -p /run/systemd/nspawn; mount -t tmpfs tmpfs /run/systemd/nspawn; exec "$@"'
    return (
        *(*OWN_NAMESPACES, "sh", "-ec", alone, "sh"),
        *("systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--pipe", "--private-network"),
        *("--resolv-conf=off", "--timezone=off", "--link-journal=no", f"--directory={root}", *options),
    )


@contextmanager
def made_whole(folder: Path) -> Iterator[Path]:
    """Give a place for `folder` to be made in, and its name at the end: what is there is whole."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = folder.with_name(f".new-{folder.name}")
    shutil.rmtree(new, ignore_errors=True)
    try:
        yield new
        new.rename(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def run(failed: str, command: Sequence[str], seconds: float) -> None:
    """Run `command`; its output is shown only in the error.

    Raises:
        ImageBuildError: it failed, or took longer than `seconds`.
    """
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ImageBuildError(f"{failed}: {command[0]} was not done after {seconds:.0f} s") from error
    output = done.stdout.decode(errors="replace")
    if done.returncode:
        raise ImageBuildError(f"{failed}: {command[0]} ended with {done.returncode}\n{output[-3_000:]}", output)
