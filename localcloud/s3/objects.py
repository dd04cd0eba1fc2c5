"""S3 objects in temporary files, not in moto's buffers, and direct answers to the plain calls on them.

Stock moto stores an object in a buffer with a lock, and closes the buffer when another object takes its key: a client
that reads the old object, or has just put it, gets a 500.

A plain call puts or gets a whole object, or deletes objects, in a bucket without configuration. The objects are
moto's own, so all other calls see them. Stock moto answers every call with an unusual header, query, key or bucket,
and every error.
"""

import hashlib
import re
import threading
from collections.abc import Iterable
from contextlib import nullcontext
from datetime import datetime
from typing import Any

from moto.s3.exceptions import EntityTooSmall, InvalidPart, MalformedXML, PreconditionFailed
from moto.s3.models import (
    S3_UPLOAD_PART_MIN_SIZE,
    FakeBucket,
    FakeKey,
    LowercaseDict,
    MultipartChecksumBuilder,
    S3Backend,
    get_canned_acl,
    s3_backends,
)
from moto.utilities.utils import get_partition

from localcloud.clock import utc_now
from localcloud.dispatch import DirectRequest, DirectResponse, read_body, request_id
from localcloud.patches import Patch, Patches
from localcloud.s3.posts import plain_tag
from localcloud.s3.stored_keys import ETAG_DIGITS, StoredKeys, describe, random_etag, shared_metadata
from localcloud.signatures import UNSIGNED_PAYLOAD
from localcloud.state.recorder import recorder
from localcloud.temporary import JoinedContent, StoredContent, body_of

_COMMON = {
    "_etag": None,
    "_expiry": None,
    "_is_versioned": False,
    "_max_buffer_size": None,
    "_status": None,
    "_storage_class": "STANDARD",
    "_tick": 0,
    "_time_progressed": datetime.min,
    "_transitions": ((None, "IN_PROGRESS"), ("IN_PROGRESS", "RESTORED")),
    "_value_buffer": None,
    "_version_id": None,
    "acl": get_canned_acl("private"),
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
    "stored_keys": None,
    "tags": (),
    "website_redirect_location": None,
}
"""Attributes of most objects, stored once in the class; an instance has only those that differ."""

for _attribute, _common in _COMMON.items():
    setattr(FakeKey, _attribute, _common)  # an instance that stock moto has created has all of them

_ATTRIBUTES = {
    "etag": "_etag",
    "is_versioned": "_is_versioned",
    "max_buffer_size": "_max_buffer_size",
    "storage": "_storage_class",
    "version_id": "_version_id",
}
"""Attributes with other names than their parameters."""

_KEY = "moto.s3.models:FakeKey"

_DEFAULT_TYPE = "binary/octet-stream"

PATCHES = Patches()


@PATCHES.replace(
    f"{_KEY}.__init__",
    "holds 2 KB per object that are the same for most objects",
    "self name value account_id region_name storage etag is_versioned version_id max_buffer_size multipart "
    "bucket_name encryption kms_key_id bucket_key_enabled lock_mode lock_legal_status lock_until checksum_value "
    "checksum_type checksum_parts",
)
def init(self: Any, name: str, value: bytes, account_id: str, region_name: str, **given: Any) -> None:
    """Store the content, and the attributes that differ from those of most objects."""
    vars(self).update(
        name=name,
        bucket_name=given.pop("bucket_name", None),
        account_id=account_id,
        region_name=region_name,
        partition=get_partition(region_name),
        last_modified=utc_now().replace(tzinfo=None),
        _metadata=shared_metadata((("Content-Type", _DEFAULT_TYPE),)),
    )
    self.value = value
    for parameter, own in given.items():
        attribute = _ATTRIBUTES.get(parameter, parameter)
        if own is not None and own != _COMMON.get(attribute):
            setattr(self, attribute, own)


