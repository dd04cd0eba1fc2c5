"""Wait until the page of this instance responds, associate the page's address, and signal the stack.

Without a load balancer, the page has an Elastic IP address. During an update two web instances run, so the new one
associates the address only once its page responds.

CloudFormation waits for the signal of a new web instance and rolls back an update without a signal:
https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-attribute-updatepolicy.html

The unit `fleetsight-ready` runs this script and becomes active once the page has its address. With `--failed`, the
script signals a failure before `fleetsight-unstarted` powers the instance off.
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
"""Logical id of the Auto Scaling group of web instances in the template."""

POLL_SECONDS = 1.0
"""Seconds between two requests to the page."""

ANSWER_SECONDS = 10.0
"""Timeout of a request to the page, in seconds."""

RETRY_SECONDS = 10.0
"""Seconds between two attempts to associate the address or to signal."""

MAX_SIGNALS = 60
"""Maximum number of attempts to signal. With `RETRY_SECONDS` they take about as long as CloudFormation waits."""

NOT_AWAITED = "ValidationError"
"""Error code if no stack operation waits for the signal, as after Auto Scaling has replaced an instance."""

Status = Literal["SUCCESS", "FAILURE"]


def page_answers(host: str = "127.0.0.1", port: int = 443) -> bool:
    """Return True if the page of this instance responds and is healthy.

    The certificate is not verified: it is for other names than this address, and the request stays on the instance.
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
    """Signal `status` to the stack's group. Return False if the signal must be sent again.

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
    """Associate the page's Elastic IP address with this instance. Return True on success.

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
    notify_systemd: Callable[[], None],
    send: Callable[[], bool],
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Wait until the page responds, associate its address, notify systemd, and signal the stack.

    systemd is notified before the signal: a failure to signal must not power off an instance that serves the page.
    """
    while not answers():
        sleep(POLL_SECONDS)
    while not take():
        sleep(RETRY_SECONDS)
    notify_systemd()
    for _ in range(MAX_SIGNALS):
        if send():
            return
        sleep(RETRY_SECONDS)


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    """Signal a failure if `arguments` is `--failed`, else wait until the page responds and signal success."""
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
            lambda: notify_systemd(environment),
            lambda: send("SUCCESS"),
        )


def client_of(service: str, region: str, endpoint_url: str | None) -> Any:
    """Return a client for this stack's region and endpoint, with the instance's role."""
    retries = Config(connect_timeout=5, read_timeout=10, retries={"mode": "standard", "total_max_attempts": 3})
    return get_session().create_client(service, region_name=region, endpoint_url=endpoint_url, config=retries)


def notify_systemd(environment: Mapping[str, str]) -> None:
    """Notify systemd that the unit is active (man 3 sd_notify)."""
    if path := environment.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.sendto(b"READY=1", f"\0{path[1:]}" if path.startswith("@") else path)


def say(sentence: str) -> None:
    """Write a line to the console and the log."""
    print(f"fleetsight: {sentence}", flush=True)  # noqa: T201 (the unit's output is the log)


if __name__ == "__main__":
    main(sys.argv[1:], os.environ)
