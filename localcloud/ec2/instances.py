"""moto's instances with states that follow their machines, a real console, and answers that may lag or fail."""

import base64
import copy
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from moto.core.responses import ActionResult
from moto.core.utils import utcnow
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models.instances import Instance, InstanceState, StateReason
from moto.ec2.utils import EC2_PREFIX_TO_RESOURCE, get_prefix

from localcloud.ec2.fleet import STATE_CODES, InstanceActions, UnknownInstanceError, fleet
from localcloud.ec2.launches import check_start, ec2_error
from localcloud.patches import Patches

CONSOLE_BYTES = 65_536  # GetConsoleOutput returns the most recent 64 KB

_INSTANCE = "moto.ec2.models.instances:Instance"

PATCHES = Patches()


@PATCHES.wrap(
    f"{_INSTANCE}.__init__",
    "is running before anything runs",
    "self ec2_backend image_id user_data security_groups kwargs",
)
def init(original: Any, self: Any, *arguments: Any, **kwargs: Any) -> None:
    """Begin as pending if instances have machines."""
    original(self, *arguments, **kwargs)
    if fleet.compute:
        self._state = InstanceState("pending", STATE_CODES["pending"])


@PATCHES.wrap(f"{_INSTANCE}.terminate", "is terminated before its process has ended")
def terminate(original: Any, self: Any) -> Any:
    """Begin to shut down; the instance is terminated when its process has ended."""
    previous = InstanceState(self.state, self.state_code)
    if self.state not in {"shutting-down", "terminated"}:
        fleet.begin_end(self, "shutting-down", lambda: original(self))
    return previous


@PATCHES.wrap(f"{_INSTANCE}.stop", "is stopped before its process has ended")
def stop(original: Any, self: Any) -> Any:
    """Begin to stop; the instance is stopped when its process has ended.

    Raises:
        EC2ClientError: IncorrectInstanceState, if it is being terminated.
    """
    previous = InstanceState(self.state, self.state_code)
    if self.state in {"shutting-down", "terminated"}:
        raise _incorrect_state(self, "stopped")
    if self.state not in {"stopping", "stopped"}:
        fleet.begin_end(self, "stopping", lambda: original(self))
    return previous


@PATCHES.wrap(f"{_INSTANCE}.start", "is running before its process runs")
def start(original: Any, self: Any) -> Any:
    """Boot a stopped instance again, with the same user data.

    Raises:
        EC2ClientError: IncorrectInstanceState, or the code of the switch `launch_error`.
        ServerError: InsufficientInstanceCapacity.
    """
    previous = InstanceState(self.state, self.state_code)
    if self.state in {"shutting-down", "terminated", "stopping"}:
        raise _incorrect_state(self, "started")
    if self.state == "stopped":
        check_start(self)
        original(self)
        fleet.boot(self)
    return previous


def _incorrect_state(instance: Any, wanted: str) -> EC2ClientError:
    return EC2ClientError(
        "IncorrectInstanceState",
        f"The instance '{instance.id}' is {instance.state} and can not be {wanted} from that state.",
    )


@PATCHES.replace("moto.ec2.responses.general:General.get_console_output", "returns a sample text")
def get_console_output(self: Any) -> Any:
    """Return the end of the instance's console log; while the instance runs, only if the latest is requested.

    EC2 posts the output shortly after an instance changes its state, without what it writes later.
    https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instance-console.html
    """
    instance = self.ec2_backend.get_instance(self._get_param("InstanceId"))
    is_posted = instance.state not in {"pending", "running"} or self._get_bool_param("Latest", False)
    try:
        console = fleet.find(instance.id).console
    except UnknownInstanceError:
        console = None
    text = console_tail(Path(console)) if console and is_posted else b""
    output = base64.b64encode(text).decode()
    return ActionResult({"InstanceId": instance.id, "Timestamp": utcnow(), "Output": output})


def console_tail(path: Path) -> bytes:
    """Return the last 64 KB of a console log; empty if it does not exist."""
    try:
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - CONSOLE_BYTES))
            return log.read(CONSOLE_BYTES)
    except FileNotFoundError:
        return b""


def user_data_of(instance: Any) -> bytes:
    """Return an instance's user data, decoded; empty if it has none."""
    return base64.b64decode(str(instance.user_data)) if instance.user_data else b""


@PATCHES.replace(
    "moto.ec2.models.core:TaggedEC2Resource.get_tags", "searches the tags of all resources for those of one"
)
def get_tags(self: Any) -> list[dict[str, str]]:
    """Return the tags of a resource."""
    kind = EC2_PREFIX_TO_RESOURCE.get(get_prefix(self.id), "") if self.id else ""
    return [
        {"resource_id": self.id, "resource_type": kind, "key": key, "value": value}
        for key, value in list(self.ec2_backend.tags.get(self.id, {}).items())
    ]


_seconds_ago: ContextVar[float] = ContextVar("seconds_ago", default=0.0)
"""Age in seconds of the answer that this thread prepares; 0 outside DescribeInstances."""


def view_of(instance: Any) -> Any:
    """Return a copy of one of moto's instances that keeps its present state, reason, launch time and tags."""
    view, reason, tags = copy.copy(instance), instance.state_reason, instance.get_tags()
    view._private_ips = set()  # moto releases the addresses of an instance when its object is deleted
    view._state = InstanceState(instance.state, instance.state_code)
    view.state_reason = StateReason(reason.message, reason.code)
    view.get_tags = lambda: tags
    return view


# `terminate` and `stop` of an instance that has no process are those of stock moto.
fleet.set_actions(InstanceActions(Instance.terminate, Instance.stop, view_of))


@PATCHES.wrap("moto.ec2.responses.instances:InstanceResponse.describe_instances", "neither lags nor fails")
def describe_instances(original: Any, self: Any) -> Any:
    """Answer as of `describe_lag_seconds` ago, or fail as `describe_failures` says."""
    if fleet.consume_fault("describe_failures"):
        raise ec2_error("RequestLimitExceeded")
    token = _seconds_ago.set(fleet.switches.describe_lag_seconds)
    try:
        return original(self)
    finally:
        _seconds_ago.reset(token)


_NO_PAST = "knows only what is now"


@PATCHES.wrap("moto.ec2.models.instances:InstanceBackend.all_reservations", _NO_PAST)
def all_reservations(original: Any, self: Any, filters: Any = None) -> Any:
    """Return the reservations with instances as they were at the time of the answer's data."""
    ago = _seconds_ago.get()
    if not ago:
        return original(self, filters)
    from moto.ec2.utils import filter_reservations

    reservations = []
    for reservation in original(self):
        past = []
        for instance in reservation.instances:
            with suppress(UnknownInstanceError):  # still being launched
                if (then := fleet.find(instance.id).past.value_ago(ago)) is not None:
                    past.append(then)
        reservation.instances = past
        if past:
            reservations.append(reservation)
    return reservations if filters is None else filter_reservations(reservations, filters)


@PATCHES.wrap("moto.ec2.models.tags:TagBackend.create_tags", _NO_PAST)
@PATCHES.wrap("moto.ec2.models.tags:TagBackend.delete_tags", _NO_PAST)
def change_tags(original: Any, self: Any, resource_ids: list[str], tags: Any) -> Any:
    """Change tags, and store the change in the history of instances."""
    result = original(self, resource_ids, tags)
    for resource_id in resource_ids:
        fleet.record_view(resource_id)
    return result
