"""Whether the names that a new stack takes are free."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from scripts.aws.account import Account
from scripts.aws.buckets import exists
from scripts.aws.deploy.template import pseudo_values, substituted, template
from scripts.aws.preflight.findings import Finding, Level, StackPlan, guarded
from scripts.aws.preflight.rights import OFF

PARTS = {"HasSite": "StaticSite", "HasBudget": "MonthlyBudget"}
"""The parameters behind the template's conditions for resources with a name."""


def check_names(plan: StackPlan) -> Iterable[Finding]:
    """Find resources that have the name of one that a new stack makes.

    A new stack adopts what the template keeps. Names of CloudFront's resources are not looked at.
    """
    wanted = names_of(plan) if plan.is_new else {}

    def taken(kind: str) -> Iterable[Finding]:
        found = NAMED[kind][1](plan.account, plan.operation.prefix, sorted(wanted[kind]))
        if names := sorted(wanted[kind].intersection(found)):
            words = f"{', '.join(names)} ({kind}) exists, and no stack of this prefix does"
            remedy = "`fleetsight down` deletes what an earlier stack left; delete others yourself, or give --prefix"
            yield Finding(Level.STOP, words, remedy)

    findings = [each for kind in wanted for each in guarded(partial(taken, kind))]
    yield from findings or [Finding(Level.OK, "all that the stack takes are free, or its own")]


def names_of(plan: StackPlan) -> dict[str, set[str]]:
    """Return the names that the stack takes and does not adopt, by the type of their resources."""
    names: dict[str, set[str]] = {}
    for logical_name, each in template().resources.items():
        part = PARTS.get(each.get("Condition", ""))
        is_left_out = part is not None and plan.parameters[part] in OFF
        if each["Type"] not in NAMED or logical_name in template().kept or is_left_out:
            continue
        value: Any = each["Properties"]
        for key in NAMED[each["Type"]][0].split("."):
            value = value[key]
        names.setdefault(each["Type"], set()).add(substituted(value["Fn::Sub"], pseudo_values(plan.operation)))
    return names


def _budgets(account: Account, _prefix: str, _: Sequence[str]) -> Iterable[str]:
    pages = account.budgets.get_paginator("describe_budgets").paginate(AccountId=account.id)
    return [each["BudgetName"] for page in pages for each in page.get("Budgets", [])]


def _dashboards(account: Account, prefix: str, _: Sequence[str]) -> Iterable[str]:
    pages = account.cloudwatch.get_paginator("list_dashboards").paginate(DashboardNamePrefix=prefix)
    return [each["DashboardName"] for page in pages for each in page["DashboardEntries"]]


def _launch_templates(account: Account, _: str, names: Sequence[str]) -> Iterable[str]:
    found = account.ec2.describe_launch_templates(Filters=[{"Name": "launch-template-name", "Values": names}])
    return [each["LaunchTemplateName"] for each in found["LaunchTemplates"]]


def _log_groups(account: Account, prefix: str, _: Sequence[str]) -> Iterable[str]:
    pages = account.logs.get_paginator("describe_log_groups").paginate(logGroupNamePrefix=f"/{prefix}/")
    return [each["logGroupName"] for page in pages for each in page["logGroups"]]


def _buckets(account: Account, _: str, names: Sequence[str]) -> Iterable[str]:
    return [each for each in names if exists(account, each)]


def _topics(account: Account, _prefix: str, _: Sequence[str]) -> Iterable[str]:
    pages = account.sns.get_paginator("list_topics").paginate()
    return [each["TopicArn"].rpartition(":")[2] for page in pages for each in page["Topics"]]


def _queues(account: Account, prefix: str, _: Sequence[str]) -> Iterable[str]:
    pages = account.sqs.get_paginator("list_queues").paginate(QueueNamePrefix=prefix)
    return [url.rpartition("/")[2] for page in pages for url in page.get("QueueUrls", [])]


def _parameters(account: Account, _: str, names: Sequence[str]) -> Iterable[str]:
    return [each["Name"] for each in account.ssm.get_parameters(Names=names)["Parameters"]]


NAMED: Mapping[str, tuple[str, Callable[[Account, str, Sequence[str]], Iterable[str]]]] = {
    "AWS::Budgets::Budget": ("Budget.BudgetName", _budgets),
    "AWS::CloudWatch::Dashboard": ("DashboardName", _dashboards),
    "AWS::EC2::LaunchTemplate": ("LaunchTemplateName", _launch_templates),
    "AWS::Logs::LogGroup": ("LogGroupName", _log_groups),
    "AWS::S3::Bucket": ("BucketName", _buckets),
    "AWS::SNS::Topic": ("TopicName", _topics),
    "AWS::SQS::Queue": ("QueueName", _queues),
    "AWS::SSM::Parameter": ("Name", _parameters),
}
"""The property that names a resource of a type, and what returns the names that exist."""
