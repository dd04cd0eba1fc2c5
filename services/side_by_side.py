"""Calls that are made side by side, so that their latencies overlap."""

from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from typing import TypeVar

_T = TypeVar("_T")
_R = TypeVar("_R")


def side_by_side(pool: Executor | None, call: Callable[[_T], _R], items: Iterable[_T]) -> list[_R]:
    """Return the results of `call` for each of `items`, in their order.

    No task of `pool` may wait for another one, also not for a lock that is held by a thread that waits for the pool.
    Without a pool the calls are made one after another, until the first error.

    Raises:
        Exception: the first error, once every call has ended.
    """
    each = list(items)
    if pool is None or len(each) < 2:
        return [call(item) for item in each]
    futures = [pool.submit(call, item) for item in each]
    results, errors = list[_R](), list[Exception]()
    for future in futures:
        try:
            results.append(future.result())
        except Exception as error:  # noqa: BLE001 (it is raised below)
            errors.append(error)
    if errors:
        raise errors[0]
    return results


def outcomes(pool: Executor | None, call: Callable[[_T], _R], items: Iterable[_T]) -> list[tuple[_T, _R | Exception]]:
    """Return each of `items` with the result of `call`, or with the exception that `call` raised for it."""

    def outcome(item: _T) -> tuple[_T, _R | Exception]:
        try:
            return item, call(item)
        except Exception as error:  # noqa: BLE001 (it delays no other item; the caller handles it)
            return item, error

    return side_by_side(pool, outcome, items)
