"""The metadata service of an instance (IMDSv2): its documents, its session tokens, and its HTTP server."""

import base64
import hashlib
import hmac
import json
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from localcloud.clients import CloudUnreachableError, ControlClient, NotLaunchedError
from localcloud.clock import wall_seconds
from localcloud.page_guard import is_from_a_page, is_local_host

METADATA_ADDRESS = "169.254.169.254"

TOKEN_HEADER = "x-aws-ec2-metadata-token"  # nosec B105 # noqa: S105 - a header's name

TTL_HEADER = "x-aws-ec2-metadata-token-ttl-seconds"

MAX_TTL_SECONDS = 21_600

VERSIONS = ("2009-04-04", "2016-09-02", "2018-09-24", "2021-03-23", "latest")
"""The versions that cloud-init knows; all have the same documents."""


@dataclass(frozen=True)
class MetadataResponse:
    """Status, body and the headers beyond length and type."""

    status: HTTPStatus
    body: str = ""
    headers: tuple[tuple[str, str], ...] = ()


NOT_FOUND = MetadataResponse(HTTPStatus.NOT_FOUND, "404 - Not Found")


class MetadataTokens:
    """Session tokens signed with an instance's secret, which stay valid when the service restarts."""

    def __init__(self, key: bytes, clock: Callable[[], float] = wall_seconds) -> None:
        self._key, self._clock = key, clock

    def issue(self, ttl_seconds: int) -> str:
        """Return a token that is valid for `ttl_seconds`."""
        expires = str(int(self._clock() + ttl_seconds))
        return f"{expires}.{self._sign(expires)}"

    def valid(self, token: str) -> bool:
        """Return True if this service issued the token and it has not expired."""
        expires, _, signature = token.partition(".")
        genuine = hmac.compare_digest(signature.encode(), self._sign(expires).encode())
        return genuine and int(expires) > self._clock()

    def _sign(self, text: str) -> str:
        digest = hmac.new(self._key, text.encode(), hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")


@dataclass(frozen=True)
class MetadataService:
    """Answers the requests of one instance.

    Args:
        fetch: returns what the control endpoint says of the instance: its identity (`control.describe_identity`), and
            with ``/credentials`` the credentials of its role. It is called for each request, so tags and notices are
            current.
        tokens: issues and checks session tokens.
    """

    fetch: Callable[[str], Mapping[str, Any]]
    tokens: MetadataTokens

    def answer(self, method: str, path: str, headers: Mapping[str, str]) -> MetadataResponse:
        """Answer one request, by its path without the query, and headers with names in lower case."""
        if "x-forwarded-for" in headers:  # as on EC2: a proxy must not reveal credentials
            return MetadataResponse(HTTPStatus.FORBIDDEN)
        if path == "/latest/api/token":
            return self._token(method, headers)
        if not self.tokens.valid(headers.get(TOKEN_HEADER, "")):
            return MetadataResponse(HTTPStatus.UNAUTHORIZED, "401 - Unauthorized")
        if method != "GET":
            return MetadataResponse(HTTPStatus.METHOD_NOT_ALLOWED)
        return self._read(path.rstrip("/"))

    def _token(self, method: str, headers: Mapping[str, str]) -> MetadataResponse:
        if method != "PUT":
            return MetadataResponse(HTTPStatus.METHOD_NOT_ALLOWED)
        ttl = headers.get(TTL_HEADER, "")
        if not ttl.isdigit() or not 1 <= int(ttl) <= MAX_TTL_SECONDS:
            return MetadataResponse(HTTPStatus.BAD_REQUEST, "400 - Bad Request")
        return MetadataResponse(HTTPStatus.OK, self.tokens.issue(int(ttl)), ((TTL_HEADER, ttl),))

    def _read(self, path: str) -> MetadataResponse:
        version, _, name = path.removeprefix("/").partition("/")
        if not version:
            return MetadataResponse(HTTPStatus.OK, "\n".join(VERSIONS))
        if version not in VERSIONS:
            return NOT_FOUND
        identity = self.fetch("")
        credentials_path = f"meta-data/iam/security-credentials/{identity['role']}"
        if name == credentials_path:
            return MetadataResponse(HTTPStatus.OK, json.dumps(dict(self.fetch("/credentials"))))
        found = documents(identity)
        document = found[name] if name in found else listing((*found, credentials_path), name)
        return NOT_FOUND if document is None else MetadataResponse(HTTPStatus.OK, document)


def listing(documents: Iterable[str], folder: str) -> str | None:
    """Return the names in a folder of documents, one per line, subfolders with a slash; None if it does not exist.

    cloud-init discovers the documents by these lists.
    """
    below = f"{folder}/" if folder else ""
    inside = [path.removeprefix(below).split("/") for path in documents if path.startswith(below)]
    names = {name + ("/" if rest else "") for name, *rest in inside}
    # A name that is a document and a folder is listed as a folder.
    return "\n".join(sorted(name for name in names if f"{name}/" not in names)) or None


def documents(identity: Mapping[str, Any]) -> dict[str, str]:
    """Return every document except the credentials, by its path in a version; absent values have no document."""
    tags: Mapping[str, str] = identity["tags"]
    region = identity["region"]
    domain = "ec2.internal" if region == "us-east-1" else f"{region}.compute.internal"
    hostname = f"ip-{identity['private_ip'].replace('.', '-')}.{domain}"
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
        "placement/region": region,
        "iam/security-credentials": identity["role"],
        **{f"tags/instance/{key}": value for key, value in tags.items()},
    }
    if tags:
        found["tags/instance"] = "\n".join(tags)
    if identity["spot_notice"]:
        found["spot/instance-action"] = json.dumps(identity["spot_notice"])
    result = {f"meta-data/{path}": str(value) for path, value in found.items()}
    document = {
        "accountId": identity["account_id"],
        "architecture": identity["architecture"],
        "availabilityZone": identity["availability_zone"],
        "imageId": identity["image_id"],
        "instanceId": identity["id"],
        "instanceType": identity["instance_type"],
        "pendingTime": identity["launch_time"],
        "privateIp": identity["private_ip"],
        "region": region,
        "version": "2017-09-30",
    }
    result["dynamic/instance-identity/document"] = json.dumps(document)
    if identity["user_data"]:
        result["user-data"] = identity["user_data"]
    return result


