"""How each type of resource is created and deleted: by the same calls that any client makes."""

import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from tests.support.account import loopback
from tests.support.account.template import Resource

SUFFIX_LENGTH = 12
"""Length in characters of the random part of a name that the template does not give."""


def coerce(value: Any, shape: Any) -> Any:
    """Return a value of a template in the types of an API: the text "30" becomes a number, or a number becomes text.

    botocore rejects other types than those of `shape`, a ``botocore.model.Shape``.
    """
    match shape.type_name, value:
        case "structure", dict():
            members = shape.members
            return {name: coerce(one, members[name]) if name in members else one for name, one in value.items()}
        case "list", list():
            return [coerce(one, shape.member) for one in value]
        case "map", dict():
            return {str(name): coerce(one, shape.value) for name, one in value.items()}
        case "string", bool() | dict() | int() | float():
            return json.dumps(value)
        case "boolean" | "integer" | "long", str():
            return json.loads(value)
    return value


@dataclass(frozen=True)
class StackServices:
    """The services that create a stack's resources, which get its tags, too."""

    account: str
    region: str
    stack_name: str
    stack_tags: Mapping[str, str]

    def call(self, service: str, operation: str, **parameters: Any) -> dict[str, Any]:
        """Call a service, without parameters that are None or empty, and with all values in the API's types."""
        client = loopback.client(service, self.region)
        model = client.meta.service_model.operation_model(client.meta.method_to_api_mapping[operation])
        given = {name: value for name, value in parameters.items() if value not in (None, {}, [])}
        result: dict[str, Any] = getattr(client, operation)(**coerce(given, model.input_shape))
        return result

    def name(self, resource: Resource, key: str = "", max_length: int = 255) -> str:
        """Return the name in a property of a resource, or a new name."""
        given = resource.properties.get(key)
        prefix = f"{self.stack_name}-{resource.logical_id}"[: max_length - SUFFIX_LENGTH - 1]
        return given or f"{prefix}-{secrets.token_hex(SUFFIX_LENGTH // 2)}"

    def tags(self, resource: Resource, key: str = "Tags") -> dict[str, str]:
        """Return a resource's own tags and the stack's."""
        own = resource.properties.get(key, {})
        return {**self.stack_tags, **(own if isinstance(own, Mapping) else {tag["Key"]: tag["Value"] for tag in own})}

    def tag_list(self, resource: Resource) -> list[dict[str, str]]:
        """Return the same tags in the form of most services."""
        return [{"Key": key, "Value": value} for key, value in self.tags(resource).items()]

    def tag_specification(self, kind: str, resource: Resource) -> list[dict[str, Any]]:
        """Return the same tags in the form of EC2."""
        tags = self.tag_list(resource)
        return [{"ResourceType": kind, "Tags": tags}] if tags else []


Created = tuple[str, Mapping[str, str]]
"""The values of ``Ref`` and ``Fn::GetAtt`` of a created resource."""

Create = Callable[[StackServices, Resource], Created]
Delete = Callable[[StackServices, Resource], Any]


class ResourceHandler(NamedTuple):
    """Creates and deletes resources of one type."""

    create: Create
    delete: Delete


HANDLERS: dict[str, ResourceHandler] = {}
"""The types of resources that exist in a service; resources of other types exist only in their stack."""


def create(services: StackServices, resource: Resource) -> None:
    """Create a resource."""
    handler = HANDLERS.get(resource.type)
    resource.physical_id, resource.attributes = (handler.create if handler else _list_only)(services, resource)


def delete(services: StackServices, resource: Resource) -> None:
    """Delete a resource."""
    if handler := HANDLERS.get(resource.type):
        handler.delete(services, resource)


def handles(resource_type: str, delete: Delete) -> Callable[[Create], Create]:
    """Return a decorator of the function that creates resources of a type."""

    def register(create: Create) -> Create:
        HANDLERS[resource_type] = ResourceHandler(create, delete)
        return create

    return register


def by_call(service: str, operation: str, key: str, attribute: str = "", also: tuple[str, ...] = ()) -> Delete:
    """Return a function that deletes a resource with one call.

    The value of the parameter `key` is the resource's physical id, or one of its attributes. The call also gets the
    properties `also`.
    """

    def delete(services: StackServices, resource: Resource) -> None:
        value = resource.attributes[attribute] if attribute else resource.physical_id
        services.call(service, operation, **{key: value}, **{name: resource.properties[name] for name in also})

    return delete


