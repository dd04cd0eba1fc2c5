"""Requests as WSGI has them, signed with a key of nobody's."""

import io
import json
from typing import Any
from urllib.parse import urlencode

from localcloud.iam.calls import Call

ACCOUNT, REGION = "123456789012", "eu-central-1"


def environ(service: str, method: str = "POST", path: str = "/", body: bytes = b"", **more: str) -> dict[str, Any]:
    """Return a signed request; `more` are entries of WSGI's environment."""
    scope = f"Credential=ASIANOBODY/20260101/{REGION}/{service}/aws4_request"
    return {
        "REQUEST_METHOD": method,
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "HTTP_HOST": "127.0.0.1:4566",
        "HTTP_AUTHORIZATION": f"AWS4-HMAC-SHA256 {scope}, SignedHeaders=host, Signature=0",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": io.BytesIO(body),
        **more,
    }


def call(service: str, method: str = "POST", path: str = "/", body: bytes = b"", **more: str) -> Call:
    """Return such a request as the questions about it need it."""
    return Call(environ(service, method, path, body, **more), service, REGION, ACCOUNT)


def json_call(service: str, operation: str, parameters: dict[str, Any]) -> Call:
    """Return a call in the JSON protocol."""
    target = f"Service_20120810.{operation}"
    return call(service, body=json.dumps(parameters).encode(), HTTP_X_AMZ_TARGET=target)


def query_call(service: str, operation: str, **parameters: str) -> Call:
    """Return a call in the Query protocol; in the names of the parameters `_` stands for a dot."""
    fields = {"Action": operation, **{name.replace("_", "."): value for name, value in parameters.items()}}
    return call(service, body=urlencode(fields).encode())
