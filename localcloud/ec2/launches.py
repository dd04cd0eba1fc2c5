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
from moto.ec2.exceptions import EC2ClientError, InvalidParameterCombination, MissingParameter
from moto.ec2.exceptions import InvalidLaunchTemplateVersionNotFound as UnknownVersionError
from moto.ec2.models.instance_types import INSTANCE_TYPES
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

_MESSAGES = {
    "InsufficientInstanceCapacity": "We currently do not have sufficient capacity.",
    "InternalError": "An internal error has occurred",
    "MaxSpotInstanceCountExceeded": "Max spot instance count exceeded",
    "RequestLimitExceeded": "Request limit exceeded.",
    "VcpuLimitExceeded": "You have requested more vCPU capacity than your current vCPU limit allows.",
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
    """Return the exception for an error code of EC2, by default with EC2's message, or one that names the switch."""
    text = message or _MESSAGES.get(code, "Refused, since the local cloud's switch launch_error says so.")
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


def check_launch(parameters: Mapping[str, Any]) -> None:
    """Check the parameters of a launch.

    Raises:
        EC2ClientError: MissingParameter without an image; InvalidParameterCombination for security groups together
            with network interfaces, which have their own, and for a one-time Spot instance with the behaviour to
            stop, since only a persistent one can be started again.
    """
    if not parameters.get("ImageId"):
        raise MissingParameter("The request must contain the parameter ImageId")
    if parameters.get("NetworkInterfaces") and (
        parameters.get("SecurityGroupIds") or parameters.get("SecurityGroups")
    ):
        raise InvalidParameterCombination(
            "Network interfaces and an instance-level security groups may not be specified on the same request"
        )
    if not is_one_time_spot(parameters):
        return
    interruption = _spot_options(parameters).get("InstanceInterruptionBehavior", "terminate")
    if interruption != "terminate":
        raise InvalidParameterCombination(
            f"The request with type 'one-time' is not supported when instanceInterruptionBehavior is set to "
            f"'{interruption}'."
        )
    if parameters.get("InstanceInitiatedShutdownBehavior") == "stop":
        raise InvalidParameterCombination(
            "The request with type 'one-time' is not supported when instanceInitiatedShutdownBehavior is set to "
            "'stop'."
        )


def check_architecture(ec2: Any, parameters: Mapping[str, Any]) -> None:
    """Check that instance type and image have the same architecture, as https://github.com/eksctl-io/eksctl/issues/8235.

    Images and types that moto does not know are not checked.

    Raises:
        EC2ClientError: InvalidParameterValue.
    """
    image, kind = ec2.amis.get(parameters["ImageId"]), INSTANCE_TYPES.get(parameters.get("InstanceType", ""))
    if image is None or kind is None:
        return
    supported = kind.get("ProcessorInfo", {}).get("SupportedArchitectures", [])
    if image.architecture and supported and image.architecture not in supported:
        raise EC2ClientError(
            "InvalidParameterValue",
            f"The architecture '{','.join(supported)}' of the specified instance type does not match the "
            f"architecture '{image.architecture}' of the specified AMI. Specify an instance type and an AMI that "
            "have matching architectures, and try again. You can use 'describe-instance-types' or 'describe-images' "
            "to discover the architecture of the instance type or AMI.",
        )


def is_spot(parameters: Mapping[str, Any]) -> bool:
    """Return True if a launch requests Spot instances."""
    return (parameters.get("InstanceMarketOptions") or {}).get("MarketType") == "spot"


def is_one_time_spot(parameters: Mapping[str, Any]) -> bool:
    """Return True if a launch requests one-time Spot instances (the default), which cannot be started again."""
    return is_spot(parameters) and _spot_options(parameters).get("SpotInstanceType", "one-time") == "one-time"


def _spot_options(parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    return (parameters.get("InstanceMarketOptions") or {}).get("SpotOptions") or {}


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
    return CapacityPool(parameters.get("InstanceType") or "m1.small", zone, is_spot(parameters))


MAX_TOKENS = 10_000
"""Largest number of stored client tokens."""


class Launches:
    """The launches of this cloud by client token, so that a repeated launch starts nothing."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._by_token: OrderedDict[tuple[str, str, str], tuple[str, Any]] = OrderedDict()

    def find(self, key: tuple[str, str, str], parameters: str) -> Any | None:
        """Return the reservation that a token launched before, or None.

        https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html has both errors.

        Raises:
            EC2ClientError: IdempotentParameterMismatch if the token was used with other parameters;
                IdempotentInstanceTerminated if all instances of the token have been terminated.
        """
        if key not in self._by_token:
            return None
        earlier, reservation = self._by_token[key]
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

    def store(self, key: tuple[str, str, str], parameters: str, reservation: Any) -> None:
        """Store the launch of a token, and drop the oldest if there are too many."""
        self._by_token[key] = parameters, reservation
        if len(self._by_token) > MAX_TOKENS:
            self._by_token.popitem(last=False)


_launches = Launches()


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
    with _launches.lock:
        token = self.params.get("ClientToken")
        parameters = {name: value for name, value in self.params.items() if name != "ClientToken"}
        fingerprint = json.dumps(parameters, default=str, sort_keys=True)
        key = (self.current_account, self.region, token or "")
        reservation = _launches.find(key, fingerprint) if token else None
        if reservation is None:
            reservation = _launch(self, original)
            if token:
                _launches.store(key, fingerprint, reservation)
            if fleet.consume_fault("lost_launch_replies"):
                raise ec2_error("InternalError")
        return ActionResult(reservation)


def _launch(response: Any, original: Any) -> Any:
    """Launch instances as on EC2, where each has the instance profile, and the groups of its first interface."""
    _check_refused()
    backend, parameters = response.ec2_backend, with_template(response.ec2_backend, response.params)
    response.params = parameters
    check_launch(parameters)
    check_architecture(backend, parameters)
    if is_one_time_spot(parameters):
        parameters["InstanceInitiatedShutdownBehavior"] = "terminate"
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
