"""S3 objects in the store, not in moto's buffers, and direct answers to the plain calls on them.

Stock moto stores an object in a buffer with a lock, and closes the buffer when another object takes its key: a client
that reads the old object, or has just put it, gets a 500.

A plain call puts or gets a whole object, or deletes objects, in a bucket without configuration. The objects are
moto's own, so all other calls see them. Stock moto answers every call with an unusual header, query, key or bucket,
and every error.
"""

import base64
import hashlib
import re
import secrets
from collections.abc import Iterable
from contextlib import nullcontext, suppress
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from moto.s3.exceptions import (
    EntityTooSmall,
    InvalidContinuationToken,
    InvalidPart,
    MalformedXML,
    MissingBucket,
    PreconditionFailed,
)
from moto.s3.models import S3_UPLOAD_PART_MIN_SIZE, FakeBucket, FakeKey, LowercaseDict, s3_backends
from moto.utilities.utils import get_partition

from localcloud.clock import utc_now
from localcloud.dispatch import (
    LEFT_OUT,
    DirectRequest,
    DirectResponse,
    ErrorReason,
    error_response,
    processed,
    read_body,
    request_id,
)
from localcloud.patches import Patch, Patches
from localcloud.s3.contents import Body, JoinedContent, StoredContent, body_of
from localcloud.s3.stored_keys import StoredKeys
from localcloud.signatures import UNSIGNED_PAYLOAD
from localcloud.store import data

_usual = FakeKey("", b"", "", "")
_usual.dispose()

_COMMON = {
    name: value
    for name, value in vars(_usual).items()
    if name not in {"_metadata", "_value_buffer", "contentsize", "last_modified", "lock", "name"}
} | {"stored_keys": None, "tags": ()}
"""Attributes of most objects, stored once in the class; an instance has only those that differ."""

for _attribute, _common in _COMMON.items():
    setattr(FakeKey, _attribute, _common)

_KEY = "moto.s3.models:FakeKey"

ETAG_DIGITS = 32
"""Digits of an ETag, as of an MD5: random where a client signs no SHA-256 of the content, else the beginning of that.

S3 does not promise an MD5 (https://docs.aws.amazon.com/AmazonS3/latest/API/API_Object.html).
"""

_DEFAULT_TYPE = "binary/octet-stream"

PATCHES = Patches()


@PATCHES.replace(
    f"{_KEY}.__init__",
    "holds 2 KB per object that are the same for most objects",
    "self name value account_id region_name storage etag is_versioned version_id max_buffer_size multipart "
    "bucket_name encryption kms_key_id bucket_key_enabled lock_mode lock_legal_status lock_until checksum_value "
    "checksum_type checksum_parts",
)
def init(self: Any, name: str, value: Body, account_id: str, region_name: str, **given: Any) -> None:
    """Store the content, and the attributes that differ from those of most objects."""
    content = value if isinstance(value, JoinedContent) else StoredContent.create(value)
    vars(self).update(
        name=name,
        account_id=account_id,
        region_name=region_name,
        partition=get_partition(region_name),
        last_modified=utc_now().replace(tzinfo=None),
        contentsize=len(content),
        _content=content,
        _etag=given.pop("etag", None) or hashlib.sha256(bytes(value)).hexdigest()[:ETAG_DIGITS],
        _metadata={"content-type": _DEFAULT_TYPE},
        _storage_class=given.pop("storage", None) or "STANDARD",
    )
    vars(self).update({name: own for name, own in given.items() if own is not None and own != _COMMON.get(name, own)})


@PATCHES.replace(f"{_KEY}.__setattr__", "changes only the object in memory")
def set_attribute(self: Any, name: str, value: Any) -> None:
    """Set an attribute, and write an object that its bucket has as a row."""
    if name not in {"_tick", "acl"}:  # which each read sets, and which is the same for all
        object.__setattr__(self, name, value)
        _write(self)


def _write(stored: Any) -> None:
    if stored.stored_keys is not None:
        stored.stored_keys.write(stored)


@PATCHES.wrap("moto.s3.models:FakeBucket.__init__", "has all objects in memory")
def init_bucket(
    original: Any, self: Any, name: str, account_id: str, region_name: str, bucket_namespace: str | None = None
) -> None:
    """Keep the objects in the store."""
    original(self, name, account_id, region_name, bucket_namespace)
    self.keys = StoredKeys(account_id, self.partition, name)


@PATCHES.wrap(f"{_KEY}.set_metadata", "changes only the object in memory")
def set_metadata(original: Any, self: Any, metadata: Any, replace: bool = False) -> None:
    """Set metadata, and write the object."""
    vars(self)["_metadata"] = LowercaseDict(self._metadata)
    original(self, metadata, replace)
    _write(self)


