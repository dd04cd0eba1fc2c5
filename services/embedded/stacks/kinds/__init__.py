"""The kinds of resources that stacks are made of, by their type. Any other is noted: `noted.Noted`."""

from services.embedded.stacks.kinds.access import InlinePolicy, InstanceProfile, Role
from services.embedded.stacks.kinds.accounts import UserPool, UserPoolClient, UserPoolGroup
from services.embedded.stacks.kinds.compute import LaunchTemplate
from services.embedded.stacks.kinds.delivery import Distribution, OriginAccessControl
from services.embedded.stacks.kinds.groups import AutoScalingGroup
from services.embedded.stacks.kinds.kind import Kind
from services.embedded.stacks.kinds.network import SecurityGroup, SecurityGroupIngress, VpcEndpoint
from services.embedded.stacks.kinds.noted import Noted
from services.embedded.stacks.kinds.sight import Alarm, LogGroup, StoredParameter, Topic
from services.embedded.stacks.kinds.storage import Bucket, Queue, Table

PLAYED: dict[str, Kind] = {
    "AWS::AutoScaling::AutoScalingGroup": AutoScalingGroup(),
    "AWS::CloudFront::Distribution": Distribution(),
    "AWS::CloudFront::OriginAccessControl": OriginAccessControl(),
    "AWS::CloudWatch::Alarm": Alarm(),
    "AWS::Cognito::UserPool": UserPool(),
    "AWS::Cognito::UserPoolClient": UserPoolClient(),
    "AWS::Cognito::UserPoolGroup": UserPoolGroup(),
    "AWS::DynamoDB::Table": Table(),
    "AWS::EC2::LaunchTemplate": LaunchTemplate(),
    "AWS::EC2::SecurityGroup": SecurityGroup(),
    "AWS::EC2::SecurityGroupIngress": SecurityGroupIngress(),
    "AWS::EC2::VPCEndpoint": VpcEndpoint(),
    "AWS::IAM::InstanceProfile": InstanceProfile(),
    "AWS::IAM::Policy": InlinePolicy(),
    "AWS::IAM::Role": Role(),
    "AWS::Logs::LogGroup": LogGroup(),
    "AWS::S3::Bucket": Bucket(),
    "AWS::SNS::Topic": Topic(),
    "AWS::SQS::Queue": Queue(),
    "AWS::SSM::Parameter": StoredParameter(),
}
"""The types that are made by calls of the service they belong to."""

_NOTED = Noted()


def kind_of(resource_type: str) -> Kind:
    """Return how resources of a type are made."""
    return PLAYED.get(resource_type, _NOTED)
