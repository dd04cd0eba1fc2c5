"""Reports that this instance serves: it waits for the page's first answer, takes its address, and signals the stack.

Without a load balancer the page has an Elastic IP address. An update has two web instances for a while, so the new
one takes the address only when its page answers.

CloudFormation waits for the signal of a new web instance, and takes an update back that brings none:
https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-attribute-updatepolicy.html

The unit `fleetsight-ready` runs this program, and is active once the page answers at its address. With `--failed` the
program signals a failure, before `fleetsight-unstarted` ends the machine.
"""

import http.client
import os
import socket
import ssl
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.session import get_session

HOME = Path("/opt/fleetsight")
GROUP = "WebGroup"
"""The stack's Auto Scaling group of web instances, by its name in the template."""

POLL_SECONDS = 1.0
"""Between two requests to the page."""

ANSWER_SECONDS = 10.0
"""How long the page may take to answer one of them."""

RETRY_SECONDS = 10.0
"""Between two attempts to take the address, or to signal."""

MAX_SIGNALS = 60
"""Attempts to signal: with `RETRY_SECONDS` about as long as CloudFormation waits."""

NOT_AWAITED = "ValidationError"
"""The error code of a signal that no operation of the stack waits for, as when Auto Scaling replaced an instance."""

Status = Literal["SUCCESS", "FAILURE"]


def page_answers(host: str = "127.0.0.1", port: int = 443) -> bool:
    """Return True if the page of this instance answers that it is healthy.

    Its certificate is for other names than this address, and the request stays on the machine.
    """
    unverified = ssl._create_unverified_context()  # nosec B323 # noqa: S323 - see above
    connection = http.client.HTTPSConnection(host, port, timeout=ANSWER_SECONDS, context=unverified)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def signal(client: Any, stack: str, instance_id: str, status: Status) -> bool:
    """Signal `status` to the stack's group; return True unless the signal has to be sent again.

    https://docs.aws.amazon.com/AWSCloudFormation/latest/APIReference/API_SignalResource.html
    """
    try:
        client.signal_resource(StackName=stack, LogicalResourceId=GROUP, UniqueId=instance_id, Status=status)
    except (BotoCoreError, ClientError) as error:
        code = error.response["Error"]["Code"] if isinstance(error, ClientError) else ""
        if code != NOT_AWAITED:
            say(f"the stack could not be signalled: {error}")
            return False
        say(f"no operation of the stack waits for a signal ({error})")
    else:
        say(f"signalled {status} to the stack")
    return True


def take_address(client: Any, allocation_id: str, instance_id: str) -> bool:
    """Associate the page's Elastic IP address with this instance; return True if it has the address now.

    https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_AssociateAddress.html
    """
    try:
        client.associate_address(AllocationId=allocation_id, InstanceId=instance_id, AllowReassociation=True)
    except (BotoCoreError, ClientError) as error:
        say(f"the page's address {allocation_id} could not be taken: {error}")
        return False
    say(f"has the page's address {allocation_id}")
    return True


def report(
    answers: Callable[[], bool],
    take: Callable[[], bool],
    tell_systemd: Callable[[], None],
    send: Callable[[], bool],
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Wait until the page answers, take its address, tell systemd, and send the signal.

    The machine works once the page answers at its address: a signal that cannot be sent must not end it.
    """
    while not answers():
        sleep(POLL_SECONDS)
    while not take():
        sleep(RETRY_SECONDS)
    tell_systemd()
    for _ in range(MAX_SIGNALS):
        if send():
            return
        sleep(RETRY_SECONDS)


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    """Report what `arguments` say: `--failed`, or nothing for an instance that is to serve."""
    sys.path.insert(0, str(HOME / "app"))
    from services.errors import MetadataError
    from services.metadata import Metadata

    def act(variable: str, service: str, call: Callable[[Any, str, str], bool]) -> bool:
        if not (name := environment.get(variable, "")):
            return True
        metadata = Metadata()
        try:
            region = environment.get("FLEETSIGHT__AWS__REGION") or metadata.region()
            client = client_of(service, region, environment.get("FLEETSIGHT__AWS__ENDPOINT_URL"))
            return call(client, name, metadata.instance_id())
        except (MetadataError, BotoCoreError) as error:
            say(str(error))
            return False

    def send(status: Status) -> bool:
        def signal_it(client: Any, stack: str, instance_id: str) -> bool:
            return signal(client, stack, instance_id, status)

        return act("FLEETSIGHT_STACK", "cloudformation", signal_it)

    if list(arguments) == ["--failed"]:
        send("FAILURE")
    else:
        report(
            page_answers,
            lambda: act("FLEETSIGHT_ADDRESS", "ec2", take_address),
            lambda: tell_systemd(environment),
            lambda: send("SUCCESS"),
        )


def client_of(service: str, region: str, endpoint_url: str | None) -> Any:
    """Return a client of this stack's cloud, with the role of the instance."""
    retries = Config(connect_timeout=5, read_timeout=10, retries={"mode": "standard", "total_max_attempts": 3})
    return get_session().create_client(service, region_name=region, endpoint_url=endpoint_url, config=retries)


def tell_systemd(environment: Mapping[str, str]) -> None:
    """Tell systemd that the unit is active (man 3 sd_notify)."""
    if path := environment.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.sendto(b"READY=1", f"\0{path[1:]}" if path.startswith("@") else path)


def say(sentence: str) -> None:
    """Write a line to the console and the log."""
    print(f"fleetsight: {sentence}", flush=True)  # noqa: T201 (the unit's output is the log)


if __name__ == "__main__":
    main(sys.argv[1:], os.environ)
