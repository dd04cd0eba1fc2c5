"""Makes calls meet the faults that `fault_rules` chooses, as a caller of AWS would see them."""

import errno
import io
import re
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

from services.embedded.callers import kill_caller
from services.embedded.calls import operation_of
from services.embedded.fault_rules import CallFaults, FaultRule
from services.embedded.iam.refusals import Reason, refusal

WsgiApp = Callable[[dict[str, Any], Any], Iterable[bytes]]

_REFUSALS: Final = {
    "unavailable": (Reason.UNAVAILABLE, "Please reduce your request rate."),
    "throttled": (Reason.THROTTLED, "Rate exceeded"),
    "denied": (Reason.DENIED, "Access denied by the switch `faults`."),
    "expired": (Reason.TOKEN_EXPIRED, "The provided token has expired."),
    "skewed": (Reason.SKEWED, "The difference between the request time and the current time is too large."),
}
_SERVICE = re.compile(r"Credential=[^/\s]+/\d{8}/[a-z0-9-]+/([a-z0-9-]+)/aws4_request")
_TIER = re.compile(r"\bapp/fleetsight-([a-z]+)")


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
                kill_caller(int(environ["REMOTE_PORT"]))
                raise _reset()
            case "killed_after":
                self._make_effect(environ)
                kill_caller(int(environ["REMOTE_PORT"]))
                raise _reset()
            case kind:
                answer = refusal(environ, _service_of(environ), *_REFUSALS[kind])
                start_response(answer.status, [*answer.headers, ("Content-Length", str(len(answer.body)))])
                return (answer.body,)
        return self._aws(environ, start_response)

    def _rule_of(self, environ: dict[str, Any]) -> FaultRule | None:
        service = _service_of(environ)
        tier = _TIER.search(environ.get("HTTP_USER_AGENT", ""))
        if not service:
            return None
        return self._faults.choose(service, operation_of(service, environ), tier[1] if tier else None)

    def _make_effect(self, environ: dict[str, Any]) -> None:
        """Make the call once, and keep its body for another time."""
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        first = {**environ, "wsgi.input": io.BytesIO(body)}
        list(self._aws(first, lambda *_: None))
        environ["wsgi.input"] = io.BytesIO(body)


def _service_of(environ: dict[str, Any]) -> str:
    scope = _SERVICE.search(environ.get("HTTP_AUTHORIZATION", ""))
    return scope[1] if scope else ""


def _reset() -> ConnectionResetError:
    return ConnectionResetError(errno.ECONNRESET, "closed by the switch `faults`")
