"""Makes calls meet the faults that `fault_rules` chooses, as a caller of AWS would see them."""

import contextlib
import errno
import io
import os
import re
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from localcloud.calls import operation_of, service_of
from localcloud.direct import read_body
from localcloud.fault_rules import CallFaults, FaultRule
from localcloud.iam.refusals import Reason, refusal

WsgiApp = Callable[[dict[str, Any], Any], Iterable[bytes]]

_REFUSALS: Final = {
    "unavailable": (Reason.UNAVAILABLE, "Please reduce your request rate."),
    "throttled": (Reason.THROTTLED, "Rate exceeded"),
    "denied": (Reason.DENIED, "Access denied by the switch `faults`."),
    "expired": (Reason.TOKEN_EXPIRED, "The provided token has expired."),
    "skewed": (Reason.SKEWED, "The difference between the request time and the current time is too large."),
}
_TIER = re.compile(r"\bapp/fleetsight-([a-z]+)")
_PROC = Path("/proc")


class FaultyCalls:
    """WSGI: passes calls on, unless they meet a fault.

    Args:
        aws: answers calls.
        faults: chooses.
        sleep: waits for seconds.
    """

    def __init__(self, aws: WsgiApp, faults: CallFaults, sleep: Callable[[float], None] = time.sleep) -> None:
        self._aws, self._faults, self._sleep = aws, faults, sleep

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer one request.

        Raises:
            ConnectionResetError: the server is to close the connection without an answer.
        """
        rule = self._rule_of(environ) if self._faults.is_on else None
        if rule is None:
            return self._aws(environ, start_response)
        match rule.kind:
            case "slow":
                self._sleep(rule.seconds)
            case "timeout":
                self._sleep(rule.seconds)
                raise _reset()
            case "reset":
                raise _reset()
            case "lost_reply":
                self._make_effect(environ)
                raise _reset()
            case "repeated":
                self._make_effect(environ)
            case "killed_before":
                _kill_caller(environ)
                raise _reset()
            case "killed_after":
                self._make_effect(environ)
                _kill_caller(environ)
                raise _reset()
            case kind:
                answer = refusal(environ, service_of(environ), *_REFUSALS[kind])
                start_response(answer.status, [*answer.headers, ("Content-Length", str(len(answer.body)))])
                return (answer.body,)
        return self._aws(environ, start_response)

    def _rule_of(self, environ: dict[str, Any]) -> FaultRule | None:
        service = service_of(environ)
        tier = _TIER.search(environ.get("HTTP_USER_AGENT", ""))
        if not service:
            return None
        return self._faults.choose(service, operation_of(service, environ), tier[1] if tier else None)

    def _make_effect(self, environ: dict[str, Any]) -> None:
        """Make the call once, and keep its body for another time."""
        body = read_body(environ)
        list(self._aws({**environ, "wsgi.input": io.BytesIO(body)}, lambda *_: None))


def _reset() -> ConnectionResetError:
    return ConnectionResetError(errno.ECONNRESET, "closed by the switch `faults`")


def _kill_caller(environ: dict[str, Any]) -> None:
    """End the processes that hold the client's end of a connection, as kill -9 does."""
    for pid in processes_of(int(environ["REMOTE_PORT"]), int(environ["SERVER_PORT"])):
        with contextlib.suppress(OSError):  # it has ended in this moment
            os.kill(pid, signal.SIGKILL)


def processes_of(port: int, server_port: int) -> list[int]:
    """Return the processes, but for this one, that hold the client's end of a connection on 127.0.0.1; Linux only.

    Args:
        port: of the client; it may have other connections from it, to other servers.
        server_port: to which it is connected.
    """
    inode = _inode_of(port, server_port)
    if inode is None:
        return []
    target = f"socket:[{inode}]"
    others = (process for process in _PROC.iterdir() if process.name.isdigit() and int(process.name) != os.getpid())
    return sorted(int(process.name) for process in others if _holds(process, target))


def _inode_of(port: int, server_port: int) -> str | None:
    ends = [f"0100007F:{number:04X}" for number in (port, server_port)]
    with contextlib.suppress(OSError):
        for line in (_PROC / "net" / "tcp").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[1:3] == ends and fields[9] != "0":
                return fields[9]
    return None


def _holds(process: Path, target: str) -> bool:
    with contextlib.suppress(OSError):
        for handle in (process / "fd").iterdir():
            with contextlib.suppress(OSError):
                if str(handle.readlink()) == target:
                    return True
    return False
