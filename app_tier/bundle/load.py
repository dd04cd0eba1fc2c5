"""Open a bundle: nothing of it is used before every file's digest has been checked."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from app_tier.bundle.errors import BundleDigestError, BundleFormatError, BundleMissingError
from app_tier.bundle.manifest import FORMAT_VERSION, MANIFEST_NAME, Manifest, file_digest
from core.bundle_facts import wrong_pin

DEMO_BUNDLE: Final = Path(__file__).parents[1] / "demo" / "bundle"
"""The bundle that comes with the project: ten everyday things and twenty road signs."""


_BUILD_ONE: Final = "build one with `./scripts/fleetsight model build`"
_BUILD_AGAIN: Final = "build it again with `./scripts/fleetsight model build`"


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files are what they were when it was built.

    Attributes:
        folder: where it lies.
        manifest: what it says about itself.
        digest: SHA-256 of the bundle as a whole; results name it.
    """

    folder: Path
    manifest: Manifest
    digest: str

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
        """
        if name not in self.manifest.files:
            raise BundleMissingError(f"bundle {self.name} in {self.folder} has no {name}: {_BUILD_AGAIN}")
        return self.folder / name


def load_bundle(path: Path | str = DEMO_BUNDLE, sha256: str | None = None) -> Bundle:
    """Open the bundle in folder or zip `path` after checking every digest; a zip is unpacked once, into the cache.

    Args:
        path: the folder or the zip.
        sha256: pins the bundle (`worker.bundle_sha256`): nothing of another one is parsed.

    Raises:
        BundleMissingError: there is no bundle.
        BundleFormatError: its ``bundle.json``, or the zip, is not one.
        BundleDigestError: a file is missing or was changed, or it is not the pinned bundle.
    """
    place = Path(path)
    if place.suffix.lower() == ".zip" and place.is_file():
        from app_tier.bundle.archive import load_zip

        return load_zip(place, sha256=sha256)
    return load_folder(place, sha256)


def check_pin(place: object, actual: str, sha256: str | None) -> None:
    """Do nothing if `actual` is the SHA-256 that is pinned, or none is.

    Raises:
        BundleDigestError: it is another one.
    """
    if problem := wrong_pin(place, actual, sha256):
        raise BundleDigestError(problem)


def load_folder(folder: Path, sha256: str | None = None) -> Bundle:
    """Open the bundle in `folder` after checking every digest; raises as `load_bundle`."""
    manifest = read_manifest(folder, sha256)
    for name, expected in manifest.files.items():
        _check(folder / name, expected)
    return Bundle(folder, manifest, manifest.digest)


def read_manifest(folder: Path, sha256: str | None = None) -> Manifest:
    """Read and validate ``bundle.json``; says nothing yet about the other files.

    Raises:
        BundleMissingError: there is none.
        BundleFormatError: it is not valid.
        BundleDigestError: it is not the pinned one.
    """
    path = folder / MANIFEST_NAME
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BundleMissingError(
            f"no model bundle in {folder} ({MANIFEST_NAME} is not there): {_BUILD_ONE}"
        ) from error
    except OSError as error:
        raise BundleFormatError(f"{path} cannot be read ({error}): restore or build it again") from error
    check_pin(path, hashlib.sha256(text).hexdigest(), sha256)
    return parse_manifest(str(path), text)


def parse_manifest(path: str, text: str | bytes) -> Manifest:
    """Validate the contents of a ``bundle.json``; `path` says in messages where it is.

    Raises:
        BundleFormatError: it is not valid.
        BundleDigestError: it was changed since it was built.
    """
    try:
        contents = json.loads(text)
    except ValueError as error:
        raise BundleFormatError(f"{path} is not JSON ({error}): restore or build it again") from error
    version = contents.get("format_version") if isinstance(contents, dict) else None
    if version != FORMAT_VERSION:
        raise BundleFormatError(
            f"{path} has format_version {version!r}, this program reads {FORMAT_VERSION}: build the bundle again"
        )
    stated = contents.pop("digest", None)  # not in bundles from before it was stated
    try:
        manifest = Manifest.model_validate(contents)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise BundleFormatError(f"{path}: {where}: {first['msg']}: build the bundle again") from error
    if stated not in {None, manifest.digest}:
        raise BundleDigestError(
            f"{path} states the digest {stated}, but is {manifest.digest}: restore or build the bundle again"
        )
    return manifest


def _check(path: Path, expected: str) -> None:
    try:
        actual = file_digest(path)
    except OSError as error:
        raise BundleDigestError(
            f"{path} cannot be read ({error.strerror}): restore or build the bundle again"
        ) from error
    if actual != expected:
        raise BundleDigestError(
            f"{path} has SHA-256 {actual}, but the bundle was built with {expected}: "
            "the file was changed or damaged, restore or build the bundle again"
        )
