"""Requests of roles as IAM decides them: builders, and the cases that another simulator has decided too."""

import hashlib
import io
import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path
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


VERDICTS = Path(__file__).with_name("iam_verdicts.json")
"""What the npm package `@cloud-copilot/iam-simulate` decides; `iam_verdicts.mjs` writes it."""

Case = dict[str, Any]
"""Statements of one policy, and the action, resource and context of a request."""

INSTANCES = "arn:aws:ec2:us-east-1:123456789012:instance/*"
TEMPLATE = "arn:aws:ec2:us-east-1:123456789012:launch-template/lt-0123"

LAUNCH = {"action": "ec2:RunInstances", "resource": INSTANCES}
LISTING = {"action": "s3:ListBucket", "resource": "arn:aws:s3:::images"}
TAGGING = {"action": "ec2:CreateTags", "resource": INSTANCES.replace("*", "i-0123")}

OPERANDS: list[tuple[tuple[str, ...], dict[str, str], str, tuple[Any, ...], tuple[Any, ...]]] = [
    (
        ("StringEquals", "StringNotEquals", "StringEqualsIgnoreCase", "StringNotEqualsIgnoreCase", "StringLike",
         "StringNotLike"),
        LAUNCH, "ec2:InstanceType", ("c7a.large", "C7A.large", "c7a.*", "c?a.large", ["t3.micro", "c7a.large"], "*"),
        ("c7a.large", "c7a.xlarge", None),
    ),
    (
        ("NumericEquals", "NumericNotEquals", "NumericLessThan", "NumericLessThanEquals", "NumericGreaterThan",
         "NumericGreaterThanEquals"),
        LISTING, "s3:max-keys", ("10", "9", "11"), ("10", None),
    ),
    (
        ("DateEquals", "DateNotEquals", "DateLessThan", "DateLessThanEquals", "DateGreaterThan",
         "DateGreaterThanEquals"),
        LISTING, "aws:CurrentTime", ("2026-01-01T00:00:00Z", "2025-12-31T23:59:59Z", "2026-01-01T00:00:01Z"),
        ("2026-01-01T00:00:00Z",),
    ),
    (("Bool",), LISTING, "aws:SecureTransport", ("true", "false"), ("true", "false", None)),
    (
        ("IpAddress", "NotIpAddress"), LISTING, "aws:SourceIp",
        ("203.0.113.0/24", "203.0.113.7/32", ["192.0.2.0/24", "203.0.113.7"]), ("203.0.113.7", "198.51.100.1", None),
    ),
    (
        ("ArnEquals", "ArnNotEquals", "ArnLike", "ArnNotLike"), LAUNCH, "ec2:LaunchTemplate",
        (TEMPLATE, TEMPLATE.replace("lt-0123", "*"), TEMPLATE.replace("us-east-1", "*"), TEMPLATE + "4"),
        (TEMPLATE, None),
    ),
    (("Null",), LAUNCH, "ec2:InstanceType", ("true", "false"), ("c7a.large", None)),
]  # fmt: skip
"""Operators, the request they are tried on, a key of it, values of the policy, and values of the request."""

PATTERNS = [
    ("s3:GetObject", "arn:aws:s3:::images/*"), ("s3:Get*", "arn:aws:s3:::images/a?c"), ("S3:getobject", "*"),
    ("s3:?etObject", "arn:aws:s3:::*/abc"), ("s3:*Object*", "arn:aws:s3:::images"), ("*", "arn:aws:s3:::imag*"),
    ("s3:GetObjectVersion", "*"), ("s3:GetObject", "arn:aws:s3:::images/ABC"),
]  # fmt: skip
READS = [("s3:GetObject", "arn:aws:s3:::images/abc"), ("s3:GetObject", "arn:aws:s3:::others/abc")]


def cases() -> list[Case]:
    """Return the cases, always the same in the same order."""
    return [*_conditions(), *_several_values(), *_selections(), *_launches()]


def digest() -> str:
    """Return a digest of all cases."""
    return hashlib.sha256(json.dumps(cases()).encode()).hexdigest()


def _conditions() -> Iterator[Case]:
    for operators, request, key, wanted, given in OPERANDS:
        for operator, value, found in product(operators, wanted, given):
            for name in [operator] if operator == "Null" else [operator, f"{operator}IfExists"]:
                yield _case([_allow(Condition={name: {key: value}})], request, {key: found})


def _several_values() -> Iterator[Case]:
    """Yield cases of a key that has several values in a request."""
    for of, operator in product(("ForAllValues", "ForAnyValue"), ("StringEquals", "StringNotEquals", "StringLike")):
        for wanted, found in product((["a", "b"], "a", "x*"), (["a"], ["a", "b"], ["a", "c"], ["c"], None)):
            for effect in ("Allow", "Deny"):
                condition = {f"{of}:{operator}": {"aws:TagKeys": wanted}}
                said = [_allow(), {**_allow(Condition=condition), "Effect": effect}]
                yield _case(said if effect == "Deny" else said[1:], TAGGING, {"aws:TagKeys": found})


def _selections() -> Iterator[Case]:
    """Yield cases of wildcards, of what is not named, and of explicit denials."""
    for (action, resource), (asked, of) in product(PATTERNS, READS):
        request = {"action": asked, "resource": of}
        said = {"Effect": "Allow", "Action": action, "Resource": resource}
        yield _case([said], request, {})
        yield _case([{"Effect": "Allow", "NotAction": action, "Resource": resource}], request, {})
        yield _case([{"Effect": "Allow", "Action": action, "NotResource": resource}], request, {})
        yield _case([_allow(), {**said, "Effect": "Deny"}], request, {})


def _launches() -> Iterator[Case]:
    """Yield cases of a statement as the controller's role has it, each of its keys right, wrong and missing."""
    right = {"aws:RequestTag/Name": "fs-worker", "ec2:MetadataHttpTokens": "required", "ec2:LaunchTemplate": TEMPLATE}
    equal = {key: right[key] for key in ("aws:RequestTag/Name", "ec2:MetadataHttpTokens")}
    condition = {"StringEquals": equal, "ArnEquals": {"ec2:LaunchTemplate": TEMPLATE}}
    said = [{"Effect": "Allow", "Action": "ec2:RunInstances", "Resource": INSTANCES, "Condition": condition}]
    yield _case(said, LAUNCH, dict(right))
    for key, value in product(right, ("wrong", None)):
        yield _case(said, LAUNCH, {**right, key: value})


def _allow(**more: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": "*", "Resource": "*", **more}


def _case(statements: list[dict[str, Any]], request: dict[str, str], context: dict[str, Any]) -> Case:
    known = {key: value for key, value in context.items() if value is not None}
    return {"statements": statements, **request, "context": known}


if __name__ == "__main__":
    print(json.dumps({"sha256": digest(), "cases": cases()}))  # noqa: T201 - for iam_verdicts.mjs