@PATCHES.replace(f"{_KEY}.__setattr__", "changes only the object in memory")
def set_attribute(self: Any, name: str, value: Any) -> None:
    """Set an attribute, and write an object that its bucket has as a row."""
    object.__setattr__(self, name, value)
    if self.stored_keys is not None and name != "_tick":  # which each read sets
        self.stored_keys.write(self)


@PATCHES.wrap("moto.s3.models:FakeBucket.__init__", "has all objects in memory")
def init_bucket(
    original: Any, self: Any, name: str, account_id: str, region_name: str, bucket_namespace: str | None = None
) -> None:
    """Keep the objects in the temporary database; the usual ACL of bucket and objects is one."""
    original(self, name, account_id, region_name, bucket_namespace)
    self.keys, self.acl = StoredKeys(), FakeKey.acl


@PATCHES.wrap(f"{_KEY}.set_metadata", "has a dictionary for each object")
def set_metadata(original: Any, self: Any, metadata: Any, replace: bool = False) -> None:
    """Set metadata of this object only."""
    vars(self)["_metadata"] = LowercaseDict(self._metadata)
    original(self, type(metadata)(metadata), replace)  # which removes from it
    self._metadata = shared_metadata(tuple(self._metadata.items()))


def store_content(self: Any, content: bytes | str | JoinedContent) -> None:
    """Replace the content; readers of the old content keep it."""
    stored = content.encode() if isinstance(content, str) else content
    own = stored if isinstance(stored, JoinedContent) else StoredContent.create(bytes(stored))
    vars(self).update(_content=own, contentsize=len(stored))


PATCHES.append(
    Patch(
        f"{_KEY}.value",
        ("self",),
        lambda _original: property(lambda self: bytes(body_of(self._content)), store_content),
        "has a buffer, which is in memory for most objects, and a lock",
    )
)


@PATCHES.replace(f"{_KEY}.__getstate__", "expects a buffer and a lock")
def getstate(self: Any) -> dict[str, Any]:
    """Return all attributes; a copy shares the content, and is not in the bucket."""
    return {name: value for name, value in vars(self).items() if name != "stored_keys"}


@PATCHES.replace(f"{_KEY}.__setstate__", "expects a buffer and a lock")
def setstate(self: Any, state: dict[str, Any]) -> None:
    """Copy the state of another object."""
    self.__dict__.update(state)


@PATCHES.replace(f"{_KEY}.etag", "moves through the buffer beside its readers, and computes an MD5")
def etag(self: Any) -> str:
    """Return the quoted ETag of the content, computed once."""
    if self._etag is None:
        self._etag = hashlib.sha256(self.value).hexdigest()[:ETAG_DIGITS]
    return f'"{self._etag}"'


@PATCHES.replace(f"{_KEY}.dispose", "closes the buffer under its readers")
def dispose(self: Any, garbage: bool = False) -> None:  # noqa: ARG001 - moto's signature
    """Release nothing: the content is deleted with its last reader."""
    if self.multipart and not self.disposed:
        self.multipart.dispose()
        self.disposed = True


@PATCHES.replace("moto.s3.models:FakeMultipart.complete", "copies all parts into memory, and again for a checksum")
def complete(self: Any, body: Iterable[tuple[int, str]]) -> tuple[JoinedContent, str, tuple[str, str, int] | None]:
    """Return what the parts are together, its ETag, and its checksum if the client has chosen an algorithm.

    Raises:
        InvalidPart, EntityTooSmall, MalformedXML: the parts that `body` names cannot be joined.
    """
    named = [(self.parts.get(number), given.strip('"')) for number, given in body]
    if not named:
        raise MalformedXML
    if any(part is None or part.etag.strip('"') != given for part, given in named):
        raise InvalidPart
    parts = [part for part, _ in named]
    if any(part.contentsize < S3_UPLOAD_PART_MIN_SIZE for part in parts[:-1]):
        raise EntityTooSmall
    etag = hashlib.md5(b"".join(bytes.fromhex(given) for _, given in named), usedforsecurity=False).hexdigest()
    algorithm, checksum = self.metadata.get("x-amz-checksum-algorithm"), None
    if algorithm:
        builder = MultipartChecksumBuilder(algorithm, self.metadata.get("x-amz-checksum-type"))
        for part in parts:
            builder.addPart(part.value)
        checksum = builder.build()
    return JoinedContent([(part._content, part.contentsize) for part in parts]), f"{etag}-{len(parts)}", checksum


