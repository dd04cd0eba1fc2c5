"""Published bundles: copies in the model bucket, from which every worker can load a model at any time.

A bundle is at ``models/DIGEST/``. So a job's model stays what it was, although the folder that the
configuration names may be built again, or be a part of a machine image that is replaced. ``bundle.json`` is
written last: a bundle that has it is whole. Published bundles are not deleted, since jobs may still need them.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

from core.bundle_facts import (
    IN_S3,
    MANIFEST_NAME,
    MAX_BUNDLE_BYTES,
    MAX_MANIFEST_BYTES,
    PUBLISHED,
    ZIP_ERRORS,
    bundle_zip,
    read_manifest,
)
from core.bundle_files import Content, chunks, write_file, write_files
from core.bundle_manifest import BundleError, BundleFormatError, Manifest, parse_manifest
from services.errors import NotFoundError, ObjectTooLargeError
from services.s3 import Bucket


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
        BundleError: it does not exist, is not whole, is one that no worker would load, states another
            digest than it has, or is not the pinned one; or by `check`.
        botocore.exceptions.BotoCoreError, ClientError: S3 cannot be reached or refuses.
    """
    found = IN_S3.fullmatch(str(bundle))
    with tempfile.TemporaryDirectory() as temporary:
        place, copy = bundle, Path(temporary, "bundle")
        try:
            if found is not None and found["key"].lower().endswith(".zip"):
                place = copy.with_suffix(".zip")
                write_file(place, bundle, bucket_named(found["bucket"]).stream(found["key"]), MAX_BUNDLE_BYTES)
            manifest = read_manifest(place, lambda name, key: bucket_named(name).get(key, MAX_MANIFEST_BYTES), sha256)
            stated = parse_manifest(str(place), manifest)
            folder = f"{PUBLISHED}/{stated.digest}"
            is_published = _is_published(models, f"{folder}/{MANIFEST_NAME}", stated.digest)
            if is_published and check is None:
                return stated
            copy.mkdir()
            write_files(copy, bundle, stated, manifest, lambda name: _content(place, name, bucket_named))
            if check is not None:
                check(copy)
            if not is_published:
                for name in stated.files:
                    models.put_parts(f"{folder}/{name}", chunks((copy / name).open("rb")), "application/octet-stream")
                models.put(f"{folder}/{MANIFEST_NAME}", manifest, "application/json")
        except BundleError as error:
            raise BundleError(str(error).replace(str(place), str(bundle))) from error
        except (OSError, NotFoundError, ObjectTooLargeError, KeyError, *ZIP_ERRORS) as error:
            raise BundleFormatError(f"no bundle can be read at {bundle}: {error}") from error
    return stated


def _is_published(models: Bucket, key: str, digest: str) -> bool:
    """Return whether the ``bundle.json`` at `key` exists and is that of the bundle with this digest."""
    try:
        return parse_manifest(key, models.get(key, MAX_MANIFEST_BYTES)).digest == digest
    except (NotFoundError, ObjectTooLargeError, BundleError):
        return False


def _content(bundle: Path, name: str, bucket_named: Callable[[str], Bucket]) -> Content:
    """Yield the content of a file of a bundle."""
    if (found := IN_S3.fullmatch(str(bundle))) is not None:
        yield from bucket_named(found["bucket"]).stream(f"{found['key']}/{name}")
    elif bundle.is_file():
        with bundle.open("rb") as zipped, bundle_zip(zipped) as (archive, top):
            yield from chunks(archive.open(f"{top}{name}"))
    else:
        yield from chunks((bundle / name).open("rb"))
