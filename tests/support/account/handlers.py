"""How each type of resource is created and deleted: by the same calls that any client makes."""

import contextlib
import json
import secrets
import string
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from botocore.exceptions import ClientError

from tests.support.account.template import Resource, StackError


def coerce(value: Any, shape: Any) -> Any:
    """Return a value of a template in the types of an API: the text "30" becomes a number, or a number becomes text.

    botocore rejects other types than those of `shape`, a ``botocore.model.Shape``. A text that is no number raises
    ValueError.
    """
    coerced = value
    match shape.type_name, value:
        case "structure", dict():
            members = shape.members
            coerced = {name: coerce(one, members[name]) if name in members else one for name, one in value.items()}
        case "list", list():
            coerced = [coerce(one, shape.member) for one in value]
        case "map", dict():
            coerced = {str(name): coerce(one, shape.value) for name, one in value.items()}
        case "string", bool() | dict() | int() | float():
            coerced = json.dumps(value)
        case "boolean", str():
            coerced = {"true": True, "false": False}.get(value.lower(), value)
        case "integer" | "long", str():
            coerced = int(value)
        case "double" | "float", str() | int():
            coerced = float(value)
    return coerced


INSTANCES_SECONDS = 120.0
"""Longest time in seconds in which the instances of a deleted Auto Scaling group may end."""

ClientOf = Callable[[str], Any]
"""Returns a boto client of a service in the stack's region."""

_MISSING = (
    "NotFound", "NoSuchEntity", "NoSuchBucket", "NoSuchDistribution", "NonExistentQueue", "DoesNotExist",
)  # fmt: skip
"""Parts of the error codes of resources that do not exist."""


SUFFIX_LENGTH = 12


def name_for(stack: str, logical_id: str, max_length: int) -> str:
    """Return a new name for a resource without a name in the template."""
    suffix = "".join(secrets.choice(string.ascii_uppercase + string.digits) for _ in range(SUFFIX_LENGTH))
    return f"{stack}-{logical_id}"[: max_length - SUFFIX_LENGTH - 1] + f"-{suffix}"


@dataclass(frozen=True)
class StackServices:
    """The services that create a stack's resources, which get its tags, too."""

    account: str
    region: str
    stack_name: str
    client: ClientOf
    tags: Mapping[str, str] = field(default_factory=dict)

    def call(self, service: str, operation: str, **parameters: Any) -> dict[str, Any]:
        """Call a service, without parameters that are None, and with all values in the API's types."""
        client = self.client(service)
        model = client.meta.service_model.operation_model(client.meta.method_to_api_mapping[operation])
        given = {name: value for name, value in parameters.items() if value is not None}
        result: dict[str, Any] = getattr(client, operation)(**coerce(given, model.input_shape))
        return result

    def name(self, resource: Resource, key: str, max_length: int = 255) -> str:
        """Return the name in a property of a resource, or a new name."""
        return resource.properties.get(key) or name_for(self.stack_name, resource.logical_id, max_length)

    def tags_of(self, properties: Mapping[str, Any]) -> dict[str, str]:
        """Return a resource's own tags and the stack's."""
        own = properties.get("Tags") or {}
        listed = own.items() if isinstance(own, Mapping) else ((tag["Key"], tag["Value"]) for tag in own)
        return {**self.tags, **{str(key): str(value) for key, value in listed}}

    def tag_list(self, properties: Mapping[str, Any]) -> list[dict[str, str]]:
        """Return the same tags in the form of most services."""
        return [{"Key": key, "Value": value} for key, value in self.tags_of(properties).items()]

    def tag_specification(self, kind: str, properties: Mapping[str, Any]) -> list[dict[str, Any]] | None:
        """Return the same tags in the form of EC2, or None without tags."""
        tags = self.tag_list(properties)
        return [{"ResourceType": kind, "Tags": tags}] if tags else None


class PhysicalResource(NamedTuple):
    """The values of ``Ref`` and ``Fn::GetAtt`` of a created resource."""

    physical_id: str
    attributes: Mapping[str, str] = {}


Create = Callable[[StackServices, Resource], PhysicalResource]
Delete = Callable[[StackServices, Resource], None]


class ResourceHandler(NamedTuple):
    """Creates and deletes resources of one type; deleting a resource that does not exist has no effect."""

    create: Create
    delete: Delete


HANDLERS: dict[str, ResourceHandler] = {}
"""The types of resources that exist in a service."""


