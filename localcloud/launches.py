"""moto's EC2 with launches as on EC2: idempotent, by launch template, partial where capacity ends; they compute."""

import json
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2.exceptions import EC2ClientError

from localcloud.capacity import Place
from localcloud.fleet import fleet
from localcloud.patches import Patch
from localcloud.refusals import refusal
from localcloud.templates import check, check_architecture, is_one_time_spot, place_of, with_template

TOKENS_REMEMBERED = 10_000


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

        https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html has both errors.

        Raises:
            EC2ClientError: IdempotentParameterMismatch, the token was used with other parameters;
                IdempotentInstanceTerminated, all instances that it launched have been terminated.
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
        if all(instance.state == "terminated" for instance in earlier.reservation.instances):
            raise EC2ClientError(
                "IdempotentInstanceTerminated",
                "The client token you have provided is associated with a terminated instance. "
                "Please use a different client token.",
            )
        return earlier.reservation

    def remember(self, key: tuple[str, str, str], launch: Launch) -> None:
        """Keep the answer for the token; the oldest of very many are forgotten."""
        self._by_token[key] = launch
        if len(self._by_token) > TOKENS_REMEMBERED:
            self._by_token.popitem(last=False)


_launches = Launches()


def count_to_start(minimum: int, maximum: int, room: int | None, place: Place) -> int:
    """Decide how many instances a launch starts: `maximum` where there is room, at least `minimum`.

    Raises:
        EC2ClientError: InvalidParameterValue for an impossible range.
        ServerError: InsufficientInstanceCapacity without room at the place.
    """
    if not 1 <= minimum <= maximum:
        raise EC2ClientError(
            "InvalidParameterValue", f"Invalid range of instances: MinCount {minimum}, MaxCount {maximum}."
        )
    count = maximum if room is None else min(maximum, room)
    if count < minimum:
        market = " Spot" if place.spot else ""
        raise refusal(
            "InsufficientInstanceCapacity",
            f"We currently do not have sufficient {place.instance_type}{market} capacity in the Availability Zone "
            f"you requested ({place.zone}): {room} of at least {minimum} instances can be started.",
        )
    return count


def check_start(instance: Any) -> None:
    """Refuse to start a stopped instance while launches are refused, or where there is no room for it.

    Raises:
        EC2ClientError: the code of the switch `launch_error`.
        ServerError: InsufficientInstanceCapacity, or a code of the switch that is EC2's own error.
    """
    _check_refused()
    place = Place.of(instance)
    count_to_start(1, 1, fleet.room(place), place)


def _check_refused() -> None:
    if (code := fleet.switches.launch_error) is not None:
        raise refusal(code)


def _run_instances_response(original: Any) -> Any:
    def run_instances(self: Any) -> Any:
        """Launch what call and template say, once for each client token; MaxCount instances where there is room."""
        with _launches.lock:
            token = self.params.get("ClientToken")
            parameters = _fingerprint(self.params)
            key = (self.current_account, self.region, token or "")
            reservation = _launches.answered(key, parameters) if token else None
            if reservation is None:
                reservation = _launch(self, original)
                if token:
                    _launches.remember(key, Launch(parameters, reservation))
                if fleet.take("lost_launch_replies"):
                    raise refusal("InternalError")
            return ActionResult(reservation)

    return run_instances


def _fingerprint(parameters: dict[str, Any]) -> str:
    return json.dumps({k: v for k, v in parameters.items() if k != "ClientToken"}, default=str, sort_keys=True)


def _launch(response: Any, original: Any) -> Any:
    _check_refused()
    response.params = with_template(response.ec2_backend, response.params)
    check(response.params)
    check_architecture(response.ec2_backend, response.params)
    if is_one_time_spot(response.params):
        response.params["InstanceInitiatedShutdownBehavior"] = "terminate"
    minimum, maximum = int(response.params.get("MinCount", 1)), int(response.params.get("MaxCount", 1))
    place = place_of(response.ec2_backend, response.params)
    count = count_to_start(minimum, maximum, fleet.room(place), place)
    response.params["MinCount"] = count  # which is what moto starts
    with fleet.hold():
        reservation = original(response).result
        _give_profile_to_all(response, reservation)
        _show_groups_of_interfaces(response, reservation)
    return reservation


def _show_groups_of_interfaces(response: Any, reservation: Any) -> None:
    """List the security groups of an instance's first network interface as its own, as EC2 does."""
    for instance in reservation.instances if response.params.get("NetworkInterfaces") else []:
        instance.security_groups = list(instance.nics[0].group_set)


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
    def run_instances(
        self: Any, image_id: str, count: int, user_data: Any, security_group_names: list[str], **kwargs: Any
    ) -> Any:
        """Launch, and have the instances booted once they are complete."""
        reservation = original(self, image_id, count, user_data, security_group_names, **kwargs)
        for instance in reservation.instances:
            fleet.boot(instance)
        return reservation

    return run_instances


PATCHES = (
    Patch(
        "moto.ec2.responses.instances:InstanceResponse.run_instances",
        ("self",),
        _run_instances_response,
        "starts a second instance for the same client token, MinCount, not MaxCount, and half of a launch template",
    ),
    Patch(
        "moto.ec2.models.instances:InstanceBackend.run_instances",
        ("self", "image_id", "count", "user_data", "security_group_names", "kwargs"),
        _run_instances,
        "computes nothing",
    ),
)
