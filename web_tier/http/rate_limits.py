"""Rate limits of an application: which requests count, against which caller, and how many are allowed.

Each request counts, except those for static files and health: for its user, or else for its address. The sender is
identified before the request is counted, so a flood from an address, also one of invalid tokens, does not stop the
address's signed-in users. A body counts before it is read, and also if it is refused: each MiB as one more request,
up to a tenth of the limit. Attempts to sign in are limited by the provider.

All processes of the web tier count together, in the job table (`TableCounts`), or each counts in its own memory
(`ProcessCounts`).
"""

import ipaddress
import logging
import threading
from dataclasses import dataclass, field, replace
from math import ceil
from typing import cast

from botocore.exceptions import BotoCoreError, ClientError
from flask import Flask, current_app, request
from werkzeug.exceptions import TooManyRequests

from core.config import Config
from services.clients import Clients
from services.clock import CLOCK, Clock
from services.made_once import made_once
from services.table import EXPIRES_AT, Table
from web_tier.auth.identity import known_identity
from web_tier.http.backend import Backend
from web_tier.http.quotas import UNLIMITED, Quotas, QuotaScope, RemainingQuota
from web_tier.http.routes import current_route

PAUSE_SECONDS = 10.0
"""Seconds without counting after the storage has failed, so that not every request waits for it."""

MAX_BLOCKED = 10_000
"""Callers over their limit that one process remembers."""

_EXTENSION = "fleetsight-limits"
_HOUSEHOLD_PREFIX = 64
"""Bits of the IPv6 network that one customer has: 2^64 addresses."""

_log = logging.getLogger(__name__)

WAIT_SECONDS = 1.0
"""Seconds that a request waits for its count."""

COUNTED_BYTES = 2**20
"""Bytes of a body that count as one request more: reading and checking them takes about as long as a request."""

CONNECTIONS = 16

WINDOW_SECONDS = 60

_KEPT_SECONDS = 3600

MAX_COUNTED = 100_000
"""Callers that one process counts in its memory."""


