"""S3's plain object calls, answered directly: a whole object put, got or deleted in a bucket without configuration.

The objects are moto's own, so that every other call sees them. Left to stock moto is what a header, a query, an
unusual key or the bucket's configuration makes more than plain, and every answer that is an error.
"""

import re
import sys
import threading
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from moto.s3.models import FakeBucket, FakeKey, S3Backend, s3_backends
from moto.utilities.utils import get_partition

from localcloud.dispatch import DirectRequest, DirectResponse, request_id
from localcloud.object_tags import plain_tag, set_tags

# no percent sign and no empty segment: the same to every layer that would decode or route it
_PATH = re.compile(r"/([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/([A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)*)")
_NOT_BUCKETS = frozenset({"moto-api", "latest", "v20180820"})
_FORM_TYPES = ("multipart/form-data", "application/x-www-form-urlencoded")
_DEFAULT_TYPE = "binary/octet-stream"
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


_CREATING = threading.Lock()
"""Held from the check that there is no object to the put, so that of two conditional puts one succeeds."""


def answer(request: DirectRequest) -> DirectResponse | None:
    """Answer a plain object call, or return None where stock moto must."""
    environ = request.environ
    if environ.get("HTTP_IF_NONE_MATCH") and environ["REQUEST_METHOD"] != "PUT":
        return None
    call = _CALLS.get(environ["REQUEST_METHOD"])
    path = _PATH.fullmatch(environ.get("RAW_URI", ""))
    if call is None or path is None or not has_plain_headers(environ):
        return None
    name, key = path.groups()
    backend: S3Backend = s3_backends[request.account][get_partition(request.region)]
    bucket = backend.buckets.get(name)
    if bucket is None or name in _NOT_BUCKETS or not is_plain(bucket):
        return None
    return call(request, backend, bucket, key)


def has_plain_headers(environ: dict[str, Any]) -> bool:
    """Return True if a request has no header that asks for more than the whole object."""
    return not environ.get("HTTP_X_AMZ_CONTENT_SHA256", "").startswith("STREAMING") and all(
        name in _PLAIN_HEADERS for name in environ if name.startswith("HTTP_")
    )


def is_plain(bucket: FakeBucket) -> bool:
    """Return True if nothing but its objects decides what a call on a bucket does."""
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
    content = request.read_body()
    if len(content) != int(length):  # who sent it has gone, and a part of an object is no object
        return DirectResponse([("Connection", "close")], status="400 Bad Request")
    condition = request.environ.get("HTTP_IF_NONE_MATCH")
    with _CREATING if condition else nullcontext():
        if condition and (condition != "*" or backend.get_object(bucket.name, key) is not None):
            return None
        stored = backend.put_object(bucket.name, key, content, storage="STANDARD")
    shown = request.environ.get("HTTP_CONTENT_DISPOSITION")
    described = {"Content-Type": content_type} | ({"Content-Disposition": shown} if shown else {})
    stored.set_metadata({name: sys.intern(value) for name, value in described.items()})
    stored.set_acl(bucket.acl)
    set_tags(backend, stored, tags)
    return DirectResponse([*_identity(), ("ETag", stored.etag), ("last-modified", stored.last_modified_RFC1123)])


def _get(_request: DirectRequest, backend: S3Backend, bucket: FakeBucket, key: str) -> DirectResponse | None:
    stored = backend.get_object(bucket.name, key)
    if type(stored) is not FakeKey or stored.storage_class != "STANDARD" or stored.checksum_algorithm:
        return None
    described = {**stored.response_dict, **stored.metadata, "Accept-Ranges": "bytes"}
    described.pop("content-length")
    return DirectResponse([*_identity(), *((name, str(value)) for name, value in described.items())], stored.value)


def _delete(_request: DirectRequest, backend: S3Backend, bucket: FakeBucket, key: str) -> DirectResponse | None:
    backend.delete_object(bucket.name, key)
    return DirectResponse(_identity(), status="204 No Content")


def _identity() -> list[tuple[str, str]]:
    return [("x-amz-request-id", request_id())]


_CALLS: dict[str, Callable[[DirectRequest, S3Backend, FakeBucket, str], DirectResponse | None]] = {
    "PUT": _put,
    "GET": _get,
    "DELETE": _delete,
}
