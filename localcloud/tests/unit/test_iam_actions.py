"""A call needs the permissions that AWS documents for it."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from moto.ec2.models import ec2_backends
from moto.iam.models import iam_backends
from moto.s3.models import s3_backends

from localcloud.iam.actions import permission_checks_of
from localcloud.iam.calls import ApiCall, Credential, UnknownCallError, credential_of
from localcloud.iam.policies import PermissionCheck
from localcloud.patches import apply_patches
from tests.support.iam_requests import ACCOUNT, REGION, call, environ, json_call, query_call

SCOPE = "ASIAONE%2F20260101%2Feu-west-1%2Fs3%2Faws4_request"


@pytest.mark.parametrize(
    ("request_of", "found"),
    [
        (environ("sqs"), Credential("ASIANOBODY", "eu-central-1", "sqs")),
        (
            {"QUERY_STRING": f"X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={SCOPE}&X-Amz-Date=1"},
            Credential("ASIAONE", "eu-west-1", "s3"),
        ),
        ({"QUERY_STRING": "list-type=2"}, None),
        ({"HTTP_AUTHORIZATION": "Bearer token"}, None),
        ({}, None),
    ],
)
def test_the_signer_is_found_in_header_and_address(request_of: dict[str, str], found: Credential | None) -> None:
    assert credential_of(request_of) == found


def test_an_operation_is_named_by_header_or_field_and_not_guessed() -> None:
    assert json_call("dynamodb", "GetItem", {}).operation == "GetItem"
    assert query_call("ec2", "RunInstances").operation == "RunInstances"
    assert call("sns", "GET", QUERY_STRING="Action=Publish").operation == "Publish"
    with pytest.raises(UnknownCallError, match="GET /2013-04-01/hostedzone of route53 names no operation"):
        permission_checks_of(call("route53", "GET", "/2013-04-01/hostedzone"))


def test_body_can_be_read_again() -> None:
    checks = json_call("sqs", "SendMessage", {"QueueUrl": "q"})
    assert checks.parameters == {"QueueUrl": "q"}
    assert checks.environ["wsgi.input"].read() == b'{"QueueUrl": "q"}'


@pytest.mark.parametrize("body", [b"no JSON", b"[1]", b""])
def test_body_without_a_map_has_no_parameters(body: bytes) -> None:
    assert call("sqs", body=body, HTTP_X_AMZ_TARGET="AmazonSQS.SendMessage").parameters == {}


ARN = f"{REGION}:{ACCOUNT}"
QUEUE, TABLE = f"arn:aws:sqs:{ARN}:q", f"arn:aws:dynamodb:{ARN}:table"
GROUP, PARAMETER = f"arn:aws:logs:{ARN}:log-group:/a/b:log-stream:", f"arn:aws:ssm:{ARN}:parameter"
URL = {"QueueUrl": f"http://127.0.0.1:4566/{ACCOUNT}/q"}
STREAM = {"logGroupName": "/a/b", "logStreamName": "s"}
ITEMS = [{"Put": {"TableName": "t"}}, {"Put": {"TableName": "t"}}, {"ConditionCheck": {"TableName": "u"}}]


@pytest.mark.parametrize(
    ("of", "pairs"),
    [
        (json_call("sqs", "ReceiveMessage", URL), [f"sqs:ReceiveMessage {QUEUE}"]),
        (json_call("sqs", "SendMessageBatch", URL), [f"sqs:SendMessage {QUEUE}"]),
        (json_call("sqs", "ChangeMessageVisibilityBatch", URL), [f"sqs:ChangeMessageVisibility {QUEUE}"]),
        (json_call("sqs", "GetQueueUrl", {"QueueName": "q"}), [f"sqs:GetQueueUrl {QUEUE}"]),
        (json_call("sqs", "StartMessageMoveTask", {"SourceArn": QUEUE}), [f"sqs:StartMessageMoveTask {QUEUE}"]),
        (json_call("sqs", "ListQueues", {}), ["sqs:ListQueues *"]),
        (query_call("sqs", "SendMessage", **URL), [f"sqs:SendMessage {QUEUE}"]),
        (call("sqs", path=f"/{ACCOUNT}/q", body=b"Action=SendMessage"), [f"sqs:SendMessage {QUEUE}"]),
        (json_call("dynamodb", "GetItem", {"TableName": "t"}), [f"dynamodb:GetItem {TABLE}/t"]),
        (json_call("dynamodb", "GetItem", {"TableName": f"{TABLE}/t"}), [f"dynamodb:GetItem {TABLE}/t"]),
        (
            json_call("dynamodb", "Query", {"TableName": "t", "IndexName": "i"}),
            [f"dynamodb:Query {TABLE}/t/index/i"],
        ),
        (
            json_call("dynamodb", "BatchWriteItem", {"RequestItems": {"t": [], "u": []}}),
            [f"dynamodb:BatchWriteItem {TABLE}/t", f"dynamodb:BatchWriteItem {TABLE}/u"],
        ),
        (
            json_call("dynamodb", "TransactWriteItems", {"TransactItems": ITEMS}),
            [f"dynamodb:PutItem {TABLE}/t", f"dynamodb:ConditionCheckItem {TABLE}/u"],
        ),
        (json_call("dynamodb", "ListTables", {}), ["dynamodb:ListTables *"]),
        (
            json_call("ssm", "GetParameters", {"Names": ["/a/b", "c"]}),
            [f"ssm:GetParameters {PARAMETER}/a/b", f"ssm:GetParameters {PARAMETER}/c"],
        ),
        (json_call("ssm", "UpdateInstanceInformation", {}), ["ssm:UpdateInstanceInformation *"]),
        (json_call("logs", "CreateLogStream", STREAM), [f"logs:CreateLogStream {GROUP}"]),
        (json_call("logs", "PutLogEvents", STREAM), [f"logs:PutLogEvents {GROUP}s"]),
        (json_call("logs", "DescribeLogGroups", {}), ["logs:DescribeLogGroups *"]),
        (query_call("sts", "AssumeRole", RoleArn="arn:aws:iam::1:role/r"), ["sts:AssumeRole arn:aws:iam::1:role/r"]),
        (query_call("sts", "GetCallerIdentity"), []),
        (
            json_call("cognito-idp", "AdminGetUser", {"UserPoolId": "p"}),
            [f"cognito-idp:AdminGetUser arn:aws:cognito-idp:{ARN}:userpool/p"],
        ),
        (json_call("cognito-idp", "ListUserPools", {}), ["cognito-idp:ListUserPools *"]),
        (json_call("cognito-idp", "InitiateAuth", {"ClientId": "c"}), []),
        (query_call("iam", "CreateRole", RoleName="r"), ["iam:CreateRole *"]),
        (query_call("monitoring", "PutMetricData"), ["cloudwatch:PutMetricData *"]),
    ],
)
def test_call_needs_its_action_on_each_named_resource(of: ApiCall, pairs: list[str]) -> None:
    assert [f"{each.action} {each.resource}" for each in permission_checks_of(of)] == pairs


def test_requested_session_name_is_a_condition_key() -> None:
    (checks,) = permission_checks_of(query_call("sts", "AssumeRole", RoleArn="r", RoleSessionName="controller"))
    assert checks.context == {"sts:rolesessionname": ("controller",)}


BUCKET, OBJECT = "arn:aws:s3:::photos", "arn:aws:s3:::photos/a/b.jpg"
KEYS = b'<Delete xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Object><Key>a</Key></Object><Object><Key>b/c</Key></Object></Delete>'


@pytest.fixture(autouse=True)
def _photos() -> Iterator[None]:
    """A bucket with one object."""
    backend = s3_backends[ACCOUNT]["aws"]
    backend.create_bucket("photos", REGION)
    backend.put_object("photos", "a/b.jpg", b"x")
    yield
    backend.delete_object("photos", "a/b.jpg")
    backend.delete_bucket("photos")


def s3_actions(method: str, path: str, query: str = "", body: bytes = b"", **headers: str) -> list[tuple[str, str]]:
    of = call("s3", method, path, body, QUERY_STRING=query, **headers)
    return [(each.action.removeprefix("s3:"), each.resource) for each in permission_checks_of(of)]


@pytest.mark.parametrize(
    ("path", "method", "query", "action"),
    [
        ("/photos/a/b.jpg", "GET", "", "GetObject"),
        ("/photos/a/b.jpg", "HEAD", "", "GetObject"),
        ("/photos/a/b.jpg", "GET", "partNumber=1&response-content-type=x", "GetObject"),
        ("/photos/a/b.jpg", "GET", "X-Amz-Credential=x&X-Amz-Signature=y", "GetObject"),
        ("/photos/a/b.jpg", "GET", "AWSAccessKeyId=x&Signature=y&Expires=1", "GetObject"),
        ("/photos/a/b.jpg", "GET", "versionId=1", "GetObjectVersion"),
        ("/photos/a/b.jpg", "GET", "tagging", "GetObjectTagging"),
        ("/photos/a/b.jpg", "GET", "uploadId=1", "ListMultipartUploadParts"),
        ("/photos/a/b.jpg", "PUT", "partNumber=1&uploadId=2", "PutObject"),
        ("/photos/a/b.jpg", "PUT", "acl", "PutObjectAcl"),
        ("/photos/a/b.jpg", "POST", "uploads", "PutObject"),
        ("/photos/a/b.jpg", "DELETE", "", "DeleteObject"),
        ("/photos/a/b.jpg", "DELETE", "versionId=1", "DeleteObjectVersion"),
        ("/photos/a/b.jpg", "DELETE", "uploadId=2", "AbortMultipartUpload"),
        ("/photos", "GET", "list-type=2&prefix=a&max-keys=1&start-after=b&encoding-type=url", "ListBucket"),
        ("/photos", "HEAD", "", "ListBucket"),
        ("/photos/", "GET", "versions", "ListBucketVersions"),
        ("/photos", "GET", "location", "GetBucketLocation"),
        ("/photos/", "PUT", "", "CreateBucket"),
        ("/photos", "PUT", "lifecycle", "PutLifecycleConfiguration"),
        ("/photos", "DELETE", "", "DeleteBucket"),
        ("/photos", "DELETE", "policy", "DeleteBucketPolicy"),
        ("/photos", "DELETE", "cors", "PutBucketCORS"),
    ],
)
def test_s3_request_needs_one_action(path: str, method: str, query: str, action: str) -> None:
    assert s3_actions(method, path, query) == [(action, OBJECT if path.count("/") > 2 else BUCKET)]


def test_reading_a_missing_object_needs_the_right_to_list() -> None:
    for method in ("GET", "HEAD"):
        missing = [("GetObject", f"{BUCKET}/gone"), ("ListBucket", BUCKET)]
        assert s3_actions(method, "/photos/gone") == missing
    assert s3_actions("GET", "/nowhere/gone") == [("GetObject", "arn:aws:s3:::nowhere/gone")]


def test_copy_needs_rights_on_source_tags_and_acl() -> None:
    copied = s3_actions(
        "PUT", "/photos/c", HTTP_X_AMZ_COPY_SOURCE="/other/a%20b?versionId=1", HTTP_X_AMZ_TAGGING="a=b"
    )
    source, target = "arn:aws:s3:::other/a b", f"{BUCKET}/c"
    assert copied == [("PutObject", target), ("GetObject", source), ("PutObjectTagging", target)]


def test_several_are_deleted_one_by_one() -> None:
    wanted = [("DeleteObject", f"{BUCKET}/a"), ("DeleteObject", f"{BUCKET}/b/c")]
    assert s3_actions("POST", "/photos", "delete", KEYS) == wanted
    with pytest.raises(UnknownCallError, match="names no keys"):
        s3_actions("POST", "/photos", "delete", b"no XML")


def test_list_parameters_are_condition_keys() -> None:
    (checks,) = permission_checks_of(call("s3", "GET", "/photos", QUERY_STRING="prefix=a/&delimiter=/&max-keys=5"))
    assert checks.context == {"s3:prefix": ("a/",), "s3:delimiter": ("/",), "s3:max-keys": ("5",)}


def test_bucket_list_needs_any_resource_and_keys_are_text() -> None:
    assert s3_actions("GET", "/") == [("ListAllMyBuckets", "*")]
    assert s3_actions("PUT", "/photos/\u00c3\u00a4") == [("PutObject", f"{BUCKET}/ä")]


@pytest.mark.parametrize(
    ("method", "query", "host"),
    [
        ("GET", "torrent", "127.0.0.1:1"),
        ("PATCH", "", "127.0.0.1:1"),
        ("GET", "", "photos.s3.amazonaws.com"),
        ("GET", "", ""),
    ],
)
def test_unknown_s3_request_is_rejected(method: str, query: str, host: str) -> None:
    with pytest.raises(UnknownCallError):
        s3_actions(method, "/photos/a/b.jpg", query, HTTP_HOST=host)


EC2 = f"arn:aws:ec2:{REGION}:{ACCOUNT}"
LAUNCH_TRUST = json.dumps({"Statement": {"Effect": "Allow", "Principal": "*", "Action": "sts:AssumeRole"}})


@pytest.fixture(scope="module")
def template() -> Iterator[str]:
    """A launch template with image, group, profile, tags, session tokens and a disk; its ARN."""
    apply_patches("ec2")
    backend, iam = ec2_backends[ACCOUNT][REGION], iam_backends[ACCOUNT]["aws"]
    iam.create_role("asked-worker", LAUNCH_TRUST, "/", None, "", [], "3600")
    iam.create_instance_profile("asked-workers", "/", [])
    iam.add_role_to_instance_profile("asked-workers", "asked-worker")
    data = {
        "ImageId": "ami-1",
        "SecurityGroupIds": ["sg-1"],
        "IamInstanceProfile": {"Arn": f"arn:aws:iam::{ACCOUNT}:instance-profile/asked-workers"},
        "MetadataOptions": {"HttpTokens": "required"},
        "BlockDeviceMappings": [{"DeviceName": "/dev/xvda", "Ebs": {"VolumeType": "gp3", "Encrypted": True}}],
        "TagSpecifications": [
            {"ResourceType": "instance", "Tags": [{"Key": "Fleet", "Value": "a"}]},
            {"ResourceType": "volume", "Tags": [{"Key": "Fleet", "Value": "a"}]},
        ],
    }
    created = backend.create_launch_template("asked", "", data, {})
    yield f"{EC2}:launch-template/{created.id}"
    backend.delete_launch_template("asked", created.id)


NAMED = {
    "TagSpecification_1_ResourceType": "instance",
    "TagSpecification_1_Tag_1_Key": "Name",
    "TagSpecification_1_Tag_1_Value": "worker",
}


def launch(**parameters: str) -> list[PermissionCheck]:
    """Return the permission checks of a launch."""
    every = {"MinCount": "1", "MaxCount": "1", **parameters}
    return list(permission_checks_of(query_call("ec2", "RunInstances", **every)))


def of_kind(checks: list[PermissionCheck], kind: str, action: str = "ec2:RunInstances") -> PermissionCheck:
    """Return the one question about a kind of resource."""
    (found,) = [each for each in checks if each.action == action and f":{kind}/" in each.resource]
    return found


def test_launch_needs_rights_on_all_resources_it_creates_and_uses(template: str) -> None:
    checks = launch(LaunchTemplate_LaunchTemplateName="asked", SubnetId="subnet-1", **NAMED)
    assert [(each.action, each.resource) for each in checks] == [
        ("ec2:RunInstances", template),
        ("ec2:RunInstances", f"arn:aws:ec2:{REGION}::image/ami-1"),
        ("ec2:RunInstances", f"{EC2}:instance/*"),
        ("ec2:RunInstances", f"{EC2}:subnet/subnet-1"),
        ("ec2:RunInstances", f"{EC2}:network-interface/*"),
        ("ec2:RunInstances", f"{EC2}:security-group/sg-1"),
        ("ec2:RunInstances", f"{EC2}:volume/*"),
        ("ec2:CreateTags", f"{EC2}:instance/*"),
        ("ec2:CreateTags", f"{EC2}:volume/*"),
        ("iam:PassRole", f"arn:aws:iam::{ACCOUNT}:role/asked-worker"),
    ]
    runs = [each for each in checks if each.action == "ec2:RunInstances"]
    assert {each.context["ec2:launchtemplate"] for each in runs} == {(template,)}
    assert of_kind(checks, "role", "iam:PassRole").context["iam:passedtoservice"] == ("ec2.amazonaws.com",)


def test_instance_condition_keys_come_from_template_and_call(template: str) -> None:
    checks = launch(LaunchTemplate_LaunchTemplateName="asked", InstanceType="c7a.large", **NAMED)
    context = of_kind(checks, "instance").context
    assert context["aws:requesttag/name"] == ("worker",)
    assert set(context["aws:tagkeys"]) == {"Fleet", "Name"}
    assert context["ec2:instancetype"] == ("c7a.large",)
    assert context["ec2:metadatahttptokens"] == ("required",)
    assert context["ec2:instanceprofile"] == (f"arn:aws:iam::{ACCOUNT}:instance-profile/asked-workers",)
    assert context["ec2:instancemarkettype"] == ("on-demand",)
    volume = of_kind(checks, "volume").context
    assert (volume["ec2:encrypted"], volume["ec2:volumetype"]) == (("true",), ("gp3",))
    tagged = of_kind(checks, "volume", "ec2:CreateTags").context
    assert (tagged["ec2:createaction"], tagged["aws:requesttag/fleet"]) == (("RunInstances",), ("a",))


@pytest.mark.parametrize(
    ("parameters", "kind", "of_template"),
    [
        ({}, "image", "true"),
        ({"ImageId": "ami-2"}, "image", "false"),
        ({}, "security-group", "true"),
        ({"SecurityGroupId_1": "sg-2"}, "security-group", "false"),
        ({"SubnetId": "subnet-1"}, "subnet", "false"),
        ({}, "subnet", "false"),
        ({}, "instance", "true"),
        ({}, "launch-template", "true"),
    ],
)
def test_a_thing_is_the_templates_unless_the_call_names_another(
    template: str, parameters: dict[str, str], kind: str, of_template: str
) -> None:
    checks = launch(LaunchTemplate_LaunchTemplateId=template.rpartition("/")[2], **parameters)
    assert of_kind(checks, kind).context["ec2:islaunchtemplateresource"] == (of_template,)


def test_launch_without_template_needs_rights_on_the_defaults(template: str) -> None:
    backend = ec2_backends[ACCOUNT][REGION]
    checks = launch(ImageId="ami-1", KeyName="mine")
    assert all("ec2:launchtemplate" not in each.context for each in checks)
    assert of_kind(checks, "image").context["ec2:islaunchtemplateresource"] == ("false",)
    assert of_kind(checks, "subnet").resource == f"{EC2}:subnet/{backend.get_default_subnets()[REGION + 'a'].id}"
    assert of_kind(checks, "security-group").resource.endswith(backend.get_default_security_group().id)
    assert of_kind(checks, "instance").context["ec2:metadatahttptokens"] == ("optional",)
    assert of_kind(checks, "key-pair").resource == f"{EC2}:key-pair/mine"


def test_missing_launch_template_is_left_to_ec2(template: str) -> None:
    checks = launch(LaunchTemplate_LaunchTemplateName="nowhere")
    assert all("ec2:launchtemplate" not in each.context for each in checks)


def test_spot_launch_needs_rights_on_request_and_service_role(template: str) -> None:
    spot = launch(LaunchTemplate_LaunchTemplateName="asked", InstanceMarketOptions_MarketType="spot")
    request = of_kind(spot, "spot-instances-request")
    assert request.resource == f"{EC2}:spot-instances-request/*"
    assert "ec2:launchtemplate" not in request.context, "AWS lists no such key for it"
    role = of_kind(spot, "role/aws-service-role", "iam:CreateServiceLinkedRole")
    assert role.resource.endswith(":role/aws-service-role/spot.amazonaws.com/AWSServiceRoleForEC2Spot")
    assert role.context == {"iam:awsservicename": ("spot.amazonaws.com",)}


def context_of(operation: str, **parameters: str) -> list[tuple[str, dict[str, Any]]]:
    return [
        (each.resource, dict(each.context))
        for each in permission_checks_of(query_call("ec2", operation, **parameters))
    ]


def test_instance_calls_need_rights_on_each_instance_with_its_tags() -> None:
    backend = ec2_backends[ACCOUNT][REGION]
    backend.create_tags(["i-1"], {"Name": "worker"})
    known = {"ec2:region": (REGION,), "aws:resourcetag/name": ("worker",), "ec2:resourcetag/name": ("worker",)}
    assert context_of("TerminateInstances", InstanceId_1="i-1", InstanceId_2="i-2") == [
        (f"{EC2}:instance/i-1", known),
        (f"{EC2}:instance/i-2", {"ec2:region": (REGION,)}),
    ]
    assert context_of("GetConsoleOutput", InstanceId="i-1") == [(f"{EC2}:instance/i-1", known)]


def test_tag_calls_need_rights_on_each_resource_with_tag_keys() -> None:
    ec2_backends[ACCOUNT][REGION].create_tags(["i-3"], {"Name": "worker"})
    set_two = {"Tag_1_Key": "a", "Tag_1_Value": "1", "Tag_2_Key": "b"}
    [(instance, of_instance), (image, _)] = context_of(
        "CreateTags", ResourceId_1="i-3", ResourceId_2="ami-1", **set_two
    )
    assert (instance, image) == (f"{EC2}:instance/i-3", f"arn:aws:ec2:{REGION}::image/ami-1")
    assert of_instance["aws:tagkeys"] == ("a", "b")
    assert of_instance["aws:requesttag/a"] == ("1",)
    assert of_instance["aws:resourcetag/name"] == ("worker",)
    # Every tag: no keys, so that a condition on them sees none.
    assert context_of("DeleteTags", ResourceId_1="i-3")[0][1]["aws:tagkeys"] == ()


def test_other_calls_need_any_resource() -> None:
    assert context_of("DescribeInstances") == [("*", {"ec2:region": (REGION,)})]
