"""History: workers and queue over time, in a few items that are used again and again.

A point is stored when something has changed, at most one each few seconds, with the most that there was in that time.
So a fleet at rest writes nothing, and a batch that was over in three seconds still shows.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from core.fleet import HistoryBlock, Span


@dataclass(frozen=True, slots=True)
class Grain:
    """How finely a span is kept: seconds between two points, seconds in one item, and items in turn.

    One item more than the span needs, since the one in use is not full.
    """

    span: Span
    step: int
    stretch: int
    items: int = 7


GRAINS = (Grain("hour", 5, 600), Grain("day", 120, 14_400))
"""120 points an item, some 3 KB."""


class HistoryStore(Protocol):
    """What is needed of the fleet's store."""

    def put_block(self, span: Span, slot: int, block: HistoryBlock) -> None:
        """Store a stretch of history."""

    def blocks(self, span: Span | None = None) -> list[HistoryBlock]:
        """Return what is stored."""


@dataclass
class Track:
    """The history of one grain, continued from what is stored.

    Attributes:
        block: the stretch that is being written.
    """

    store: HistoryStore
    grain: Grain
    block: HistoryBlock = field(init=False)
    _step: int | None = field(default=None, init=False)
    _most: tuple[int, int] = field(default=(0, 0), init=False)

    def __post_init__(self) -> None:
        """Go on where the last controller ended."""
        stored = self.store.blocks(self.grain.span)
        self.block = max(stored, key=lambda block: block.number, default=HistoryBlock(number=0))
        self._last = self.block.points[-1][1:] if self.block.points else (0, 0)

    def look(self, now: float, workers: int, queue: int) -> None:
        """Take one look at `now`, seconds since the epoch, into account."""
        step = int(now) // self.grain.step
        over, most = self._step, self._most
        if step == over:
            self._most = (max(most[0], workers), max(most[1], queue))
            return
        self._step, self._most = step, (workers, queue)
        if over is not None and most != self._last:
            self._last = most
            self._store((over * self.grain.step, *most))

    def _store(self, point: tuple[int, int, int]) -> None:
        number = point[0] // self.grain.stretch
        before = self.block.points if number == self.block.number else ()
        self.block = HistoryBlock(number=number, points=(*before, point))
        self.store.put_block(self.grain.span, number % self.grain.items, self.block)


@dataclass
class History:
    """All grains."""

    store: HistoryStore
    now: Callable[[], float] = time.time
    tracks: tuple[Track, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Go on where the last controller ended."""
        self.tracks = tuple(Track(self.store, grain) for grain in GRAINS)

    def look(self, workers: int, queue: int) -> None:
        """Take one look into account."""
        now = self.now()
        for track in self.tracks:
            track.look(now, workers, queue)