PATCHES.append(
    Patch(
        f"{_KEY}.value",
        ("self",),
        lambda _original: property(lambda self: bytes(body_of(self._content))),
        "has a buffer, which is in memory for most objects, and a lock",
    )
)


@PATCHES.replace(f"{_KEY}.dispose", "closes the buffer under its readers")
def dispose(self: Any, garbage: bool = False) -> None:
    """Release nothing: the content is removed with its last reader."""


@PATCHES.replace("moto.s3.models:FakeMultipart.complete", "copies all parts into memory")
def complete(self: Any, body: Iterable[tuple[int, str]]) -> tuple[JoinedContent, str, None]:
    """Return what the parts are together, and its ETag; there is no checksum of the whole.

    Raises:
        InvalidPart, EntityTooSmall, MalformedXML: the parts that `body` names cannot be joined.
    """
    named = {number: given.strip('"') for number, given in body}
    if not named:
        raise MalformedXML
    parts = [self.parts.get(number) for number in named]
    if any(part is None or part.etag.strip('"') != given for part, given in zip(parts, named.values(), strict=True)):
        raise InvalidPart
    if any(part.contentsize < S3_UPLOAD_PART_MIN_SIZE for part in parts[:-1]):
        raise EntityTooSmall
    etag = hashlib.md5(b"".join(map(bytes.fromhex, named.values())), usedforsecurity=False).hexdigest()
    return JoinedContent([part._content for part in parts]), f"{etag}-{len(parts)}", None


_BACKEND, _RESPONSE = "moto.s3.models:S3Backend", "moto.s3.responses:S3Response"

_NOT_AVAILABLE = {
    "GET": {"partNumber", "versionId", "versions"},
    "HEAD": {"partNumber", "versionId"},
    "PUT": {"acl", "legal-hold", "object-lock", "retention", "versioning"},
    "POST": {"restore"},
    "DELETE": {"tagging", "versionId"},
}
"""Names of calls that are refused, in their queries, by their methods."""

_HEADERS_NOT_AVAILABLE = ("x-amz-acl", "x-amz-grant-", "x-amz-bucket-object-lock")

_OF_OWNER = {"bucket-owner-full-control", "private"}
"""Values of `x-amz-acl` that say what holds for every object."""


def _refuse_or_answer(original: Any, self: Any, request: Any, full_url: str) -> Any:
    """Answer a call; those that would need more than one row for a key are refused: Fleetsight makes none."""
    asked = parse_qs(urlsplit(full_url).query, keep_blank_values=True).keys()
    refused = [f"?{name}" for name in sorted(asked & _NOT_AVAILABLE.get(request.method, set()))]
    for name, value in request.headers.items():
        if name.lower().startswith(_HEADERS_NOT_AVAILABLE) and value not in _OF_OWNER:
            refused.append(name.lower())
    if not refused:
        return original(self, request, full_url)
    message = f"{request.method} with {refused[0]} is not available in the local cloud"
    answer = error_response(request.environ, "s3", ErrorReason.NOT_KEPT, message)
    return int(answer.status.split()[0]), dict(answer.headers), answer.body


for _symbol in (f"{_RESPONSE}._bucket_response", f"{_RESPONSE}._key_response"):
    PATCHES.wrap(_symbol, "has versions, locks and ACLs of objects", "self request full_url")(_refuse_or_answer)


def _as_one(original: Any, *arguments: Any, **more: Any) -> Any:
    """Make a call as one change; no other call on objects comes between its conditions and the change."""
    with data().change():
        return original(*arguments, **more)


for _symbol, _parameters in {
    f"{_RESPONSE}.put_object": "self",
    f"{_BACKEND}.complete_multipart_upload": "self bucket_name multipart_id body",
}.items():
    PATCHES.wrap(_symbol, "changes an object in several steps", _parameters)(_as_one)


@PATCHES.wrap(f"{_BACKEND}.delete_bucket", "leaves its row")
def delete_bucket(original: Any, self: Any, bucket_name: str) -> Any:
    """Delete a bucket with its row, unless it has objects."""
    with data().change():
        deleted = original(self, bucket_name)
        if deleted is not None:
            deleted.keys.remove()
        return deleted


_TAGS_IN_MEMORY = "has the tags of all objects in memory, and those of objects that were deleted"


@PATCHES.wrap(f"{_BACKEND}.put_object_tagging", _TAGS_IN_MEMORY)
def put_object_tagging(original: Any, self: Any, key: Any, tags: Any) -> Any:
    """Set the tags of an object, which are in its row."""
    original(self, key, tags)
    self.tagger.delete_all_tags_for_resource(key.arn)
    key.tags = self.tagger.convert_dict_to_tags_input(tags)
    return key


