"""A bundle in S3, as files under a prefix or as one zip: fetched once, checked, and kept on this machine."""

import hashlib
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from app_tier.bundle import (
    Bundle,
    cache_folder,
    file_digest,
    kept,
    unpack,
)
from core.bundle_facts import IN_S3, MANIFEST_NAME, MAX_BUNDLE_BYTES, MAX_MANIFEST_BYTES, check_pin
from core.bundle_files import chunks, write_file, write_files
from core.bundle_manifest import BundleMissingError, parse_manifest

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


@dataclass(frozen=True)
class Place:
    """Where in S3 a bundle is: the key of a zip, or a prefix without its last slash."""

    bucket: str
    key: str

    def __str__(self) -> str:
        """Return the place as people write it."""
        return f"s3://{self.bucket}/{self.key}"

    def file(self, name: str) -> "Place":
        """Return where the file `name` of a bundle under this prefix is."""
        return Place(self.bucket, f"{self.key}/{name}")


def in_s3(path: Path | str) -> Place | None:
    """Return the place that ``s3://bucket/prefix`` or ``s3://bucket/key.zip`` names; None for a path on this machine.

    Raises:
        BundleMissingError: it begins with ``s3:`` and names no place.
    """
    text = str(path)
    if not text.startswith("s3:/"):
        return None
    found = IN_S3.fullmatch(text)
    if found is None:
        raise BundleMissingError(f"{text} names no bundle: write s3://BUCKET/PREFIX or s3://BUCKET/KEY.zip")
    return Place(found["bucket"], found["key"])


def fetch_bundle(client: "S3Client", place: Place, cache: Path | None = None, sha256: str | None = None) -> Bundle:
    """Return the bundle at `place`, every digest checked; what the cache keeps already is not fetched again.

    The cache is this user's own by default. `sha256` pins the bundle (`worker.bundle_sha256`): nothing of another one
    is parsed.

    Raises:
        BundleMissingError: there is none.
        BundleError: it is not whole.
        botocore.exceptions.BotoCoreError, ClientError: S3 cannot be reached or refuses.
    """
    fetch = _fetch_zip if place.key.lower().endswith(".zip") else _fetch_files
    return fetch(client, place, cache or cache_folder(), sha256)


def _fetch_files(client: "S3Client", place: Place, cache: Path, sha256: str | None) -> Bundle:
    with closing(_get(client, place.file(MANIFEST_NAME))["Body"]) as body:
        text = body.read(MAX_MANIFEST_BYTES)
    digest = hashlib.sha256(text).hexdigest()
    check_pin(place.file(MANIFEST_NAME), digest, sha256)
    manifest = parse_manifest(str(place.file(MANIFEST_NAME)), text)

    def fill(folder: Path) -> None:
        write_files(folder, place, manifest, text, lambda name: chunks(_get(client, place.file(name))["Body"]))

    return kept(digest, fill, cache)


def _fetch_zip(client: "S3Client", place: Place, cache: Path, sha256: str | None) -> Bundle:
    """Fetch a zip unless the cache keeps the content of this version, which the ETag of S3 identifies.

    What is kept was checked when it was fetched, so the name in the cache of a pinned zip holds its pin.
    """
    answer = _get(client, place)

    def fill(folder: Path) -> None:
        zipped = folder.with_suffix(".zip")
        write_file(zipped, place, chunks(answer["Body"]), MAX_BUNDLE_BYTES)
        check_pin(place, file_digest(zipped), sha256)
        unpack(zipped, folder)
        zipped.unlink()

    with closing(answer["Body"]):
        return kept(hashlib.sha256(f"{place} {answer['ETag']} {sha256}".encode()).hexdigest(), fill, cache)


def _get(client: "S3Client", place: Place) -> Any:
    try:
        return client.get_object(Bucket=place.bucket, Key=place.key)
    except ClientError as error:
        if error.response["Error"]["Code"] in {"NoSuchKey", "NoSuchBucket", "404"}:
            raise BundleMissingError(f"there is no {place}: put the files of a built bundle there") from error
        raise
