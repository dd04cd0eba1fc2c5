"""What a launch asks for once its launch template is read into it, and what EC2 refuses of that.

Stock moto takes image, type, user data, key pair and security groups of a template, and drops the instance profile,
metadata options, network interfaces, market, shutdown behaviour and the tags of volumes.
"""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from moto.ec2.exceptions import EC2ClientError, InvalidParameterCombination, MissingParameter
from moto.ec2.exceptions import InvalidLaunchTemplateVersionNotFound as UnknownVersionError
from moto.ec2.models.instance_types import INSTANCE_TYPES

from localcloud.capacity import Place

Parameters = dict[str, Any]


def with_template(backend: Any, parameters: Mapping[str, Any]) -> Parameters:
    """Return the parameters of a launch, completed by its launch template; those of the call win.

    Tags are one set for each type of resource: a tag of the call replaces the template's with the same key.

    Args:
        backend: moto's EC2 of one account and region.
        parameters: of RunInstances.

    Raises:
        EC2ClientError: the template, or its version, does not exist.
    """
    asked = {name: value for name, value in parameters.items() if value is not None}
    if not (named := asked.get("LaunchTemplate")):
        return asked
    template = _data(backend, named)
    complete = {**template, **asked}
    tags = [*template.get("TagSpecifications", []), *asked.get("TagSpecifications", [])]
    if tags:
        complete["TagSpecifications"] = _one_of_each(tags)
    return complete


def _data(backend: Any, named: Mapping[str, Any]) -> Parameters:
    """Return what the named version of a template holds, as RunInstances would be told it."""
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


def _one_of_each(specifications: list[Mapping[str, Any]]) -> list[Parameters]:
    tags: dict[str, dict[str, str]] = {}
    for specification in specifications:
        of_type = tags.setdefault(specification["ResourceType"], {})
        of_type.update({tag["Key"]: tag.get("Value", "") for tag in specification.get("Tags", [])})
    return [
        {"ResourceType": name, "Tags": [{"Key": key, "Value": value} for key, value in of_type.items()]}
        for name, of_type in tags.items()
    ]


def check(parameters: Mapping[str, Any]) -> None:
    """Refuse what cannot be launched.

    Raises:
        EC2ClientError: MissingParameter without an image; InvalidParameterCombination for security groups beside
            network interfaces, which hold their own, and for a one-time Spot instance that is to stop, since only
            a persistent one can be started again.
    """
    if not parameters.get("ImageId"):
        raise MissingParameter("The request must contain the parameter ImageId")
    if parameters.get("NetworkInterfaces") and (
        parameters.get("SecurityGroupIds") or parameters.get("SecurityGroups")
    ):
        raise InvalidParameterCombination(
            "Network interfaces and an instance-level security groups may not be specified on the same request"
        )
    if is_one_time_spot(parameters):
        _check_one_time_spot(parameters)


def check_architecture(ec2: Any, parameters: Mapping[str, Any]) -> None:
    """Refuse a type of another architecture than that of the image, as https://github.com/eksctl-io/eksctl/issues/8235.

    Args:
        ec2: moto's backend; images and types that it does not know are not looked at.
        parameters: of the launch.

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


def _check_one_time_spot(parameters: Mapping[str, Any]) -> None:
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


def is_spot(parameters: Mapping[str, Any]) -> bool:
    """Return True if a launch asks for Spot instances."""
    return (parameters.get("InstanceMarketOptions") or {}).get("MarketType") == "spot"


def is_one_time_spot(parameters: Mapping[str, Any]) -> bool:
    """Return True if a launch asks for one-time Spot instances, which cannot be started again (the default)."""
    return is_spot(parameters) and _spot_options(parameters).get("SpotInstanceType", "one-time") == "one-time"


def _spot_options(parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    return (parameters.get("InstanceMarketOptions") or {}).get("SpotOptions") or {}


def place_of(backend: Any, parameters: Mapping[str, Any]) -> Place:
    """Return which capacity a launch asks for; without a subnet or a zone it is the region's first zone, as in moto.

    Raises:
        EC2ClientError: the subnet does not exist.
    """
    interfaces = parameters.get("NetworkInterfaces") or []
    subnet = parameters.get("SubnetId") or next((i["SubnetId"] for i in interfaces if i.get("SubnetId")), None)
    if subnet:
        zone = backend.get_subnet(subnet).availability_zone
    else:
        zone = (parameters.get("Placement") or {}).get("AvailabilityZone") or f"{backend.region_name}a"
    return Place(parameters.get("InstanceType") or "m1.small", zone, is_spot(parameters))