def put_policy(services: StackServices, role: str, policy: Mapping[str, Any]) -> None:
    """Give a role an inline policy."""
    document = json.dumps(policy["PolicyDocument"])
    services.call("iam", "put_role_policy", RoleName=role, PolicyName=policy["PolicyName"], PolicyDocument=document)


def delete_role(services: StackServices, resource: Resource) -> None:
    """Delete a role with its inline policies."""
    for policy in resource.properties.get("Policies", []):
        services.call("iam", "delete_role_policy", RoleName=resource.physical_id, PolicyName=policy["PolicyName"])
    services.call("iam", "delete_role", RoleName=resource.physical_id)


@handles("AWS::IAM::Role", delete_role)
def create_role(services: StackServices, resource: Resource) -> Created:
    """Create a role with its inline policies."""
    name = services.name(resource, "RoleName", 64)
    trusted = json.dumps(resource.properties["AssumeRolePolicyDocument"])
    boundary = {key: each for key, each in resource.properties.items() if key == "PermissionsBoundary"}
    about = {"RoleName": name, "AssumeRolePolicyDocument": trusted, "Tags": services.tag_list(resource), **boundary}
    role = services.call("iam", "create_role", **about)["Role"]
    for policy in resource.properties.get("Policies", []):
        put_policy(services, name, policy)
    return name, {"Arn": role["Arn"]}


def delete_policy(services: StackServices, resource: Resource) -> None:
    """Delete a policy from each of its roles."""
    for role in resource.properties["Roles"]:
        services.call("iam", "delete_role_policy", RoleName=role, PolicyName=resource.properties["PolicyName"])


@handles("AWS::IAM::Policy", delete_policy)
def create_policy(services: StackServices, resource: Resource) -> Created:
    """Create a policy in each of its roles."""
    for role in resource.properties["Roles"]:
        put_policy(services, role, resource.properties)
    return services.name(resource, max_length=32), {}


def delete_instance_profile(services: StackServices, resource: Resource) -> None:
    """Remove the role of a profile and delete it."""
    profile, [role] = {"InstanceProfileName": resource.physical_id}, resource.properties["Roles"]
    services.call("iam", "remove_role_from_instance_profile", **profile, RoleName=role)
    services.call("iam", "delete_instance_profile", **profile)


@handles("AWS::IAM::InstanceProfile", delete_instance_profile)
def create_instance_profile(services: StackServices, resource: Resource) -> Created:
    """Create a profile of a role."""
    name, [role] = services.name(resource, max_length=128), resource.properties["Roles"]
    profile = services.call("iam", "create_instance_profile", InstanceProfileName=name)["InstanceProfile"]
    services.call("iam", "add_role_to_instance_profile", InstanceProfileName=name, RoleName=role)
    return name, {"Arn": profile["Arn"]}


@handles("AWS::Cognito::UserPool", by_call("cognito-idp", "delete_user_pool", "UserPoolId"))
def create_user_pool(services: StackServices, resource: Resource) -> Created:
    """Create a user pool."""
    wanted = dict(resource.properties)
    name, mode, factors = wanted.pop("UserPoolName"), wanted.pop("MfaConfiguration"), wanted.pop("EnabledMfas", [])
    wanted["UserPoolTags"] = services.tags(resource, "UserPoolTags")
    pool = services.call("cognito-idp", "create_user_pool", PoolName=name, **wanted)["UserPool"]
    services.call(
        "cognito-idp", "set_user_pool_mfa_config", UserPoolId=pool["Id"], MfaConfiguration=mode,
        **({"SoftwareTokenMfaConfiguration": {"Enabled": True}} if factors else {}),
    )  # fmt: skip
    return pool["Id"], {"Arn": pool["Arn"]}


@handles(
    "AWS::Cognito::UserPoolClient",
    by_call("cognito-idp", "delete_user_pool_client", "ClientId", also=("UserPoolId",)),
)
def create_user_pool_client(services: StackServices, resource: Resource) -> Created:
    """Create a client of a user pool."""
    wanted = {**resource.properties, "ClientName": services.name(resource, "ClientName", 128)}
    return services.call("cognito-idp", "create_user_pool_client", **wanted)["UserPoolClient"]["ClientId"], {}