_CREATING = threading.Lock()
"""Held from the check that no object exists until the put, so that only one of two conditional puts succeeds."""

_BACKEND = "moto.s3.models:S3Backend"
_COPY_PARAMETERS = (
    "self src_key dest_bucket_name dest_key_name storage encryption kms_key_id bucket_key_enabled mdirective "
    "metadata website_redirect_location lock_mode lock_legal_status lock_until provided_version_id"
)
_NO_RECORD = "does not record a change in the state"


def _record_change(original: Any, self: Any, bucket_name: str, key_name: str, *args: Any, **kwargs: Any) -> Any:
    """Change an object, and record it."""
    recorder.object_changes(self, bucket_name, key_name)
    return original(self, bucket_name, key_name, *args, **kwargs)


for _name, _parameters in {
    "put_object": "value storage etag multipart encryption kms_key_id bucket_key_enabled lock_mode lock_legal_status "
    "lock_until checksum_value request_method disable_notification",
    "delete_object": "version_id bypass",
}.items():
    PATCHES.wrap(f"{_BACKEND}.{_name}", _NO_RECORD, f"self bucket_name key_name {_parameters}")(_record_change)


_TAGS_IN_MEMORY = "has the tags of all objects in memory, and those of objects that were deleted"


@PATCHES.wrap(f"{_BACKEND}.put_object_tagging", _TAGS_IN_MEMORY)
def put_object_tagging(original: Any, self: Any, key: Any, tags: Any) -> Any:
    """Set the tags of an object, which are in its row, and record it."""
    recorder.object_changes(self, key.bucket_name, key.name)
    original(self, key, tags)
    self.tagger.delete_all_tags_for_resource(key.arn)
    key.tags = self.tagger.convert_dict_to_tags_input(tags)
    return key


@PATCHES.wrap(f"{_BACKEND}.delete_object_tagging", _TAGS_IN_MEMORY)
def delete_object_tagging(
    original: Any, self: Any, bucket_name: str, key_name: str, version_id: str | None = None
) -> None:
    """Remove the tags of an object, and record it."""
    recorder.object_changes(self, bucket_name, key_name)
    stored = self.get_object(bucket_name, key_name, version_id=version_id)
    original(self, bucket_name, key_name, version_id)
    stored.tags = ()


@PATCHES.replace(f"{_BACKEND}.get_object_tagging", _TAGS_IN_MEMORY)
def get_object_tagging(self: Any, key: Any) -> dict[str, Any]:  # noqa: ARG001 - moto's signature
    """Return the tags of an object."""
    return {"Tags": list(key.tags)}


def _with_count_of_tags(described: dict[str, Any], stored: Any) -> dict[str, Any]:
    return described | ({"x-amz-tagging-count": str(len(stored.tags))} if stored.tags else {})


PATCHES.append(
    Patch(
        f"{_KEY}.response_dict",
        ("self",),
        lambda original: property(lambda self: _with_count_of_tags(original.fget(self), self)),
        _TAGS_IN_MEMORY,
    )
)


@PATCHES.wrap(
    f"{_BACKEND}.list_objects_v2",
    "reads every object of the bucket for each page",
    "self bucket prefix delimiter continuation_token start_after max_keys",
)
def list_objects_v2(original: Any, self: Any, bucket: Any, **asked: Any) -> Any:
    """Return a page of a list, which costs as much as it holds."""
    if not isinstance(bucket.keys, StoredKeys):
        return original(self, bucket, **asked)
    token, most = asked["continuation_token"], asked["max_keys"]
    after = self._pagination_tokens.get(token) if token else asked["start_after"]
    found = bucket.keys.entries(asked["prefix"] or "", asked["delimiter"], after or "", most + 1)
    return self._truncate_result(found, most)


