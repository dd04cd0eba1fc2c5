"""S3's POST Object: a presigned form puts its file into a bucket, with tags.

moto accepts any form from any client, and loses its content type. This module checks signature, expiry and every
condition of the policy as S3 does, and rejects with S3's error codes. Redirects,
ACLs and metadata are rejected as not implemented.

https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-HTTPPOSTConstructPolicy.html (Signature Version 4 only)
https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-tagging.html
"""

import base64
import hashlib
import hmac
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from moto.iam.models import get_account_id_from
from moto.utilities.utils import get_partition
from werkzeug.formparser import MultiPartParser
from werkzeug.http import parse_options_header

from localcloud.access_keys import secret_of, signing_key
from localcloud.dispatch import DirectResponse, request_id
from localcloud.page_guard import WsgiApp, bucket_at, is_form
from localcloud.patches import apply_patches

_CREDENTIAL = re.compile(r"([\w-]+)/(\d{8})/([a-z0-9-]+)/s3/aws4_request")

_SIGNED_WITH = ("x-amz-algorithm", "x-amz-credential", "x-amz-date", "x-amz-signature")

_OUTSIDE_OF_POLICY = frozenset({"policy", "file", "x-amz-signature"})


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


def signer_of(form: Form, secret_of: Callable[[str], str | None]) -> tuple[str, str]:
    """Return the access key of a form's signer, and its region; `secret_of` returns the secret of a key, or None.

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
    if fields["x-amz-algorithm"] != "AWS4-HMAC-SHA256" or scope is None:
        raise RefusedError(400, "InvalidArgument", "The algorithm or the credential of the form is malformed.")
    access_key, day, region = scope.groups()
    secret = secret_of(access_key)
    if secret is None:
        raise RefusedError(403, "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist.")
    key = signing_key(secret, day, region, "s3")
    signature = hmac.new(key, fields["policy"].encode(), hashlib.sha256).hexdigest()
    if not hmac.compare_digest(signature.encode(), fields["x-amz-signature"].encode()):
        raise RefusedError(403, "SignatureDoesNotMatch", "The signature does not match the one we calculated.")
    return access_key, region


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
    if extra := [name for name in form.fields if name not in covered | _OUTSIDE_OF_POLICY]:
        raise _denied(f"Invalid according to Policy: Extra input fields: {', '.join(extra)}")


def _check_condition(form: Form, condition: Any) -> str:
    """Check one condition, which is a range of sizes or the value of a field, and return the name of its field."""
    match condition:
        case {**pairs} if len(pairs) == 1:
            [(name, wanted)] = pairs.items()
            field = str(name).lower()
            if wanted != (form.bucket if field == "bucket" else form.fields.get(field, "")):
                raise _denied(f"Invalid according to Policy: Policy Condition failed: {json.dumps(condition)}")
            return field
        case ["content-length-range", int(minimum), int(maximum)]:
            if form.size > maximum:
                raise RefusedError(400, "EntityTooLarge", "Your proposed upload exceeds the maximum allowed size")
            if form.size < minimum:
                raise RefusedError(
                    400, "EntityTooSmall", "Your proposed upload is smaller than the minimum allowed size"
                )
            return "file"
    raise _invalid(f"Invalid condition: {json.dumps(condition)}")


def _denied(message: str) -> RefusedError:
    return RefusedError(403, "AccessDenied", message)


def _invalid(message: str) -> RefusedError:
    return RefusedError(400, "InvalidPolicyDocument", message)


def tags_of_form(text: str) -> list[dict[str, str]]:
    """Return the tags in the field ``tagging`` of a form, which is the XML of PutObjectTagging.

    https://docs.aws.amazon.com/AmazonS3/latest/API/RESTObjectPOST.html

    Raises:
        RefusedError: the XML is malformed.
    """
    try:
        root = ElementTree.fromstring(text)  # nosec B314 # noqa: S314 (its signer wrote it)
        found = [[each.findtext(f"{{*}}{name}") for name in ("Key", "Value")] for each in root.iterfind("*/{*}Tag")]
    except ElementTree.ParseError:
        found = []
    if not found or any(None in tag for tag in found):
        raise RefusedError(400, "MalformedXML", "The XML you provided was not well-formed or did not validate")
    return [{"Key": key or "", "Value": value or ""} for key, value in found]


MAX_FORM_BYTES = 101 * 1024 * 1024
"""Largest form in bytes, which is held in memory; the largest image that can be configured has 100 MB."""

MAX_FIELD_CHARACTERS = 20 * 1024
"""Most characters of the values of all fields (S3 counts bytes, and names, too)."""

_SUPPORTED_FIELD = re.compile(
    "bucket|content-(disposition|type)|file|key|policy|tagging"
    "|x-amz-(algorithm|credential|date|security-token|signature)"
)

_DEFAULT_TYPE = "binary/octet-stream"


class PostObjects:
    """WSGI middleware that answers POST Object; `others` answers all other requests."""

    def __init__(self, others: WsgiApp) -> None:
        self._others = others

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer one request."""
        if not is_form(environ):
            return self._others(environ, start_response)
        _, options = parse_options_header(environ.get("CONTENT_TYPE"))
        try:
            answer = self._post(bucket_at(environ) or "", environ, options.get("boundary", ""))
        except RefusedError as error:
            headers = [("x-amz-request-id", request_id()), ("Content-Type", "application/xml")]
            body = (
                f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{error.code}</Code>'
                f"<Message>{escape(error.message)}</Message><RequestId>{headers[0][1]}</RequestId></Error>"
            )
            answer = DirectResponse(headers, body.encode(), f"{error.status} {HTTPStatus(error.status).phrase}")
        return answer.send(start_response)

    def _post(self, bucket: str, environ: dict[str, Any], boundary: str) -> DirectResponse:
        fields, content = parse(_body(environ), boundary)
        form = Form(bucket, fields, len(content))
        access_key, region = signer_of(form, secret_of)
        check_policy(form, datetime.now(UTC))
        if unknown := [name for name in fields if not _SUPPORTED_FIELD.fullmatch(name)]:
            named = ", ".join(unknown)
            raise RefusedError(501, "NotImplemented", f"A form you provided implies what is not implemented: {named}")
        tags = tags_of_form(fields["tagging"]) if "tagging" in fields else []
        etag = _store(get_account_id_from(access_key), region, form, content, tags)
        return DirectResponse([("x-amz-request-id", request_id()), ("ETag", etag)], status="204 No Content")


