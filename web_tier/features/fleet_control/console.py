"""The last lines of an instance's console, read from EC2 when an operator asks for them."""

import re
from dataclasses import replace
from typing import Final

from botocore.exceptions import ClientError
from werkzeug.exceptions import ServiceUnavailable

from core.fleet.models import EndedInstance
from services.clients import Clients
from services.ec2 import console_of
from services.errors import NotFoundError
from web_tier.auth.identity import current_identity
from web_tier.http.backend import current_backend

MAX_LINES: Final = 100
CALL_SECONDS: Final = 5.0
"""Maximum time of each of two attempts to read a console: an operator waits."""

_COLOUR: Final = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
_GONE: Final = frozenset({"InvalidInstanceID.NotFound", "InvalidInstanceID.Malformed"})
_DENIED: Final = frozenset({"UnauthorizedOperation", "AccessDenied", "AccessDeniedException"})


def console_lines(instance_id: str) -> list[str]:
    """Return the last lines of the console of an instance that the fleet has, or has had in the last hour.

    The instance has written them, so they are untrusted: only printable characters remain.

    Raises:
        NotFoundError: the fleet does not know the instance, or EC2 does not any more.
        ServiceUnavailable: too many requests wait. botocore's errors pass through.
    """
    backend = current_backend()
    instance = backend.fleet.known_instance(instance_id)
    endpoint = replace(
        backend.config.aws.endpoint(1), max_attempts=2, connect_timeout=CALL_SECONDS, read_timeout=CALL_SECONDS
    )
    with backend.bulkheads.waiting.place(current_identity().owner) as may_wait:
        if not may_wait:
            raise ServiceUnavailable("too many requests wait just now; try again in a moment")
        try:
            text = console_of(Clients(endpoint).ec2, instance_id)
        except ClientError as error:
            code = error.response["Error"]["Code"]
            # A role may read consoles of instances with the fleet's tag, and ended instances lose their tags.
            if code in _GONE or (code in _DENIED and isinstance(instance, EndedInstance)):
                raise NotFoundError(f"EC2 has no console of {instance_id} any more") from error
            raise
    lines = _COLOUR.sub("", text).splitlines()[-MAX_LINES:]
    return ["".join(each for each in line.expandtabs() if each.isprintable()) for line in lines]
