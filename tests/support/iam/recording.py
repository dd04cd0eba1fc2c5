"""Writes down each signed request that the local cloud gets: an extension of the local cloud.

The requests are rows of JSON in the file that `FILE_VARIABLE` names, as they came over the wire.
"""

import io
import json
import os
import re
import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from botocore.awsrequest import AWSPreparedRequest

from localcloud.dispatch import INLINE, MIDDLEWARE, WouldWaitError
from localcloud.page_guard import WsgiApp

RECORDING = (__name__,)
"""For `LocalCloud`: the extension that records."""

FILE_VARIABLE = "FLEETSIGHT_TEST_RECORDED_CALLS"

_HEADERS = ("HTTP_X_AMZ_TARGET", "HTTP_X_AMZ_COPY_SOURCE", "HTTP_X_AMZ_ACL", "HTTP_X_AMZ_TAGGING")
_SCOPE = re.compile(r"([^/\s=]+)/\d{8}/([a-z0-9-]+)/([a-z0-9-]+)/aws4_request")


@dataclass(frozen=True)
class RecordedCall:
    """A signed request.

    Attributes:
        role: the ARN of the role whose session signed it; empty for a key without a role.
        service, region: as the signature names them.
        query, headers: parameters of the URL, and headers that change the permissions, by WSGI's names.
        body: of other services than S3, and of S3's DeleteObjects; the fields of a form, in JSON.
        status: of the answer.
    """

    role: str
    service: str
    region: str
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: str
    status: int


def read_calls(file: Path) -> list[RecordedCall]:
    """Return the recorded calls."""
    return [RecordedCall(**json.loads(line)) for line in file.read_text().splitlines()]


def as_recorded(request: AWSPreparedRequest, role: str, service: str, region: str, status: int) -> RecordedCall:
    """Return a request of botocore as the local cloud would record it."""
    address, headers = urlsplit(request.url), {name: _text(value) for name, value in request.headers.items()}
    has_content_only = service == "s3" and address.query != "delete"
    return RecordedCall(
        role,
        service,
        region,
        str(request.method),
        unquote(address.path),
        dict(parse_qsl(address.query, keep_blank_values=True)),
        {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in headers.items()},
        "" if has_content_only else _text(request.body or ""),
        status,
    )


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


class _Recorder:
    """WSGI middleware that records each request after `aws` has answered it."""

    def __init__(self, aws: WsgiApp) -> None:
        self._aws, self._lock = aws, threading.Lock()
        self._file = Path(os.environ[FILE_VARIABLE]).open("a")  # noqa: SIM115 - as long as the process

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if INLINE in environ:
            raise WouldWaitError
        scope, body = _signed(environ)
        if scope is None:
            return self._aws(environ, start_response)
        key, region, service = scope.groups()
        seen: list[str] = []

        def start(status: str, headers: Any, *more: Any) -> Any:
            seen[:] = [status]
            return start_response(status, headers, *more)

        answer = self._aws(environ, start)
        call = RecordedCall(
            _role_of(key),
            service,
            region,
            environ["REQUEST_METHOD"],
            environ.get("PATH_INFO", "").encode("latin-1").decode(errors="replace"),
            dict(parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True)),
            {name: environ[name] for name in _HEADERS if name in environ},
            body,
            int((seen or ["200"])[0].split()[0]),
        )
        with self._lock:
            self._file.write(json.dumps(asdict(call)) + "\n")
            self._file.flush()
        return answer


def _signed(environ: dict[str, Any]) -> tuple[re.Match[str] | None, str]:
    """Return the scope of a request's signature, and its body as far as the permissions depend on it."""
    from werkzeug.http import parse_options_header

    from localcloud.page_guard import is_form
    from localcloud.s3.posts import parse

    scope = _SCOPE.search(environ.get("HTTP_AUTHORIZATION", "") or unquote(environ.get("QUERY_STRING", "")))
    has_content_only = scope is not None and scope[3] == "s3" and environ.get("QUERY_STRING") != "delete"
    if has_content_only or not (scope or is_form(environ)):
        return scope, ""
    length = environ.get("CONTENT_LENGTH") or ""
    content = environ["wsgi.input"].read(int(length)) if length.isdigit() else b""
    environ["wsgi.input"] = io.BytesIO(content)
    if scope:
        return scope, content.decode(errors="replace")
    fields, _ = parse(content, parse_options_header(environ.get("CONTENT_TYPE"))[1].get("boundary", ""))
    return _SCOPE.search(fields.get("x-amz-credential", "")), json.dumps(fields)


def _role_of(key: str) -> str:
    """Return the ARN of the role of an access key, as moto's IAM knows it."""
    from moto.iam.models import get_account_id_from, iam_backends

    found = iam_backends[get_account_id_from(key)]["aws"].access_keys.get(key)
    return str(found.role_arn or "") if found is not None else ""


if FILE_VARIABLE in os.environ:
    MIDDLEWARE.append(_Recorder)