def parse(body: bytes, boundary: str) -> tuple[dict[str, str], bytes]:
    """Return the fields of a form, by their names in lower case, and its file.

    Raises:
        RefusedError: the form is malformed, or has no file or no key.
    """
    parser = MultiPartParser(lambda *_, **__: io.BytesIO(), buffer_size=max(1, len(body)))
    try:
        texts, files = parser.parse(io.BytesIO(body), boundary.encode(), len(body))
    except ValueError as error:
        raise RefusedError(400, "MalformedPOSTRequest", "The body is not well-formed multipart/form-data.") from error
    fields = {name.lower(): value for name, value in texts.items()}
    if len(fields) < len(list(texts.items(multi=True))) or sum(map(len, fields.values())) > MAX_FIELD_CHARACTERS:
        raise RefusedError(400, "InvalidArgument", "A field is there twice, or the fields are too long.")
    if not fields.get("key"):
        raise RefusedError(400, "InvalidArgument", "Bucket POST must contain a field named 'key'.")
    if len(files) != 1 or "file" not in files:
        raise RefusedError(400, "InvalidArgument", "POST requires exactly one file upload per request.")
    return fields, files["file"].stream.read()


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


def _store(account: str, region: str, form: Form, content: bytes, tags: list[dict[str, str]]) -> str:
    apply_patches("s3")
    from moto.s3.exceptions import MissingBucket
    from moto.s3.models import s3_backends

    from localcloud.s3.objects import store_object

    bucket = s3_backends[account][get_partition(region)].buckets.get(form.bucket)
    missing = RefusedError(404, "NoSuchBucket", "The specified bucket does not exist")
    if bucket is None:
        raise missing
    described = {"content-type": _DEFAULT_TYPE, "content-disposition": None, **form.fields}
    described = {name: described[name] for name in ("content-type", "content-disposition")}
    try:
        return str(store_object(bucket, form.fields["key"], content, described, tags).etag)
    except MissingBucket:  # it was deleted meanwhile
        raise missing from None
