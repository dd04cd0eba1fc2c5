"""Policies and signed requests for tests of IAM."""

import io
import json
from typing import Any
from urllib.parse import urlencode

from localcloud.iam.calls import ApiCall
from localcloud.iam.policies import IamPolicy, PermissionCheck, parse_policy

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


def call(service: str, method: str = "POST", path: str = "/", body: bytes = b"", **more: str) -> ApiCall:
    """Return a signed request as an API call."""
    return ApiCall(environ(service, method, path, body, **more), service, REGION, ACCOUNT)


def json_call(service: str, operation: str, parameters: dict[str, Any]) -> ApiCall:
    """Return a call in the JSON protocol."""
    target = f"Service_20120810.{operation}"
    return call(service, body=json.dumps(parameters).encode(), HTTP_X_AMZ_TARGET=target)


def query_call(service: str, operation: str, **parameters: str) -> ApiCall:
    """Return a call in the Query protocol; in the names of the parameters `_` stands for a dot."""
    fields = {"Action": operation, **{name.replace("_", "."): value for name, value in parameters.items()}}
    return call(service, body=urlencode(fields).encode())


def statement(effect: str, action: Any, resource: Any = "*", **more: Any) -> dict[str, Any]:
    """Return a statement as a document has it."""
    return {"Effect": effect, "Action": action, "Resource": resource, **more}


def policy(*statements: dict[str, Any], name: str = "own") -> IamPolicy:
    """Return a policy of these statements."""
    return parse_policy(name, document(*statements))


def document(*statements: dict[str, Any]) -> str:
    """Return a document of these statements."""
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def permission_check(action: str, resource: str = "*", **context: str) -> PermissionCheck:
    """Return a permission check; in the names of the context `__` stands for a colon."""
    return PermissionCheck(action, resource, {name.replace("__", ":"): (value,) for name, value in context.items()})
