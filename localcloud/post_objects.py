"""S3's POST Object: a form that a presigned policy lets through puts its file into a bucket.

moto takes any such form from anybody and forgets its content type. Here the form is checked as on S3
(`post_policy`), and what is refused is refused in S3's words. The objects are moto's own. Whether the signer may put
at all is asked where policies are enforced; what moto could do beyond an object with tags (redirects, ACLs, metadata)
is refused as not implemented, never left out in silence.
"""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any
from xml.sax.saxutils import escape

from moto.iam.models import get_account_id_from
from moto.utilities.utils import get_partition
from werkzeug.http import parse_options_header
from werkzeug.sansio.multipart import Data, Epilogue, Field, File, MultipartDecoder, NeedData

from localcloud.access_keys import secret_of
from localcloud.dispatch import DirectResponse, request_id
from localcloud.object_tags import Tags, set_tags, tags_of_form
from localcloud.page_guard import bucket_at, is_form
from localcloud.patches import apply_patches
from localcloud.post_policy import Form, RefusedError, Signer, check_policy, signer_of

WsgiApp = Callable[[dict[str, Any], Any], Iterable[bytes]]

MAX_FORM_BYTES = 101 * 1024 * 1024
"""Bytes of a form, all of which is held in memory; the largest image that can be configured has 100 MB."""

MAX_FIELD_BYTES = 20 * 1024
"""Bytes of a field before the file; S3 takes as many of all of them together."""

_TAKEN = frozenset(
    {
        "bucket",
        "content-disposition",
        "content-type",
        "file",
        "key",
        "policy",
        "success_action_status",
        "tagging",
        "x-amz-algorithm",
        "x-amz-credential",
        "x-amz-date",
        "x-amz-security-token",
        "x-amz-signature",
    }
)
_STATUSES = {"200": "200 OK", "201": "201 Created"}
_DEFAULT_TYPE = "binary/octet-stream"
_REASONS = {400: "Bad Request", 403: "Forbidden", 404: "Not Found", 501: "Not Implemented"}


class PostObjects:
    """A WSGI application that answers POST Object itself and passes everything else on.

    Args:
        others: answers everything else.
        clock: the time of day, against which policies expire.
        check: raises a `RefusedError` when the signer of a form may not put what it holds.
    """

    def __init__(
        self,
        others: WsgiApp,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        check: Callable[[Form, Signer], None] = lambda _form, _signer: None,
    ) -> None:
        self._others, self._clock, self._check = others, clock, check

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer one request."""
        if not is_form(environ):
            return self._others(environ, start_response)
        _, options = parse_options_header(environ.get("CONTENT_TYPE"))
        try:
            answer = self._post(bucket_at(environ) or "", environ, options.get("boundary", ""))
        except RefusedError as error:
            answer = _refusal(error)
        length = [] if answer.status.startswith("204") else [("Content-Length", str(len(answer.body)))]
        start_response(answer.status, answer.headers + length)
        return (answer.body,)

    def _post(self, bucket: str, environ: dict[str, Any], boundary: str) -> DirectResponse:
        fields, content = parse(_body(environ), boundary)
        form = Form(bucket, fields, len(content))
        signer = signer_of(form, secret_of)
        check_policy(form, self._clock())
        _check_implemented(form)
        tags = tags_of_form(form.fields["tagging"]) if "tagging" in form.fields else []
        self._check(form, signer)
        etag = _put(get_account_id_from(signer.access_key), signer.region, form, content, tags)
        return _stored(form, etag, environ)


def parse(body: bytes, boundary: str) -> tuple[dict[str, str], bytes]:
    """Return the fields of a form, by their names in lower case, and its file; what comes after the file is ignored.

    Raises:
        RefusedError: when the form is malformed, or has no file or no key.
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
    if len(body) != int(length):  # who sent it has gone, and a part of an object is no object
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


def _check_implemented(form: Form) -> None:
    unknown = [name for name in form.fields if name not in _TAKEN and not name.startswith("x-ignore-")]
    if unknown or "${filename}" in form.fields["key"]:
        named = ", ".join(unknown) or "${filename}"
        raise RefusedError(501, "NotImplemented", f"A form you provided implies what is not implemented: {named}")


def _put(account: str, region: str, form: Form, content: bytes, tags: Tags) -> str:
    apply_patches("s3")
    from moto.s3.models import s3_backends

    backend = s3_backends[account][get_partition(region)]
    if form.bucket not in backend.buckets:
        raise RefusedError(404, "NoSuchBucket", "The specified bucket does not exist")
    stored = backend.put_object(form.bucket, form.fields["key"], content, storage="STANDARD", request_method="POST")
    described = {"Content-Type": form.fields.get("content-type", _DEFAULT_TYPE)}
    if shown := form.fields.get("content-disposition"):
        described["Content-Disposition"] = shown
    stored.set_metadata(described)
    stored.set_acl(backend.buckets[form.bucket].acl)
    set_tags(backend, stored, tags)
    return str(stored.etag)


def _stored(form: Form, etag: str, environ: dict[str, Any]) -> DirectResponse:
    key, bucket = form.fields["key"], form.bucket
    headers = [("x-amz-request-id", request_id()), ("ETag", etag)]
    status = _STATUSES.get(form.fields.get("success_action_status", ""))
    if status is None:
        return DirectResponse(headers, status="204 No Content")
    if not status.startswith("201"):
        return DirectResponse(headers, status=status)
    place = f"http://{environ.get('HTTP_HOST', '')}/{bucket}/{key}"
    told = {"Location": place, "Bucket": bucket, "Key": key, "ETag": etag}
    return DirectResponse([*headers, ("Content-Type", "application/xml")], _xml("PostResponse", told), status)


def _refusal(error: RefusedError) -> DirectResponse:
    told = {"Code": error.code, "Message": error.message, "RequestId": request_id()}
    headers = [("x-amz-request-id", told["RequestId"]), ("Content-Type", "application/xml")]
    return DirectResponse(headers, _xml("Error", told), f"{error.status} {_REASONS[error.status]}")


def _xml(name: str, told: dict[str, str]) -> bytes:
    elements = "".join(f"<{each}>{escape(text)}</{each}>" for each, text in told.items())
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<{name}>{elements}</{name}>'.encode()
