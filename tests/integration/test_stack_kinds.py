"""Each kind of resource is made, changed and deleted as the service that it belongs to then says itself."""

import json
from collections.abc import Callable
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from services.embedded.launch import REGION, EmbeddedCloud
from tests.support.waiting import wait_until

TEMPLATE = """
Parameters: {Days: {Type: Number, Default: 7}, Port: {Type: Number, Default: 443}, Who: {Type: String, Default: ec2}}
Resources:
  Group:
    Type: AWS::EC2::SecurityGroup
    Properties:
      GroupDescription: a test
      SecurityGroupIngress: [{IpProtocol: tcp, FromPort: !Ref Port, ToPort: !Ref Port, CidrIp: 10.0.0.0/8}]
      SecurityGroupEgress: [{IpProtocol: tcp, FromPort: 443, ToPort: 443, CidrIp: 0.0.0.0/0, Description: out}]
  Rule:
    Type: AWS::EC2::SecurityGroupIngress
    Properties:
      {GroupId: !GetAtt Group.GroupId, IpProtocol: udp, FromPort: !Ref Port, ToPort: !Ref Port, CidrIp: 10.0.0.0/8}
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
      BucketEncryption:
        ServerSideEncryptionConfiguration: [{ServerSideEncryptionByDefault: {SSEAlgorithm: AES256}}]
      PublicAccessBlockConfiguration: {BlockPublicAcls: true}
      Tags: [{Key: who, Value: !Ref Who}]
  Table:
    Type: AWS::DynamoDB::Table
    Properties:
      BillingMode: PAY_PER_REQUEST
      AttributeDefinitions: [{AttributeName: pk, AttributeType: S}]
      KeySchema: [{AttributeName: pk, KeyType: HASH}]
      TimeToLiveSpecification: {Enabled: true, AttributeName: expires_at}
      Tags: [{Key: who, Value: !Ref Who}]
  Dead: {Type: AWS::SQS::Queue}
  Queue:
    Type: AWS::SQS::Queue
    Properties:
      VisibilityTimeout: !Ref Days
      RedrivePolicy: {deadLetterTargetArn: !GetAtt Dead.Arn, maxReceiveCount: 5}
  Logs: {Type: AWS::Logs::LogGroup, Properties: {LogGroupName: /test/kinds, RetentionInDays: !Ref Days}}
  Topic: {Type: AWS::SNS::Topic, Properties: {Tags: [{Key: who, Value: !Ref Who}]}}
  Stored: {Type: AWS::SSM::Parameter, Properties: {Type: String, Value: !Ref Who, Tags: {a: b}}}
  Alarm:
    Type: AWS::CloudWatch::Alarm
    Properties:
      {Namespace: AWS/SQS, MetricName: NumberOfMessagesSent, Statistic: Sum, Period: 60, EvaluationPeriods: 1,
       ComparisonOperator: GreaterThanThreshold, Threshold: !Ref Days, AlarmActions: [!Ref Topic]}
  Control:
    Type: AWS::CloudFront::OriginAccessControl
    Properties:
      OriginAccessControlConfig:
        {Name: !Ref Who, OriginAccessControlOriginType: s3, SigningBehavior: always, SigningProtocol: sigv4}
  Site:
    Type: AWS::CloudFront::Distribution
    Properties:
      DistributionConfig:
        Enabled: true
        Comment: !Ref Who
        Origins:
          - Id: files
            DomainName: !GetAtt Bucket.RegionalDomainName
            OriginAccessControlId: !GetAtt Control.Id
            S3OriginConfig: {OriginAccessIdentity: ""}
        DefaultCacheBehavior: {TargetOriginId: files, ViewerProtocolPolicy: https-only}
      Tags: [{Key: who, Value: !Ref Who}]
  Endpoint:
    Type: AWS::EC2::VPCEndpoint
    Properties:
      {VpcEndpointType: Gateway, VpcId: VPC, ServiceName: com.amazonaws.us-east-1.s3, RouteTableIds: [TABLE]}
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
  Dashboard: {Type: AWS::CloudWatch::Dashboard, Properties: {DashboardName: mine, DashboardBody: "{}"}}
"""
SEEN_BEFORE = {
    "allowed": [("tcp", 443), ("udp", 443)],
    "trusts": "ec2.amazonaws.com",
    "policies": ["ec2", "own-ec2"],
    "cors": ("ec2", 7),
    "bucket tags": [{"Key": "who", "Value": "ec2"}],
    "table tags": [{"Key": "who", "Value": "ec2"}],
    "visibility": "7",
    "retention": 7,
    "topic tags": [{"Key": "who", "Value": "ec2"}],
    "stored": "ec2",
    "threshold": 7.0,
    "control": "ec2",
    "site": ("ec2", True),
    "site tags": [{"Key": "who", "Value": "ec2"}],
    "pool": ({"who": "ec2"}, True),
    "hours": 7,
    "members": "ec2",
}
SEEN_AFTER = {
    "allowed": [("tcp", 80), ("udp", 80)],
    "trusts": "ssm.amazonaws.com",
    "policies": ["own-ssm", "ssm"],
    "cors": ("ssm", 30),
    "bucket tags": [{"Key": "who", "Value": "ssm"}],
    "table tags": [{"Key": "who", "Value": "ssm"}],
    "visibility": "30",
    "retention": 30,
    "topic tags": [{"Key": "who", "Value": "ssm"}],
    "stored": "ssm",
    "threshold": 30.0,
    "control": "ssm",
    "site": ("ssm", True),
    "site tags": [{"Key": "who", "Value": "ssm"}],
    "pool": ({"who": "ssm"}, True),
    "hours": 30,
    "members": "ssm",
}