@PATCHES.replace(f"{_BACKEND}.get_object_tagging", _TAGS_IN_MEMORY)
def get_object_tagging(self: Any, key: Any) -> dict[str, Any]:  # noqa: ARG001 - moto's signature
    """Return the tags of an object."""
    return {"Tags": list(key.tags)}


@PATCHES.replace(
    f"{_BACKEND}.list_objects_v2",
    "reads every object of the bucket for each page, and remembers each page's last key until a restart",
    "self bucket prefix delimiter continuation_token start_after max_keys",
)
def list_objects_v2(self: Any, bucket: Any, **asked: Any) -> Any:
    """Return a page of a list, which costs as much as it holds."""
    token, most = asked["continuation_token"], asked["max_keys"]
    try:
        after = base64.urlsafe_b64decode(token).decode() if token else asked["start_after"]
    except ValueError:
        raise InvalidContinuationToken from None
    found = bucket.keys.entries(asked["prefix"] or "", asked["delimiter"], after or "", most + 1) if most else []
    if len(found) <= most:
        return found, False, None
    return found[:most], True, base64.urlsafe_b64encode(self._get_name(found[most - 1]).encode()).decode()


@PATCHES.wrap(f"{_RESPONSE}.copy_object", "ignores the conditions of a copy but one, and loses tags")
def copy_object(original: Any, self: Any) -> Any:
    """Copy an object if the conditions hold for it, and for the object at the key of the copy."""
    bucket, _, name = unquote(urlsplit(self.headers["x-amz-copy-source"]).path).lstrip("/").partition("/")
    etag, key = self.headers.get("x-amz-copy-source-if-match", ""), self.parse_key_name()
    with data().change():
        source, before = self.backend.get_object(bucket, name), self.backend.get_object(self.bucket_name, key)
        if source is not None and etag and etag.strip('"') != source.etag.strip('"'):
            raise PreconditionFailed("x-amz-copy-source-If-Match")
        if self.headers.get("If-None-Match") == "*" and before is not None:
            raise PreconditionFailed("If-None-Match")
        answer = original(self)
        if source is not None and source.tags and self.headers.get("x-amz-tagging-directive") != "REPLACE":
            self.backend.get_object(self.bucket_name, key).tags = source.tags
        return answer


_KEY_PATTERN = r"[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)*"

_TARGET = re.compile(rf"/([a-z0-9][a-z0-9.-]{{1,61}}[a-z0-9])(?:/({_KEY_PATTERN})|\?delete)")

_DELETION = re.compile(
    rf'<Delete(?: xmlns="[^"<>]*")?>(?:<Object><Key>{_KEY_PATTERN}</Key></Object>){{1,1000}}</Delete>'
)

_PLAIN_TAG = re.compile(r"(?!aws)([A-Za-z0-9_.-]{1,128})=([A-Za-z0-9_.-]{0,256})")
"""A single tag in a header `x-amz-tagging`; stock moto decodes or rejects all others."""

_DELETED_KEY = re.compile(r"<Key>([^<]*)</Key>")

_PLAIN_HEADERS = frozenset(
    {
        *("HTTP_ACCEPT", "HTTP_ACCEPT_ENCODING", "HTTP_AMZ_SDK_INVOCATION_ID", "HTTP_AMZ_SDK_REQUEST"),
        *("HTTP_AUTHORIZATION", "HTTP_CONNECTION", "HTTP_CONTENT_DISPOSITION", "HTTP_CONTENT_MD5", "HTTP_EXPECT"),
        *("HTTP_HOST", "HTTP_IF_NONE_MATCH", "HTTP_USER_AGENT", "HTTP_X_AMZ_CHECKSUM_MODE"),
        *("HTTP_X_AMZ_CONTENT_SHA256", "HTTP_X_AMZ_DATE", "HTTP_X_AMZ_SECURITY_TOKEN", "HTTP_X_AMZ_TAGGING"),
    }
)
"""Headers of calls on whole objects."""


def answer(request: DirectRequest) -> DirectResponse | None:
    """Return the answer to a plain call on objects, or None if stock moto must answer."""
    environ = request.environ
    method, target = environ["REQUEST_METHOD"], _TARGET.fullmatch(environ.get("RAW_URI", ""))
    if method == "POST":  # DeleteObjects has a checksum, which nothing on loopback needs
        environ = {name: value for name, value in environ.items() if name != "HTTP_X_AMZ_CHECKSUM_SHA256"}
    is_streamed = environ.get("HTTP_X_AMZ_CONTENT_SHA256", "").startswith("STREAMING")
    others = any(name.startswith("HTTP_") and name not in _PLAIN_HEADERS for name in environ)
    if target is None or is_streamed or others or (environ.get("HTTP_IF_NONE_MATCH") and method != "PUT"):
        return None
    name, key = target.groups()
    bucket = s3_backends[request.account][get_partition(request.region)].buckets.get(name)
    if bucket is None or bucket.policy or bucket.notification_configuration or bucket.encryption or bucket.logging:
        return None
    call = _CALLS.get((method, key is not None))
    return None if call is None else call(request, bucket, key or "")


