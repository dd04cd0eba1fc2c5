"""Webhooks: which addresses they may have, how they are signed, and how they are sent.

The web tier checks an address when a user gives it, the controller again before it sends. Users choose the address,
so a request could reach services behind a firewall (server-side request forgery). Therefore an operator lists the
allowed hosts, a host must not resolve to a private address, and the connection goes to the address that was checked.

Source of the rules: https://cheatsheetseries.owasp.org/cheatsheets/Server_Side_Request_Forgery_Prevention_Cheat_Sheet.html
Source of headers and signature: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import base64
import binascii
import hashlib
import hmac
import ipaddress
import re
import secrets
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import urllib3

from core.config import HOST_PATTERN, NotificationSettings
from core.jobs.notifications import DeliveryFailedError

MAX_URL_CHARACTERS: Final = 2_000

SECRET_PREFIX: Final = "whsec_"  # noqa: S105 (a prefix, not a secret)
SECRET_PATTERN: Final = r"^whsec_[A-Za-z0-9+/]{32,88}={0,2}$"  # noqa: S105 (as above)
"""Secrets of 24 to 64 bytes, as Standard Webhooks has them."""

CONNECT_SECONDS: Final = 5.0
READ_SECONDS: Final = 10.0
TOTAL_SECONDS: Final = 20.0
"""Time from a connection to its end. `READ_SECONDS` bounds the wait for each part of a reply, not for all of it."""

_HOST: Final = re.compile(rf"(?=.{{1,253}}\Z){HOST_PATTERN}")
"""Names that a resolver can be asked for: for some other texts it raises an error instead of finding no host."""

_UNICAST: Final = ipaddress.ip_network("2000::/3")
"""Global IPv6 addresses (RFC 4291). Those of NAT64 gateways, which contain IPv4 addresses, are outside (RFC 6052)."""

_SPECIAL: Final = tuple(
    map(ipaddress.ip_network, ("2002::/16", "192.88.99.0/24", "192.0.0.0/24", "3fff::/20", "168.63.129.16/32"))
)
"""Networks that count as global, but are not for one receiver on the internet.

Addresses that contain an IPv4 address, which may be private, and their relays (6to4, RFC 3056 and 7526); addresses
for protocols, some of them of the nearest gateway (RFC 6890), and for documents (RFC 9637); the services of Azure's
machines.
"""

_RETRIED_STATUSES: Final = frozenset({408, 425, 429})
"""Client errors that a later try may not get."""

Resolve = Callable[[str, int], Sequence[str]]
"""Returns the addresses of a host for a port."""


class WebhookRefusedError(ValueError):
    """Raised when a webhook may not go to an address; the message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class WebhookAddress:
    """The parts of a webhook's URL; `path` has the query."""

    scheme: str
    host: str
    port: int
    path: str


def parse_webhook(url: str, settings: NotificationSettings) -> WebhookAddress:
    """Return the parts of a URL to which webhooks may go by the configuration."""
    if not settings.webhook_hosts:
        raise WebhookRefusedError("webhooks are off here; an operator can allow hosts (notifications.webhook_hosts)")
    schemes = ("https", "http") if settings.webhook_private else ("https",)
    try:
        parts = urlsplit(url)
        port, host = parts.port, (parts.hostname or "").rstrip(".")
    except ValueError:
        parts, port, host = urlsplit(""), None, ""
    is_plain = url.isascii() and url.isprintable() and " " not in url and "\\" not in url
    if not (is_plain and _HOST.fullmatch(host) and len(url) <= MAX_URL_CHARACTERS and parts.scheme in schemes):
        raise WebhookRefusedError(
            f"webhook {url[:80]!r} is not a URL such as https://example.com/done, "
            f"with up to {MAX_URL_CHARACTERS:,} characters"
        )
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise WebhookRefusedError("the URL of a webhook must have no user, password or fragment")
    usual = 443 if parts.scheme == "https" else 80
    if not any(_matches(host, port or usual, allowed) for allowed in settings.webhook_hosts):
        raise WebhookRefusedError(
            f"webhooks may not go to {host}:{port or usual}; allowed: {', '.join(settings.webhook_hosts)}"
        )
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return WebhookAddress(parts.scheme, host, port or usual, path)


def _matches(host: str, port: int, allowed: str) -> bool:
    """Return whether an entry such as `example.com`, `*.example.com` or `example.com:8443` allows a host and port.

    An entry without a port allows 443 only.
    """
    name, _, number = allowed.partition(":")
    is_port = port == int(number or 443)
    return is_port and (host.endswith(name[1:]) if name.startswith("*.") else host == name)