@pytest.fixture
def client(cloud: EmbeddedCloud) -> Callable[[str], Any]:
    return lambda service: boto3.client(
        service,  # type: ignore[call-overload]
        endpoint_url=cloud.endpoint_url,
        region_name=REGION,
    )


def settled(client: Callable[[str], Any], stack_id: str) -> str:
    """Wait until nothing is being done with the stack, and return its state."""

    def final_status() -> str:
        (stack,) = client("cloudformation").describe_stacks(StackName=stack_id)["Stacks"]
        return "" if stack["StackStatus"].endswith("_IN_PROGRESS") else str(stack["StackStatus"])

    return wait_until(final_status, "nothing is being done with the stack")


def failures(client: Callable[[str], Any], stack_id: str) -> list[str]:
    """Return what has failed, and why."""
    events = client("cloudformation").describe_stack_events(StackName=stack_id)["StackEvents"]
    return [
        f"{one['LogicalResourceId']}: {one.get('ResourceStatusReason')}"
        for one in events
        if "FAILED" in one["ResourceStatus"]
    ]


def seen(client: Callable[[str], Any], ids: dict[str, str]) -> dict[str, Any]:
    """Return what the services say of the stack's resources."""
    group = client("ec2").describe_security_groups(GroupIds=[ids["Group"]])["SecurityGroups"][0]
    role = client("iam").get_role(RoleName=ids["Role"])["Role"]
    (rule,) = client("s3").get_bucket_cors(Bucket=ids["Bucket"])["CORSRules"]
    site = client("cloudfront").get_distribution(Id=ids["Site"])["Distribution"]
    control = client("cloudfront").get_origin_access_control(Id=ids["Control"])["OriginAccessControl"]
    table = client("dynamodb").describe_table(TableName=ids["Table"])["Table"]["TableArn"]
    queue = client("sqs").get_queue_attributes(QueueUrl=ids["Queue"], AttributeNames=["All"])["Attributes"]
    assert json.loads(queue["RedrivePolicy"])["maxReceiveCount"] in {5, "5"}
    assert [one["ToPort"] for one in group["IpPermissionsEgress"]] == [443]
    accounts, of_pool = client("cognito-idp"), {"UserPoolId": ids["Pool"]}
    pool = accounts.describe_user_pool(**of_pool)["UserPool"]
    by = accounts.describe_user_pool_client(**of_pool, ClientId=ids["Client"])["UserPoolClient"]
    return {
        "allowed": sorted((one["IpProtocol"], one["ToPort"]) for one in group["IpPermissions"]),
        "trusts": role["AssumeRolePolicyDocument"]["Statement"][0]["Principal"]["Service"],
        "policies": sorted(client("iam").list_role_policies(RoleName=ids["Role"])["PolicyNames"]),
        "cors": (rule["AllowedOrigins"][0], rule["MaxAgeSeconds"]),
        "bucket tags": client("s3").get_bucket_tagging(Bucket=ids["Bucket"])["TagSet"],
        "table tags": client("dynamodb").list_tags_of_resource(ResourceArn=table)["Tags"],
        "visibility": queue["VisibilityTimeout"],
        "retention": client("logs").describe_log_groups(logGroupNamePrefix="/test/kinds")["logGroups"][0][
            "retentionInDays"
        ],
        "topic tags": client("sns").list_tags_for_resource(ResourceArn=ids["Topic"])["Tags"],
        "stored": client("ssm").get_parameter(Name=ids["Stored"])["Parameter"]["Value"],
        "threshold": client("cloudwatch").describe_alarms(AlarmNames=[ids["Alarm"]])["MetricAlarms"][0]["Threshold"],
        "control": control["OriginAccessControlConfig"]["Name"],
        "site": (site["DistributionConfig"]["Comment"], site["DistributionConfig"]["Enabled"]),
        "site tags": client("cloudfront").list_tags_for_resource(Resource=site["ARN"])["Tags"]["Items"],
        "pool": (pool["UserPoolTags"], pool["AdminCreateUserConfig"]["AllowAdminCreateUserOnly"]),
        "hours": by["RefreshTokenValidity"],
        "members": accounts.get_group(**of_pool, GroupName=ids["Members"])["Group"]["Description"],
    }


