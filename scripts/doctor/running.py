"""The check of the running system by its API; who holds its port is a check of the machine."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterable
from http import HTTPStatus
from typing import Final

from scripts.doctor.checked_system import CheckedSystem
from scripts.doctor.checks import Diagnosis, ok, problem
from scripts.home import is_this_machine

REPLY_SECONDS: Final = 10.0
"""The longest wait for a reply; the web tier itself waits a few seconds for what it needs."""

MAX_REPLY_BYTES: Final = 100_000

RESTART: Final = (
    "Read ./scripts/fleetsight logs --level warning; then stop ./scripts/run.sh with Ctrl-C, and start it again."
)


def check_system(system: CheckedSystem) -> Iterable[Diagnosis]:
    """Ask the running system whether it is ready."""
    url, is_local = system.url, is_this_machine(system.address[0])
    # A proxy is for other machines.
    opener = urllib.request.build_opener(*([urllib.request.ProxyHandler({})] if is_local else []))
    try:
        with opener.open(f"{url}/readyz", timeout=REPLY_SECONDS) as reply:
            status, body = reply.status, reply.read(MAX_REPLY_BYTES)
    except urllib.error.HTTPError as error:
        with error:
            status, body = error.code, error.read(MAX_REPLY_BYTES)
    except OSError as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if is_local and isinstance(reason, ConnectionRefusedError):
            yield ok(f"nothing runs at {url}; ./scripts/run.sh starts it")
        elif is_local:
            yield problem(f"{url} does not answer: {reason}", RESTART)
        else:
            yield problem(f"{url} does not answer: {reason}", "Check the address, the network and your proxy.")
        return
    missing = _missing(body)
    if missing is None:
        yield problem(
            f"{url} answers with the status {status}, and not as Fleetsight does",
            "Give the address of Fleetsight: --url http://127.0.0.1:8000. web.hosts must allow its name.",
        )
    elif status == HTTPStatus.OK:
        yield ok(f"{url} is ready")
    else:
        yield problem(f"{url} is not ready: {'; '.join(missing)}", RESTART)


def _missing(body: bytes) -> list[str] | None:
    """Return what `/readyz` names as missing, with the reasons; None if the reply is of another program."""
    try:
        return [f"{name}: {reason}" for name, reason in json.loads(body)["missing"].items()]
    except (ValueError, LookupError, TypeError, AttributeError):
        return None
