"""Parts of an object that are made on their first use."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class made_once(Generic[T]):  # noqa: N801 (a decorator, as `property` is)
    """A property that is made on its first use, once for all threads; the object has a lock for it, `_lock`.

    `functools.cached_property` may make it once for each thread (Python 3.12).
    """

    def __init__(self, make: Callable[[Any], T]) -> None:
        self._make = make
        self.__doc__ = make.__doc__

    def __get__(self, owner: Any, _: type) -> T:
        """Return the value. Once it is made, Python finds it in the object, and this is not called any more."""
        values, name = vars(owner), self._make.__name__
        with owner._lock:
            if name not in values:
                values[name] = self._make(owner)
            value: T = values[name]
            return value