_COPYING = threading.local()
"""The headers of the copy that a thread is making."""


@PATCHES.wrap("moto.s3.responses:S3Response.copy_object", "ignores the conditions of a copy but one")
def copy_with_conditions(original: Any, self: Any) -> Any:
    """Copy an object if the conditions hold for it, and for the object at the key of the copy."""
    _COPYING.headers = self.headers
    with _CREATING:
        return original(self)


@PATCHES.wrap(f"{_BACKEND}.copy_object", "cannot know the conditions of a copy", _COPY_PARAMETERS)
def copy_object(
    original: Any, self: Any, src_key: Any, dest_bucket_name: str, dest_key_name: str, **more: Any
) -> None:
    """Copy the object that the conditions were checked for: a later one may take its key meanwhile."""
    headers = _COPYING.headers
    if (etag := headers.get("x-amz-copy-source-if-match")) and etag.strip('"') != src_key.etag.strip('"'):
        raise PreconditionFailed("x-amz-copy-source-If-Match")
    if headers.get("If-None-Match") == "*" and self.get_object(dest_bucket_name, dest_key_name) is not None:
        raise PreconditionFailed("If-None-Match")
    original(self, src_key, dest_bucket_name, dest_key_name, **more)
    copied = self.get_object(dest_bucket_name, dest_key_name)
    if src_key.tags and copied is not None:
        copied.tags = src_key.tags


_KEY_PATTERN = r"[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)*"

_TARGET = re.compile(rf"/([a-z0-9][a-z0-9.-]{{1,61}}[a-z0-9])(?:/({_KEY_PATTERN})|\?delete)")

_DELETION = re.compile(
    rf'<Delete(?: xmlns="[^"<>]*")?>(?:<Object><Key>{_KEY_PATTERN}</Key></Object>){{1,1000}}</Delete>'
)

_DELETED_KEY = re.compile(r"<Key>([^<]*)</Key>")

_XML = '<?xml version="1.0" encoding="utf-8"?>'


_NOT_BUCKETS = frozenset({"moto-api", "latest", "v20180820"})

_FORM_TYPES = ("multipart/form-data", "application/x-www-form-urlencoded")

_PLAIN_HEADERS = frozenset(
    f"HTTP_{name}"
    for name in (
        "ACCEPT",
        "ACCEPT_ENCODING",
        "AMZ_SDK_INVOCATION_ID",
        "AMZ_SDK_REQUEST",
        "AUTHORIZATION",
        "CONNECTION",
        "CONTENT_DISPOSITION",
        "CONTENT_MD5",
        "EXPECT",
        "HOST",
        "IF_NONE_MATCH",
        "USER_AGENT",
        "X_AMZ_CHECKSUM_MODE",
        "X_AMZ_CONTENT_SHA256",
        "X_AMZ_DATE",
        "X_AMZ_SECURITY_TOKEN",
        "X_AMZ_TAGGING",
    )
)


def answer(request: DirectRequest) -> DirectResponse | None:
    """Return the answer to a plain call on objects, or None if stock moto must answer."""
    environ = request.environ
    method, target = environ["REQUEST_METHOD"], _TARGET.fullmatch(environ.get("RAW_URI", ""))
    if method == "POST":  # DeleteObjects has a checksum, which nothing on loopback needs
        environ = {name: value for name, value in environ.items() if name != "HTTP_X_AMZ_CHECKSUM_SHA256"}
    if target is None or not has_plain_headers(environ) or (environ.get("HTTP_IF_NONE_MATCH") and method != "PUT"):
        return None
    name, key = target.groups()
    backend: S3Backend = s3_backends[request.account][get_partition(request.region)]
    bucket = backend.buckets.get(name)
    if bucket is None or name in _NOT_BUCKETS or not is_plain(bucket):
        return None
    if key is None:
        return _delete_each(request, backend, name) if method == "POST" else None
    call = _CALLS.get(method)
    return None if call is None else call(request, backend, bucket, key)


