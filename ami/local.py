"""Makes an image on this machine: Debian by debootstrap, then `provision.sh` inside systemd-nspawn.

The result is the root of a Debian that systemd boots, in a folder that is named after the image's id. What is made is
kept by what it is made of: the same content is the same id, and is there at once. Debian's packages are fetched once
for both roles, Python's once for each.
"""

import fcntl
import hashlib
import os
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from ami.archive import content_digest, write_archive
from ami.ingredients import RELEASE, ROOT, debian, wheels
from ami.steps import ImageBuildError, ImageToolMissingError, inside_of, made_whole, need_tools, run
from core.config import DEMO_BUNDLE

__all__ = [
    "ROOT",
    "ImageBuildError",
    "ImageToolMissingError",
    "LocalImage",
    "Role",
    "build_image",
    "image_id",
    "inside_of",
]

OF_THE_IMAGE = frozenset({"files", "keys", "packages.txt", "provision.sh", "used_files.py"})
"""What of this folder goes into an image, or decides what does."""

PROVISION_SECONDS = 1_800.0
"""A bound for what hangs, as in `ami.ingredients`."""

KEPT_SECONDS = 86_400.0
"""An image, Debian or wheels that were not asked for in a day are removed when an image is made."""

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
    wheelhouse: Path | None = None,
    bundle: Path = ROOT / DEMO_BUNDLE,
    say: Callable[[str], None] = print,
) -> LocalImage:
    """Return the image for `role` with this project's code and `bundle`, made now unless it is there.

    Args:
        role: worker or web.
        images_dir: where images are kept, each in a folder of its id; Debian and wheels are kept beside it.
        wheelhouse: a folder with all wheels of the role; by default they are fetched from the package index.
        bundle: folder of the model bundle.
        say: told of each step that takes a while.

    Raises:
        ImageToolMissingError: no root, no debootstrap, no systemd-nspawn, or no Debian to fetch.
        ImageBuildError: a step failed.
        ArchiveError: bundle or project are not whole.
    """
    need_tools()
    images_dir.mkdir(parents=True, exist_ok=True)
    image = LocalImage(image_id(role, bundle), (images_dir / image_id(role, bundle)).resolve())
    with _locked(images_dir / ".lock"):
        if not image.root.is_dir():
            cache = images_dir.resolve().parent
            base = debian(cache / "base", say)
            packed = wheelhouse or wheels(role, cache / "wheels", say)
            say(f"making the {role} image {image.image_id} ...")
            _provision(role, image.root, base, packed, bundle)
            for unused in (*images_dir.glob("ami-*"), *(cache / "base").iterdir(), *(cache / "wheels").glob("*")):
                _forget_old(unused, time.time() - KEPT_SECONDS)
        os.utime(image.root)
    return image


def image_id(role: Role, bundle: Path = ROOT / DEMO_BUNDLE) -> str:
    """Return the id of the image that `build_image` makes of this project as it is now."""
    content = f"{role}\n{RELEASE}\n{content_digest(bundle, ROOT, lambda name: _is_in(role, name))}\n"
    return f"ami-{hashlib.sha256(content.encode()).hexdigest()[:17]}"


def _is_in(role: Role, name: PurePosixPath) -> bool:
    """Return whether a file of the source archive has a part in the image of `role`."""
    others = {"worker": "web_tier", "web": "app_tier"}[role]
    return name.parts[0] != others and (name.parts[0] != "ami" or name.parts[1] in OF_THE_IMAGE)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of an images folder: two builds at once would fetch and make everything twice."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _forget_old(folder: Path, before: float) -> None:
    """Remove what was not asked for since then, in seconds since 1970: an image takes half a gigabyte."""
    if folder.stat().st_mtime < before:
        shutil.rmtree(folder, ignore_errors=True)


def _provision(role: Role, root: Path, base: Path, wheels: Path, bundle: Path) -> None:
    """Copy `base`, turn the copy into the image, and give it its name once it is whole."""
    with tempfile.TemporaryDirectory(prefix="fleetsight-image-") as work, made_whole(root) as new:
        source = Path(work)
        write_archive(source / "source.tar.gz", bundle, ROOT)
        with tarfile.open(source / "source.tar.gz") as archive:
            archive.extractall(source / "source", filter="data")
        run("Debian could not be copied", ("cp", "-a", "--reflink=auto", str(base), str(new)), PROVISION_SECONDS)
        inside = (
            "/run/source/ami/provision.sh",
            "--role",
            role,
            "--source",
            "/run/source",
            "--wheelhouse",
            "/run/wheels",
        )
        binds = (f"--bind-ro={source / 'source'}:/run/source", f"--bind-ro={wheels.resolve()}:/run/wheels")
        run(f"the {role} image could not be made", (*inside_of(new, *binds), *inside), PROVISION_SECONDS)
