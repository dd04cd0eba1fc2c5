"""The caller of a request, for the limits: the user who is signed in, or the address that it comes from."""

import ipaddress
from hashlib import sha256

from flask import request

from web_tier.access.identity import known_identity

_NETWORK_OF_ONE = 64
"""Bits of an IPv6 address that a household has for itself: each has 2^64 of them."""


def caller() -> str:
    """Return the caller of the current request: the id of its user, or else its address."""
    identity = known_identity()
    return (identity.owner if identity else "") or address()


def address() -> str:
    """Return where the current request comes from, as it is counted; never the id of a user."""
    return f"address {network_of(request.remote_addr or '')}"


def network_of(host: str) -> str:
    """Return the address that counts for `host`: itself, or for IPv6 the network that one customer is given."""
    try:
        found = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return "unknown"
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found, _NETWORK_OF_ONE), strict=False))


def account_called(email: str) -> str:
    """Return the key under which attempts on an account count; a digest, since no e-mail address is stored here."""
    return f"account {sha256(email.strip().casefold().encode()).hexdigest()}"
