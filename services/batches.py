"""Batches: a list in parts, since calls of AWS and rounds of work take so many items at a time."""

from collections.abc import Sequence
from typing import TypeVar

_T = TypeVar("_T")


def in_batches(items: Sequence[_T], size: int) -> list[list[_T]]:
    """Return `items` in lists of at most `size`, in order."""
    return [list(items[start : start + size]) for start in range(0, len(items), size)]
