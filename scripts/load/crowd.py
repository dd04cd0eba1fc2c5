"""Many clients at once: each takes the next image as soon as it has an answer to its last one."""

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Work = TypeVar("Work")


@dataclass
class _Turns(Generic[Work]):
    """What is to be sent, handed out one at a time, until told to stop."""

    waiting: Iterator[Work]
    stopped: threading.Event
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __iter__(self) -> Iterator[Work]:
        while not self.stopped.is_set():
            with self.lock:
                work = next(self.waiting, None)
            if work is None:
                return
            yield work


def send(work: Iterable[Work], clients: int, one: Callable[[Work], None], stopped: threading.Event) -> None:
    """Let `clients` threads send all of `work` with `one`; after `stopped` each ends with what it has in hand.

    Raises:
        Exception: what `one` raised; the others end with what they have in hand.
    """
    turns = _Turns(iter(work), stopped)

    def run() -> None:
        try:
            for piece in turns:
                one(piece)
        except BaseException:
            stopped.set()
            raise

    with ThreadPoolExecutor(clients, thread_name_prefix="client") as crowd:
        for ended in [crowd.submit(run) for _ in range(clients)]:
            ended.result()
