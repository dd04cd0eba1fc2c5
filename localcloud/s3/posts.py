"""S3's POST Object: a presigned form puts its file into a bucket, with tags.

moto accepts any form from any client, and loses its content type. This module checks signature, expiry and every
condition of the policy as S3 does, and rejects with S3's error codes. The objects are moto's own. If policies are
enforced, the signer also needs the right to put the object. Redirects, ACLs and metadata are rejected as not
implemented.

https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-HTTPPOSTConstructPolicy.html (Signature Version 4 only)
https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-tagging.html
"""

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from moto.iam.models import get_account_id_from
from moto.utilities.utils import get_partition
from werkzeug.http import parse_options_header
from werkzeug.sansio.multipart import Data, Epilogue, Field, File, MultipartDecoder, NeedData

from localcloud.access_keys import secret_of, signing_key
from localcloud.dispatch import DirectResponse, request_id
from localcloud.page_guard import WsgiApp, bucket_at, is_form
from localcloud.patches import apply_patches

_CREDENTIAL = re.compile(r"([\w-]+)/(\d{8})/([a-z0-9-]+)/s3/aws4_request")

_ALGORITHM = "AWS4-HMAC-SHA256"

_SIGNED_WITH = ("x-amz-algorithm", "x-amz-credential", "x-amz-date", "x-amz-signature")

_OUTSIDE_OF_POLICY = frozenset({"policy", "file", "x-amz-signature"})

_IGNORED = "x-ignore-"


class RefusedError(Exception):
    """Raised when S3 rejects a form, with its HTTP status and error code."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


@dataclass(frozen=True, slots=True)
class Form:
    """A form: its bucket, its fields by their names in lower case, and the size of its file in bytes."""

    bucket: str
    fields: Mapping[str, str]
    size: int


@dataclass(frozen=True, slots=True)
class Signer:
    """The signer of a form: access key, and region of the signature's scope."""

    access_key: str
    region: str


def signer_of(form: Form, secret_of: Callable[[str], str | None]) -> Signer:
    """Return the signer of a form; `secret_of` returns the secret of an access key, or None.

    Raises:
        RefusedError: the form has no signature, or an invalid one.
    """
    fields = form.fields
    if "policy" not in fields:
        raise _denied("Access Denied")
    for name in _SIGNED_WITH:
        if name not in fields:
            raise RefusedError(400, "InvalidArgument", f"Bucket POST must contain a field named '{name}'.")
    scope = _CREDENTIAL.fullmatch(fields["x-amz-credential"])
    if fields["x-amz-algorithm"] != _ALGORITHM or scope is None:
        raise RefusedError(400, "InvalidArgument", "The algorithm or the credential of the form is malformed.")
    access_key, day, region = scope.groups()
    secret = secret_of(access_key)
    if secret is None:
        raise RefusedError(403, "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist.")
    key = signing_key(secret, day, region, "s3")
    signature = hmac.new(key, fields["policy"].encode(), hashlib.sha256).hexdigest()
    if not hmac.compare_digest(signature.encode(), fields["x-amz-signature"].encode()):
        raise RefusedError(403, "SignatureDoesNotMatch", "The signature does not match the one we calculated.")
    return Signer(access_key, region)


def check_policy(form: Form, now: datetime) -> None:
    """Check a form with a valid signature against its policy.

    Raises:
        RefusedError: the policy has expired, a condition is not met, or a field of the form has no condition.
    """
    try:
        document = json.loads(base64.b64decode(form.fields["policy"], validate=True))
        expires_at, conditions = datetime.fromisoformat(document["expiration"]), document["conditions"]
    except (ValueError, KeyError, TypeError) as error:
        raise _invalid(f"Invalid Policy: {error!r}") from error
    if not isinstance(conditions, list):
        raise _invalid("Invalid Policy: conditions is no list")
    if now >= (expires_at if expires_at.tzinfo else expires_at.replace(tzinfo=UTC)):
        raise _denied("Invalid according to Policy: Policy expired.")
    covered = {_check_condition(form, condition) for condition in conditions}
    extra = [name for name in form.fields if name not in covered | _OUTSIDE_OF_POLICY]
    if uncovered := [name for name in extra if not name.startswith(_IGNORED)]:
        raise _denied(f"Invalid according to Policy: Extra input fields: {', '.join(uncovered)}")


