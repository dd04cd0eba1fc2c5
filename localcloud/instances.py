"""moto's instances with a life: pending until a process runs, ending until it has ended, with a real console."""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

from moto.core.responses import ActionResult
from moto.core.utils import utcnow
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models.instances import InstanceState

from localcloud.describe import seen
from localcloud.fleet import STATE_CODES, fleet
from localcloud.launches import check_start
from localcloud.patches import Patch
from localcloud.records import UnknownInstanceError

CONSOLE_BYTES = 65_536  # GetConsoleOutput returns the most recent 64 KB


def _new_instance(original: Any) -> Any:
    def __init__(  # noqa: N807 - it replaces one
        self: Any, ec2_backend: Any, image_id: str, user_data: Any, security_groups: list[Any], **kwargs: Any
    ) -> None:
        """Begin as pending where instances are processes."""
        original(self, ec2_backend, image_id, user_data, security_groups, **kwargs)
        if fleet.compute:
            self._state = InstanceState("pending", STATE_CODES["pending"])

    return __init__


class _StockEnds:
    """moto's own ways to end an instance, kept when they are replaced."""

    terminate: Callable[[Any], Any]
    stop: Callable[[Any], Any]
    seen = staticmethod(seen)


_stock = _StockEnds()


def _terminate(original: Any) -> Any:
    _stock.terminate = original
    fleet.use(_stock)

    def terminate(self: Any) -> Any:
        """Begin to shut down; terminated when the process has ended."""
        previous = InstanceState(self.state, self.state_code)
        if self.state not in {"shutting-down", "terminated"}:
            fleet.end(self, "shutting-down", lambda: original(self))
        return previous

    return terminate


def _stop(original: Any) -> Any:
    _stock.stop = original

    def stop(self: Any) -> Any:
        """Begin to stop; stopped when the process has ended.

        Raises:
            EC2ClientError: IncorrectInstanceState, it is ending for good.
        """
        previous = InstanceState(self.state, self.state_code)
        if self.state in {"shutting-down", "terminated"}:
            raise _incorrect_state(self, "stopped")
        if self.state not in {"stopping", "stopped"}:
            fleet.end(self, "stopping", lambda: original(self))
        return previous

    return stop


def _start(original: Any) -> Any:
    def start(self: Any) -> Any:
        """Boot a stopped instance again, with the same user data.

        Raises:
            EC2ClientError: IncorrectInstanceState, or what the switch `launch_error` says.
            ServerError: InsufficientInstanceCapacity.
        """
        previous = InstanceState(self.state, self.state_code)
        if self.state in {"shutting-down", "terminated", "stopping"}:
            raise _incorrect_state(self, "started")
        if self.state == "stopped":
            check_start(self)
            original(self)
            self.launch_time = utcnow()  # EC2's is that of the last start
            fleet.boot(self)
        return previous

    return start


def _incorrect_state(instance: Any, wanted: str) -> EC2ClientError:
    return EC2ClientError(
        "IncorrectInstanceState",
        f"The instance '{instance.id}' is {instance.state} and can not be {wanted} from that state.",
    )


def _get_console_output(_original: Any) -> Any:
    def get_console_output(self: Any) -> Any:
        """Return the end of what the instance's process wrote; while it runs, only to those who ask for the latest.

        EC2 posts the output shortly after an instance changes its state, and nothing that an instance writes later.
        https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instance-console.html
        """
        instance = self.ec2_backend.get_instance(self._get_param("InstanceId"))
        is_posted = instance.state not in {"pending", "running"} or self._get_bool_param("Latest", False)
        try:
            console = fleet.record(instance.id).console
        except UnknownInstanceError:
            console = None
        text = console_tail(Path(console)) if console and is_posted else b""
        output = base64.b64encode(text).decode()
        return ActionResult({"InstanceId": instance.id, "Timestamp": utcnow(), "Output": output})

    return get_console_output


def console_tail(path: Path) -> bytes:
    """Read the last 64 KB of a console log; empty if there is none."""
    try:
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - CONSOLE_BYTES))
            return log.read(CONSOLE_BYTES)
    except FileNotFoundError:
        return b""


def user_data_of(instance: Any) -> bytes:
    """Return an instance's user data, decoded; empty if it has none."""
    return base64.b64decode(str(instance.user_data)) if instance.user_data else b""


_INSTANCE = "moto.ec2.models.instances:Instance"
PATCHES = (
    Patch(
        f"{_INSTANCE}.__init__",
        ("self", "ec2_backend", "image_id", "user_data", "security_groups", "kwargs"),
        _new_instance,
        "is running before anything runs",
    ),
    Patch(f"{_INSTANCE}.terminate", ("self",), _terminate, "is terminated before its process has ended"),
    Patch(f"{_INSTANCE}.stop", ("self",), _stop, "is stopped before its process has ended"),
    Patch(f"{_INSTANCE}.start", ("self",), _start, "is running before its process runs"),
    Patch(
        "moto.ec2.responses.general:General.get_console_output",
        ("self",),
        _get_console_output,
        "returns a sample text",
    ),
)
