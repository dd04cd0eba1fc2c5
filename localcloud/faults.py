"""Faults of calls: chooses the calls that a rule of the switch `faults` affects, and makes them fail as on AWS."""

import contextlib
import errno
import io
import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from random import Random
from typing import Any, Final

from localcloud.dispatch import (
    INLINE,
    ErrorReason,
    WouldWaitError,
    error_response,
    is_in_part,
    operation_of,
    read_body,
    service_of,
)
from localcloud.options import FaultRule
from localcloud.page_guard import WsgiApp

_REFUSALS: Final = {
    "unavailable": (ErrorReason.UNAVAILABLE, "Please reduce your request rate."),
    "throttled": (ErrorReason.THROTTLED, "Rate exceeded"),
    "denied": (ErrorReason.DENIED, "Access denied by the switch `faults`."),
    "expired": (ErrorReason.TOKEN_EXPIRED, "The provided token has expired."),
    "skewed": (ErrorReason.SKEWED, "The difference between the request time and the current time is too large."),
}
_TIER = re.compile(r"\bapp/fleetsight-([a-z]+)")
_PROC = Path("/proc")


class CallFaults:
    """Chooses the fault of each call, and counts them; threads may share an instance."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._rules: Sequence[FaultRule] = ()
        self._seed, self._since = 0, 0.0
        self._matched: Counter[int] = Counter()
        self._chosen: Counter[int] = Counter()
        self._met: Counter[str] = Counter()

    @property
    def is_on(self) -> bool:
        """Whether any rule applies."""
        return bool(self._rules)

    def set_rules(self, rules: Sequence[FaultRule], seed: int) -> None:
        """Apply `rules` from now on; if rules and seed are unchanged, time and draws continue."""
        with self._lock:
            if (rules, seed) != (self._rules, self._seed):
                self._rules, self._seed, self._since = rules, seed, self._clock()
                self._matched.clear()
                self._chosen.clear()

    def choose(self, service: str, operation: str, tier: str | None) -> FaultRule | None:
        """Return the first rule that matches a call and chooses it, or None."""
        with self._lock:
            elapsed = self._clock() - self._since
            for index, rule in enumerate(self._rules):
                is_used_up = rule.calls is not None and self._chosen[index] >= rule.calls
                if not is_used_up and rule.matches(service, operation, tier, elapsed):
                    number = self._matched[index]
                    self._matched[index] += 1
                    draw = Random(f"{self._seed} {index} {number}").random()  # noqa: S311 # nosec B311 # not a secret
                    if draw < rule.share:
                        self._chosen[index] += 1
                        self._met[rule.kind] += 1
                        return rule
        return None

    def figures(self) -> dict[str, int]:
        """Return the number of calls that met each kind of fault so far."""
        with self._lock:
            return dict(self._met)


class FaultyCalls:
    """WSGI middleware that makes the calls fail that `faults` chooses; `aws` answers the others."""

    def __init__(self, aws: WsgiApp, faults: CallFaults, sleep: Callable[[float], None] = time.sleep) -> None:
        self._aws, self._faults, self._sleep = aws, faults, sleep

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer one request.

        Raises:
            ConnectionResetError: the server must close the connection without an answer.
        """
        if self._faults.is_on and INLINE in environ:
            raise WouldWaitError
        service = service_of(environ) if self._faults.is_on else ""
        rule = self._rule_of(service, environ) if service else None
        if rule is None:
            return self._aws(environ, start_response)
        if rule.kind in _REFUSALS:
            return error_response(environ, service, *_REFUSALS[rule.kind]).send(start_response)
        if rule.kind == "partial":
            is_in_part.set(True)
            try:
                return list(self._aws(environ, start_response))
            finally:
                is_in_part.set(False)
        if rule.kind in {"slow", "timeout"}:
            self._sleep(rule.seconds)
        if rule.kind in {"lost_reply", "repeated", "killed_after"}:  # make the call, and discard its answer
            body = read_body(environ)
            list(self._aws({**environ, "wsgi.input": io.BytesIO(body)}, lambda *_: None))
        if rule.kind in {"slow", "repeated"}:
            return self._aws(environ, start_response)
        if rule.kind in {"killed_before", "killed_after"}:
            for pid in processes_of(int(environ["REMOTE_PORT"]), int(environ["SERVER_PORT"])):
                with contextlib.suppress(OSError):  # the process ended meanwhile
                    os.kill(pid, signal.SIGKILL)
        raise ConnectionResetError(errno.ECONNRESET, "closed by the switch `faults`")

    def _rule_of(self, service: str, environ: dict[str, Any]) -> FaultRule | None:
        tier = _TIER.search(environ.get("HTTP_USER_AGENT", ""))
        return self._faults.choose(service, operation_of(service, environ), tier[1] if tier else None)


def processes_of(port: int, server_port: int) -> list[int]:
    """Return the other processes that hold the client's end of a connection on 127.0.0.1; Linux only.

    The client may use its port for connections to other servers, too.
    """
    ends = [f"0100007F:{number:04X}" for number in (port, server_port)]
    connections = [line.split() for line in (_PROC / "net" / "tcp").read_text().splitlines()[1:]]
    sockets = {f"socket:[{fields[9]}]" for fields in connections if fields[1:3] == ends and fields[9] != "0"}
    found = set()
    for process in _PROC.glob("[0-9]*") if sockets else []:
        with contextlib.suppress(OSError):  # the process ended meanwhile
            for handle in (process / "fd").iterdir():
                with contextlib.suppress(OSError):  # it closed the file
                    if str(handle.readlink()) in sockets:
                        found.add(int(process.name))
    return sorted(found - {os.getpid()})
