"""Published bundles: copies in the model bucket, from which every worker can load a model at any time.

A bundle is at ``models/DIGEST/``. So a job's model stays what it was, although the folder that the
configuration names may be built again, or be a part of a machine image that is replaced. ``bundle.json`` is
written last: a bundle that has it is whole. Published bundles are not deleted, since jobs may still need them.
"""

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from core.bundle_facts import (
    IN_S3,
    MANIFEST_NAME,
    MAX_BUNDLE_BYTES,
    MAX_MANIFEST_BYTES,
    PUBLISHED,
    ZIP_ERRORS,
    BundleUnreadableError,
    bundle_zip,
    manifest_in,
    read_manifest,
)
from core.bundle_manifest import FileName, Manifest
from services.errors import NotFoundError, ObjectTooLargeError
from services.s3 import Bucket

_CHUNK_BYTES: Final = 2**20


def published_place(bucket: str, digest: str) -> str:
    """Return the place of the published bundle with this digest in the model bucket `bucket`."""
    return f"s3://{bucket}/{PUBLISHED}/{digest}"


def publish(
    bundle: Path,
    bucket_named: Callable[[str], Bucket],
    models: Bucket,
    sha256: str | None = None,
    check: Callable[[Path], object] | None = None,
) -> Manifest:
    """Copy a bundle in a folder or zip, here or in S3, unless it is published; return its manifest.

    `sha256` pins the bundle (`worker.bundle_sha256`). What is published is replaced only if its ``bundle.json`` is
    damaged: one that differs in statements without a part in the digest, such as messages, cannot be verified.
    The files are copied to a folder on this machine and compared with their digests. A `check` gets the folder before
    they are published, also if they are published already.

    Raises:
        BundleUnreadableError: it does not exist, is not whole, is one that no worker would load, states another
            digest than it has, or is not the pinned one; or by `check`.
        botocore.exceptions.BotoCoreError, ClientError: S3 cannot be reached or refuses.
    """
    try:
        if (found := IN_S3.fullmatch(str(bundle))) is not None and found["key"].lower().endswith(".zip"):
            with _downloaded(bucket_named(found["bucket"]), found["key"]) as file:
                try:
                    return publish(Path(file.name), bucket_named, models, sha256, check)
                except BundleUnreadableError as error:
                    raise BundleUnreadableError(str(error).replace(file.name, str(bundle))) from error
        manifest = read_manifest(
            bundle, lambda bucket, key: bucket_named(bucket).get(key, MAX_MANIFEST_BYTES), sha256
        )
        stated = manifest_in(manifest, str(bundle))
        folder = f"{PUBLISHED}/{stated.digest}"
        is_published = _is_published(models, f"{folder}/{MANIFEST_NAME}", stated.digest)
        if is_published and check is None:
            return stated
        with tempfile.TemporaryDirectory() as temporary:
            copy = Path(temporary)
            _copy_files(bundle, stated.files, bucket_named, copy)
            if check is not None:
                (copy / MANIFEST_NAME).write_bytes(manifest)
                check(copy)
            if not is_published:
                for name in stated.files:
                    with (copy / name).open("rb") as file:
                        models.put_parts(f"{folder}/{name}", _chunks(file), "application/octet-stream")
                models.put(f"{folder}/{MANIFEST_NAME}", manifest, "application/json")
    except (OSError, NotFoundError, ObjectTooLargeError, KeyError, *ZIP_ERRORS) as error:
        raise BundleUnreadableError(f"no bundle can be read at {bundle}: {error}") from error
    return stated


def _copy_files(
    bundle: Path, files: Mapping[FileName, str], bucket_named: Callable[[str], Bucket], folder: Path
) -> None:
    """Copy the files of a bundle, each with its SHA-256, into a folder."""
    size = 0
    for name, sha256 in files.items():
        digest = hashlib.sha256()
        with (folder / name).open("wb") as target:
            for chunk in _content(bundle, name, bucket_named):
                size += len(chunk)
                if size > MAX_BUNDLE_BYTES:
                    raise ObjectTooLargeError(str(bundle), size, MAX_BUNDLE_BYTES)
                digest.update(chunk)
                target.write(chunk)
        if digest.hexdigest() != sha256:
            raise BundleUnreadableError(
                f"{bundle}/{name} is not the file that the bundle was built with: build it again"
            )


def _is_published(models: Bucket, key: str, digest: str) -> bool:
    """Return whether the ``bundle.json`` at `key` exists and is that of the bundle with this digest."""
    try:
        return manifest_in(models.get(key, MAX_MANIFEST_BYTES), key).digest == digest
    except (NotFoundError, ObjectTooLargeError, BundleUnreadableError):
        return False


@contextmanager
def _downloaded(bucket: Bucket, key: str) -> Iterator[IO[bytes]]:
    """Download an object into a file, which is removed at the end."""
    with tempfile.NamedTemporaryFile(suffix=Path(key).suffix) as file:
        for chunk in bucket.stream(key):
            file.write(chunk)
            if file.tell() > MAX_BUNDLE_BYTES:
                raise ObjectTooLargeError(key, file.tell(), MAX_BUNDLE_BYTES)
        file.seek(0)
        yield file


def _content(bundle: Path, name: str, bucket_named: Callable[[str], Bucket]) -> Iterator[bytes]:
    """Yield the content of a file of a bundle."""
    if (found := IN_S3.fullmatch(str(bundle))) is not None:
        yield from bucket_named(found["bucket"]).stream(f"{found['key']}/{name}")
    elif bundle.is_file():
        with bundle.open("rb") as zipped, bundle_zip(zipped) as (archive, top), archive.open(f"{top}{name}") as file:
            yield from _chunks(file)
    else:
        with (bundle / name).open("rb") as file:
            yield from _chunks(file)


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK_BYTES):
        yield chunk
