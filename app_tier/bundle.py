"""A model bundle: a network and all that is needed to run it, in one folder or zip, and how to open it.

``bundle.json`` is the manifest (`core/bundle_manifest.py`). A zip is unpacked once into the cache. No file is used
before its digest has been checked. `app_tier.bundle_s3` fetches bundles from S3; it is a module of its own, so that a
worker can open a bundle while botocore is imported.
"""

import hashlib
import mmap
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from core.bundle_facts import (
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    ZIP_ERRORS,
    bundle_zip,
    check_pin,
)
from core.bundle_facts import read_manifest as read_bundle_json
from core.bundle_files import check_digest, chunks, write_files
from core.bundle_manifest import (
    TORCH_NAME,
    BundleDigestError,
    BundleError,
    BundleFormatError,
    BundleMissingError,
    Manifest,
    parse_manifest,
)

DEMO_BUNDLE: Final = Path(__file__).parent / "demo" / "bundle"
"""The bundle that comes with the project: ten everyday things and twenty road signs."""

MAX_CACHED: Final = 20
"""Bundles that the cache keeps, those that were used last: as many as jobs may choose from."""

_BUILD_AGAIN: Final = "build it again with `./scripts/fleetsight model build`"


class BundleBuildError(BundleError):
    """Raised when a bundle cannot be built from the given network and options."""


class EngineError(BundleError):
    """Raised when no engine of that name exists, or the engine cannot run the bundle on this machine."""


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:  # an empty file cannot be mapped
            return hashlib.sha256().hexdigest()
        # One call, and not one for each piece of the file: after each, this thread would wait for the interpreter,
        # which another one uses while a worker starts.
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return hashlib.sha256(content).hexdigest()


@dataclass(frozen=True)
class Bundle:
    """A bundle with the files that it was built with; results name its digest, a SHA-256 of the whole bundle.

    Attributes:
        manifest: the contents of its ``bundle.json``.
        unchecked: names of files that cannot be used, since nothing was to use them and their digests are unchecked.
    """

    folder: Path
    manifest: Manifest
    digest: str
    unchecked: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """The bundle's name, for results and people."""
        return self.manifest.name

    @property
    def labels(self) -> tuple[str, ...]:
        """One label per class, in the order of an engine's outputs."""
        return self.manifest.labels

    def path(self, name: str) -> Path:
        """Where the file `name` lies.

        Raises:
            BundleMissingError: the bundle has no such file.
            BundleDigestError: the file is `unchecked`.
        """
        if name in self.unchecked:
            raise BundleDigestError(f"{name} of bundle {self.name} was opened as unused, so its digest is unchecked")
        if name not in self.manifest.files:
            option = ", of a .pt2 file or a network of torchvision" if name == TORCH_NAME else ""
            raise BundleMissingError(f"bundle {self.name} in {self.folder} has no {name}: {_BUILD_AGAIN}{option}")
        return self.folder / name


def load_bundle(path: Path | str = DEMO_BUNDLE, sha256: str | None = None, unused: Collection[str] = ()) -> Bundle:
    """Open the bundle in folder or zip `path` after checking every digest; a zip is unpacked once, into the cache.

    `sha256` pins the bundle (`worker.bundle_sha256`): nothing of another one is parsed. Files of a folder that are
    `unused` are not checked, and cannot be used.

    Raises:
        BundleMissingError: there is no bundle.
        BundleFormatError: its ``bundle.json``, or the zip, is not one.
        BundleDigestError: a file is missing or was changed, or it is not the pinned bundle.
    """
    place = Path(path)
    if place.suffix.lower() == ".zip" and place.is_file():
        return load_zip(place, sha256=sha256)
    return load_folder(place, sha256, unused)


def load_folder(folder: Path, sha256: str | None = None, unused: Collection[str] = ()) -> Bundle:
    """Open the bundle in `folder` after checking every digest but those of `unused`; raises as `load_bundle`."""
    manifest = read_manifest(folder, sha256)
    for name, expected in manifest.files.items():
        if name in unused:
            continue
        path = folder / name
        try:
            actual = file_digest(path)
        except OSError as error:
            raise BundleDigestError(
                f"{path} cannot be read ({error.strerror}): restore or build the bundle again"
            ) from error
        check_digest(path, actual, expected)
    return Bundle(folder, manifest, manifest.digest, frozenset(unused))