def _check_condition(form: Form, condition: Any) -> str:
    """Check one condition and return the name of its field."""
    match condition:
        case {**pairs} if len(pairs) == 1:
            [(name, wanted)] = pairs.items()
            return _check_field(form, "eq", f"${name}", wanted)
        case ["content-length-range", int(minimum), int(maximum)]:
            if form.size > maximum:
                raise RefusedError(400, "EntityTooLarge", "Your proposed upload exceeds the maximum allowed size")
            if form.size < minimum:
                raise RefusedError(
                    400, "EntityTooSmall", "Your proposed upload is smaller than the minimum allowed size"
                )
            return "file"
        case [str(operator), str(name), str(wanted)] if operator in {"eq", "starts-with"} and name.startswith("$"):
            return _check_field(form, operator, name, wanted)
    raise _invalid(f"Invalid condition: {json.dumps(condition)}")


def _check_field(form: Form, operator: str, name: str, wanted: Any) -> str:
    field = name.removeprefix("$").lower()
    found = form.bucket if field == "bucket" else form.fields.get(field, "")
    holds = found == wanted if operator == "eq" else found.startswith(wanted)
    if not holds:
        failed = json.dumps([operator, name, wanted])
        raise _denied(f"Invalid according to Policy: Policy Condition failed: {failed}")
    return field


def _denied(message: str) -> RefusedError:
    return RefusedError(403, "AccessDenied", message)


def _invalid(message: str) -> RefusedError:
    return RefusedError(400, "InvalidPolicyDocument", message)


MAX_TAGS = 10
"""Largest number of tags of an object."""

CACHED_TAG_SETS = 256
"""Sets of tags in the cache: stock moto parses each set again, and Fleetsight puts most images with the same tag."""

_PLAIN_TAG = re.compile(r"(?!aws)([A-Za-z0-9_.-]{1,128})=([A-Za-z0-9_.-]{0,256})")

_TAG_KEY = re.compile(r"(?!aws:)[\w\s+\-=.:/@]{1,128}")

_TAG_VALUE = re.compile(r"[\w\s+\-=.:/@]{0,256}")

Tags = list[dict[str, str]]


@lru_cache(maxsize=CACHED_TAG_SETS)
def plain_tag(header: str) -> Tags | None:
    """Return the single tag in a header ``x-amz-tagging``, or None if stock moto must decode or reject the header."""
    found = _PLAIN_TAG.fullmatch(header)
    return None if found is None else [{"Key": found[1], "Value": found[2]}]


@lru_cache(maxsize=CACHED_TAG_SETS)
def tags_of_form(text: str) -> Tags:
    """Return the tags in the field ``tagging`` of a form, which is the XML of PutObjectTagging.

    https://docs.aws.amazon.com/AmazonS3/latest/API/RESTObjectPOST.html

    Raises:
        RefusedError: the XML is malformed, or an object cannot have these tags.
    """
    try:
        root = ElementTree.fromstring(text)  # nosec B314 # noqa: S314 (its signer wrote it)
    except ElementTree.ParseError as error:
        raise _malformed() from error
    if root.tag.rpartition("}")[2] != "Tagging" or root.find("{*}TagSet") is None:
        raise _malformed()
    tags = []
    for element in root.iterfind("{*}TagSet/{*}Tag"):
        key, value = (element.findtext(f"{{*}}{name}") for name in ("Key", "Value"))
        if key is None or value is None:
            raise _malformed()
        if not (_TAG_KEY.fullmatch(key) and _TAG_VALUE.fullmatch(value)):
            raise RefusedError(400, "InvalidTag", f"The tag {key!r}: {value!r} is not one that an object can have")
        tags.append({"Key": key, "Value": value})
    if len(tags) > MAX_TAGS:
        raise RefusedError(400, "BadRequest", f"Object tags cannot be greater than {MAX_TAGS}")
    if len({tag["Key"] for tag in tags}) < len(tags):
        raise RefusedError(400, "InvalidTag", "Cannot provide multiple Tags with the same key")
    return tags


def _malformed() -> RefusedError:
    return RefusedError(400, "MalformedXML", "The XML you provided was not well-formed or did not validate")


MAX_FORM_BYTES = 101 * 1024 * 1024
"""Largest form in bytes, which is held in memory; the largest image that can be configured has 100 MB."""

MAX_FIELD_BYTES = 20 * 1024
"""Largest field in bytes before the file; S3 has the same limit for all of them together."""

_SUPPORTED_FIELD = re.compile(
    "bucket|content-(disposition|type)|file|key|policy|tagging"
    "|x-amz-(algorithm|credential|date|security-token|signature)|x-ignore-.*",
    re.DOTALL,
)

_DEFAULT_TYPE = "binary/octet-stream"

_REASONS = {400: "Bad Request", 403: "Forbidden", 404: "Not Found", 501: "Not Implemented"}