@handles(
    "AWS::Cognito::UserPoolDomain", by_call("cognito-idp", "delete_user_pool_domain", "Domain", also=("UserPoolId",))
)
def create_user_pool_domain(services: StackServices, resource: Resource) -> Created:
    """Create the domain of a user pool; no pages are there."""
    named = {name: resource.properties[name] for name in ("Domain", "UserPoolId")}
    services.call("cognito-idp", "create_user_pool_domain", **named)
    return named["Domain"], {}


@handles("AWS::Cognito::UserPoolGroup", by_call("cognito-idp", "delete_group", "GroupName", also=("UserPoolId",)))
def create_user_pool_group(services: StackServices, resource: Resource) -> Created:
    """Create a group of a user pool."""
    services.call("cognito-idp", "create_group", **resource.properties)
    return resource.properties["GroupName"], {}


@handles("AWS::EC2::SecurityGroup", by_call("ec2", "delete_security_group", "GroupId"))
def create_security_group(services: StackServices, resource: Resource) -> Created:
    """Create a group without its rules, which would have no effect: machines have addresses on loopback only."""
    wanted = resource.properties
    group = services.call(
        "ec2", "create_security_group", GroupName=services.name(resource, "GroupName"), VpcId=wanted["VpcId"],
        Description=wanted["GroupDescription"],
        TagSpecifications=services.tag_specification("security-group", resource),
    )["GroupId"]  # fmt: skip
    return group, {"GroupId": group}


@handles("AWS::EC2::EIP", by_call("ec2", "release_address", "AllocationId", "AllocationId"))
def create_address(services: StackServices, resource: Resource) -> Created:
    """Create an address that stays."""
    tags = services.tag_specification("elastic-ip", resource)
    created = services.call("ec2", "allocate_address", Domain="vpc", TagSpecifications=tags)
    return created["PublicIp"], {"AllocationId": created["AllocationId"]}


@handles("AWS::EC2::LaunchTemplate", by_call("ec2", "delete_launch_template", "LaunchTemplateId"))
def create_launch_template(services: StackServices, resource: Resource) -> Created:
    """Create a launch template with the tags of the stack."""
    created = services.call(
        "ec2", "create_launch_template", LaunchTemplateName=services.name(resource, "LaunchTemplateName", 128),
        LaunchTemplateData=resource.properties["LaunchTemplateData"],
        TagSpecifications=services.tag_specification("launch-template", resource),
    )["LaunchTemplate"]  # fmt: skip
    return created["LaunchTemplateId"], {"LatestVersionNumber": str(created["LatestVersionNumber"])}


def delete_auto_scaling_group(services: StackServices, resource: Resource) -> None:
    """Delete a group and wait until its instances have ended."""
    name = resource.physical_id
    found = services.call("autoscaling", "describe_auto_scaling_groups", AutoScalingGroupNames=[name])
    instances = [one["InstanceId"] for one in found["AutoScalingGroups"][0]["Instances"]]
    services.call("autoscaling", "delete_auto_scaling_group", AutoScalingGroupName=name, ForceDelete=True)
    if instances:
        waiter = loopback.client("ec2", services.region).get_waiter("instance_terminated")
        waiter.wait(InstanceIds=instances, WaiterConfig={"Delay": 0.1, "MaxAttempts": 1_200})


@handles("AWS::AutoScaling::AutoScalingGroup", delete_auto_scaling_group)
def create_auto_scaling_group(services: StackServices, resource: Resource) -> Created:
    """Create a group; its instances may still be pending, and they are not registered with any load balancer."""
    name = services.name(resource, "AutoScalingGroupName")
    passed_on = ("LaunchTemplate", "MinSize", "MaxSize", "DesiredCapacity", "HealthCheckType")
    tags = [{"Key": key, "Value": value, "PropagateAtLaunch": True} for key, value in services.tags(resource).items()]
    services.call(
        "autoscaling", "create_auto_scaling_group", AutoScalingGroupName=name,
        VPCZoneIdentifier=",".join(resource.properties["VPCZoneIdentifier"]),
        Tags=[{**tag, "ResourceId": name, "ResourceType": "auto-scaling-group"} for tag in tags],
        **{key: resource.properties.get(key) for key in passed_on},
    )  # fmt: skip
    return name, {}