def has_plain_headers(environ: dict[str, Any]) -> bool:
    """Return True if no header of a request asks for more than the whole object."""
    return not environ.get("HTTP_X_AMZ_CONTENT_SHA256", "").startswith("STREAMING") and all(
        name in _PLAIN_HEADERS for name in environ if name.startswith("HTTP_")
    )


def is_plain(bucket: FakeBucket) -> bool:
    """Return True if a bucket has no configuration that changes the effect of a call."""
    return type(bucket) is FakeBucket and not (
        bucket.versioning_status
        or bucket.policy
        or bucket.notification_configuration
        or bucket.encryption
        or bucket.object_lock_enabled
        or bucket.logging
    )


def _put(request: DirectRequest, backend: S3Backend, bucket: FakeBucket, key: str) -> DirectResponse | None:
    content_type = request.environ.get("CONTENT_TYPE") or _DEFAULT_TYPE
    length = request.environ.get("CONTENT_LENGTH", "")
    tagging = request.environ.get("HTTP_X_AMZ_TAGGING")
    tags = plain_tag(tagging) if tagging else []
    if tags is None or not length.isdigit() or content_type.startswith(_FORM_TYPES):
        return None
    content = read_body(request.environ)
    if len(content) != int(length):  # the client disconnected: a partial object must not be stored
        return DirectResponse([("Connection", "close")], status="400 Bad Request")
    shown = request.environ.get("HTTP_CONTENT_DISPOSITION")
    described = {"Content-Type": content_type} | ({"Content-Disposition": shown} if shown else {})
    condition = request.environ.get("HTTP_IF_NONE_MATCH")
    is_unsigned = request.environ.get("HTTP_X_AMZ_CONTENT_SHA256") == UNSIGNED_PAYLOAD
    etag = random_etag() if is_unsigned else None
    with _CREATING if condition else nullcontext():
        if condition and (condition != "*" or key in bucket.keys):
            return None
        recorder.object_changes(backend, bucket.name, key)
        stored = FakeKey(key, content, request.account, backend.region_name, etag=etag, bucket_name=bucket.name)
        describe(stored, bucket, described, tags)
        bucket.keys.setlist(key, [stored])
    return DirectResponse([*_identity(), ("ETag", stored.etag), ("last-modified", stored.last_modified_RFC1123)])


def _get(_request: DirectRequest, _backend: S3Backend, bucket: FakeBucket, key: str) -> DirectResponse | None:
    stored = bucket.keys.get(key)
    if type(stored) is not FakeKey or stored.storage_class != "STANDARD" or stored.checksum_algorithm:
        return None
    described = {**stored.response_dict, **stored.metadata, "Accept-Ranges": "bytes"}
    described.pop("content-length")
    headers = [*_identity(), *((name, str(value)) for name, value in described.items())]
    return DirectResponse(headers, body_of(stored._content))


def _delete(_request: DirectRequest, backend: S3Backend, bucket: FakeBucket, key: str) -> DirectResponse:
    backend.delete_object(bucket.name, key)
    return DirectResponse(_identity(), status="204 No Content")


_CALLS = {"PUT": _put, "GET": _get, "DELETE": _delete}


def _delete_each(request: DirectRequest, backend: S3Backend, name: str) -> DirectResponse | None:
    body = read_body(request.environ).decode("latin-1")
    if _DELETION.fullmatch(body) is None:
        return None
    keys = _DELETED_KEY.findall(body)
    for key in keys:
        backend.delete_object(name, key)
    deleted = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in keys)
    result = f'{_XML}\n<DeleteResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{deleted}</DeleteResult>'
    return DirectResponse([*_identity(), ("Content-Type", "application/xml")], result.encode())


def _identity() -> list[tuple[str, str]]:
    return [("x-amz-request-id", request_id())]
