"""The limits of an application: whether they hold, and what counts against them; made after gunicorn's fork."""

import threading
from typing import cast

from flask import Flask, current_app
from limits.storage import MemoryStorage, Storage

from web_tier.backend import Backend
from web_tier.limits.allowance import UNLIMITED, Allowance
from web_tier.limits.callers import address, caller
from web_tier.limits.quotas import Left, Quotas
from web_tier.limits.rates import Rates
from web_tier.limits.table_storage import TableStorage, hurried_table

_EXTENSION = "fleetsight-limits"


class Limiting:
    """What the callers of one process may.

    Attributes:
        holds: whether there are limits at all: not for the one user of a page that only this machine reaches.
        requests: of a caller in a minute; 0 is no limit, here and below.
        attempts: to sign in and the like, of an address in a minute.
        attempts_on_an_account: the same, of an account.
    """

    def __init__(self, backend: Backend) -> None:
        auth, limits = backend.config.auth, backend.config.limits
        self.holds = auth.mode != "none" or auth.open
        self.requests, self.attempts = limits.requests_per_minute, limits.sign_in_attempts_per_minute
        self.attempts_on_an_account = (self.attempts + 1) // 2
        self._backend = backend
        self._rates: Rates | None = None
        self._lock = threading.Lock()

    @property
    def rates(self) -> Rates:
        """Who has done what in this minute."""
        with self._lock:
            if self._rates is None:
                self._rates = Rates(self._new_storage())
            return self._rates

    @property
    def quotas(self) -> Quotas:
        """What has been accepted today."""
        return Quotas(self._backend.store.table, self._backend.config.limits)

    def _new_storage(self) -> Storage:
        config = self._backend.config
        return MemoryStorage() if config.limits.store == "memory" else TableStorage(hurried_table(config))


def install_limiting(app: Flask, backend: Backend) -> Limiting:
    """Make and return the limits of `app`."""
    limiting = app.extensions[_EXTENSION] = Limiting(backend)
    return limiting


def current_allowance() -> Allowance:
    """Return what the caller of the current request may still have accepted."""
    limiting = current_limiting()
    return Allowance(limiting.quotas, caller()) if limiting.holds else UNLIMITED


def left(owner: str) -> Left | None:
    """Return what a user may still send today, None where no limits hold; one without an id is their address."""
    limiting = current_limiting()
    return limiting.quotas.left(owner or address()) if limiting.holds else None


def current_limiting() -> Limiting:
    """Return the limits of the application which serves the current request."""
    return cast(Limiting, current_app.extensions[_EXTENSION])
