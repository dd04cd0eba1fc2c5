"""S3 objects that are as large as their content, and that can be read while they are overwritten.

Stock moto keeps an object in a buffer of its own, with a lock, and closes the buffer when another takes its key:
a client that reads or has just put the old one gets a 500. Around the content it keeps 2 KB of what is the same for
most.
"""

import hashlib
from datetime import datetime
from typing import Any

from moto.s3.models import FakeKey, LowercaseDict, get_canned_acl, utcnow
from moto.utilities.utils import get_partition

from localcloud.patches import Patch

HASHED_AT_ONCE = 2047
"""Bytes up to which hashlib keeps the interpreter's lock; under load it costs more to get back than a small hash."""

SMALL = 64 * 1024
"""Bytes up to which an object is hashed without letting other threads run."""

_COMMON = {
    "_etag": None,
    "_expiry": None,
    "_is_versioned": False,
    "_max_buffer_size": None,
    "_status": None,
    "_storage_class": "STANDARD",
    "_tick": 0,
    "_transitions": ((None, "IN_PROGRESS"), ("IN_PROGRESS", "RESTORED")),
    "_value_buffer": None,
    "_version_id": None,
    "bucket_key_enabled": None,
    "checksum_algorithm": None,
    "checksum_parts": None,
    "checksum_type": None,
    "checksum_value": None,
    "disposed": False,
    "encryption": None,
    "kms_key_id": None,
    "lock_legal_status": None,
    "lock_mode": None,
    "lock_until": None,
    "model_name": "s3::keyrestore",
    "multipart": None,
    "website_redirect_location": None,
}
"""What most objects have, kept by the class; an instance has its own where it differs."""

_ATTRIBUTES = {
    "etag": "_etag",
    "is_versioned": "_is_versioned",
    "max_buffer_size": "_max_buffer_size",
    "storage": "_storage_class",
    "version_id": "_version_id",
}
"""Those that are not named as the parameters they come from."""

_PARAMETERS = (
    "self",
    "name",
    "value",
    "account_id",
    "region_name",
    "storage",
    "etag",
    "is_versioned",
    "version_id",
    "max_buffer_size",
    "multipart",
    "bucket_name",
    "encryption",
    "kms_key_id",
    "bucket_key_enabled",
    "lock_mode",
    "lock_legal_status",
    "lock_until",
    "checksum_value",
    "checksum_type",
    "checksum_parts",
)


def _init(_original: Any) -> Any:
    for name, value in _COMMON.items():
        setattr(FakeKey, name, value)

    def init(self: Any, name: str, value: bytes, account_id: str, region_name: str, **given: Any) -> None:
        """Keep the content, and what of the rest is not common to all objects."""
        self.name, self.bucket_name, self.account_id = name, given.pop("bucket_name", None), account_id
        self.region_name, self.partition = region_name, get_partition(region_name)
        self.last_modified, self._time_progressed = utcnow(), datetime.now()
        self.acl = get_canned_acl("private")
        self._metadata = LowercaseDict()
        self._metadata["Content-Type"] = "binary/octet-stream"
        self.value = value
        for parameter, own in given.items():
            attribute = _ATTRIBUTES.get(parameter, parameter)
            if own is not None and own != _COMMON.get(attribute):
                setattr(self, attribute, own)

    return init


def _value(_original: Any) -> Any:
    def get(self: Any) -> bytes:
        """Return the content."""
        return self._content  # type: ignore[no-any-return]

    def keep(self: Any, content: bytes | str) -> None:
        self._content = content.encode() if isinstance(content, str) else bytes(content)
        self.contentsize = len(self._content)

    return property(get, keep)


def _getstate(_original: Any) -> Any:
    def getstate(self: Any) -> dict[str, Any]:
        """Return all there is; a copy shares the content."""
        return dict(self.__dict__)

    return getstate


def _setstate(_original: Any) -> Any:
    def setstate(self: Any, state: dict[str, Any]) -> None:
        """Take over the state of another object."""
        self.__dict__.update(state)

    return setstate


def _etag(_original: Any) -> Any:
    def etag(self: Any) -> str:
        """Return the quoted MD5 of the content, computed once."""
        if self._etag is None:
            self._etag = _md5(self._content)
        return f'"{self._etag}"'

    return property(etag)


def _md5(content: bytes) -> str:
    if len(content) > SMALL:
        return hashlib.md5(content, usedforsecurity=False).hexdigest()
    digest = hashlib.md5(usedforsecurity=False)
    for start in range(0, len(content), HASHED_AT_ONCE):
        digest.update(content[start : start + HASHED_AT_ONCE])
    return digest.hexdigest()


def _dispose(_original: Any) -> Any:
    def dispose(self: Any, garbage: bool = False) -> None:  # noqa: ARG001 - moto's signature
        """Leave the content to its readers; it goes with the last of them."""
        if self.multipart and not self.disposed:
            self.multipart.dispose()
            self.disposed = True

    return dispose


_KEY = "moto.s3.models:FakeKey"
PATCHES = (
    Patch(f"{_KEY}.__init__", _PARAMETERS, _init, "keeps 2 KB around each object that are the same for most of them"),
    Patch(f"{_KEY}.value", ("self",), _value, "keeps a buffer and a lock, and copies the content out of it"),
    Patch(f"{_KEY}.__getstate__", ("self",), _getstate, "expects a buffer and a lock"),
    Patch(f"{_KEY}.__setstate__", ("self", "state"), _setstate, "expects a buffer and a lock"),
    Patch(f"{_KEY}.etag", ("self",), _etag, "moves through the buffer beside its readers"),
    Patch(f"{_KEY}.dispose", ("self", "garbage"), _dispose, "closes the buffer under its readers"),
)