@dataclass(frozen=True)
class TableCounts:
    """Counts by minute in `table`, the job table with a client of short timeouts.

    `clock` returns the seconds since the epoch, which decide the window.
    """

    table: Table
    clock: Clock = CLOCK

    def add(self, key: str, amount: int) -> tuple[int, float]:
        """Add to the count of the present minute; return the count, and when the minute ends."""
        start = int(self.clock.epoch_seconds() // WINDOW_SECONDS) * WINDOW_SECONDS
        expiry = {EXPIRES_AT: start + WINDOW_SECONDS + _KEPT_SECONDS}
        item = self.table.add(f"RATE#{key}", str(start), {"hits": amount}, expiry)
        return 0 if item is None else int(item["hits"]), start + WINDOW_SECONDS


@dataclass
class ProcessCounts:
    """Counts of one process; each window begins with its first count.

    `clock` returns the seconds since the epoch. It does not believe a machine's clock that was a day ahead once: else
    callers would be refused for a day.
    """

    clock: Clock = CLOCK
    _windows: dict[str, tuple[float, int]] = field(default_factory=dict, init=False)
    """By their key, the oldest first: when each window began, and its count."""
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def add(self, key: str, amount: int) -> tuple[int, float]:
        """Add to the count of the present window; return the count, and when the window ends."""
        with self._lock:
            now = self.clock.epoch_seconds()
            began, hits = self._windows.get(key, (now, 0))
            if not hits or not 0 <= now - began < WINDOW_SECONDS:  # the window has ended, or the clock has jumped
                self._windows.pop(key, None)
                began, hits = now, 0
                self._make_room(now)
            self._windows[key] = (began, hits + amount)
            return hits + amount, began + WINDOW_SECONDS

    def _make_room(self, now: float) -> None:
        """Delete the windows that have ended, and the oldest one if there are too many."""
        while self._windows:
            oldest = next(iter(self._windows))
            if len(self._windows) < MAX_COUNTED and 0 <= now - self._windows[oldest][0] < WINDOW_SECONDS:
                return
            del self._windows[oldest]


@dataclass
class RateCounter:
    """Counts for all threads of one process; while counting fails, every request is allowed."""

    counts: TableCounts | ProcessCounts
    _blocked: dict[str, float] = field(default_factory=dict, init=False)
    _paused_until: float | None = field(default=None, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def hit(self, caller: str, limit: int, amount: int = 1) -> int:
        """Count `amount`; return 0 if the caller is within the limit, else the seconds to wait. A limit of 0 is none.

        A caller who is known to be over the limit is not counted any more, so a flood costs the table nothing.
        """
        if not limit:
            return 0
        now, key = self.counts.clock.epoch_seconds(), f"{caller}/{limit}"
        seconds_left = self._blocked.get(key, now) - now
        if 0 < seconds_left <= WINDOW_SECONDS:  # longer only after the clock was set back
            return ceil(seconds_left)
        if self._is_paused(now):
            return 0
        try:
            hits, end = self.counts.add(key, amount)
        except (BotoCoreError, ClientError) as error:
            self._pause(now, error)
            return 0
        if self._paused_until is not None:
            with self._lock:
                self._paused_until = None
            _log.info("requests are counted again")
        if hits <= limit or end <= now:
            return 0
        with self._lock:
            if len(self._blocked) >= MAX_BLOCKED:
                self._blocked = {
                    each: until for each, until in self._blocked.items() if 0 < until - now <= _KEPT_SECONDS
                }
            if len(self._blocked) < MAX_BLOCKED:
                self._blocked[key] = end
        return ceil(end - now)

    def _is_paused(self, now: float) -> bool:
        return self._paused_until is not None and 0 < self._paused_until - now <= PAUSE_SECONDS

    def _pause(self, now: float, error: Exception) -> None:
        with self._lock:
            is_first, self._paused_until = self._paused_until is None, now + PAUSE_SECONDS
        if is_first:
            _log.warning("requests cannot be counted, so that none is refused until they can again: %s", error)


class RateLimiter:
    """The limits of the callers of one process; made after gunicorn's fork.

    Attributes:
        is_enabled: whether there are limits: not for the one user of a page that only this machine can reach.
        requests: of a caller in a minute; 0 is no limit.
        max_image_bytes: for which a body of unknown length counts.
    """

    def __init__(self, backend: Backend) -> None:
        auth, limits = backend.config.auth, backend.config.limits
        self.is_enabled = auth.mode != "none" or auth.open
        self.requests = limits.requests_per_minute
        self.max_image_bytes = backend.config.web.max_image_bytes
        self._backend = backend
        self._lock = threading.Lock()

    @made_once
    def counter(self) -> RateCounter:
        """The counts of requests."""
        config = self._backend.config
        is_local = config.limits.store == "memory"
        return RateCounter(ProcessCounts() if is_local else TableCounts(hurried_table(config)))

    @property
    def quotas(self) -> Quotas:
        """The quotas of a day."""
        return Quotas(self._backend.store.table, self._backend.config.limits)


def install_rate_limiter(app: Flask, backend: Backend) -> None:
    """Limit the requests to `app`: more than its callers may send in a minute are answered with 429."""
    limiter = app.extensions[_EXTENSION] = RateLimiter(backend)
    if limiter.is_enabled:
        app.before_request(_count_request)


def current_limiter() -> RateLimiter:
    """Return the limiter of the application that serves the current request."""
    return cast(RateLimiter, current_app.extensions[_EXTENSION])


def current_quota_scope() -> QuotaScope:
    """Return the quota of the caller of the current request."""
    limiter = current_limiter()
    return QuotaScope(limiter.quotas, _caller()) if limiter.is_enabled else UNLIMITED


def remaining_quota(owner: str) -> RemainingQuota | None:
    """Return the rest of a user's quota, or of the address's if `owner` is empty; None if there are no limits."""
    limiter = current_limiter()
    return limiter.quotas.remaining(owner or _address()) if limiter.is_enabled else None


def _count_request() -> None:
    if not current_route().is_counted:
        return
    limiter = current_limiter()
    # Only a client without nginx in between sends a body of unknown length.
    length = limiter.max_image_bytes if "Transfer-Encoding" in request.headers else request.content_length or 0
    amount = 1 + min(length // COUNTED_BYTES, limiter.requests // 10)
    if seconds := limiter.counter.hit(_caller(), limiter.requests, amount):
        raise TooManyRequests(
            f"more than {limiter.requests:,} requests, or MB of them, came in a minute; wait for {seconds} s, then "
            "send fewer",
            retry_after=seconds,
        )


def _caller() -> str:
    """Return the caller of the current request: the id of its user, or else its address."""
    identity = known_identity()
    return (identity.owner if identity else "") or _address()


def _address() -> str:
    """Return the address of the current request as a key of counts; never the id of a user."""
    return f"address {network_of(request.remote_addr or '')}"


def network_of(host: str) -> str:
    """Return the address under which `host` is counted: itself, or for IPv6 the network of one customer."""
    try:
        found = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return "unknown"
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found, _HOUSEHOLD_PREFIX), strict=False))


def hurried_table(config: Config) -> Table:
    """Return the job table with a client that does not retry, and waits for `WAIT_SECONDS` at most."""
    endpoint = replace(
        config.aws.endpoint(CONNECTIONS), max_attempts=1, connect_timeout=WAIT_SECONDS, read_timeout=WAIT_SECONDS
    )
    return Table(Clients(endpoint).dynamodb, config.names.job_table)
