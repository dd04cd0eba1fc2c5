"""What an instance's metadata service (IMDSv2) answers, as a function of request and identity."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

TOKEN_HEADER = "x-aws-ec2-metadata-token"  # nosec B105 # noqa: S105 - a header's name
TTL_HEADER = "x-aws-ec2-metadata-token-ttl-seconds"
MAX_TTL_SECONDS = 21_600
VERSIONS = ("2009-04-04", "2016-09-02", "2018-09-24", "2021-03-23", "latest")
"""Those that cloud-init knows; what is told is the same in each."""


@dataclass(frozen=True)
class Answer:
    """Status, body and the headers beyond length and type."""

    status: HTTPStatus
    body: str = ""
    headers: tuple[tuple[str, str], ...] = ()


NOT_FOUND = Answer(HTTPStatus.NOT_FOUND, "404 - Not Found")


class Tokens:
    """Session tokens that prove themselves, so that those of a service that was restarted stay valid.

    Args:
        key: secret of one instance.
        clock: seconds since the epoch.
    """

    def __init__(self, key: bytes, clock: Callable[[], float] = time.time) -> None:
        self._key, self._clock = key, clock

    def issue(self, ttl_seconds: int) -> str:
        """Return a token that is valid for so long."""
        expires = str(int(self._clock() + ttl_seconds))
        return f"{expires}.{self._sign(expires)}"

    def valid(self, token: str) -> bool:
        """Return True if the token was issued here and has not expired."""
        expires, _, signature = token.partition(".")
        genuine = hmac.compare_digest(signature.encode(), self._sign(expires).encode())
        return genuine and int(expires) > self._clock()

    def _sign(self, text: str) -> str:
        digest = hmac.new(self._key, text.encode(), hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")


@dataclass(frozen=True)
class MetadataService:
    """The metadata service of one instance.

    Args:
        describe: returns the instance's identity, see `identity.describe`; called for each request, so that tags
            and notices are never old.
        credentials: returns the credentials of its role.
        tokens: issues and checks session tokens.
    """

    describe: Callable[[], Mapping[str, Any]]
    credentials: Callable[[], Mapping[str, Any]]
    tokens: Tokens

    def answer(self, method: str, path: str, headers: Mapping[str, str]) -> Answer:
        """Answer one request.

        Args:
            method: HTTP method.
            path: without query.
            headers: names in lower case.
        """
        if "x-forwarded-for" in headers:  # as on EC2: a proxy must not hand out credentials
            return Answer(HTTPStatus.FORBIDDEN)
        if path == "/latest/api/token":
            return self._token(method, headers)
        if not self.tokens.valid(headers.get(TOKEN_HEADER, "")):
            return Answer(HTTPStatus.UNAUTHORIZED, "401 - Unauthorized")
        if method != "GET":
            return Answer(HTTPStatus.METHOD_NOT_ALLOWED)
        return self._read(path.rstrip("/"))

    def _token(self, method: str, headers: Mapping[str, str]) -> Answer:
        if method != "PUT":
            return Answer(HTTPStatus.METHOD_NOT_ALLOWED)
        ttl = headers.get(TTL_HEADER, "")
        if not ttl.isdigit() or not 1 <= int(ttl) <= MAX_TTL_SECONDS:
            return Answer(HTTPStatus.BAD_REQUEST, "400 - Bad Request")
        return Answer(HTTPStatus.OK, self.tokens.issue(int(ttl)), ((TTL_HEADER, ttl),))

    def _read(self, path: str) -> Answer:
        version, _, name = path.removeprefix("/").partition("/")
        if not version:
            return Answer(HTTPStatus.OK, "\n".join(VERSIONS))
        if version not in VERSIONS:
            return NOT_FOUND
        identity = self.describe()
        credentials_path = f"meta-data/iam/security-credentials/{identity['role']}"
        if name == credentials_path:
            return Answer(HTTPStatus.OK, json.dumps(dict(self.credentials())))
        found = documents(identity)
        document = found[name] if name in found else listing((*found, credentials_path), name)
        return NOT_FOUND if document is None else Answer(HTTPStatus.OK, document)


def listing(documents: Iterable[str], folder: str) -> str | None:
    """Return what is in a folder of documents, a line each and folders with a slash; None where there is none.

    cloud-init finds its way through these.
    """
    below = f"{folder}/" if folder else ""
    inside = [path.removeprefix(below).split("/") for path in documents if path.startswith(below)]
    names = {name + ("/" if rest else "") for name, *rest in inside}
    # What has a document of its own as well, a list, is a folder.
    return "\n".join(sorted(name for name in names if f"{name}/" not in names)) or None


def documents(identity: Mapping[str, Any]) -> dict[str, str]:
    """Return every document but the credentials by its path in a version; an absent notice or user data has none."""
    tags: Mapping[str, str] = identity["tags"]
    hostname = f"ip-{identity['private_ip'].replace('.', '-')}.{_domain(identity['region'])}"
    found = {
        "ami-id": identity["image_id"],
        "ami-launch-index": "0",
        "hostname": hostname,
        "instance-id": identity["id"],
        "instance-life-cycle": identity["lifecycle"],
        "instance-type": identity["instance_type"],
        "local-hostname": hostname,
        "local-ipv4": identity["private_ip"],
        "placement/availability-zone": identity["availability_zone"],
        "placement/region": identity["region"],
        "iam/security-credentials": identity["role"],
        **{f"tags/instance/{key}": value for key, value in tags.items()},
    }
    if tags:
        found["tags/instance"] = "\n".join(tags)
    if identity["spot_notice"]:
        found["spot/instance-action"] = json.dumps(identity["spot_notice"])
    result = {f"meta-data/{path}": str(value) for path, value in found.items()}
    result["dynamic/instance-identity/document"] = json.dumps(_identity_document(identity))
    if identity["user_data"]:
        result["user-data"] = identity["user_data"]
    return result


def _domain(region: str) -> str:
    return "ec2.internal" if region == "us-east-1" else f"{region}.compute.internal"


def _identity_document(identity: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "accountId": identity["account_id"],
        "architecture": identity["architecture"],
        "availabilityZone": identity["availability_zone"],
        "imageId": identity["image_id"],
        "instanceId": identity["id"],
        "instanceType": identity["instance_type"],
        "pendingTime": identity["launch_time"],
        "privateIp": identity["private_ip"],
        "region": identity["region"],
        "version": "2017-09-30",
    }