class PostObjects:
    """WSGI middleware that answers POST Object; `others` answers all other requests."""

    def __init__(self, others: WsgiApp, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._others, self._clock = others, clock

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer one request."""
        if not is_form(environ):
            return self._others(environ, start_response)
        _, options = parse_options_header(environ.get("CONTENT_TYPE"))
        try:
            answer = self._post(bucket_at(environ) or "", environ, options.get("boundary", ""))
        except RefusedError as error:
            elements = {"Code": error.code, "Message": error.message, "RequestId": request_id()}
            headers = [("x-amz-request-id", elements["RequestId"]), ("Content-Type", "application/xml")]
            status = f"{error.status} {_REASONS[error.status]}"
            answer = DirectResponse(headers, _xml("Error", elements), status)
        return answer.send(start_response)

    def _post(self, bucket: str, environ: dict[str, Any], boundary: str) -> DirectResponse:
        fields, content = parse(_body(environ), boundary)
        form = Form(bucket, fields, len(content))
        signer = signer_of(form, secret_of)
        check_policy(form, self._clock())
        unknown = [name for name in fields if not _SUPPORTED_FIELD.fullmatch(name)]
        if unknown or "${filename}" in fields["key"]:
            named = ", ".join(unknown) or "${filename}"
            raise RefusedError(501, "NotImplemented", f"A form you provided implies what is not implemented: {named}")
        tags = tags_of_form(fields["tagging"]) if "tagging" in fields else []
        etag = _post_object(get_account_id_from(signer.access_key), signer.region, form, content, tags)
        return DirectResponse([("x-amz-request-id", request_id()), ("ETag", etag)], status="204 No Content")


def parse(body: bytes, boundary: str) -> tuple[dict[str, str], bytes]:
    """Return the fields of a form, by their names in lower case, and its file; fields after the file are ignored.

    Raises:
        RefusedError: the form is malformed, or has no file or no key.
    """
    fields: dict[str, str] = {}
    content: bytes | None = None
    for name, value in _parts(body, boundary):
        if name == "file":
            content = value
            break
        if name in fields or len(value) > MAX_FIELD_BYTES:
            raise RefusedError(400, "InvalidArgument", f"The field '{name}' is there twice, or is too long.")
        fields[name] = value.decode(errors="replace")
    if not fields.get("key"):
        raise RefusedError(400, "InvalidArgument", "Bucket POST must contain a field named 'key'.")
    if content is None:
        raise RefusedError(400, "InvalidArgument", "POST requires exactly one file upload per request.")
    return fields, content


def _body(environ: dict[str, Any]) -> bytes:
    length = environ.get("CONTENT_LENGTH") or ""
    if not length.isdigit():
        raise RefusedError(400, "MissingContentLength", "You must provide the Content-Length HTTP header.")
    if int(length) > MAX_FORM_BYTES:
        raise RefusedError(400, "EntityTooLarge", "Your proposed upload exceeds the maximum allowed size")
    body: bytes = environ["wsgi.input"].read(int(length))
    if len(body) != int(length):  # the client disconnected: a partial object must not be stored
        raise RefusedError(400, "IncompleteBody", "The request body terminated unexpectedly.")
    return body


def _parts(body: bytes, boundary: str) -> Iterable[tuple[str, bytes]]:
    """Yield each part's name and content, in order."""
    decoder = MultipartDecoder(boundary.encode(), MAX_FORM_BYTES)
    decoder.receive_data(body)
    decoder.receive_data(None)
    name, chunks = "", list[bytes]()
    try:
        while not isinstance(event := decoder.next_event(), Epilogue | NeedData):
            if isinstance(event, File | Field):
                name, chunks = event.name.lower(), []
            elif isinstance(event, Data):
                chunks.append(event.data)
                if not event.more_data:
                    yield name, b"".join(chunks)
    except ValueError as error:
        raise RefusedError(400, "MalformedPOSTRequest", "The body is not well-formed multipart/form-data.") from error


def _post_object(account: str, region: str, form: Form, content: bytes, tags: Tags) -> str:
    apply_patches("s3")
    from moto.s3.models import s3_backends

    from localcloud.s3.stored_keys import describe, random_etag

    backend = s3_backends[account][get_partition(region)]
    if form.bucket not in backend.buckets:
        raise RefusedError(404, "NoSuchBucket", "The specified bucket does not exist")
    stored = backend.put_object(
        form.bucket, form.fields["key"], content, storage="STANDARD", etag=random_etag(), request_method="POST"
    )
    described = {"Content-Type": form.fields.get("content-type", _DEFAULT_TYPE)}
    if shown := form.fields.get("content-disposition"):
        described["Content-Disposition"] = shown
    describe(stored, backend.buckets[form.bucket], described, tags)
    return str(stored.etag)


def _xml(name: str, elements: dict[str, str]) -> bytes:
    content = "".join(f"<{each}>{escape(text)}</{each}>" for each, text in elements.items())
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<{name}>{content}</{name}>'.encode()
