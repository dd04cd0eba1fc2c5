"""What a model bundle says about itself, for those who do not run it: read from ``bundle.json`` alone."""

import json
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from services.errors import FleetsightError

MANIFEST = "bundle.json"

# One slash, since a `Path`, as the configuration holds it, has lost the other.
IN_S3 = re.compile(r"s3:/{1,2}(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/(?P<key>.+?)/*")
"""A bundle's place in S3: the key of a zip, or a prefix without its last slash."""


class BundleUnreadableError(FleetsightError):
    """Raised when a bundle is not there, or its ``bundle.json`` cannot be read."""


@dataclass(frozen=True)
class BundleFacts:
    """What a bundle is called, and what it calls its classes.

    Attributes:
        digest: SHA-256 of all that decides an answer, as results name it; None in a bundle that does not state it.
        labels: one per class, in the order of the probabilities.
        messages: a sentence for the user where this label is the answer, by label.
    """

    digest: str | None = None
    labels: Sequence[str] = ()
    messages: Mapping[str, str] = field(default_factory=dict)


def read_facts(bundle: Path, get: Callable[[str, str], bytes]) -> BundleFacts:
    """Return the facts of the bundle in that folder or zip, or under ``s3://bucket/prefix``.

    Args:
        bundle: as the configuration names it.
        get: returns an object, by bucket and key.

    Raises:
        BundleUnreadableError: there is none, or none that can be read from here.
        botocore.exceptions.BotoCoreError, ClientError, NotFoundError: from `get`.
    """
    try:
        manifest = json.loads(_manifest(bundle, get))
        return BundleFacts(manifest.get("digest"), tuple(manifest["labels"]), dict(manifest.get("messages", {})))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise BundleUnreadableError(f"no bundle can be read at {bundle}: {error}") from error


def _manifest(bundle: Path, get: Callable[[str, str], bytes]) -> bytes:
    if found := IN_S3.fullmatch(str(bundle)):
        if found["key"].lower().endswith(".zip"):
            raise BundleUnreadableError(f"{bundle} is too large to fetch for its bundle.json: name an S3 prefix")
        return get(found["bucket"], f"{found['key']}/{MANIFEST}")
    if bundle.suffix.lower() == ".zip" and bundle.is_file():
        with zipfile.ZipFile(bundle) as archive:
            inside = [name for name in archive.namelist() if name.rpartition("/")[2] == MANIFEST]
            return archive.read(min(inside, key=len, default=MANIFEST))
    return (bundle / MANIFEST).read_bytes()
