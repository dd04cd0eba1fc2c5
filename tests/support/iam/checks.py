"""The permissions that a recorded call needs: actions, resources and condition keys, for the calls that we make.

https://docs.aws.amazon.com/service-authorization/latest/reference/ has a page for each service. A call without a rule
here is an error. iam-simulate knows the reference: it refuses an action, a resource of the wrong type and a key that
AWS does not list, and leaves out keys that AWS does not give to the action and the resource.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl
from xml.etree import ElementTree

from moto.core.parse import PROTOCOL_PARSERS
from moto.core.utils import get_service_model

from tests.support.iam.judge import Context, PermissionCheck
from tests.support.iam.recording import RecordedCall

ACCOUNT = "123456789012"
SPOT = "spot.amazonaws.com"
Parameters = dict[str, Any]


class UnknownCallError(ValueError):
    """Raised when a call has no rule here."""


@dataclass
class Account:
    """What the permissions of a call depend on besides the call: tags, launch templates, profiles and roles.

    Attributes:
        client: of a service, which may read all.
    """

    client: Callable[[str], Any]
    _tags: dict[str, dict[str, str]] = field(default_factory=dict)

    def tags(self, resource: str) -> Mapping[str, str]:
        """Return the tags of an instance; once it has some they are not read again."""
        if not self._tags.get(resource):
            filters = [{"Name": "resource-id", "Values": [resource]}]
            found = self.client("ec2").describe_tags(Filters=filters)["Tags"]
            self._tags[resource] = {each["Key"]: each["Value"] for each in found}
        return self._tags[resource]

    def template(self, named: Mapping[str, str]) -> tuple[str, Parameters]:
        """Return the id and the default version of a launch template."""
        own = {name: named[name] for name in ("LaunchTemplateId", "LaunchTemplateName") if name in named}
        found = self.client("ec2").describe_launch_template_versions(**own, Versions=["$Default"])
        (version,) = found["LaunchTemplateVersions"]
        return version["LaunchTemplateId"], version["LaunchTemplateData"]

    def roles(self, profile: Mapping[str, str]) -> list[str]:
        """Return the ARNs of the roles of an instance profile."""
        name = profile.get("Name") or profile["Arn"].rpartition("/")[2]
        found = self.client("iam").get_instance_profile(InstanceProfileName=name)["InstanceProfile"]
        return [each["Arn"] for each in found["Roles"]]

    def trust(self, role: str) -> Mapping[str, Any]:
        """Return the trust policy of a role, by its ARN."""
        found: Mapping[str, Any] = self.client("iam").get_role(RoleName=role.rpartition("/")[2])["Role"]
        return dict(found["AssumeRolePolicyDocument"])


def checks_of(call: RecordedCall, account: Account) -> list[PermissionCheck]:
    """Return the permissions that a call needs; none where AWS checks no policy.

    Raises:
        UnknownCallError: the call has no rule here.
    """
    if call.service not in _RULES:
        raise UnknownCallError(f"{call.method} {call.path} of {call.service}")
    always = {"aws:PrincipalArn": call.role, "aws:RequestedRegion": call.region, "aws:SecureTransport": "true"}
    return [
        PermissionCheck(each.action, each.resource, {**always, **each.context}, each.resource_policy)
        for each in _RULES[call.service](call, account)
    ]


def operation_of(call: RecordedCall) -> tuple[str, Parameters]:
    """Return operation and parameters of a call in the JSON or the Query protocol."""
    if target := call.headers.get("HTTP_X_AMZ_TARGET"):
        return target.rpartition(".")[2], json.loads(call.body or "{}")
    fields = {**call.query, **dict(parse_qsl(call.body, keep_blank_values=True))}
    operation = get_service_model(call.service).operation_model(fields["Action"])
    parsed: Parameters = PROTOCOL_PARSERS["ec2" if call.service == "ec2" else "query"](
        operation, map_type=dict
    ).parse({"values": fields})
    return fields["Action"], {name: value for name, value in parsed.items() if value is not None}


def _arn(call: RecordedCall, service: str, resource: str) -> str:
    return f"arn:aws:{service}:{call.region}:{ACCOUNT}:{resource}"


_OF_OBJECTS = {
    "GET": "GetObject", "HEAD": "GetObject", "PUT": "PutObject", "DELETE": "DeleteObject",
    "PUT tagging": "PutObjectTagging", "DELETE tagging": "DeleteObjectTagging", "POST uploads": "PutObject",
    "POST uploadId": "PutObject", "PUT uploadId": "PutObject", "DELETE uploadId": "AbortMultipartUpload",
}  # fmt: skip
_OF_BUCKETS = {"GET": "ListBucket", "HEAD": "ListBucket", "PUT": "CreateBucket"}
"""Actions by method and the parameter that changes the action."""

_CHANGES_NOTHING = re.compile(
    r"prefix|delimiter|max-keys|continuation-token|encoding-type|list-type|start-after|partNumber|x-id"
    r"|x-amz-.*|response-.*",
    re.IGNORECASE,
)
"""Parameters that do not change the action."""

_OF_A_LIST = {"prefix": "s3:prefix", "delimiter": "s3:delimiter", "max-keys": "s3:max-keys"}


def _s3(call: RecordedCall, account: Account) -> Iterator[PermissionCheck]:
    """Yield the permissions by using-with-s3-policy-actions.html of S3."""
    bucket, _, key = call.path.lstrip("/").partition("/")
    of_bucket = f"arn:aws:s3:::{bucket}"
    if not bucket:
        yield PermissionCheck("s3:ListAllMyBuckets", "*")
    elif call.method == "POST" and "delete" in call.query:
        for each in ElementTree.fromstring(call.body).iterfind("{*}Object/{*}Key"):  # noqa: S314 - our own
            yield PermissionCheck("s3:DeleteObject", f"{of_bucket}/{each.text}")
    elif call.method == "POST" and not key:
        form = json.loads(call.body)
        yield PermissionCheck("s3:PutObject", f"{of_bucket}/{form['key']}")
        if "tagging" in form:
            yield PermissionCheck("s3:PutObjectTagging", f"{of_bucket}/{form['key']}")
    else:
        yield from _bucket_or_object(call, of_bucket, key)


def _bucket_or_object(call: RecordedCall, of_bucket: str, key: str) -> Iterator[PermissionCheck]:
    """Yield the permissions of a call on one resource.

    A caller that may not list the bucket gets 403 instead of 404 for an object that is missing.
    """
    rules = _OF_OBJECTS if key else _OF_BUCKETS
    names = sorted(name for name in call.query if not _CHANGES_NOTHING.fullmatch(name))
    action = rules.get(" ".join([call.method, *names]))
    if action is None or "HTTP_X_AMZ_ACL" in call.headers:
        raise UnknownCallError(f"{call.method} {call.path} {call.query} {call.headers} of S3")
    resource = f"{of_bucket}/{key}" if key else of_bucket
    listed = {name: call.query[each] for each, name in _OF_A_LIST.items() if each in call.query}
    yield PermissionCheck(f"s3:{action}", resource, listed if action == "ListBucket" else {})
    if action == "GetObject" and call.status == 404:
        yield PermissionCheck("s3:ListBucket", of_bucket)
    if action == "PutObject" and (source := call.headers.get("HTTP_X_AMZ_COPY_SOURCE")):
        yield PermissionCheck("s3:GetObject", f"arn:aws:s3:::{source.lstrip('/').partition('?')[0]}")
    if action == "PutObject" and "HTTP_X_AMZ_TAGGING" in call.headers:
        yield PermissionCheck("s3:PutObjectTagging", resource)


_OF_A_TRANSACTION = {
    "ConditionCheck": "ConditionCheckItem", "Delete": "DeleteItem", "Get": "GetItem", "Put": "PutItem",
    "Update": "UpdateItem",
}  # fmt: skip


def _dynamodb(call: RecordedCall, account: Account) -> Iterator[PermissionCheck]:
    """Yield a permission for each table of a batch, and for each item of a transaction."""
    operation, parameters = operation_of(call)
    pairs: list[tuple[str, str]]
    if operation in {"BatchGetItem", "BatchWriteItem"}:
        pairs = [(operation, name) for name in parameters["RequestItems"]]
    elif operation.startswith("Transact"):
        parts = [part for item in parameters["TransactItems"] for part in item.items()]
        pairs = [(_OF_A_TRANSACTION[kind], part["TableName"]) for kind, part in parts]
    else:
        pairs = [(operation, parameters["TableName"])]
    index = f"/index/{parameters['IndexName']}" if "IndexName" in parameters else ""
    for action, name in dict.fromkeys(pairs):
        yield PermissionCheck(f"dynamodb:{action}", _arn(call, "dynamodb", f"table/{name}{index}"))


def _sqs(call: RecordedCall, account: Account) -> Iterator[PermissionCheck]:
    """Yield the permission on the queue; a batch needs the action of a single message."""
    operation, parameters = operation_of(call)
    name = parameters.get("QueueName") or parameters["QueueUrl"].rpartition("/")[2]
    yield PermissionCheck(f"sqs:{operation.removesuffix('Batch')}", _arn(call, "sqs", name))


def _sns(call: RecordedCall, account: Account) -> Iterator[PermissionCheck]:
    operation, parameters = operation_of(call)
    yield PermissionCheck(f"sns:{operation}", parameters["TopicArn"])


def _ssm(call: RecordedCall, account: Account) -> Iterator[PermissionCheck]:
    operation, parameters = operation_of(call)
    yield PermissionCheck(f"ssm:{operation}", _arn(call, "ssm", f"parameter{parameters['Name']}"))


def _sts(call: RecordedCall, account: Account) -> Iterator[PermissionCheck]:
    """Yield the permission to assume a role; reading the own identity needs none."""
    operation, parameters = operation_of(call)
    if operation != "GetCallerIdentity":
        role = parameters["RoleArn"]
        session = {"sts:RoleSessionName": parameters["RoleSessionName"]}
        yield PermissionCheck(f"sts:{operation}", role, session, account.trust(role))


_KINDS = {"i": "instance", "vol": "volume", "eni": "network-interface", "ami": "image"}


def _ec2(call: RecordedCall, account: Account) -> Iterator[PermissionCheck]:
    """Yield a permission for each resource that a call names, or that a launch creates or uses."""
    operation, parameters = operation_of(call)
    if operation == "RunInstances":
        yield from _launch(call, account, parameters)
        return
    named = parameters.get("InstanceIds") or parameters.get("Resources") or [parameters.get("InstanceId")]
    if operation.startswith("Describe") or not all(named):
        yield PermissionCheck(f"ec2:{operation}", "*", {"ec2:Region": call.region})
        return
    context = {"ec2:Region": call.region, **_request_tags(parameters.get("Tags") or [])}
    for each in named:
        tags = {f"aws:ResourceTag/{key}": value for key, value in account.tags(each).items()}
        arn = _arn(call, "ec2", f"{_KINDS[each.partition('-')[0]]}/{each}")
        yield PermissionCheck(f"ec2:{operation}", arn, {**context, **tags})


def _request_tags(tags: Iterable[Mapping[str, str]]) -> dict[str, str | Sequence[str]]:
    """Return the condition keys of the tags that a request sets or removes."""
    pairs = {each["Key"]: each.get("Value") or "" for each in tags}
    keys: dict[str, str | Sequence[str]] = {f"aws:RequestTag/{key}": value for key, value in pairs.items()}
    return {**keys, "aws:TagKeys": list(pairs)} if pairs else keys


def _launch(call: RecordedCall, account: Account, own: Parameters) -> Iterator[PermissionCheck]:
    """Yield the permissions of RunInstances: resources, their tags, and roles.

    By permissions-for-launch-templates.html and ExamplePolicies_EC2.html of EC2. The first Spot instance of an
    account also needs the right to create the role with which EC2 manages these.
    """
    template_id, template = account.template(own["LaunchTemplate"]) if "LaunchTemplate" in own else ("", {})
    given = {**template, **own}
    arn = _arn(call, "ec2", f"launch-template/{template_id}") if template_id else ""
    every = {"ec2:Region": call.region, **({"ec2:LaunchTemplate": arn} if arn else {})}
    tags = _tags_of_launch(template, own)
    if arn:  # an example of ExamplePolicies_EC2.html allows all by this key, the template among it
        yield PermissionCheck("ec2:RunInstances", arn, {**every, "ec2:IsLaunchTemplateResource": "true"})
    for resource, parameter, more in _resources_of_launch(given, _request_tags(tags.get("instance", []))):
        is_templates = bool(arn) and parameter not in own and (parameter != "SubnetId" or parameter in template)
        account_of = "" if resource.startswith("image/") else ACCOUNT
        context = {**every, "ec2:IsLaunchTemplateResource": str(is_templates).lower(), **more}
        yield PermissionCheck("ec2:RunInstances", f"arn:aws:ec2:{call.region}:{account_of}:{resource}", context)
    for kind, of_kind in tags.items():
        context = {"ec2:Region": call.region, "ec2:CreateAction": "RunInstances", **_request_tags(of_kind)}
        yield PermissionCheck("ec2:CreateTags", _arn(call, "ec2", f"{kind}/*"), context)
    for role in account.roles(given["IamInstanceProfile"]) if "IamInstanceProfile" in given else []:
        yield PermissionCheck("iam:PassRole", role, {"iam:PassedToService": "ec2.amazonaws.com"})
    if _market(given) == "spot":
        spot = f"arn:aws:iam::{ACCOUNT}:role/aws-service-role/{SPOT}/AWSServiceRoleForEC2Spot"
        yield PermissionCheck("iam:CreateServiceLinkedRole", spot, {"iam:AWSServiceName": SPOT})


def _market(given: Parameters) -> str:
    return str((given.get("InstanceMarketOptions") or {}).get("MarketType", "on-demand"))


def _tags_of_launch(template: Parameters, own: Parameters) -> dict[str, list[Mapping[str, str]]]:
    """Return the tags of new resources by type; tags of the call follow those of the template, and win."""
    tags: dict[str, list[Mapping[str, str]]] = {}
    for each in [*template.get("TagSpecifications", []), *own.get("TagSpecifications", [])]:
        if each["ResourceType"] != "launch-template":
            tags.setdefault(each["ResourceType"], []).extend(each["Tags"])
    return tags


def _resources_of_launch(given: Parameters, tags: Context) -> Iterator[tuple[str, str, Context]]:
    """Yield each resource that a launch creates or uses, the parameter that names it, and further keys."""
    metadata, (interface, *_) = given.get("MetadataOptions") or {}, given.get("NetworkInterfaces") or [{}]
    profile = (given.get("IamInstanceProfile") or {}).get("Arn")
    of_instance = {
        "ec2:InstanceType": given.get("InstanceType", "m1.small"),
        "ec2:InstanceMarketType": _market(given),
        "ec2:MetadataHttpTokens": metadata.get("HttpTokens", "optional"),
        **({"ec2:InstanceProfile": profile} if profile else {}),
        **tags,
    }
    yield "instance/*", "", of_instance
    yield f"image/{given['ImageId']}", "ImageId", {}
    yield f"subnet/{given.get('SubnetId') or interface.get('SubnetId') or '*'}", "SubnetId", {}
    yield "network-interface/*", "NetworkInterfaces", {}
    for group in given.get("SecurityGroupIds") or interface.get("Groups") or []:
        yield f"security-group/{group}", "SecurityGroupIds", {}
    for disk in given.get("BlockDeviceMappings") or [{}]:
        encrypted = str(bool((disk.get("Ebs") or {}).get("Encrypted"))).lower()
        yield "volume/*", "BlockDeviceMappings", {"ec2:Encrypted": encrypted}
    if key := given.get("KeyName"):
        yield f"key-pair/{key}", "KeyName", {}
    if _market(given) == "spot":
        yield "spot-instances-request/*", "InstanceMarketOptions", {}


_RULES: dict[str, Callable[[RecordedCall, Account], Iterator[PermissionCheck]]] = {
    "dynamodb": _dynamodb,
    "ec2": _ec2,
    "s3": _s3,
    "sns": _sns,
    "sqs": _sqs,
    "ssm": _ssm,
    "sts": _sts,
}
"""By the service that a signature names."""
