"""Launches as on EC2: idempotent, by launch template, partial if capacity runs out, with EC2's errors.

Stock moto reads image, type, user data, key pair and security groups of a template, and drops the instance profile,
metadata options, network interfaces, market, shutdown behaviour and the tags of volumes. Client errors have HTTP
status 400; lack of capacity and throttling are server errors, which clients retry by themselves.
"""

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping
from copy import deepcopy
from http import HTTPStatus
from typing import Any
from xml.sax.saxutils import escape

from moto.core.responses import ActionResult
from moto.ec2.exceptions import EC2ClientError, MissingParameter
from moto.ec2.exceptions import InvalidLaunchTemplateVersionNotFound as UnknownVersionError
from werkzeug.exceptions import HTTPException

from localcloud.ec2.fleet import CapacityPool, fleet
from localcloud.patches import Patches

# https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html, "Server errors"
_SERVER_ERRORS = {
    "InsufficientInstanceCapacity": HTTPStatus.INTERNAL_SERVER_ERROR,
    "InternalError": HTTPStatus.INTERNAL_SERVER_ERROR,
    "RequestLimitExceeded": HTTPStatus.SERVICE_UNAVAILABLE,
    "ServiceUnavailable": HTTPStatus.SERVICE_UNAVAILABLE,
    "Unavailable": HTTPStatus.SERVICE_UNAVAILABLE,
}


class Ec2ServerError(HTTPException):
    """Raised when EC2 answers with a server error, which clients retry."""

    def __init__(self, code: str, message: str) -> None:
        error = f"<Error><Code>{escape(code)}</Code><Message>{escape(message)}</Message></Error>"
        request = "<RequestID>00000000-0000-0000-0000-000000000000</RequestID>"
        super().__init__(f"<Response><Errors>{error}</Errors>{request}</Response>")
        self.code = int(_SERVER_ERRORS[code])
        self.error_code = code


def ec2_error(code: str, message: str | None = None) -> Ec2ServerError | EC2ClientError:
    """Return the exception for an error code of EC2."""
    text = message or "Refused, since a switch of the local cloud says so."
    return Ec2ServerError(code, text) if code in _SERVER_ERRORS else EC2ClientError(code, text)


Parameters = dict[str, Any]


def with_template(backend: Any, parameters: Mapping[str, Any]) -> Parameters:
    """Return the parameters of a launch, completed by its launch template; parameters of the call win.

    Tags are one set for each type of resource: a tag of the call replaces the template's tag with the same key.

    Raises:
        EC2ClientError: the template or its version does not exist.
    """
    given = {name: value for name, value in parameters.items() if value is not None}
    if not (named := given.get("LaunchTemplate")):
        return given
    template = _template_data(backend, named)
    complete = {**template, **given}
    # moto stores the template's own tags in its data; no launch uses them.
    tagged = [each for each in template.get("TagSpecifications", []) if each["ResourceType"] != "launch-template"]
    if specifications := [*tagged, *given.get("TagSpecifications", [])]:
        tags: dict[str, dict[str, str]] = {}
        for specification in specifications:
            of_type = tags.setdefault(specification["ResourceType"], {})
            of_type.update({tag["Key"]: tag.get("Value", "") for tag in specification.get("Tags", [])})
        complete["TagSpecifications"] = [
            {"ResourceType": name, "Tags": [{"Key": key, "Value": value} for key, value in of_type.items()]}
            for name, of_type in tags.items()
        ]
    return complete


def _template_data(backend: Any, named: Mapping[str, Any]) -> Parameters:
    """Return the named version of a template as parameters of RunInstances."""
    if ("LaunchTemplateId" in named) == ("LaunchTemplateName" in named):
        raise MissingParameter("The request must contain either LaunchTemplateId or LaunchTemplateName.")
    if "LaunchTemplateId" in named:
        template = backend.get_launch_template(named["LaunchTemplateId"])
    else:
        template = backend.get_launch_template_by_name(named["LaunchTemplateName"])
    version = str(named.get("Version") or "$Default")
    exists = version.isdecimal() and 1 <= int(version) <= template.latest_version_number
    if version not in {"$Default", "$Latest"} and not exists:
        raise UnknownVersionError(version, template.id)
    data = {name: deepcopy(value) for name, value in template.get_version(version).data.items() if value is not None}
    if "UserData" in data:
        data["UserData"] = str(data["UserData"])
    return data


def capacity_pool_of(backend: Any, parameters: Mapping[str, Any]) -> CapacityPool:
    """Return the capacity pool of a launch; without a subnet or a zone it is in the region's first zone, as in moto.

    Raises:
        EC2ClientError: the subnet does not exist.
    """
    interfaces = parameters.get("NetworkInterfaces") or []
    subnet = parameters.get("SubnetId") or next((i["SubnetId"] for i in interfaces if i.get("SubnetId")), None)
    if subnet:
        zone = backend.get_subnet(subnet).availability_zone
    else:
        zone = (parameters.get("Placement") or {}).get("AvailabilityZone") or f"{backend.region_name}a"
    market = (parameters.get("InstanceMarketOptions") or {}).get("MarketType")
    return CapacityPool(parameters.get("InstanceType") or "m1.small", zone, market == "spot")


MAX_TOKENS = 10_000
"""Largest number of stored client tokens."""


_reservations: OrderedDict[tuple[str, str, str], tuple[str, Any]] = OrderedDict()
"""By account, region and client token: the parameters of a launch, and its reservation."""

