"""Where the page of a stack is, and waiting until it answers."""

import http.client
import ssl
from collections.abc import Callable
from urllib.parse import urlsplit

from scripts.aws.deploy.stacks import Stack
from scripts.aws.instances import named, web_name
from scripts.aws.launches import FailedLaunches
from scripts.aws.operation import Operation

PAGE_SECONDS = 600.0
"""How long the page may take: launch, boot, nginx, and the load balancer's health checks."""

ANSWER_SECONDS = 10.0

CLOSED = "127.0.0.1/32"
"""The default of the stack's `WebCidr`, from which no client comes."""


def page_of(stack: Stack) -> str | None:
    """Return the page's address, or None where the stack is not complete or of a version that has no fixed one."""
    return stack.outputs.get("PageAddress")


def answers(address: str) -> bool:
    """Return True if the page at that address says that it is well.

    Its certificate is not verified: the web instance makes its own unless it is given one. So this shows that
    something answers there, and not that it is ours; nothing secret is sent.
    """
    host = urlsplit(address).netloc
    unverified = ssl._create_unverified_context()  # nosec B323 # noqa: S323 - see above
    connection = http.client.HTTPSConnection(host, timeout=ANSWER_SECONDS, context=unverified)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def wait_for_page(operation: Operation, stack: Stack, answers: Callable[[str], bool] = answers) -> str:
    """Return the page's address once it answers; or, while it is closed, once its instance runs.

    Raises:
        TimedOutError: it does not; the message says where to look.
    """
    account, prefix, address = operation.account, operation.prefix, stack.outputs["PageAddress"]
    look_at = f"`fleetsight status --prefix {prefix}`, `fleetsight logs web --prefix {prefix}`, `fleetsight ssh web`"
    failed = FailedLaunches(operation)

    def runs() -> bool:
        if named(account, web_name(stack.name), states=["running"]):
            return True
        failed.report(stack)
        return False

    operation.waiting.until(runs, f"a running web instance; look at {look_at}", seconds=PAGE_SECONDS)
    opened_to = stack.parameters.get("WebCidr", CLOSED)
    if opened_to == CLOSED:
        operation.say("The page is not open yet, so it was not asked: give --open-to.")
        return address
    operation.say(f"Waiting for {address} to answer; its certificate is not verified.")
    what = f"{address} to answer, which is open to {opened_to} (are you there?); look at {look_at}"
    operation.waiting.until(lambda: answers(address), what, seconds=PAGE_SECONDS)
    return address