def new_secret() -> str:
    """Return a new secret for the signatures of a webhook."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def resolve(host: str, port: int) -> Sequence[str]:
    """Return the addresses of a host by the system's resolver.

    Raises:
        OSError: it has none, or the resolver does not answer.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def is_public(text: str) -> bool:
    """Return whether an IP address is one of the public internet, for one receiver."""
    address = ipaddress.ip_address(text.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    checked = mapped or address
    is_unicast = checked.version == 4 or checked in _UNICAST
    is_special = any(checked in network for network in _SPECIAL)
    return checked.is_global and not checked.is_multicast and is_unicast and not is_special


@dataclass(frozen=True, slots=True)
class WebhookMessage:
    """A message to send.

    Attributes:
        id: the same for each try, so that a receiver recognises a repetition.
        timestamp: epoch seconds of this try.
    """

    id: str
    timestamp: int
    body: bytes

    def signature(self, secret: str) -> str:
        """Return the header `webhook-signature`: the HMAC-SHA256 of id, time and body.

        Raises:
            DeliveryFailedError: the secret is not base64.
        """
        try:
            key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
        except binascii.Error as error:
            raise DeliveryFailedError("the secret is not base64: request the webhook again", is_final=True) from error
        signed = f"{self.id}.{self.timestamp}.".encode() + self.body
        return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def send_webhook(
    url: str, secret: str, message: WebhookMessage, settings: NotificationSettings, resolver: Resolve = resolve
) -> None:
    """Send a signed webhook once; no redirect is followed, and the reply is not read.

    Raises:
        DeliveryFailedError: no reply of success came. Without any reply, the receiver may have taken the webhook.
    """
    try:
        place = parse_webhook(url, settings)
    except WebhookRefusedError as error:
        raise DeliveryFailedError(str(error), is_final=True) from error
    try:
        addresses = resolver(place.host, place.port)
    except OSError as error:
        raise DeliveryFailedError(f"the host {place.host} has no address: {error}") from error
    if not settings.webhook_private and not all(map(is_public, addresses)):
        raise DeliveryFailedError(f"the host {place.host} has a private address", is_final=True)
    if not addresses:
        raise DeliveryFailedError(f"the host {place.host} has no address")
    headers = {
        "Host": place.host if place.port in {80, 443} else f"{place.host}:{place.port}",
        "Content-Type": "application/json",
        "User-Agent": "fleetsight",
        "webhook-id": message.id,
        "webhook-timestamp": str(message.timestamp),
        "webhook-signature": message.signature(secret),
    }
    try:
        with _pool(place, addresses[0]) as pool:
            reply = pool.request(
                "POST",
                place.path,
                body=message.body,
                headers=headers,
                redirect=False,
                retries=False,
                preload_content=False,
                timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS),
            )
            status = reply.status
            reply.close()
    except urllib3.exceptions.HTTPError as error:
        raise DeliveryFailedError(f"{place.host} did not answer: {type(error).__name__}") from error
    if not 200 <= status < 300:
        is_final = 300 <= status < 500 and status not in _RETRIED_STATUSES
        raise DeliveryFailedError(f"{place.host} answered {status}", is_final=is_final)


def _pool(place: WebhookAddress, address: str) -> urllib3.HTTPConnectionPool:
    """Return connections to an address that was checked, with the certificate of the host."""
    if place.scheme == "http":
        plain = urllib3.HTTPConnectionPool(address, place.port, maxsize=1)
        plain.ConnectionCls = _BoundedConnection
        return plain
    pool = urllib3.HTTPSConnectionPool(
        address,
        place.port,
        maxsize=1,
        cert_reqs="CERT_REQUIRED",
        server_hostname=place.host,
        assert_hostname=place.host,
    )
    pool.ConnectionCls = _BoundedTlsConnection
    return pool


class _BoundedConnection(urllib3.connection.HTTPConnection):
    """A connection that ends `TOTAL_SECONDS` after it was made, in the middle of a handshake or a reply, too."""

    _timer: threading.Timer | None = None
    _twin: socket.socket | None = None

    def _new_conn(self) -> socket.socket:
        made = super()._new_conn()
        self._twin = made.dup()  # TLS takes `made` over
        self._timer = threading.Timer(TOTAL_SECONDS, self._end)
        self._timer.daemon = True
        self._timer.start()
        return made

    def _end(self) -> None:
        if self._twin is not None:
            with suppress(OSError):  # it has just been closed
                self._twin.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._twin is not None:
            self._twin.close()
        super().close()


class _BoundedTlsConnection(_BoundedConnection, urllib3.connection.HTTPSConnection):
    pass