def ids_of(client: Callable[[str], Any], stack_id: str) -> dict[str, str]:
    found = client("cloudformation").describe_stack_resources(StackName=stack_id)["StackResources"]
    return {one["LogicalResourceId"]: one["PhysicalResourceId"] for one in found}


def test_every_kind_is_made_changed_and_deleted(client: Callable[[str], Any]) -> None:
    cloudformation, ec2 = client("cloudformation"), client("ec2")
    vpc = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
    tables = ec2.describe_route_tables(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["RouteTables"]
    body = TEMPLATE.replace("VPC,", f"{vpc},").replace("[TABLE]", f"[{tables[0]['RouteTableId']}]")
    same = {"StackName": "kinds", "Capabilities": ["CAPABILITY_IAM"]}
    stack_id = cloudformation.create_stack(TemplateBody=body, **same)["StackId"]
    assert settled(client, stack_id) == "CREATE_COMPLETE", failures(client, stack_id)
    ids = ids_of(client, stack_id)
    assert ids["Dashboard"] == "mine"
    assert seen(client, ids) == SEEN_BEFORE

    other = [
        {"ParameterKey": key, "ParameterValue": value}
        for key, value in (("Days", "30"), ("Port", "80"), ("Who", "ssm"))
    ]
    cloudformation.update_stack(UsePreviousTemplate=True, Parameters=other, **same)
    assert settled(client, stack_id) == "UPDATE_COMPLETE", failures(client, stack_id)
    after = ids_of(client, stack_id)
    assert {name for name in ids if ids[name] != after[name]} == {"Rule"}
    assert seen(client, after) == SEEN_AFTER

    cloudformation.delete_stack(StackName="kinds")
    assert settled(client, stack_id) == "DELETE_COMPLETE", failures(client, stack_id)
    gone: list[Callable[[], object]] = [
        lambda: ec2.describe_security_groups(GroupIds=[ids["Group"]]),
        lambda: client("iam").get_role(RoleName=ids["Role"]),
        lambda: client("iam").get_instance_profile(InstanceProfileName=ids["Profile"]),
        lambda: client("s3").head_bucket(Bucket=ids["Bucket"]),
        lambda: client("dynamodb").describe_table(TableName=ids["Table"]),
        lambda: client("sqs").get_queue_attributes(QueueUrl=ids["Queue"]),
        lambda: client("sns").get_topic_attributes(TopicArn=ids["Topic"]),
        lambda: client("ssm").get_parameter(Name=ids["Stored"]),
        lambda: client("cloudfront").get_distribution(Id=ids["Site"]),
        lambda: client("cloudfront").get_origin_access_control(Id=ids["Control"]),
        lambda: client("cognito-idp").describe_user_pool(UserPoolId=ids["Pool"]),
    ]
    for look in gone:
        with pytest.raises(ClientError):
            look()
    assert client("logs").describe_log_groups(logGroupNamePrefix="/test/kinds")["logGroups"] == []
    assert client("cloudwatch").describe_alarms(AlarmNames=[ids["Alarm"]])["MetricAlarms"] == []


def test_a_request_that_is_refused_has_cloudformations_code(client: Callable[[str], Any]) -> None:
    cloudformation = client("cloudformation")
    refusals: list[tuple[Callable[[], object], str, str]] = [
        (lambda: cloudformation.describe_stacks(StackName="nobody"), "ValidationError", "does not exist"),
        (lambda: cloudformation.describe_change_set(ChangeSetName="c", StackName="s"), "ChangeSetNotFound", "c"),
        (
            lambda: cloudformation.create_stack(
                StackName="s", TemplateBody="Resources: {A: {Type: AWS::IAM::Role, Properties: {}}}"
            ),
            "InsufficientCapabilities",
            "CAPABILITY_IAM",
        ),
        (
            lambda: cloudformation.create_stack(
                StackName="s", TemplateBody="Resources: {A: {Type: T}}", DisableRollback=True
            ),
            "ValidationError",
            "plays False only",
        ),
    ]
    for call, code, told in refusals:
        with pytest.raises(ClientError) as refused:
            call()
        error = refused.value.response["Error"]
        assert error["Code"].startswith(code)
        assert told in error["Message"]
    declared = cloudformation.validate_template(TemplateBody=TEMPLATE)
    assert [one["ParameterKey"] for one in declared["Parameters"]] == ["Days", "Port", "Who"]
    assert declared["Capabilities"] == ["CAPABILITY_IAM"]