_launching = threading.RLock()


def launched_before(key: tuple[str, str, str], parameters: str) -> Any | None:
    """Return the reservation that a token launched before, or None.

    https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html has both errors.

    Raises:
        EC2ClientError: IdempotentParameterMismatch if the token was used with other parameters;
            IdempotentInstanceTerminated if all instances of the token have been terminated.
    """
    if key not in _reservations:
        return None
    earlier, reservation = _reservations[key]
    if earlier != parameters:
        raise EC2ClientError(
            "IdempotentParameterMismatch",
            f"Arguments on this idempotent request are inconsistent with arguments used in previous request(s) "
            f"with client token {key[2]}.",
        )
    if all(instance.state == "terminated" for instance in reservation.instances):
        raise EC2ClientError(
            "IdempotentInstanceTerminated",
            "The client token you have provided is associated with a terminated instance. "
            "Please use a different client token.",
        )
    return reservation


def count_to_start(minimum: int, maximum: int, free: int | None, pool: CapacityPool) -> int:
    """Return the number of instances that a launch starts: `maximum` if capacity allows, at least `minimum`.

    Raises:
        EC2ClientError: InvalidParameterValue for an impossible range.
        Ec2ServerError: InsufficientInstanceCapacity if the pool cannot start the minimum.
    """
    if not 1 <= minimum <= maximum:
        raise EC2ClientError(
            "InvalidParameterValue", f"Invalid range of instances: MinCount {minimum}, MaxCount {maximum}."
        )
    count = maximum if free is None else min(maximum, free)
    if count < minimum:
        market = " Spot" if pool.spot else ""
        raise ec2_error(
            "InsufficientInstanceCapacity",
            f"We currently do not have sufficient {pool.instance_type}{market} capacity in the Availability Zone "
            f"you requested ({pool.zone}): {free} of at least {minimum} instances can be started.",
        )
    return count


def check_start(instance: Any) -> None:
    """Check that a stopped instance can be started: neither the switch `launch_error` nor capacity prevents it.

    Raises:
        EC2ClientError: the code of the switch `launch_error`.
        Ec2ServerError: InsufficientInstanceCapacity, or a code of the switch that is a server error.
    """
    _check_refused()
    pool = CapacityPool.from_instance(instance)
    count_to_start(1, 1, fleet.free_capacity(pool), pool)


def _check_refused() -> None:
    if (code := fleet.switches.launch_error) is not None:
        raise ec2_error(code)


PATCHES = Patches()


@PATCHES.replace("moto.ec2.models.amis:load_resource", "makes 1,300 images with disks, in a third of a second")
def load_published_images(resource: str) -> Any:
    """Leave out the images that AWS has published, which nothing launches here; moto has 44 others.

    Raises:
        FileNotFoundError: always, which moto takes for a region without published images.
    """
    raise FileNotFoundError(resource)


@PATCHES.wrap(
    "moto.ec2.responses.instances:InstanceResponse.run_instances",
    "starts a second instance for the same client token, MinCount, not MaxCount, and half of a launch template",
)
def answer_run_instances(original: Any, self: Any) -> Any:
    """Launch up to MaxCount instances by call and template, once for each client token."""
    with _launching:
        token = self.params.get("ClientToken")
        parameters = {name: value for name, value in self.params.items() if name != "ClientToken"}
        fingerprint = json.dumps(parameters, default=str, sort_keys=True)
        key = (self.current_account, self.region, token or "")
        reservation = launched_before(key, fingerprint) if token else None
        if reservation is None:
            reservation = _launch(self, original)
            if token:
                _reservations[key] = fingerprint, reservation
                if len(_reservations) > MAX_TOKENS:
                    _reservations.popitem(last=False)
            if fleet.consume_fault("lost_launch_replies"):
                raise ec2_error("InternalError")
        return ActionResult(reservation)


def _launch(response: Any, original: Any) -> Any:
    """Launch instances as on EC2, where each has the instance profile, and the groups of its first interface."""
    _check_refused()
    backend, parameters = response.ec2_backend, with_template(response.ec2_backend, response.params)
    response.params = parameters
    minimum, maximum = int(parameters.get("MinCount", 1)), int(parameters.get("MaxCount", 1))
    pool = capacity_pool_of(backend, parameters)
    parameters["MinCount"] = count_to_start(
        minimum, maximum, fleet.free_capacity(pool), pool
    )  # moto starts this many
    profile = parameters.get("IamInstanceProfile") or {}
    with fleet.freeze():
        reservation = original(response).result
        for instance in reservation.instances[1:] if profile else []:  # moto gives the profile to the first
            backend.associate_iam_instance_profile(
                instance.id,
                iam_instance_profile_name=profile.get("Name"),
                iam_instance_profile_arn=profile.get("Arn"),
            )
        for instance in reservation.instances if parameters.get("NetworkInterfaces") else []:
            instance.security_groups = list(instance.nics[0].group_set)
    return reservation


@PATCHES.wrap(
    "moto.ec2.models.instances:InstanceBackend.run_instances",
    "computes nothing",
    "self image_id count user_data security_group_names kwargs",
)
def run_instances(original: Any, self: Any, *arguments: Any, **kwargs: Any) -> Any:
    """Launch instances, and boot them once they are complete."""
    reservation = original(self, *arguments, **kwargs)
    for instance in reservation.instances:
        fleet.boot(instance)
    return reservation
