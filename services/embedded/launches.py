"""moto's EC2 with launches as on EC2: idempotent, partial where capacity ends, and instances that compute."""

import json
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2.exceptions import EC2ClientError
from werkzeug.exceptions import InternalServerError

from services.embedded.fleet import fleet
from services.embedded.mend import Mend

TOKENS_REMEMBERED = 10_000
_LOST_REPLY = (
    "<Response><Errors><Error><Code>InternalError</Code><Message>An internal error has occurred</Message></Error>"
    "</Errors><RequestID>00000000-0000-0000-0000-000000000000</RequestID></Response>"
)


@dataclass(frozen=True)
class Launch:
    """A launch that was answered: what was asked for, and what it gave."""

    parameters: str
    reservation: Any


class Launches:
    """The launches of this cloud by client token, so that a repeated one starts nothing."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._by_token: OrderedDict[tuple[str, str, str], Launch] = OrderedDict()

    def answered(self, key: tuple[str, str, str], parameters: str) -> Any | None:
        """Return the reservation that this token launched before, or None.

        Raises:
            EC2ClientError: IdempotentParameterMismatch, the token was used with other parameters.
        """
        earlier = self._by_token.get(key)
        if earlier is None:
            return None
        if earlier.parameters != parameters:
            raise EC2ClientError(
                "IdempotentParameterMismatch",
                f"Arguments on this idempotent request are inconsistent with arguments used in previous request(s) "
                f"with client token {key[2]}.",
            )
        return earlier.reservation

    def remember(self, key: tuple[str, str, str], launch: Launch) -> None:
        """Keep the answer for the token; the oldest of very many are forgotten."""
        self._by_token[key] = launch
        if len(self._by_token) > TOKENS_REMEMBERED:
            self._by_token.popitem(last=False)


_launches = Launches()


def count_to_start(minimum: int, maximum: int, room: int | None) -> int:
    """Decide how many instances a launch starts: `maximum` where there is room, at least `minimum`.

    Raises:
        EC2ClientError: InvalidParameterValue for an impossible range, InsufficientInstanceCapacity without room.
    """
    if not 1 <= minimum <= maximum:
        raise EC2ClientError(
            "InvalidParameterValue", f"Invalid range of instances: MinCount {minimum}, MaxCount {maximum}."
        )
    count = maximum if room is None else min(maximum, room)
    if count < minimum:
        raise EC2ClientError(
            "InsufficientInstanceCapacity",
            f"We currently do not have sufficient capacity: {room} of at least {minimum} instances can be started.",
        )
    return count


def check_room_for_one() -> None:
    """Refuse to start one more instance where there is no room.

    Raises:
        EC2ClientError: InsufficientInstanceCapacity.
    """
    count_to_start(1, 1, fleet.room())


def _run_instances_response(original: Any) -> Any:
    def run_instances(self: Any) -> Any:
        """Launch once for each client token; MaxCount instances where there is room."""
        with _launches.lock:
            token = self.params.get("ClientToken")
            parameters = _fingerprint(self.params)
            key = (self.current_account, self.region, token or "")
            reservation = _launches.answered(key, parameters) if token else None
            if reservation is None:
                reservation = _launch(self, original)
                if token:
                    _launches.remember(key, Launch(parameters, reservation))
                if fleet.take_lost_reply():
                    raise InternalServerError(description=_LOST_REPLY)
            return ActionResult(reservation)

    return run_instances


def _fingerprint(parameters: dict[str, Any]) -> str:
    return json.dumps({k: v for k, v in parameters.items() if k != "ClientToken"}, default=str, sort_keys=True)


def _launch(response: Any, original: Any) -> Any:
    minimum, maximum = int(response.params.get("MinCount", 1)), int(response.params.get("MaxCount", 1))
    response.params["MinCount"] = count_to_start(minimum, maximum, fleet.room())  # moto starts MinCount
    with fleet.hold():
        reservation = original(response).result
        _give_profile_to_all(response, reservation)
    return reservation


def _give_profile_to_all(response: Any, reservation: Any) -> None:
    """Associate the instance profile with every instance; moto does so with the first."""
    profile = response.params.get("IamInstanceProfile") or {}
    for instance in reservation.instances[1:] if profile else []:
        response.ec2_backend.associate_iam_instance_profile(
            instance.id,
            iam_instance_profile_name=profile.get("Name"),
            iam_instance_profile_arn=profile.get("Arn"),
        )


def _run_instances(original: Any) -> Any:
    def run_instances(self: Any, *args: Any, **kwargs: Any) -> Any:
        """Launch, and have the instances booted once they are complete."""
        reservation = original(self, *args, **kwargs)
        for instance in reservation.instances:
            fleet.boot(instance)
        return reservation

    return run_instances


MENDS = (
    Mend(
        "moto.ec2.responses.instances:InstanceResponse.run_instances",
        ("self",),
        _run_instances_response,
        "starts a second instance for the same client token, and MinCount instead of MaxCount",
    ),
    Mend(
        "moto.ec2.models.instances:InstanceBackend.run_instances",
        ("self", "image_id", "count", "user_data", "security_group_names", "kwargs"),
        _run_instances,
        "computes nothing",
    ),
)