def creates(resource_type: str, delete: Delete) -> Callable[[Create], Create]:
    """Return a decorator of the function that creates resources of a type."""

    def register(create: Create) -> Create:
        HANDLERS[resource_type] = ResourceHandler(create, delete)
        return create

    return register


@contextlib.contextmanager
def missing_is_deleted() -> Iterator[None]:
    """Ignore the error of a call that deletes a resource which does not exist."""
    try:
        yield
    except ClientError as error:
        if not any(part in error.response["Error"]["Code"] for part in _MISSING):
            raise


def deleted_by(service: str, operation: str, key: str, attribute: str = "", also: tuple[str, ...] = ()) -> Delete:
    """Return a function that deletes a resource with one call.

    The value of the parameter `key` is the resource's physical id, or one of its attributes. The call also gets the
    properties `also`.
    """

    def delete(cloud: StackServices, resource: Resource) -> None:
        value: Any = resource.attributes[attribute] if attribute else resource.physical_id
        more = {name: resource.properties[name] for name in also}
        with missing_is_deleted():
            cloud.call(service, operation, **{key: value}, **more)

    return delete


def _put_policy(cloud: StackServices, role: str, policy: Mapping[str, Any]) -> None:
    document = json.dumps(policy["PolicyDocument"])
    cloud.call("iam", "put_role_policy", RoleName=role, PolicyName=policy["PolicyName"], PolicyDocument=document)


def delete_role(cloud: StackServices, resource: Resource) -> None:
    """Delete a role with its inline policies."""
    role = {"RoleName": resource.physical_id}
    with missing_is_deleted():
        for name in cloud.call("iam", "list_role_policies", **role)["PolicyNames"]:
            cloud.call("iam", "delete_role_policy", **role, PolicyName=name)
        cloud.call("iam", "delete_role", **role)


@creates("AWS::IAM::Role", delete_role)
def create_role(cloud: StackServices, resource: Resource) -> PhysicalResource:
    """Create a role with its inline policies."""
    wanted, name = resource.properties, cloud.name(resource, "RoleName", 64)
    document = json.dumps(wanted["AssumeRolePolicyDocument"])
    role = cloud.call(
        "iam", "create_role", RoleName=name, AssumeRolePolicyDocument=document, Path=wanted.get("Path"),
        Tags=cloud.tag_list(wanted),
    )["Role"]  # fmt: skip
    for policy in wanted.get("Policies", []):
        _put_policy(cloud, name, policy)
    return PhysicalResource(name, {"Arn": role["Arn"], "RoleId": role["RoleId"]})


def delete_policy(cloud: StackServices, resource: Resource) -> None:
    """Delete a policy from each of its roles."""
    for role in resource.properties["Roles"]:
        with missing_is_deleted():
            cloud.call("iam", "delete_role_policy", RoleName=role, PolicyName=resource.properties["PolicyName"])


@creates("AWS::IAM::Policy", delete_policy)
def create_policy(cloud: StackServices, resource: Resource) -> PhysicalResource:
    """Create a policy in each of its roles."""
    for role in resource.properties["Roles"]:
        _put_policy(cloud, role, resource.properties)
    return PhysicalResource(name_for(cloud.stack_name, resource.logical_id, 32))


def delete_instance_profile(cloud: StackServices, resource: Resource) -> None:
    """Remove the roles of a profile and delete it."""
    profile = {"InstanceProfileName": resource.physical_id}
    with missing_is_deleted():
        for role in resource.properties["Roles"]:
            cloud.call("iam", "remove_role_from_instance_profile", **profile, RoleName=role)
        cloud.call("iam", "delete_instance_profile", **profile)


@creates("AWS::IAM::InstanceProfile", delete_instance_profile)
def create_instance_profile(cloud: StackServices, resource: Resource) -> PhysicalResource:
    """Create a profile of roles."""
    name = cloud.name(resource, "InstanceProfileName", 128)
    profile = cloud.call("iam", "create_instance_profile", InstanceProfileName=name)["InstanceProfile"]
    for role in resource.properties["Roles"]:
        cloud.call("iam", "add_role_to_instance_profile", InstanceProfileName=name, RoleName=role)
    return PhysicalResource(name, {"Arn": profile["Arn"]})


