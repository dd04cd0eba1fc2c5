"""Resources of stacks are created and deleted in their services; groups replace their instances, real processes."""

import base64
import json
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from core.ids import new_id
from localcloud.launch import LocalCloud
from localcloud.tests.support.cloud_clients import SLEEP, CloudClients
from tests.support.account import ACCOUNT_APIS
from tests.support.account.handlers import HANDLERS
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def cloud(_no_real_aws: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    """A cloud with a hypervisor, stacks and groups."""
    with LocalCloud(tmp_path_factory.mktemp("stacks"), extensions=ACCOUNT_APIS) as started:
        yield started


@pytest.fixture(scope="module")
def apis(cloud: LocalCloud) -> CloudClients:
    return CloudClients(cloud.endpoint_url)


TEMPLATE = """
Parameters: {Days: {Type: Number, Default: 7}, Who: {Type: String, Default: ec2}}
Resources:
  Group: {Type: AWS::EC2::SecurityGroup, Properties: {GroupDescription: a test}}
  Address: {Type: AWS::EC2::EIP, Properties: {Domain: vpc}}
  Template: {Type: AWS::EC2::LaunchTemplate, Properties: {LaunchTemplateData: {InstanceType: c7a.large}}}
  Scaling:
    Type: AWS::AutoScaling::AutoScalingGroup
    Properties:
      LaunchTemplate: {LaunchTemplateId: !Ref Template, Version: !GetAtt Template.LatestVersionNumber}
      MinSize: "0"
      MaxSize: "2"
      VPCZoneIdentifier: [SUBNET]
  Role:
    Type: AWS::IAM::Role
    Properties:
      AssumeRolePolicyDocument:
        Version: "2012-10-17"
        Statement: [{Effect: Allow, Principal: {Service: !Sub "${Who}.amazonaws.com"}, Action: sts:AssumeRole}]
      Policies:
        - PolicyName: !Ref Who
          PolicyDocument: {Version: "2012-10-17", Statement: [{Effect: Allow, Action: "*", Resource: "*"}]}
  Policy:
    Type: AWS::IAM::Policy
    Properties:
      PolicyName: !Sub "own-${Who}"
      Roles: [!Ref Role]
      PolicyDocument: {Version: "2012-10-17", Statement: [{Effect: Deny, Action: "*", Resource: "*"}]}
  Profile: {Type: AWS::IAM::InstanceProfile, Properties: {Roles: [!Ref Role]}}
  Bucket:
    Type: AWS::S3::Bucket
    Properties:
      CorsConfiguration: {CorsRules: [{AllowedMethods: [POST], AllowedOrigins: [!Ref Who], MaxAge: !Ref Days}]}
      Tags: [{Key: who, Value: !Ref Who}]
  Table:
    Type: AWS::DynamoDB::Table
    Properties:
      BillingMode: PAY_PER_REQUEST
      AttributeDefinitions: [{AttributeName: pk, AttributeType: S}]
      KeySchema: [{AttributeName: pk, KeyType: HASH}]
      TimeToLiveSpecification: {Enabled: true, AttributeName: expires_at}
      PointInTimeRecoverySpecification: {PointInTimeRecoveryEnabled: "true"}
  Dead: {Type: AWS::SQS::Queue}
  Queue:
    Type: AWS::SQS::Queue
    Properties:
      VisibilityTimeout: !Ref Days
      RedrivePolicy: {deadLetterTargetArn: !GetAtt Dead.Arn, maxReceiveCount: 5}
  Logs: {Type: AWS::Logs::LogGroup, Properties: {LogGroupName: /test/kinds, RetentionInDays: !Ref Days}}
  Stored: {Type: AWS::SSM::Parameter, Properties: {Type: String, Value: !Ref Who, Tags: {a: b}}}
  Site: {Type: AWS::CloudFront::Distribution, Properties: {DistributionConfig: {Enabled: true}}}
  Pool:
    Type: AWS::Cognito::UserPool
    Properties:
      UsernameAttributes: [email]
      AdminCreateUserConfig: {AllowAdminCreateUserOnly: "true"}
      UserPoolTags: {who: !Ref Who}
  Client:
    Type: AWS::Cognito::UserPoolClient
    Properties:
      UserPoolId: !Ref Pool
      ExplicitAuthFlows: [ALLOW_USER_PASSWORD_AUTH]
      RefreshTokenValidity: !Ref Days
      TokenValidityUnits: {RefreshToken: hours}
  Members:
    {Type: AWS::Cognito::UserPoolGroup, Properties: {UserPoolId: !Ref Pool, GroupName: all, Description: !Ref Who}}
  Dashboard: {Type: AWS::CloudWatch::Dashboard, Properties: {DashboardBody: !GetAtt Queue.Arn}}
"""
TAGS = [{"Key": "of", "Value": "stack"}]


def propose(apis: CloudClients, template: str) -> dict[str, str]:
    """Store a template and create a change set for a new stack."""
    bucket = f"templates-{new_id().lower()}"
    apis("s3").create_bucket(Bucket=bucket)
    apis("s3").put_object(Bucket=bucket, Key="t.yaml", Body=template.encode())
    url = f"{apis('s3').meta.endpoint_url}/{bucket}/t.yaml"
    made = apis("cloudformation").create_change_set(
        StackName="kinds", ChangeSetName="c", ChangeSetType="CREATE", TemplateURL=url, Tags=TAGS
    )
    return dict(made)


def status(apis: CloudClients, stack_id: str) -> str:
    """Return the stack's status once no operation is in progress, else an empty text."""
    (stack,) = apis("cloudformation").describe_stacks(StackName=stack_id)["Stacks"]
    return "" if stack["StackStatus"].endswith("_IN_PROGRESS") else str(stack["StackStatus"])


def failures(apis: CloudClients, stack_id: str) -> list[str]:
    """Return the failed resources and the reasons."""
    events = apis("cloudformation").describe_stack_events(StackName=stack_id)["StackEvents"]
    return [f"{one['LogicalResourceId']}: {one.get('ResourceStatusReason')}" for one in events]


def seen(apis: CloudClients, ids: dict[str, str]) -> dict[str, Any]:
    """Return what the services say of the stack's resources."""
    role = apis("iam").get_role(RoleName=ids["Role"])["Role"]
    (rule,) = apis("s3").get_bucket_cors(Bucket=ids["Bucket"])["CORSRules"]
    table = apis("dynamodb").describe_time_to_live(TableName=ids["Table"])["TimeToLiveDescription"]
    backups = apis("dynamodb").describe_continuous_backups(TableName=ids["Table"])["ContinuousBackupsDescription"]
    queue = apis("sqs").get_queue_attributes(QueueUrl=ids["Queue"], AttributeNames=["All"])["Attributes"]
    site = apis("cloudfront").get_distribution(Id=ids["Site"])["Distribution"]["ARN"]
    group = apis("autoscaling").describe_auto_scaling_groups(AutoScalingGroupNames=[ids["Scaling"]])
    accounts, of_pool = apis("cognito-idp"), {"UserPoolId": ids["Pool"]}
    pool = accounts.describe_user_pool(**of_pool)["UserPool"]
    by = accounts.describe_user_pool_client(**of_pool, ClientId=ids["Client"])["UserPoolClient"]
    return {
        "trusts": role["AssumeRolePolicyDocument"]["Statement"][0]["Principal"]["Service"],
        "policies": sorted(apis("iam").list_role_policies(RoleName=ids["Role"])["PolicyNames"]),
        "profile": apis("iam").get_instance_profile(InstanceProfileName=ids["Profile"])["InstanceProfile"]["Roles"]
        == [role],
        "cors": (rule["AllowedOrigins"], rule["MaxAgeSeconds"]),
        "tags": apis("s3").get_bucket_tagging(Bucket=ids["Bucket"])["TagSet"],
        "ttl": (table["TimeToLiveStatus"], table["AttributeName"]),
        "recovery": backups["PointInTimeRecoveryDescription"]["PointInTimeRecoveryStatus"],
        "queue": (queue["VisibilityTimeout"], int(json.loads(queue["RedrivePolicy"])["maxReceiveCount"])),
        "retention": [
            one["retentionInDays"]
            for one in apis("logs").describe_log_groups(logGroupNamePrefix="/test/kinds")["logGroups"]
        ],
        "stored": apis("ssm").get_parameter(Name=ids["Stored"])["Parameter"]["Value"],
        "site": apis("cloudfront").list_tags_for_resource(Resource=site)["Tags"]["Items"],
        "sizes": [(one["MinSize"], one["MaxSize"]) for one in group["AutoScalingGroups"]],
        "pool": (pool["UserPoolTags"], pool["AdminCreateUserConfig"]["AllowAdminCreateUserOnly"]),
        "hours": by["RefreshTokenValidity"],
        "members": accounts.get_group(**of_pool, GroupName=ids["Members"])["Group"]["Description"],
    }


def test_every_type_is_created_with_its_properties_and_tags_and_deleted(apis: CloudClients) -> None:
    cloudformation, ec2 = apis("cloudformation"), apis("ec2")
    body = TEMPLATE.replace("SUBNET", ec2.describe_subnets()["Subnets"][0]["SubnetId"])
    assert all(kind in body for kind in HANDLERS)
    made = propose(apis, body)
    cloudformation.execute_change_set(ChangeSetName="c", StackName="kinds")
    created = wait_until(lambda: status(apis, made["StackId"]), "the stack to be created")
    assert created == "CREATE_COMPLETE", failures(apis, made["StackId"])
    listed = cloudformation.list_stack_resources(StackName="kinds")["StackResourceSummaries"]
    ids = {one["LogicalResourceId"]: one["PhysicalResourceId"] for one in listed}
    assert seen(apis, ids) == {
        "trusts": "ec2.amazonaws.com",
        "policies": ["ec2", "own-ec2"],
        "profile": True,
        "cors": (["ec2"], 7),
        "tags": [*TAGS, {"Key": "who", "Value": "ec2"}],
        "ttl": ("ENABLED", "expires_at"),
        "recovery": "ENABLED",
        "queue": ("7", 5),
        "retention": [7],
        "stored": "ec2",
        "site": TAGS,
        "sizes": [(0, 2)],
        "pool": ({"of": "stack", "who": "ec2"}, True),
        "hours": 7,
        "members": "ec2",
    }
    for find, tags in (
        (ec2.describe_security_groups(GroupIds=[ids["Group"]]), "SecurityGroups"),
        (ec2.describe_addresses(PublicIps=[ids["Address"]]), "Addresses"),
        (ec2.describe_launch_templates(LaunchTemplateIds=[ids["Template"]]), "LaunchTemplates"),
    ):
        assert find[tags][0]["Tags"] == TAGS

    cloudformation.delete_stack(StackName="kinds")
    deleted = wait_until(lambda: status(apis, made["StackId"]), "the stack to be deleted")
    assert deleted == "DELETE_COMPLETE", failures(apis, made["StackId"])
    for service, operation, parameters in (
        ("ec2", "describe_security_groups", {"GroupIds": [ids["Group"]]}),
        ("ec2", "describe_addresses", {"PublicIps": [ids["Address"]]}),
        ("iam", "get_role", {"RoleName": ids["Role"]}),
        ("iam", "get_instance_profile", {"InstanceProfileName": ids["Profile"]}),
        ("s3", "head_bucket", {"Bucket": ids["Bucket"]}),
        ("dynamodb", "describe_table", {"TableName": ids["Table"]}),
        ("sqs", "get_queue_attributes", {"QueueUrl": ids["Queue"]}),
        ("ssm", "get_parameter", {"Name": ids["Stored"]}),
        ("cloudfront", "get_distribution", {"Id": ids["Site"]}),
        ("cognito-idp", "describe_user_pool", {"UserPoolId": ids["Pool"]}),
    ):
        with pytest.raises(ClientError):
            raise AssertionError(getattr(apis(service), operation)(**parameters))
    assert apis("logs").describe_log_groups(logGroupNamePrefix="/test/kinds")["logGroups"] == []
    assert ec2.describe_launch_templates(LaunchTemplateIds=[ids["Template"]])["LaunchTemplates"] == []
    groups = apis("autoscaling").describe_auto_scaling_groups(AutoScalingGroupNames=[ids["Scaling"]])
    assert groups["AutoScalingGroups"] == []


def test_a_request_that_is_refused_has_cloudformations_code(apis: CloudClients) -> None:
    cloudformation = apis("cloudformation")
    elsewhere = {"StackName": "s", "ChangeSetName": "c", "TemplateURL": "http://127.0.0.1/templates"}
    refusals: list[tuple[Callable[[], object], str, str]] = [
        (lambda: cloudformation.describe_stacks(StackName="unknown"), "ValidationError", "does not exist"),
        (lambda: cloudformation.describe_change_set(ChangeSetName="c", StackName="s"), "ChangeSetNotFound", "c"),
        (lambda: cloudformation.create_change_set(**elsewhere), "ValidationError", "names no object of a bucket"),
    ]
    for call, code, message in refusals:
        with pytest.raises(ClientError) as refused:
            call()
        error = refused.value.response["Error"]
        assert error["Code"].startswith(code)
        assert message in error["Message"]


GROUP = "web"


def states(apis: CloudClients) -> dict[str, str]:
    """Return the states of the group's instances."""
    (group,) = apis("autoscaling").describe_auto_scaling_groups(AutoScalingGroupNames=[GROUP])["AutoScalingGroups"]
    ids = [each["InstanceId"] for each in group["Instances"]]
    found = apis("ec2").describe_instances(InstanceIds=ids)["Reservations"] if ids else []
    return {one["InstanceId"]: one["State"]["Name"] for each in found for one in each["Instances"]}


def one_running(apis: CloudClients, other_than: str = "") -> str:
    """Wait until the group has one running instance, which is another one; return its id."""
    wait_until(
        lambda: set(states(apis).values()) == {"running"} and other_than not in states(apis),
        f"an instance other than {other_than!r} to run",
    )
    (found,) = states(apis)
    return found


def test_a_group_replaces_its_instances_and_ends_with_them(cloud: LocalCloud, apis: CloudClients) -> None:
    ec2, scaling = apis("ec2"), apis("autoscaling")
    data = {"ImageId": "ami-12c6146b", "UserData": base64.b64encode(SLEEP.encode()).decode()}
    template = ec2.create_launch_template(LaunchTemplateName=GROUP, LaunchTemplateData=data)["LaunchTemplate"]
    scaling.create_auto_scaling_group(
        AutoScalingGroupName=GROUP,
        MinSize=1,
        MaxSize=2,
        LaunchTemplate={"LaunchTemplateId": template["LaunchTemplateId"], "Version": "$Latest"},
        VPCZoneIdentifier=ec2.describe_subnets()["Subnets"][0]["SubnetId"],
        Tags=[{"Key": "fleetsight", "Value": "p", "PropagateAtLaunch": True}],
    )
    first = one_running(apis)
    process = cloud.state_dir / "instances" / first / "process"
    wait_until(lambda: process.exists() and process.read_text(), "the process of the instance")
    os.killpg(int(process.read_text().split()[0]), signal.SIGTERM)
    second = one_running(apis, other_than=first)
    ec2.get_waiter("instance_terminated").wait(InstanceIds=[first], WaiterConfig={"Delay": 1})
    ec2.terminate_instances(InstanceIds=[second])
    third = one_running(apis, other_than=second)
    ec2.stop_instances(InstanceIds=[third])
    one_running(apis, other_than=third)
    ec2.get_waiter("instance_terminated").wait(InstanceIds=[third], WaiterConfig={"Delay": 1})

    scaling.update_auto_scaling_group(AutoScalingGroupName=GROUP, MinSize=2)
    wait_until(lambda: list(states(apis).values()) == ["running"] * 2, "two instances")
    scaling.update_auto_scaling_group(AutoScalingGroupName=GROUP, MinSize=0, DesiredCapacity=0)
    wait_until(lambda: not states(apis), "no instances")
    scaling.delete_auto_scaling_group(AutoScalingGroupName=GROUP, ForceDelete=True)
    assert scaling.describe_auto_scaling_groups()["AutoScalingGroups"] == []
