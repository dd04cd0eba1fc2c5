"""What EC2 asks about a launch: may each thing that it makes and uses be made and used so.

Resources and keys are RunInstances' of list_amazonec2.html; how a launch template changes them is in
https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/permissions-for-launch-templates.html. Besides, it asks to pass
the instance profile's role, to tag what is launched, and, for the first Spot instance of an account, to make the role
with which EC2 serves those; this cloud never has that role, so every Spot launch asks.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from moto.ec2.exceptions import EC2ClientError
from moto.iam.models import iam_backends
from moto.utilities.utils import get_partition

from localcloud.ec2.launches import capacity_pool_of, is_spot, with_template
from localcloud.iam.calls import Call
from localcloud.iam.conditions import Context
from localcloud.iam.documents import Asked

_RUN, _SPOT = "ec2:RunInstances", "spot.amazonaws.com"


def questions(call: Call, backend: Any, asked: Mapping[str, Any]) -> Iterable[Asked]:
    """Yield all that a launch asks for.

    Args:
        call: the request.
        backend: moto's EC2 of its account and region.
        asked: its parameters.
    """
    launch = _Launch.of(call, backend, asked)
    yield from launch.things()
    yield from launch.tags()
    yield from launch.roles()


def request_tags(tags: Iterable[Mapping[str, str]]) -> Context:
    """Return what conditions may ask about the tags that a request sets or takes."""
    pairs = {str(tag["Key"]): str(tag.get("Value", "")) for tag in tags}
    named = {f"aws:requesttag/{key.lower()}": (value,) for key, value in pairs.items()}
    return {**named, "aws:tagkeys": tuple(pairs)}


@dataclass(frozen=True)
class _Launch:
    """A launch: its parameters with those of its template, which of them the call has itself, the template's ARN."""

    call: Call
    backend: Any
    parameters: Mapping[str, Any]
    own: frozenset[str]
    template: str | None

    @classmethod
    def of(cls, call: Call, backend: Any, asked: Mapping[str, Any]) -> "_Launch":
        own, named = frozenset(asked), asked.get("LaunchTemplate")
        try:
            complete, template = with_template(backend, asked), _template(call, backend, named) if named else None
        except EC2ClientError:  # there is no such template, which the launch will be told
            complete, template = dict(asked), None
        return cls(call, backend, complete, own, template)

    def things(self) -> Iterator[Asked]:
        """Yield a question for each thing that the launch makes or uses."""
        if self.template is not None:
            yield Asked(_RUN, self.template, self._context())
        yield self._thing(f"image/{self.parameters.get('ImageId', '')}", "ImageId")
        yield self._thing("instance/*", None, self._instance())
        subnet, groups = self._network()
        yield self._thing(f"subnet/{subnet}", "SubnetId")
        yield self._thing("network-interface/*", "NetworkInterfaces")
        for group in groups:
            yield self._thing(f"security-group/{group}", "SecurityGroupIds")
        for disk in self._disks():
            yield self._thing("volume/*", "BlockDeviceMappings", disk)
        if key := self.parameters.get("KeyName"):
            yield self._thing(f"key-pair/{key}", "KeyName")
        if is_spot(self.parameters):
            yield self._thing("spot-instances-request/*", "InstanceMarketOptions")

    def tags(self) -> Iterator[Asked]:
        """Yield the questions about the tags that are set with the launch."""
        for each in self.parameters.get("TagSpecifications", []):
            context = {"ec2:createaction": ("RunInstances",), **request_tags(each.get("Tags", []))}
            arn = self.call.arn("ec2", f"{each['ResourceType']}/*")
            yield Asked("ec2:CreateTags", arn, {**self._region(), **context})

    def roles(self) -> Iterator[Asked]:
        """Yield the questions about the role that the instance is given, and about the one of Spot instances."""
        profile = self._profile()
        for role in profile.roles if profile is not None else []:
            passed = {"iam:passedtoservice": ("ec2.amazonaws.com",)}
            yield Asked("iam:PassRole", role.arn, passed)
        if is_spot(self.parameters):
            partition = get_partition(self.call.region)
            name = f"role/aws-service-role/{_SPOT}/AWSServiceRoleForEC2Spot"
            arn = f"arn:{partition}:iam::{self.call.account}:{name}"
            yield Asked("iam:CreateServiceLinkedRole", arn, {"iam:awsservicename": (_SPOT,)})

    def _thing(self, resource: str, parameter: str | None, more: Context | None = None) -> Asked:
        arn = self.call.arn("ec2", resource, of_account=not resource.startswith("image/"))
        return Asked(_RUN, arn, {**self._context(parameter), **(more or {})})

    def _context(self, parameter: str | None = None) -> Context:
        """Return what is known of each thing, and whether the template gives it and not a parameter of the call."""
        given = self.template is not None and parameter not in self.own
        if parameter == "SubnetId" and parameter not in self.parameters:
            given = False
        template = {"ec2:launchtemplate": (self.template,)} if self.template is not None else {}
        return {**self._region(), **template, "ec2:islaunchtemplateresource": (str(given).lower(),)}

    def _region(self) -> Context:
        return {"ec2:region": (self.call.region,)}

    def _instance(self) -> Context:
        metadata = self.parameters.get("MetadataOptions") or {}
        profile = self._profile()
        known = {
            "ec2:instancetype": self.parameters.get("InstanceType", "m1.small"),
            "ec2:instancemarkettype": "spot" if is_spot(self.parameters) else "on-demand",
            "ec2:metadatahttptokens": metadata.get("HttpTokens", "optional"),
            "ec2:metadatahttpendpoint": metadata.get("HttpEndpoint", "enabled"),
            "ec2:metadatahttpputresponsehoplimit": str(metadata.get("HttpPutResponseHopLimit", 1)),
            "ec2:instanceprofile": profile.arn if profile is not None else None,
        }
        tagged = [each for each in self.parameters.get("TagSpecifications", []) if each["ResourceType"] == "instance"]
        tags = request_tags(tag for each in tagged for tag in each.get("Tags", []))
        return {**{key: (str(value),) for key, value in known.items() if value}, **tags}

    def _disks(self) -> list[Context]:
        mappings = [each.get("Ebs") or {} for each in self.parameters.get("BlockDeviceMappings", [])] or [{}]
        return [
            {
                "ec2:encrypted": (str(bool(disk.get("Encrypted"))).lower(),),
                "ec2:volumetype": (str(disk.get("VolumeType", "gp2")),),
            }
            for disk in mappings
        ]

    def _network(self) -> tuple[str, list[str]]:
        """Return subnet and security groups: those that are named, or else the defaults of the zone and the VPC."""
        interfaces = self.parameters.get("NetworkInterfaces") or [{}]
        subnet_id = self.parameters.get("SubnetId") or interfaces[0].get("SubnetId")
        if not subnet_id:
            zone = capacity_pool_of(self.backend, self.parameters).zone
            subnets = self.backend.get_default_subnets()
            subnet_id = subnets[zone].id if zone in subnets else "*"
        groups = list(self.parameters.get("SecurityGroupIds") or interfaces[0].get("Groups") or [])
        named = [
            self.backend.get_security_group_from_name(each) for each in self.parameters.get("SecurityGroups", [])
        ]
        groups += [group.id for group in named if group is not None]
        return str(subnet_id), [str(group) for group in groups] or self._default_groups()

    def _default_groups(self) -> list[str]:
        group = self.backend.get_default_security_group()
        return [str(group.id)] if group is not None else []

    def _profile(self) -> Any | None:
        named = self.parameters.get("IamInstanceProfile") or {}
        profiles = iam_backends[self.call.account][get_partition(self.call.region)].instance_profiles.values()
        return next(
            (each for each in profiles if each.arn == named.get("Arn") or each.name == named.get("Name")), None
        )


def _template(call: Call, backend: Any, named: Mapping[str, Any]) -> str:
    if "LaunchTemplateId" in named:
        template = backend.get_launch_template(named["LaunchTemplateId"])
    else:
        template = backend.get_launch_template_by_name(named["LaunchTemplateName"])
    return call.arn("ec2", f"launch-template/{template.id}")