@creates("AWS::Cognito::UserPool", deleted_by("cognito-idp", "delete_user_pool", "UserPoolId"))
def create_user_pool(cloud: StackServices, resource: Resource) -> PhysicalResource:
    """Create a user pool."""
    wanted = resource.properties
    apart = {"UserPoolName", "UserPoolTags", "EnabledMfas", "MfaConfiguration"}
    pool = cloud.call(
        "cognito-idp", "create_user_pool", PoolName=cloud.name(resource, "UserPoolName", 128),
        UserPoolTags=cloud.tags_of({"Tags": wanted.get("UserPoolTags")}),
        **{name: value for name, value in wanted.items() if name not in apart},
    )["UserPool"]  # fmt: skip
    cloud.call(
        "cognito-idp", "set_user_pool_mfa_config", UserPoolId=pool["Id"],
        SoftwareTokenMfaConfiguration={"Enabled": "SOFTWARE_TOKEN_MFA" in wanted.get("EnabledMfas", ())},
        MfaConfiguration=wanted.get("MfaConfiguration", "OFF"),
    )  # fmt: skip
    return PhysicalResource(pool["Id"], {"Arn": pool["Arn"], "UserPoolId": pool["Id"]})


@creates(
    "AWS::Cognito::UserPoolClient",
    deleted_by("cognito-idp", "delete_user_pool_client", "ClientId", also=("UserPoolId",)),
)
def create_user_pool_client(cloud: StackServices, resource: Resource) -> PhysicalResource:
    """Create a client of a user pool."""
    wanted = {**resource.properties, "ClientName": cloud.name(resource, "ClientName", 128)}
    return PhysicalResource(
        cloud.call("cognito-idp", "create_user_pool_client", **wanted)["UserPoolClient"]["ClientId"]
    )


@creates("AWS::Cognito::UserPoolGroup", deleted_by("cognito-idp", "delete_group", "GroupName", also=("UserPoolId",)))
def create_user_pool_group(cloud: StackServices, resource: Resource) -> PhysicalResource:
    """Create a group of a user pool."""
    cloud.call("cognito-idp", "create_group", **resource.properties)
    return PhysicalResource(resource.properties["GroupName"])


@creates("AWS::EC2::SecurityGroup", deleted_by("ec2", "delete_security_group", "GroupId"))
def create_security_group(cloud: StackServices, resource: Resource) -> PhysicalResource:
    """Create a group without its rules, which would have no effect: machines have addresses on loopback only."""
    wanted = resource.properties
    group = cloud.call(
        "ec2", "create_security_group", GroupName=cloud.name(resource, "GroupName"), VpcId=wanted.get("VpcId"),
        Description=wanted["GroupDescription"],
        TagSpecifications=cloud.tag_specification("security-group", wanted),
    )["GroupId"]  # fmt: skip
    return PhysicalResource(group, {"GroupId": group})


@creates("AWS::EC2::EIP", deleted_by("ec2", "release_address", "AllocationId", "AllocationId"))
def create_address(cloud: StackServices, resource: Resource) -> PhysicalResource:
    """Create an address that stays."""
    tags = cloud.tag_specification("elastic-ip", resource.properties)
    created = cloud.call("ec2", "allocate_address", Domain="vpc", TagSpecifications=tags)
    return PhysicalResource(
        created["PublicIp"], {"AllocationId": created["AllocationId"], "PublicIp": created["PublicIp"]}
    )


@creates("AWS::EC2::LaunchTemplate", deleted_by("ec2", "delete_launch_template", "LaunchTemplateId"))
def create_launch_template(cloud: StackServices, resource: Resource) -> PhysicalResource:
    """Create a launch template."""
    wanted = resource.properties
    own = [one for one in wanted.get("TagSpecifications", []) if one["ResourceType"] == "launch-template"]
    created = cloud.call(
        "ec2", "create_launch_template", LaunchTemplateName=cloud.name(resource, "LaunchTemplateName", 128),
        LaunchTemplateData=wanted["LaunchTemplateData"],
        TagSpecifications=cloud.tag_specification("launch-template", own[0] if own else {}),
    )["LaunchTemplate"]  # fmt: skip
    names = ("LaunchTemplateId", "LatestVersionNumber", "DefaultVersionNumber")
    return PhysicalResource(created["LaunchTemplateId"], {name: str(created[name]) for name in names})