def read_manifest(folder: Path, sha256: str | None = None) -> Manifest:
    """Read and validate ``bundle.json``, without checking the other files.

    Raises:
        BundleMissingError: there is none.
        BundleFormatError: it is not valid.
        BundleDigestError: it is not the pinned one.
    """
    return parse_manifest(str(folder / MANIFEST_NAME), read_bundle_json(folder, sha256=sha256))


def load_zip(path: Path, cache: Path | None = None, sha256: str | None = None) -> Bundle:
    """Open the bundle in zip `path`, unpacked once into the cache; `sha256` pins the zip.

    Raises:
        BundleMissingError: the zip holds no bundle.
        BundleFormatError: it is no zip, or its ``bundle.json`` is not one.
        BundleDigestError: a file of the bundle is missing or was changed, or it is not the pinned zip.
    """
    digest = file_digest(path)
    check_pin(path, digest, sha256)
    return kept(digest, lambda folder: unpack(path, folder), cache or cache_folder())


def unpack(path: Path, folder: Path) -> None:
    """Write the bundle in zip `path` into `folder`.

    Only what its ``bundle.json`` lists is taken, under the plain names that a manifest allows; a zip cannot write
    anywhere else, and nothing is written of one that is larger than a bundle.

    Raises:
        BundleError: as `load_zip`.
    """
    try:
        with path.open("rb") as zipped, bundle_zip(zipped) as (archive, top):
            with archive.open(f"{top}{MANIFEST_NAME}") as file:
                text = file.read(MAX_MANIFEST_BYTES)
            manifest = parse_manifest(f"{MANIFEST_NAME} in {path}", text)
            if missing := [name for name in manifest.files if f"{top}{name}" not in archive.NameToInfo]:
                raise BundleDigestError(f"{path} lacks {missing[0]}: make it again from the bundle's folder")
            write_files(folder, path, manifest, text, lambda name: chunks(archive.open(f"{top}{name}")))
    except FileNotFoundError as error:
        raise BundleMissingError(f"no model bundle in {path} ({error}): zip a bundle's folder") from error
    except ZIP_ERRORS as error:
        raise BundleFormatError(f"{path} is no valid zip of a bundle ({error}): make or fetch it again") from error


def cache_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Return this user's own cache: systemd's, the desktop's, or ``~/.cache``. Never a folder that others share."""
    if systemd := environment.get("CACHE_DIRECTORY"):
        return Path(systemd.split(":")[0]) / "bundles"
    base = environment.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "fleetsight" / "bundles"


def kept(name: str, fill: Callable[[Path], None], cache: Path) -> Bundle:
    """Return the bundle that the cache keeps as `name`, having `fill` write it into a new folder if it is not there.

    `fill` checks what it writes, as `write_files` does.

    What is kept is checked each time; a copy that was damaged is made again. Two processes may fill the same bundle
    at once: the first to finish keeps it. Of more than `MAX_CACHED` bundles, those that were not used for the longest
    time are removed; a network that is loaded does not need its files.

    Raises:
        BundleError: what `fill` wrote is not a whole bundle, or the cache cannot be written.
    """
    folder = cache / name
    try:
        if folder.is_dir():
            bundle = load_folder(folder)
            with suppress(OSError):  # a cache that can only be read
                os.utime(folder)
            return bundle
    except BundleError:
        shutil.rmtree(folder, ignore_errors=True)
    try:
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name[:8]}.", dir=cache, ignore_cleanup_errors=True) as scratch:
            new = Path(scratch) / "bundle"
            new.mkdir()
            fill(new)
            try:
                new.rename(folder)
            except OSError:
                if not folder.is_dir():
                    raise
            bundle = load_folder(folder)
            _remove_unused(cache)
            return bundle
    except OSError as error:
        raise BundleFormatError(
            f"a bundle cannot be kept in {cache} ({error}): free some space, or set XDG_CACHE_HOME"
        ) from error


def _remove_unused(cache: Path) -> None:
    with suppress(OSError):  # another process may remove the same
        kept_folders = [each for each in cache.iterdir() if not each.name.startswith(".")]
        for folder in sorted(kept_folders, key=lambda each: each.stat().st_mtime, reverse=True)[MAX_CACHED:]:
            shutil.rmtree(folder, ignore_errors=True)