HOST = "127.0.0.1"

RETRY_SECONDS = 0.05


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    service: MetadataService

    def __init__(self, listener: socket.socket) -> None:
        super().__init__(listener.getsockname(), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60  # seconds after which an idle connection releases its thread
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        host = headers.get("host", "")
        if not (is_local_host(host) or host == METADATA_ADDRESS):
            self._write(MetadataResponse(HTTPStatus.FORBIDDEN, f"the host {host!r} is not the metadata service"))
            return
        if is_from_a_page(headers.get("origin"), headers.get("sec-fetch-site")):
            self._write(MetadataResponse(HTTPStatus.FORBIDDEN, "web pages may not read metadata"))
            return
        try:
            answer = self.server.service.answer(self.command, unquote(self.path.partition("?")[0]), headers)
        except NotLaunchedError:
            answer = NOT_FOUND
        except CloudUnreachableError as error:
            answer = MetadataResponse(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))
        self._write(answer)

    do_PUT = do_GET  # noqa: N815 - the base class's names

    def _write(self, answer: MetadataResponse) -> None:
        body = answer.body.encode("latin-1", "replace")
        self.send_response(answer.status)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        for name, value in answer.headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Log nothing: requests are routine."""


def loopback_listener(directory: Path) -> socket.socket:
    """Listen on a loopback port that is stored in the instance's directory, so that a later hypervisor uses it, too.

    Raises:
        OSError: the port of an earlier run is in use.
    """
    listener = socket.create_server((HOST, int(_stored(directory / "port", lambda: "0"))))
    (directory / "port").write_text(str(listener.getsockname()[1]))
    return listener


class MetadataServer:
    """Serves the metadata of one instance.

    The key of its tokens is stored in the instance's directory, so that tokens stay valid if the hypervisor restarts.
    The listener is at the address of the service, and is closed with it.
    """

    def __init__(self, endpoint_url: str, instance_id: str, directory: Path, listener: socket.socket) -> None:
        self._endpoint_url, self._path = endpoint_url, f"instances/{instance_id}"
        key = _stored(directory / "metadata-key", lambda: secrets.token_hex(32))
        self._server = _Server(listener)
        self._server.service = MetadataService(self._fetch, MetadataTokens(key.encode()))
        self._closed = False
        threading.Thread(target=self._accept, name=instance_id, daemon=True).start()

    @property
    def url(self) -> str:
        """The endpoint for an SDK."""
        host, port = self._server.socket.getsockname()
        return f"http://{host}:{port}/"

    def close(self) -> None:
        """Stop the service; its port is free when this returns."""
        self._closed = True
        self._server.socket.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._server.server_close()

    def _accept(self) -> None:
        """Serve each connection in its own thread; unlike `serve_forever`, do not wake up between connections."""
        while not self._closed:
            try:
                self._server.process_request(*self._server.get_request())
            except OSError:
                time.sleep(0 if self._closed else RETRY_SECONDS)  # aborted by the client, or no descriptors left

    def _fetch(self, what: str) -> dict[str, Any]:
        with closing(ControlClient(self._endpoint_url)) as client:
            return client.get(self._path + what)


def _stored(path: Path, new: Callable[[], str]) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        value = new()
        path.touch(mode=0o600)
        path.write_text(value)
        return value