@handles("AWS::S3::Bucket", by_call("s3", "delete_bucket", "Bucket"))
def create_bucket(services: StackServices, resource: Resource) -> Created:
    """Create a bucket with its tags; its other settings have no effect here."""
    name = services.name(resource, "BucketName", 63).lower()
    services.call("s3", "create_bucket", Bucket=name)
    services.call("s3", "put_bucket_tagging", Bucket=name, Tagging={"TagSet": services.tag_list(resource)})
    return name, {
        "Arn": f"arn:aws:s3:::{name}",
        "RegionalDomainName": f"{name}.s3.{services.region}.amazonaws.com",
    }


@handles("AWS::DynamoDB::Table", by_call("dynamodb", "delete_table", "TableName"))
def create_table(services: StackServices, resource: Resource) -> Created:
    """Create a table with its time to live and tags; other settings have no effect here."""
    name, keys = services.name(resource, "TableName"), ("AttributeDefinitions", "KeySchema", "BillingMode")
    created = services.call(
        "dynamodb", "create_table", TableName=name, Tags=services.tag_list(resource),
        **{key: resource.properties.get(key) for key in (*keys, "DeletionProtectionEnabled")},
    )["TableDescription"]  # fmt: skip
    ttl = resource.properties["TimeToLiveSpecification"]
    services.call("dynamodb", "update_time_to_live", TableName=name, TimeToLiveSpecification=ttl)
    return name, {"Arn": created["TableArn"]}


@handles("AWS::SQS::Queue", by_call("sqs", "delete_queue", "QueueUrl"))
def create_queue(services: StackServices, resource: Resource) -> Created:
    """Create a queue."""
    name = services.name(resource, "QueueName", 80)
    attributes = {key: value for key, value in resource.properties.items() if key not in {"QueueName", "Tags"}}
    tags = services.tags(resource)
    url = services.call("sqs", "create_queue", QueueName=name, Attributes=attributes, tags=tags)["QueueUrl"]
    return url, {"Arn": f"arn:aws:sqs:{services.region}:{services.account}:{name}", "QueueName": name}


@handles("AWS::Logs::LogGroup", by_call("logs", "delete_log_group", "logGroupName"))
def create_log_group(services: StackServices, resource: Resource) -> Created:
    """Create a log group with its retention."""
    name, days = services.name(resource, "LogGroupName"), resource.properties["RetentionInDays"]
    services.call("logs", "create_log_group", logGroupName=name, tags=services.tags(resource))
    services.call("logs", "put_retention_policy", logGroupName=name, retentionInDays=days)
    return name, {"Arn": f"arn:aws:logs:{services.region}:{services.account}:log-group:{name}:*"}


def delete_distribution(services: StackServices, resource: Resource) -> None:
    """Delete a disabled distribution."""
    version = services.call("cloudfront", "get_distribution", Id=resource.physical_id)["ETag"]
    services.call("cloudfront", "delete_distribution", Id=resource.physical_id, IfMatch=version)


@handles("AWS::CloudFront::Distribution", delete_distribution)
def create_distribution(services: StackServices, resource: Resource) -> Created:
    """Create a distribution that accepts invalidations and serves nothing: it has tags, but none of its settings."""
    config = {
        "CallerReference": services.name(resource),
        "Comment": "",
        "Enabled": False,  # CloudFront deletes only a disabled distribution
        "Origins": {"Quantity": 1, "Items": [{"Id": "none", "DomainName": "embedded.invalid"}]},
        "DefaultCacheBehavior": {"TargetOriginId": "none", "ViewerProtocolPolicy": "https-only"},
    }
    wanted = {"DistributionConfig": config, "Tags": {"Items": services.tag_list(resource)}}
    created = services.call("cloudfront", "create_distribution_with_tags", DistributionConfigWithTags=wanted)
    return created["Distribution"]["Id"], {"DomainName": created["Distribution"]["DomainName"]}


class _PlausibleAttributes(dict[str, str]):
    """Attributes of a resource that exists only in its stack, each with a value of the right form."""

    def __init__(self, arn: str) -> None:
        self._arn = arn

    def __missing__(self, name: str) -> str:
        return self._arn if name.lower().endswith("arn") else f"{self._arn.rpartition(':')[2]}.{name}.invalid"


def _list_only(services: StackServices, resource: Resource) -> Created:
    """Name a resource, and call no service; ``Ref`` of a topic is its ARN."""
    name, service = services.name(resource), resource.type.split("::")[1].lower()
    arn = f"arn:aws:{service}:{services.region}:{services.account}:{name}"
    return arn if resource.type == "AWS::SNS::Topic" else name, _PlausibleAttributes(arn)
