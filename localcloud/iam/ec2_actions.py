"""The permissions that a call of EC2 needs (list_amazonec2.html).

A call on instances or tags needs its action on each resource that it names, a launch on each resource that it creates
or uses, and any other call on ``*``.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from moto.core.parse import PROTOCOL_PARSERS
from moto.core.utils import get_service_model
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models import ec2_backends
from moto.ec2.utils import EC2_PREFIX_TO_RESOURCE
from moto.iam.models import iam_backends
from moto.utilities.utils import get_partition

from localcloud.ec2.launches import capacity_pool_of, is_spot, with_template
from localcloud.iam.calls import ApiCall
from localcloud.iam.policies import Context, PermissionCheck

_ON_INSTANCES = frozenset(
    {"GetConsoleOutput", "RebootInstances", "StartInstances", "StopInstances", "TerminateInstances"}
)

_ON_TAGS = frozenset({"CreateTags", "DeleteTags"})

_KINDS = {**EC2_PREFIX_TO_RESOURCE, "sir": "spot-instances-request"}


def ec2_checks(call: ApiCall) -> Iterable[PermissionCheck]:
    """Yield the checks of a call."""
    context: Context = {"ec2:region": (call.region,)}
    if call.operation not in {"RunInstances", *_ON_INSTANCES, *_ON_TAGS}:
        yield PermissionCheck(f"ec2:{call.operation}", "*", context)
        return
    operation = get_service_model("ec2").operation_model(call.operation)
    parameters: dict[str, Any] = PROTOCOL_PARSERS["ec2"](operation, map_type=dict).parse({"values": call.fields})
    backend = ec2_backends[call.account][call.region]
    if call.operation == "RunInstances":
        launch = _LaunchRequest(call, backend, parameters)
        yield from launch.resources()
        yield from launch.tags()
        yield from launch.roles()
        return
    if call.operation in _ON_INSTANCES:
        ids = parameters.get("InstanceIds") or [parameters.get("InstanceId", "")]
    else:
        ids, context = parameters.get("Resources", []), {**context, **_request_tags(parameters.get("Tags", []))}
    for each in ids:
        kind = _KINDS.get(each.rpartition("-")[0])
        arn = call.arn("ec2", f"{kind}/{each}", of_account=kind != "image") if kind else "*"
        tags = {
            f"{prefix}:resourcetag/{key.lower()}": (str(value),)
            for key, value in backend.tags.get(each, {}).items()
            for prefix in ("aws", "ec2")
        }
        yield PermissionCheck(f"ec2:{call.operation}", arn, {**context, **tags})


_RUN, _SPOT = "ec2:RunInstances", "spot.amazonaws.com"


def _request_tags(tags: Iterable[Mapping[str, str]]) -> Context:
    """Return the condition keys of the tags that a request sets or removes."""
    pairs = {str(tag["Key"]): str(tag.get("Value", "")) for tag in tags}
    named = {f"aws:requesttag/{key.lower()}": (value,) for key, value in pairs.items()}
    return {**named, "aws:tagkeys": tuple(pairs)}


class _LaunchRequest:
    """The checks of a launch: each resource that it creates or uses, its tags, and roles.

    https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/permissions-for-launch-templates.html describes the effect of
    a launch template. A launch also needs the right to pass the instance profile's role, to tag the new resources,
    and, for the first Spot instance of an account, to create the role with which EC2 manages these. This cloud never
    has that role, so every Spot launch needs the right.
    """

    def __init__(self, call: ApiCall, backend: Any, parameters: Mapping[str, Any]) -> None:
        self.call, self.backend, self.own = call, backend, frozenset(parameters)
        self.parameters, self.template = dict(parameters), ""
        try:
            self.parameters = with_template(backend, parameters)
        except EC2ClientError:  # the template does not exist, so the launch will fail
            return
        if named := parameters.get("LaunchTemplate"):
            if "LaunchTemplateId" in named:
                template = backend.get_launch_template(named["LaunchTemplateId"])
            else:
                template = backend.get_launch_template_by_name(named["LaunchTemplateName"])
            self.template = call.arn("ec2", f"launch-template/{template.id}")

    def resources(self) -> Iterator[PermissionCheck]:
        """Yield a check for each resource that the launch creates or uses."""
        if self.template:
            yield PermissionCheck(_RUN, self.template, self._context())
        yield self._check(f"image/{self.parameters.get('ImageId', '')}", "ImageId")
        yield self._check("instance/*", None, self._instance())
        subnet, groups = self._network()
        yield self._check(f"subnet/{subnet}", "SubnetId")
        yield self._check("network-interface/*", "NetworkInterfaces")
        for group in groups:
            yield self._check(f"security-group/{group}", "SecurityGroupIds")
        disks = [each.get("Ebs") or {} for each in self.parameters.get("BlockDeviceMappings", [])]
        for disk in disks or [{}]:
            encrypted, kind = str(bool(disk.get("Encrypted"))).lower(), str(disk.get("VolumeType", "gp2"))
            more = {"ec2:encrypted": (encrypted,), "ec2:volumetype": (kind,)}
            yield self._check("volume/*", "BlockDeviceMappings", more)
        if key := self.parameters.get("KeyName"):
            yield self._check(f"key-pair/{key}", "KeyName")
        if is_spot(self.parameters):
            yield self._check("spot-instances-request/*", "InstanceMarketOptions")

    def tags(self) -> Iterator[PermissionCheck]:
        """Yield the checks of the tags of the new resources."""
        for each in self.parameters.get("TagSpecifications", []):
            context = {"ec2:createaction": ("RunInstances",), **_request_tags(each.get("Tags", []))}
            arn = self.call.arn("ec2", f"{each['ResourceType']}/*")
            yield PermissionCheck("ec2:CreateTags", arn, {"ec2:region": (self.call.region,), **context})

    def roles(self) -> Iterator[PermissionCheck]:
        """Yield the checks of the instance's role and of the role for Spot instances."""
        profile = self._profile()
        for role in profile.roles if profile is not None else []:
            passed = {"iam:passedtoservice": ("ec2.amazonaws.com",)}
            yield PermissionCheck("iam:PassRole", role.arn, passed)
        if is_spot(self.parameters):
            partition = get_partition(self.call.region)
            name = f"role/aws-service-role/{_SPOT}/AWSServiceRoleForEC2Spot"
            arn = f"arn:{partition}:iam::{self.call.account}:{name}"
            yield PermissionCheck("iam:CreateServiceLinkedRole", arn, {"iam:awsservicename": (_SPOT,)})

    def _check(self, resource: str, parameter: str | None, more: Context | None = None) -> PermissionCheck:
        arn = self.call.arn("ec2", resource, of_account=not resource.startswith("image/"))
        return PermissionCheck(_RUN, arn, {**self._context(parameter), **(more or {})})

    def _context(self, parameter: str | None = None) -> Context:
        """Return the condition keys of a resource, and whether the template names it instead of the call."""
        given = bool(self.template) and parameter not in self.own
        if parameter == "SubnetId" and parameter not in self.parameters:
            given = False
        template = {"ec2:launchtemplate": (self.template,)} if self.template else {}
        region = {"ec2:region": (self.call.region,)}
        return {**region, **template, "ec2:islaunchtemplateresource": (str(given).lower(),)}

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
        tags = _request_tags(tag for each in tagged for tag in each.get("Tags", []))
        return {**{key: (str(value),) for key, value in known.items() if value}, **tags}

    def _network(self) -> tuple[str, list[str]]:
        """Return subnet and security groups: the named ones, or else the defaults of the zone and the VPC."""
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
        if not groups and (default := self.backend.get_default_security_group()) is not None:
            groups = [default.id]
        return str(subnet_id), [str(group) for group in groups]

    def _profile(self) -> Any | None:
        named = self.parameters.get("IamInstanceProfile") or {}
        profiles = iam_backends[self.call.account][get_partition(self.call.region)].instance_profiles.values()
        return next(
            (each for each in profiles if each.arn == named.get("Arn") or each.name == named.get("Name")), None
        )
