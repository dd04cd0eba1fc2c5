"""The permissions that the user who deploys needs: one list, for the preflight and for the policy that it prints."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scripts.aws.context import AwsAccount

if TYPE_CHECKING:
    from mypy_boto3_iam.type_defs import ContextEntryTypeDef

OFF = {"", "0", "false"}
"""Values of a parameter that turn its part of the stack off."""

_BUCKETS = tuple(f"s3:::{{prefix}}-{each}-{{account}}-{{region}}" for each in ("bake", "input", "output", "models"))
_QUEUES = tuple(f"sqs:{{region}}:{{account}}:{{prefix}}-{each}" for each in ("requests", "responses", "dead-letters"))


@dataclass(frozen=True)
class Permission:
    """Actions that `fleetsight up` needs on some resources, for its own calls and CloudFormation's on its behalf.

    Attributes:
        name: of the policy's statement.
        resources: ARNs without `arn:PARTITION:`, with {prefix}, {region} and {account}; or *.
        actions: the required actions, which are simulated one by one.
        more: further actions of the policy: those that AWS needs only sometimes, and patterns.
        part: parameter of the stack that turns the need for these actions on; empty if they are always needed.
    """

    name: str
    resources: tuple[str, ...]
    actions: str
    more: str = ""
    part: str = ""

    def arns(self, account: AwsAccount, prefix: str) -> list[str]:
        """Return the ARNs of the resources."""
        partition = account.caller_arn.split(":")[1]
        values = {"prefix": prefix, "region": account.region_name, "account": account.id}
        return [each if each == "*" else f"arn:{partition}:{each.format_map(values)}" for each in self.resources]


PERMISSIONS = (
    Permission(
        "Stack",
        ("cloudformation:{region}:{account}:stack/{prefix}/*",),
        "cloudformation:CreateChangeSet cloudformation:DeleteChangeSet cloudformation:DeleteStack "
        "cloudformation:DescribeChangeSet cloudformation:DescribeStackEvents cloudformation:DescribeStacks "
        "cloudformation:ExecuteChangeSet cloudformation:ListChangeSets cloudformation:ListStackResources",
        "cloudformation:DescribeEvents cloudformation:TagResource cloudformation:UpdateTerminationProtection",
    ),
    Permission(
        "Look",
        ("*",),
        "ec2:DescribeAvailabilityZones ec2:DescribeImages ec2:DescribeInstances ec2:DescribeLaunchTemplates "
        "ec2:DescribeRouteTables ec2:DescribeSecurityGroups ec2:DescribeSnapshots ec2:DescribeSubnets "
        "ec2:DescribeVpcEndpoints ec2:DescribeVpcs autoscaling:DescribeAutoScalingGroups "
        "autoscaling:DescribeScalingActivities logs:DescribeLogGroups",
        "autoscaling:Describe* cloudformation:ValidateTemplate cloudwatch:ListDashboards ec2:Describe* ec2:Get* "
        "elasticloadbalancing:Describe* iam:GetRole iam:SimulatePrincipalPolicy kms:DescribeKey "
        "servicequotas:GetServiceQuota ses:GetAccount sns:ListTopics sqs:ListQueues",
    ),
    Permission(
        "Machines",
        ("*",),
        "ec2:AuthorizeSecurityGroupEgress ec2:AuthorizeSecurityGroupIngress ec2:CreateImage ec2:CreateLaunchTemplate "
        "ec2:CreateSecurityGroup ec2:CreateTags ec2:DeleteLaunchTemplate ec2:DeleteSecurityGroup "
        "ec2:RevokeSecurityGroupEgress ec2:RevokeSecurityGroupIngress ec2:RunInstances ec2:TerminateInstances "
        "autoscaling:CreateAutoScalingGroup autoscaling:DeleteAutoScalingGroup autoscaling:UpdateAutoScalingGroup "
        "ec2:AllocateAddress ec2:ReleaseAddress",
        "autoscaling:CreateOrUpdateTags autoscaling:DeleteTags autoscaling:ResumeProcesses "
        "autoscaling:SuspendProcesses ec2:CreateLaunchTemplateVersion ec2:CreateVpcEndpoint ec2:DeleteSnapshot "
        "ec2:DeleteTags ec2:DeleteVpcEndpoints ec2:DeregisterImage ec2:ModifyVpcEndpoint "
        "ec2:UpdateSecurityGroupRuleDescriptions*",
    ),
    Permission(
        "Roles",
        ("iam::{account}:role/{prefix}-*",),
        "iam:CreateRole iam:DeleteRole iam:DeleteRolePolicy iam:GetRole iam:GetRolePolicy iam:PassRole "
        "iam:PutRolePolicy iam:TagRole",
        "iam:*AttachedRolePolicies iam:AttachRolePolicy iam:DetachRolePolicy iam:ListRolePolicies iam:UntagRole "
        "iam:UpdateAssumeRolePolicy iam:UpdateRole*",
    ),
    Permission(
        "InstanceProfiles",
        ("iam::{account}:instance-profile/{prefix}-*",),
        "iam:AddRoleToInstanceProfile iam:CreateInstanceProfile iam:DeleteInstanceProfile iam:GetInstanceProfile "
        "iam:RemoveRoleFromInstanceProfile",
    ),
    Permission(
        "FirstUseInTheAccount",
        ("iam::{account}:role/aws-service-role/*",),
        "",
        "iam:CreateServiceLinkedRole",
    ),
    Permission(
        "Buckets",
        _BUCKETS,
        "s3:CreateBucket s3:DeleteBucket s3:DeleteBucketPolicy s3:GetBucketPolicy s3:ListBucket "
        "s3:PutBucketOwnershipControls s3:PutBucketPolicy s3:PutBucketPublicAccessBlock s3:PutBucketTagging "
        "s3:PutEncryptionConfiguration s3:PutLifecycleConfiguration",
        "s3:GetBucket* s3:Get*Configuration s3:ListBucketMultipartUploads s3:ListBucketVersions "
        "s3:ListTagsForResource s3:PutBucketCORS s3:TagResource s3:UntagResource",
    ),
    Permission(
        "BakeObjects",
        (f"{_BUCKETS[0]}/*",),
        "s3:DeleteObject s3:GetObject s3:PutObject",
        "s3:AbortMultipartUpload s3:DeleteObjectVersion",
    ),
    Permission(
        "DataObjects",
        tuple(f"{each}/*" for each in _BUCKETS[1:]),
        "",
        "s3:AbortMultipartUpload s3:DeleteObject s3:DeleteObjectVersion",
    ),
    Permission(
        "OtherCommands",
        ("*",),
        "",
        "autoscaling:StartInstanceRefresh cloudfront:ListDistributions cloudfront:ListTagsForResource "
        "dynamodb:ListTables ec2:DeleteVolume ec2:ModifyInstanceAttribute ec2:ModifyLaunchTemplate iam:ListRoleTags "
        "iam:ListRoles logs:FilterLogEvents s3:ListAllMyBuckets ssm:DescribeParameters tag:GetResources",
    ),
    Permission(
        "Table",
        (
            "dynamodb:{region}:{account}:table/{prefix}-jobs",
            "dynamodb:{region}:{account}:table/{prefix}-jobs-restored-*",
        ),
        "dynamodb:CreateTable dynamodb:DeleteTable dynamodb:DescribeContinuousBackups dynamodb:DescribeTable "
        "dynamodb:DescribeTimeToLive dynamodb:GetItem dynamodb:ListTagsOfResource dynamodb:PutItem "
        "dynamodb:TagResource dynamodb:UpdateContinuousBackups dynamodb:UpdateTimeToLive",
        "dynamodb:Describe* dynamodb:GetResourcePolicy dynamodb:UntagResource dynamodb:UpdateTable",
    ),
    Permission(
        "Queues",
        _QUEUES,
        "sqs:CreateQueue sqs:DeleteQueue sqs:GetQueueAttributes sqs:GetQueueUrl sqs:ListQueueTags "
        "sqs:SetQueueAttributes sqs:TagQueue",
        "sqs:UntagQueue",
    ),
    # Metric filters: stacks of versions before the embedded metric format have some, which an update deletes.
    Permission(
        "Logs",
        ("logs:{region}:{account}:log-group:/{prefix}/*",),
        "logs:CreateLogGroup logs:DeleteLogGroup logs:DeleteMetricFilter logs:PutMetricFilter "
        "logs:PutRetentionPolicy logs:TagResource",
        "logs:DescribeIndexPolicies logs:DescribeMetricFilters logs:GetDataProtectionPolicy logs:ListTags* "
        "logs:UntagResource",
    ),
    Permission(
        "Parameters",
        ("ssm:{region}:{account}:parameter/{prefix}/*",),
        "ssm:AddTagsToResource ssm:DeleteParameter ssm:GetParameter ssm:GetParameters ssm:PutParameter",
        "ssm:ListTagsForResource ssm:RemoveTagsFromResource",
    ),
    Permission(
        "PublicImages",
        ("ssm:{region}::parameter/aws/service/ami-amazon-linux-latest/*",),
        "",
        "ssm:GetParameters",
    ),
    Permission(
        "Alerts",
        ("sns:{region}:{account}:{prefix}-alerts", "sns:{region}:{account}:{prefix}-finished-jobs"),
        "sns:CreateTopic sns:DeleteTopic sns:GetTopicAttributes sns:SetTopicAttributes sns:Subscribe sns:TagResource",
        "sns:GetDataProtectionPolicy sns:GetSubscriptionAttributes sns:List* sns:SetSubscriptionAttributes "
        "sns:Unsubscribe sns:UntagResource",
    ),
    Permission(
        "Alarms",
        ("cloudwatch:{region}:{account}:alarm:{prefix}-*",),
        "cloudwatch:DeleteAlarms cloudwatch:PutMetricAlarm",
        "cloudwatch:DescribeAlarms cloudwatch:ListTagsForResource cloudwatch:TagResource cloudwatch:UntagResource",
    ),
    Permission(
        "Dashboard",
        ("cloudwatch::{account}:dashboard/{prefix}-*",),
        "cloudwatch:DeleteDashboards cloudwatch:GetDashboard cloudwatch:PutDashboard",
        "cloudwatch:ListTagsForResource cloudwatch:TagResource cloudwatch:UntagResource",
    ),
    Permission(
        "DataKey",
        ("kms:{region}:{account}:key/*",),
        "kms:CreateGrant kms:Decrypt kms:DescribeKey kms:Encrypt kms:GenerateDataKey",
        "kms:GenerateDataKeyWithoutPlaintext kms:ReEncrypt*",
        part="DataKeyArn",
    ),
    Permission(
        "Budget",
        ("budgets::{account}:budget/*",),
        "budgets:ModifyBudget budgets:ViewBudget",
        "billing:GetBillingViewData budgets:ListTagsForResource budgets:TagResource budgets:UntagResource",
        part="MonthlyBudget",
    ),
    Permission(
        "SignIn",
        ("*",),
        "cognito-idp:CreateGroup cognito-idp:CreateUserPool cognito-idp:CreateUserPoolClient "
        "cognito-idp:DeleteGroup cognito-idp:DeleteUserPool cognito-idp:DeleteUserPoolClient "
        "cognito-idp:DescribeUserPool cognito-idp:DescribeUserPoolClient cognito-idp:GetGroup "
        "cognito-idp:ListUserPools cognito-idp:ListUsersInGroup cognito-idp:SetUserPoolMfaConfig "
        "cognito-idp:TagResource",
        "cognito-idp:GetUserPoolMfaConfig cognito-idp:List* cognito-idp:UntagResource cognito-idp:Update*",
        part="CreateUserPool",
    ),
    Permission(
        "LoadBalancer",
        ("*",),
        "elasticloadbalancing:AddTags elasticloadbalancing:CreateListener elasticloadbalancing:CreateLoadBalancer "
        "elasticloadbalancing:CreateTargetGroup elasticloadbalancing:DeleteListener "
        "elasticloadbalancing:DeleteLoadBalancer elasticloadbalancing:DeleteTargetGroup "
        "elasticloadbalancing:ModifyLoadBalancerAttributes elasticloadbalancing:ModifyTargetGroupAttributes",
        "elasticloadbalancing:Modify* elasticloadbalancing:*Targets elasticloadbalancing:RemoveTags "
        "elasticloadbalancing:Set*",
        part="CertificateArn",
    ),
    Permission(
        "Names",
        ("*",),
        "route53:ChangeResourceRecordSets route53:GetChange route53:GetHostedZone route53:ListResourceRecordSets",
        "route53:ListHostedZones",
        part="HostedZoneId",
    ),
    Permission(
        "Site",
        ("*",),
        "cloudfront:CreateDistribution cloudfront:CreateFunction cloudfront:CreateInvalidation "
        "cloudfront:CreateOriginAccessControl cloudfront:CreateResponseHeadersPolicy cloudfront:DeleteDistribution "
        "cloudfront:DeleteFunction cloudfront:DeleteOriginAccessControl cloudfront:DeleteResponseHeadersPolicy "
        "cloudfront:DescribeFunction cloudfront:GetDistribution cloudfront:PublishFunction cloudfront:TagResource",
        "cloudfront:Create*WithTags cloudfront:Get* cloudfront:List* cloudfront:UntagResource cloudfront:Update*",
        part="StaticSite",
    ),
    Permission(
        "SiteFiles",
        ("s3:::{prefix}-site-{account}-{region}", "s3:::{prefix}-site-{account}-{region}/*"),
        "",
        "s3:CreateBucket s3:Delete* s3:Get* s3:List* s3:Put* s3:TagResource s3:UntagResource",
        part="StaticSite",
    ),
)
"""The actions of CloudFormation's calls are those that AWS's schemas of the resource types name for their handlers.

