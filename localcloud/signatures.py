"""Checks Signature Version 4: the signer of a request, its integrity and its age.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html

moto reads only the access key of a signature. The signature of a form is in its fields and is checked by `s3.posts`.
The end of a role's session is not checked.
"""

import functools
import hashlib
import hmac
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import parse_qs, quote, unquote_plus

from localcloud.access_keys import secret_of, signing_key
from localcloud.dispatch import ErrorReason, error_response, read_body
from localcloud.page_guard import WsgiApp, is_form

MAX_SKEW_SECONDS = 15 * 60
"""Largest difference in seconds between the time of a signature and now, as on AWS."""

MAX_PRESIGNED_SECONDS = 7 * 24 * 3600
"""Longest lifetime in seconds of a presigned URL, as on S3."""

UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"
"""What a client of S3 may sign in place of the digest of the body."""

_ALGORITHM = "AWS4-HMAC-SHA256"
_SCOPE = r"([^/\s,]+)/(\d{8})/([a-z0-9-]+)/([a-z0-9-]+)/aws4_request"
_HEADER = re.compile(rf"{_ALGORITHM} Credential={_SCOPE}, ?SignedHeaders=([a-z0-9;-]+), ?Signature=([0-9a-f]{{64}})")
_CREDENTIAL = re.compile(_SCOPE)
_DIGEST = re.compile(r"[0-9a-f]{64}")
_LIFETIME = re.compile(r"[0-9]{1,6}")


