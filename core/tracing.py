"""Trace context: one id for a user's request, for the messages that follow from it, and for the log lines about it.

The format is the `traceparent` of W3C Trace Context (https://www.w3.org/TR/trace-context/#traceparent-header): a
trace, the span that caused what follows, and whether the trace is sampled. It is passed on as text of version 00.

    00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01

Clients may name a trace, so its id proves nothing: it is used in log lines and spans only. `tracestate` is not used.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from functools import partial
from typing import Final, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

TRACE_ID_PATTERN: Final = r"(?!0{32})[0-9a-f]{32}"

_TRACEPARENT: Final = re.compile(
    rf"(?P<version>(?!ff)[0-9a-f]{{2}})-(?P<context>{TRACE_ID_PATTERN}-(?!0{{16}})[0-9a-f]{{16}})"
    r"-(?P<flags>[0-9a-f]{2})(?P<further>-.*)?"
)
_SAMPLED: Final = 1
"""Bit of the flags that says that spans of this trace are recorded."""

_current: ContextVar[str | None] = ContextVar("traceparent", default=None)


def parse_traceparent(text: object) -> str | None:
    """Return an untrusted `traceparent` in version 00, or None if it is invalid: the receiver starts a new trace.

    Of a later version the parts are used that version 00 also has, as the standard requires.
    """
    found = _TRACEPARENT.fullmatch(text) if isinstance(text, str) else None
    if found is None or (found["version"] == "00" and found["further"] is not None):
        return None
    return f"00-{found['context']}-{int(found['flags'], 16) & _SAMPLED:02x}"


def new_traceparent(*, is_sampled: bool = False) -> str:
    """Return the first span of a new trace."""
    return f"00-{os.urandom(16).hex()}-{os.urandom(8).hex()}-{int(is_sampled):02x}"


def child_of(parent: str, *, is_sampled: bool | None = None) -> str:
    """Return a new span in the trace of `parent`, sampled as `parent` is unless `is_sampled` is given."""
    flags = parent[53:] if is_sampled is None else f"{int(is_sampled):02x}"
    return f"{parent[:36]}{os.urandom(8).hex()}-{flags}"


def trace_id(traceparent: str) -> str:
    """Return the id of the trace: 32 hexadecimal digits."""
    return traceparent[3:35]


def span_id(traceparent: str) -> str:
    """Return the id of the span: 16 hexadecimal digits."""
    return traceparent[36:52]


def is_sampled(traceparent: str) -> bool:
    """Return whether spans of the trace are recorded."""
    return bool(int(traceparent[53:], 16) & _SAMPLED)


def current_traceparent() -> str | None:
    """Return the span that this thread works for, or None."""
    return _current.get()


def set_traceparent(traceparent: str | None) -> None:
    """Let this thread work for a span from now on."""
    _current.set(traceparent)


@contextmanager
def use_traceparent(traceparent: str | None) -> Iterator[None]:
    """Let this thread work for a span meanwhile."""
    token = _current.set(traceparent)
    try:
        yield
    finally:
        _current.reset(token)


def common_traceparent(traceparents: Iterable[str | None]) -> str | None:
    """Return a span of the trace to which all items of a batch belong, or None if they belong to several."""
    found = {traceparent and trace_id(traceparent): traceparent for traceparent in traceparents}
    return next(iter(found.values())) if len(found) == 1 else None


class TracingExecutor(ThreadPoolExecutor):
    """A pool of threads that work for the span of the caller that submitted a call."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """Submit a call, as `ThreadPoolExecutor.submit`; `map` uses this, too."""
        return super().submit(partial(copy_context().run, fn, *args, **kwargs))
