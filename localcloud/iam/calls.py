"""A signed request: its credential, service, operation, parameters and account."""

import io
import json
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import parse_qs, parse_qsl, unquote

from moto.utilities.utils import get_partition

_SCOPE = r"([^/\s]+)/\d{8}/([a-z0-9-]+)/([a-z0-9-]+)/aws4_request"
_HEADER = re.compile(f"Credential={_SCOPE}")
_PRESIGNED = re.compile(r"(?:^|&)X-Amz-Credential=([^&]+)", re.IGNORECASE)


class UnknownCallError(ValueError):
    """Raised when a request cannot be identified, so that it must be denied."""


@dataclass(frozen=True, slots=True)
class Credential:
    """The access key of a request, and the region and service of its signature."""

    access_key: str
    region: str
    service: str


def credential_of(environ: dict[str, Any]) -> Credential | None:
    """Return the credential of a request, from its header or its URL, or None if it is not signed.

    The signature of a form is in its fields, which `s3.posts` reads.
    """
    found = _HEADER.search(environ.get("HTTP_AUTHORIZATION", ""))
    if not found and (presigned := _PRESIGNED.search(environ.get("QUERY_STRING", ""))):
        found = re.fullmatch(_SCOPE, unquote(presigned[1]))
    return Credential(*found.groups()) if found else None


@dataclass
class ApiCall:
    """One call of an AWS API.

    Attributes:
        environ: of WSGI; its body can be read again.
        service, region: as the signature names them.
        account: of the access key that signed it.
    """

    environ: dict[str, Any]
    service: str
    region: str
    account: str

    @cached_property
    def body(self) -> bytes:
        """The body; empty if it is sent in chunks, without a length."""
        length = self.environ.get("CONTENT_LENGTH") or ""
        body: bytes = self.environ["wsgi.input"].read(int(length)) if length.isdigit() else b""
        self.environ["wsgi.input"] = io.BytesIO(body)
        return body

    @property
    def method(self) -> str:
        """The HTTP method."""
        return str(self.environ["REQUEST_METHOD"])

    @cached_property
    def query(self) -> dict[str, str]:
        """The first value of each query parameter; empty for a parameter without a value."""
        pairs = parse_qs(self.environ.get("QUERY_STRING", ""), keep_blank_values=True)
        return {name: values[0] for name, values in pairs.items()}

    @cached_property
    def fields(self) -> dict[str, str]:
        """The parameters of a call in the Query protocol, from body and URL."""
        sent = parse_qsl(self.body.decode(errors="replace"), keep_blank_values=True)
        return {**self.query, **dict(sent)}

    @cached_property
    def operation(self) -> str:
        """The name of the operation in the JSON and Query protocols; other protocols use method and path."""
        target = str(self.environ.get("HTTP_X_AMZ_TARGET", "")).rpartition(".")[2]
        if name := target or self.fields.get("Action", ""):
            return name
        path = self.environ.get("PATH_INFO", "")
        raise UnknownCallError(f"{self.method} {path} of {self.service} names no operation")

    @cached_property
    def parameters(self) -> dict[str, Any]:
        """The parameters of a call in the JSON or Query protocol."""
        if "HTTP_X_AMZ_TARGET" not in self.environ:
            return {**self.fields}
        try:
            parsed = json.loads(self.body or b"{}")
        except ValueError:
            return {}
        return parsed if isinstance(parsed, dict) else {}

    def arn(self, service: str, resource: str, *, of_account: bool = True) -> str:
        """Return an ARN of the call's partition and region."""
        account = self.account if of_account else ""
        return f"arn:{get_partition(self.region)}:{service}:{self.region}:{account}:{resource}"