https://docs.aws.amazon.com/cloudformation-cli/latest/userguide/resource-type-schema.html#schema-properties-handlers
For a group with a launch template: https://docs.aws.amazon.com/autoscaling/ec2/userguide/ec2-auto-scaling-api-permissions.html
"""


def needed_permissions(parameters: Mapping[str, str]) -> list[Permission]:
    """Return the permissions for a stack with these parameters."""
    return [each for each in PERMISSIONS if not each.part or parameters.get(each.part, "") not in OFF]


def deploy_policy(account: AwsAccount, prefix: str) -> dict[str, Any]:
    """Return the IAM policy that allows `fleetsight up` with all parts that a stack can have."""
    statements = [
        {
            "Sid": each.name,
            "Effect": "Allow",
            "Action": sorted({*each.actions.split(), *each.more.split()}),
            "Resource": each.arns(account, prefix),
        }
        for each in PERMISSIONS
    ]
    return {"Version": "2012-10-17", "Statement": statements}


def policy_source(account: AwsAccount) -> str | None:
    """Return the ARN of the user or the role with the policies of the caller, or None if the caller is neither.

    The simulation does not accept a session: a role's session is `assumed-role/NAME/SESSION`, without the path of the
    role. The root user and federated users have no policies of their own.
    https://docs.aws.amazon.com/IAM/latest/APIReference/API_SimulatePrincipalPolicy.html
    """
    _, _, service, _, _, resource = account.caller_arn.split(":", 5)
    kind, _, name = resource.partition("/")
    if (service, kind) == ("iam", "user"):
        return account.caller_arn
    if (service, kind) == ("sts", "assumed-role"):
        return account.iam.get_role(RoleName=name.split("/")[0])["Role"]["Arn"]
    return None


def denials(account: AwsAccount, prefix: str, source: str, permissions: list[Permission]) -> dict[str, bool]:
    """Return the actions that the policies of `source` deny, and whether the real calls are certainly denied.

    The simulation can differ from a real call. It does not know all conditions of policies, such as a second factor
    at sign-in, and it simulates any resource (*) although a policy may allow some. Only a rollback needs deletions.
    """
    region: list[ContextEntryTypeDef] = [
        {
            "ContextKeyName": "aws:RequestedRegion",
            "ContextKeyType": "string",
            "ContextKeyValues": [account.region_name],
        }
    ]
    paginator = account.iam.get_paginator("simulate_principal_policy")
    found: dict[str, bool] = {}
    for permission in (each for each in permissions if each.actions):
        # `check_launch` asks EC2 itself about launches.
        actions = [each for each in permission.actions.split() if each != "ec2:RunInstances"]
        # A name that the pattern matches: the simulation accepts resources, not patterns.
        arns = [each if each == "*" else each.replace("*", "check") for each in permission.arns(account, prefix)]
        pages = paginator.paginate(
            PolicySourceArn=source, ActionNames=actions, ResourceArns=arns, ContextEntries=region
        )
        for result in (each for page in pages for each in page["EvaluationResults"]):
            action = result["EvalActionName"]
            specific = [
                (str(each["EvalResourceDecision"]), each.get("MissingContextValues"))
                for each in result.get("ResourceSpecificResults", [])
            ]
            # Conditions of an organisation's policies may hold for the real call.
            by_organization = not result.get("OrganizationsDecisionDetail", {}).get("AllowedByOrganizations", True)
            for decision, missing in specific or [(str(result["EvalDecision"]), result.get("MissingContextValues"))]:
                if decision != "allowed":
                    is_complete = not missing and not by_organization
                    is_certain = is_complete and (decision == "explicitDeny" or arns != ["*"])
                    found[action] = found.get(action, False) or (is_certain and ":Delete" not in action)
    return found