class UntrustedError(Exception):
    """Raised when a signature is rejected."""

    def __init__(self, reason: ErrorReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature with its scope and time.

    Attributes:
        scope: access key, day, region and service.
        headers: names of the signed headers, in lower case.
        value: hexadecimal digits.
        time: of signing, such as ``20261121T093000Z``.
        lifetime: seconds for which a presigned URL is valid; None for a signature in the header.
    """

    scope: tuple[str, str, str, str]
    headers: str
    value: str
    time: str
    lifetime: int | None = None

    @property
    def service(self) -> str:
        """The service that the request was signed for."""
        return self.scope[3]


class SignedCalls:
    """WSGI middleware that rejects requests without a valid signature, unless AWS accepts them without one."""

    def __init__(self, aws: WsgiApp, clock: Callable[[], float] = time.time) -> None:
        self._aws, self._clock = aws, clock

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer one request."""
        signature = None
        try:
            signature = signature_of(environ)
            check(environ, signature, self._clock())
        except UntrustedError as error:
            service = signature.service if signature else "s3"
            return error_response(environ, service, error.reason, str(error)).send(start_response)
        return self._aws(environ, start_response)


def signature_of(environ: dict[str, Any]) -> Signature | None:
    """Return the signature of a request, from its header or its URL, or None if it has none.

    Raises:
        UntrustedError: the signature is not of Version 4.
    """
    if header := environ.get("HTTP_AUTHORIZATION", ""):
        found = _HEADER.fullmatch(header)
        if found is None:
            raise _mismatch("The Authorization header is not one of AWS4-HMAC-SHA256.")
        key, day, region, service, headers, value = found.groups()
        return Signature((key, day, region, service), headers, value, environ.get("HTTP_X_AMZ_DATE", ""))
    if "Signature=" not in (query := environ.get("QUERY_STRING", "")):
        return None
    fields = {name: values[0] for name, values in parse_qs(query).items()}
    scope = _CREDENTIAL.fullmatch(fields.get("X-Amz-Credential", ""))
    lifetime = fields.get("X-Amz-Expires", "")
    if fields.get("X-Amz-Algorithm") != _ALGORITHM or scope is None or not _LIFETIME.fullmatch(lifetime):
        raise _mismatch("The address is not presigned by AWS4-HMAC-SHA256.")
    key, day, region, service = scope.groups()
    headers, value = fields.get("X-Amz-SignedHeaders", ""), fields.get("X-Amz-Signature", "")
    return Signature((key, day, region, service), headers, value, fields.get("X-Amz-Date", ""), int(lifetime))


def check(environ: dict[str, Any], signature: Signature | None, now: float) -> None:
    """Check that a request has a valid signature that is not too old, or needs none.

    Raises:
        UntrustedError: the signature is missing, invalid or too old.
    """
    if signature is None:
        if is_form(environ):
            return
        raise UntrustedError(ErrorReason.UNSIGNED, "Missing Authentication Token")
    key, day, region, service = signature.scope
    secret = secret_of(key)
    if secret is None:
        raise UntrustedError(ErrorReason.UNKNOWN_KEY, f"The access key {key} does not exist.")
    if "host" not in signature.headers.split(";") or not signature.time.startswith(day):
        raise _mismatch("The signature must cover the header Host and be of the day in its scope.")
    signed_at = _seconds(signature.time)
    if signed_at is None:
        raise _mismatch("The signature has no valid X-Amz-Date.")
    if signature.lifetime is None and abs(now - signed_at) > MAX_SKEW_SECONDS:
        raise UntrustedError(ErrorReason.SKEWED, f"The time {signature.time} is too far from the time of the server.")
    lifetime = MAX_PRESIGNED_SECONDS if signature.lifetime is None else signature.lifetime
    if not signed_at - MAX_SKEW_SECONDS <= now < signed_at + min(lifetime, MAX_PRESIGNED_SECONDS):
        raise UntrustedError(ErrorReason.EXPIRED, "Request has expired")
    digest = hashlib.sha256(_canonical(environ, signature).encode()).hexdigest()
    text = f"{_ALGORITHM}\n{signature.time}\n{day}/{region}/{service}/aws4_request\n{digest}"
    value = hmac.digest(signing_key(secret, day, region, service), text.encode(), "sha256").hex()
    if not hmac.compare_digest(value.encode(), signature.value.encode()):
        raise _mismatch("The signature we calculated does not match the signature you provided.")


@functools.lru_cache(1_000)
def _seconds(text: str) -> float | None:
    try:
        return datetime.strptime(f"{text}+0000", "%Y%m%dT%H%M%SZ%z").timestamp()
    except ValueError:
        return None


def _canonical(environ: dict[str, Any], signature: Signature) -> str:
    """Return the canonical request. S3 signs the path as it is sent, other services encode it once more."""
    path = environ["RAW_URI"].partition("?")[0]
    if signature.service != "s3":
        path = quote(path, safe="/-_.~")
    pairs = (part.partition("=") for part in environ.get("QUERY_STRING", "").split("&") if part)
    encoded = sorted((_encoded(name), _encoded(value)) for name, _, value in pairs if name != "X-Amz-Signature")
    query = "&".join(f"{name}={value}" for name, value in encoded)
    headers = ""
    for name in signature.headers.split(";"):
        variable = name.upper().replace("-", "_")
        value = environ.get(variable if variable in {"CONTENT_TYPE", "CONTENT_LENGTH"} else f"HTTP_{variable}", "")
        headers += f"{name}:{' '.join(value.split())}\n"
    payload = _payload(environ, signature)
    return f"{environ['REQUEST_METHOD']}\n{path}\n{query}\n{headers}\n{signature.headers}\n{payload}"


def _encoded(text: str) -> str:
    return quote(unquote_plus(text), safe="-_.~")


def _payload(environ: dict[str, Any], signature: Signature) -> str:
    """Return the digest of the body, or the value that S3's clients may sign instead."""
    if signature.lifetime is not None:
        return UNSIGNED_PAYLOAD
    declared: str = environ.get("HTTP_X_AMZ_CONTENT_SHA256", "")
    length = environ.get("CONTENT_LENGTH") or "0"
    in_chunks = "HTTP_TRANSFER_ENCODING" in environ or not length.isdigit()
    if signature.service == "s3" and (in_chunks or not _DIGEST.fullmatch(declared)):
        return declared
    return hashlib.sha256(read_body(environ)).hexdigest()


def _mismatch(message: str) -> UntrustedError:
    return UntrustedError(ErrorReason.WRONG_SIGNATURE, message)