def delete_auto_scaling_group(cloud: StackServices, resource: Resource) -> None:
    """Delete a group and wait until its instances have ended."""
    name = resource.physical_id
    groups = cloud.call("autoscaling", "describe_auto_scaling_groups", AutoScalingGroupNames=[name])
    instances = [one["InstanceId"] for group in groups["AutoScalingGroups"] for one in group["Instances"]]
    with missing_is_deleted():
        cloud.call("autoscaling", "delete_auto_scaling_group", AutoScalingGroupName=name, ForceDelete=True)
    deadline = time.monotonic() + INSTANCES_SECONDS
    while instances:
        filters = [
            {"Name": "instance-id", "Values": instances},
            {"Name": "instance-state-name", "Values": ["pending", "running", "shutting-down", "stopping", "stopped"]},
        ]
        if not cloud.call("ec2", "describe_instances", Filters=filters)["Reservations"]:
            return
        if time.monotonic() > deadline:
            raise StackError(f"after {INSTANCES_SECONDS:.0f} s some of these instances still run: {instances}")
        time.sleep(0.1)


@creates("AWS::AutoScaling::AutoScalingGroup", delete_auto_scaling_group)
def create_auto_scaling_group(cloud: StackServices, resource: Resource) -> PhysicalResource:
    """Create a group; its instances may still be pending, and they are not registered with any load balancer."""
    wanted, name = resource.properties, cloud.name(resource, "AutoScalingGroupName")
    left_out = {"AutoScalingGroupName", "TargetGroupARNs", "LoadBalancerNames", "Tags", "VPCZoneIdentifier"}
    own = {tag["Key"]: tag for tag in wanted.get("Tags", [])}
    tags = [{"Key": key, "Value": value, "PropagateAtLaunch": True} for key, value in cloud.tags.items()]
    tags = [*(tag for tag in tags if tag["Key"] not in own), *own.values()]
    cloud.call(
        "autoscaling", "create_auto_scaling_group", AutoScalingGroupName=name,
        VPCZoneIdentifier=",".join(wanted["VPCZoneIdentifier"]),
        Tags=[{**tag, "ResourceId": name, "ResourceType": "auto-scaling-group"} for tag in tags],
        **{key: value for key, value in wanted.items() if key not in left_out},
    )  # fmt: skip
    return PhysicalResource(name)


@creates("AWS::S3::Bucket", deleted_by("s3", "delete_bucket", "Bucket"))
def create_bucket(cloud: StackServices, resource: Resource) -> PhysicalResource:
    """Create a bucket with its CORS rules and tags; its other settings have no effect here."""
    wanted, name, region = resource.properties, cloud.name(resource, "BucketName", 63).lower(), cloud.region
    where = None if region == "us-east-1" else {"LocationConstraint": region}
    cloud.call("s3", "create_bucket", Bucket=name, CreateBucketConfiguration=where)
    names = {"Id": "ID", "MaxAge": "MaxAgeSeconds", "ExposedHeaders": "ExposeHeaders"}
    if rules := wanted.get("CorsConfiguration", {}).get("CorsRules"):
        allowed = [{names.get(key, key): value for key, value in rule.items()} for rule in rules]
        cloud.call("s3", "put_bucket_cors", Bucket=name, CORSConfiguration={"CORSRules": allowed})
    if tags := cloud.tag_list(wanted):
        cloud.call("s3", "put_bucket_tagging", Bucket=name, Tagging={"TagSet": tags})
    domain = f"{name}.s3.{region}.amazonaws.com"
    return PhysicalResource(name, {"Arn": f"arn:aws:s3:::{name}", "RegionalDomainName": domain})


@creates("AWS::DynamoDB::Table", deleted_by("dynamodb", "delete_table", "TableName"))
def create_table(cloud: StackServices, resource: Resource) -> PhysicalResource:
    """Create a table with its time to live, point-in-time recovery and tags; other settings have no effect here."""
    wanted, name = resource.properties, cloud.name(resource, "TableName")
    keys = ("AttributeDefinitions", "KeySchema", "BillingMode", "DeletionProtectionEnabled")
    created = cloud.call(
        "dynamodb", "create_table", TableName=name, Tags=cloud.tag_list(wanted) or None,
        **{key: wanted.get(key) for key in keys},
    )["TableDescription"]  # fmt: skip
    if ttl := wanted.get("TimeToLiveSpecification"):
        cloud.call("dynamodb", "update_time_to_live", TableName=name, TimeToLiveSpecification=ttl)
    if recovery := wanted.get("PointInTimeRecoverySpecification"):
        cloud.call("dynamodb", "update_continuous_backups", TableName=name, PointInTimeRecoverySpecification=recovery)
    return PhysicalResource(name, {"Arn": created["TableArn"]})