def _put(request: DirectRequest, bucket: FakeBucket, key: str) -> DirectResponse | None:
    content_type = request.environ.get("CONTENT_TYPE") or _DEFAULT_TYPE
    length = request.environ.get("CONTENT_LENGTH", "")
    tagging = request.environ.get("HTTP_X_AMZ_TAGGING")
    tag = _PLAIN_TAG.fullmatch(tagging) if tagging else None
    if (tagging and not tag) or not length.isdigit():
        return None
    content = read_body(request.environ)
    if len(content) != int(length):  # the client disconnected: a partial object must not be stored
        return DirectResponse([("Connection", "close")], status="400 Bad Request")
    condition = request.environ.get("HTTP_IF_NONE_MATCH")
    is_signed = request.environ.get("HTTP_X_AMZ_CONTENT_SHA256") != UNSIGNED_PAYLOAD
    described = {"content-type": content_type, "content-disposition": request.environ.get("HTTP_CONTENT_DISPOSITION")}
    tags = [{"Key": tag[1], "Value": tag[2]}] if tag else []
    with data().lock if condition else nullcontext():
        if condition and (condition != "*" or key in bucket.keys):
            return None
        try:
            stored = store_object(bucket, key, content, described, tags, is_signed=is_signed)
        except MissingBucket:  # it was deleted meanwhile
            return None
    return DirectResponse([*_identity(), ("ETag", stored.etag), ("last-modified", stored.last_modified_RFC1123)])


def store_object(
    bucket: FakeBucket,
    key: str,
    content: bytes,
    described: dict[str, str | None],
    tags: list[dict[str, str]],
    *,
    is_signed: bool = False,
) -> FakeKey:
    """Put an object with these headers and tags; `is_signed` if the client has signed a SHA-256 of the content."""
    etag = hashlib.sha256(content).hexdigest()[:ETAG_DIGITS] if is_signed else secrets.token_hex(ETAG_DIGITS // 2)
    stored = FakeKey(key, content, bucket.account_id, bucket.region_name, etag=etag, bucket_name=bucket.name)
    vars(stored)["_metadata"] = {name: value for name, value in described.items() if value is not None}
    if tags:
        vars(stored)["tags"] = tags
    bucket.keys.setlist(key, [stored])
    return stored


def _get(_request: DirectRequest, bucket: FakeBucket, key: str) -> DirectResponse | None:
    stored = bucket.keys.get(key)
    if stored is None or stored.storage_class != "STANDARD" or stored.checksum_algorithm:
        return None
    described = {**stored.response_dict, **stored.metadata, "Accept-Ranges": "bytes"}
    described.pop("content-length")
    headers = [*_identity(), *((name, str(value)) for name, value in described.items())]
    return DirectResponse(headers, body_of(stored._content))


def _delete(_request: DirectRequest, bucket: FakeBucket, key: str) -> DirectResponse:
    with suppress(KeyError):
        bucket.keys.pop(key)
    return DirectResponse(_identity(), status="204 No Content")


def _delete_each(request: DirectRequest, bucket: FakeBucket, _key: str) -> DirectResponse | None:
    body = read_body(request.environ).decode("latin-1")
    if _DELETION.fullmatch(body) is None:
        return None
    keys = _DELETED_KEY.findall(body)
    kept, error = processed(len(keys)), f"<Code>InternalError</Code><Message>{LEFT_OUT}</Message>"
    with data().change():
        for key in keys[:kept]:
            _delete(request, bucket, key)
    deleted = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in keys[:kept])
    failed = "".join(f"<Error><Key>{key}</Key>{error}</Error>" for key in keys[kept:])
    result = f'<DeleteResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{deleted}{failed}</DeleteResult>'
    body = f'<?xml version="1.0" encoding="utf-8"?>\n{result}'
    return DirectResponse([*_identity(), ("Content-Type", "application/xml")], body.encode())


_CALLS = {("PUT", True): _put, ("GET", True): _get, ("DELETE", True): _delete, ("POST", False): _delete_each}
"""Direct calls by their method, and whether they name an object."""


def _identity() -> list[tuple[str, str]]:
    return [("x-amz-request-id", request_id())]
