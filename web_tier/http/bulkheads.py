"""Bulkheads: each kind of request that holds a thread for long has a limit, and each user has a limit within it.

So users who wait, follow jobs or view pictures leave threads for other users and for the health check. A load
balancer treats an instance that does not answer the health check as unhealthy.
"""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Self

USER_SHARE: Final = 4
"""A user holds at most one of so many parts of a bulkhead."""

MAX_STREAMS: Final = 256
MAX_PICTURES: Final = 32
MAX_SIGN_INS: Final = 32
MAX_ARCHIVES: Final = 8


class Bulkhead:
    """Lets at most `size` threads in at once, and at most a quarter of them for one user.

    Where there is no sign-in the owner is empty, and only `size` counts. A thread in it also holds a place of the
    bulkhead `within`, if any.
    """

    def __init__(self, size: int, within: "Bulkhead | None" = None) -> None:
        self.size, self.user_size = size, max(1, size // USER_SHARE)
        self._within = within
        self._inside: Counter[str] = Counter()
        self._lock = threading.Lock()

    def enter(self, owner: str = "") -> bool:
        """Take a place, which must be left; return False at once if there is none for this user."""
        with self._lock:
            is_full = self._inside.total() >= self.size or (owner and self._inside[owner] >= self.user_size)
            if is_full or (self._within is not None and not self._within.enter(owner)):
                return False
            self._inside[owner] += 1
            return True

    def leave(self, owner: str = "") -> None:
        """Give a place back."""
        with self._lock:
            self._inside[owner] -= 1
            self._inside += Counter()  # forgets users who have none
        if self._within is not None:
            self._within.leave(owner)

    @contextmanager
    def place(self, owner: str = "") -> Iterator[bool]:
        """Yield whether there is a place, which is held until the block ends."""
        is_inside = self.enter(owner)
        try:
            yield is_inside
        finally:
            if is_inside:
                self.leave(owner)


@dataclass(frozen=True)
class Bulkheads:
    """Those of one process.

    Attributes:
        waiting: requests that wait for the result of their image, or for the console of an instance.
        streams: pages that follow their jobs.
        pictures: pictures that are drawn, or wait for it.
        sign_ins: requests that wait for the sign-in provider, which anyone can send.
        archives: downloads of images as a zip, which last as long as streams, and are among them. Each has the
            images of a pack in memory, or an image of up to `web.max_image_bytes`.
    """

    waiting: Bulkhead
    streams: Bulkhead
    pictures: Bulkhead
    sign_ins: Bulkhead
    archives: Bulkhead

    @classmethod
    def for_threads(cls, threads: int) -> Self:
        """Divide the threads of a process: one in eight or more, from 8 on, are left for all other requests.

        Most are for requests that wait, since classic load generators send a thousand of these at once.
        """
        streams, waiting = Bulkhead(min(MAX_STREAMS, max(1, threads // 8))), Bulkhead(max(1, threads * 5 // 8))
        return cls(
            waiting=waiting,
            streams=streams,
            pictures=Bulkhead(min(MAX_PICTURES, max(1, threads // 8))),
            sign_ins=Bulkhead(min(MAX_SIGN_INS, max(1, threads // 8)), within=waiting),
            archives=Bulkhead(min(MAX_ARCHIVES, max(1, threads // 16)), within=streams),
        )