@creates("AWS::SQS::Queue", deleted_by("sqs", "delete_queue", "QueueUrl"))
def create_queue(cloud: StackServices, resource: Resource) -> PhysicalResource:
    """Create a queue."""
    wanted, name = resource.properties, cloud.name(resource, "QueueName", 80)
    attributes = {key: value for key, value in wanted.items() if key not in {"QueueName", "Tags"}}
    tags = cloud.tags_of(wanted) or None
    url = cloud.call("sqs", "create_queue", QueueName=name, Attributes=attributes, tags=tags)["QueueUrl"]
    found = cloud.call("sqs", "get_queue_attributes", QueueUrl=url, AttributeNames=["QueueArn"])
    return PhysicalResource(url, {"Arn": found["Attributes"]["QueueArn"], "QueueName": name})


@creates("AWS::SSM::Parameter", deleted_by("ssm", "delete_parameter", "Name"))
def create_stored_parameter(cloud: StackServices, resource: Resource) -> PhysicalResource:
    """Create a parameter of the parameter store."""
    wanted, name = resource.properties, cloud.name(resource, "Name")
    tags = cloud.tag_list(wanted) or None
    cloud.call("ssm", "put_parameter", Name=name, Type=wanted["Type"], Value=wanted["Value"], Tags=tags)
    return PhysicalResource(name)


@creates("AWS::Logs::LogGroup", deleted_by("logs", "delete_log_group", "logGroupName"))
def create_log_group(cloud: StackServices, resource: Resource) -> PhysicalResource:
    """Create a log group with its retention."""
    wanted, name = resource.properties, cloud.name(resource, "LogGroupName")
    cloud.call("logs", "create_log_group", logGroupName=name, tags=cloud.tags_of(wanted) or None)
    if days := wanted.get("RetentionInDays"):
        cloud.call("logs", "put_retention_policy", logGroupName=name, retentionInDays=days)
    return PhysicalResource(name, {"Arn": f"arn:aws:logs:{cloud.region}:{cloud.account}:log-group:{name}:*"})


def delete_distribution(cloud: StackServices, resource: Resource) -> None:
    """Delete a disabled distribution."""
    with missing_is_deleted():
        version = cloud.call("cloudfront", "get_distribution", Id=resource.physical_id)["ETag"]
        cloud.call("cloudfront", "delete_distribution", Id=resource.physical_id, IfMatch=version)


@creates("AWS::CloudFront::Distribution", delete_distribution)
def create_distribution(cloud: StackServices, resource: Resource) -> PhysicalResource:
    """Create a distribution that accepts invalidations and serves nothing: it has tags, but none of its settings."""
    config = {
        "CallerReference": name_for(cloud.stack_name, resource.logical_id, 128),
        "Comment": "",
        "Enabled": False,  # CloudFront deletes only a disabled distribution
        "Origins": {"Quantity": 1, "Items": [{"Id": "none", "DomainName": "embedded.invalid"}]},
        "DefaultCacheBehavior": {"TargetOriginId": "none", "ViewerProtocolPolicy": "https-only"},
    }
    wanted = {"DistributionConfig": config, "Tags": {"Items": cloud.tag_list(resource.properties)}}
    created = cloud.call("cloudfront", "create_distribution_with_tags", DistributionConfigWithTags=wanted)
    return PhysicalResource(created["Distribution"]["Id"], {"DomainName": created["Distribution"]["DomainName"]})


class _PlausibleAttributes(dict[str, str]):
    """Attributes of a resource that exists only in its stack, each with a value of the right form."""

    def __init__(self, cloud: StackServices, resource: Resource, physical_id: str) -> None:
        service = resource.type.split("::")[1].lower()
        self._arn = f"arn:aws:{service}:{cloud.region}:{cloud.account}:{physical_id}"
        self._id = physical_id

    def __missing__(self, name: str) -> str:
        return self._arn if name.lower().endswith("arn") else f"{self._id}.{name}.invalid"


_REF_IS_ARN: Final = frozenset({"AWS::SNS::Topic"})
"""Types of which ``Ref`` returns the ARN.

https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-sns-topic.html
"""


def _create_listed_only(cloud: StackServices, resource: Resource) -> PhysicalResource:
    name = name_for(cloud.stack_name, resource.logical_id, 255)
    attributes = _PlausibleAttributes(cloud, resource, name)
    return PhysicalResource(attributes["Arn"] if resource.type in _REF_IS_ARN else name, attributes)


def handler_of(resource_type: str) -> ResourceHandler:
    """Return the handler of a type; resources of a type without a handler exist only in their stack."""
    return HANDLERS.get(resource_type) or ResourceHandler(_create_listed_only, lambda _cloud, _resource: None)
