"""Names that a new stack takes, and that are taken already."""

from typing import Any

import pytest

from scripts.aws.preflight.account import NAMED_TYPES, check_names, stack_names
from tests.support.preflight import StubbedAccount, stubbed_account

SERVICES = ("budgets", "cloudwatch", "ec2", "logs", "sns", "sqs", "ssm")
BUDGET = {"TimeUnit": "MONTHLY", "BudgetType": "COST"}
ARN = "arn:aws:sns:us-east-1:123456789012:"


def answers(at: StubbedAccount, **found: Any) -> None:
    """Have each service answer in the order of the template; by default it has nothing of this prefix."""
    stubs = at.stubs
    if (budgets := found.get("budgets", [])) is not None:
        stubs["budgets"].add_response("describe_budgets", {"Budgets": budgets})
    stubs["cloudwatch"].add_response("list_dashboards", {"DashboardEntries": found.get("dashboards", [])})
    stubs["ec2"].add_response("describe_launch_templates", {"LaunchTemplates": found.get("templates", [])})
    stubs["logs"].add_response("describe_log_groups", {"logGroups": found.get("groups", [])})
    stubs["sns"].add_response("list_topics", {"Topics": found.get("topics", [])})
    stubs["sqs"].add_response("list_queues", {"QueueUrls": found.get("queues", [])})
    stubs["ssm"].add_response("get_parameters", {"Parameters": found.get("parameters", [])})


def test_names_come_from_the_template_without_those_that_a_stack_adopts_or_leaves_out() -> None:
    with stubbed_account() as at:
        names = stack_names(at.plan())
        assert set(names) == set(NAMED_TYPES) - {"AWS::S3::Bucket"}
        assert names["AWS::SQS::Queue"] == {"fs-requests", "fs-responses", "fs-dead-letters"}
        assert names["AWS::Budgets::Budget"] == {"fs-us-east-1-monthly"}
        at.parameters = {"StaticSite": "true", "MonthlyBudget": "0"}
        names = stack_names(at.plan())
    assert names["AWS::S3::Bucket"] == {"fs-site-123456789012-us-east-1"}
    assert "AWS::Budgets::Budget" not in names


@pytest.mark.parametrize(
    ("found", "name"),
    [
        ({"budgets": [{**BUDGET, "BudgetName": "fs-us-east-1-monthly"}]}, "fs-us-east-1-monthly"),
        ({"dashboards": [{"DashboardName": "fs-us-east-1"}]}, "fs-us-east-1"),
        ({"templates": [{"LaunchTemplateName": "fs-worker"}]}, "fs-worker"),
        ({"groups": [{"logGroupName": "/fs/worker"}]}, "/fs/worker"),
        ({"topics": [{"TopicArn": f"{ARN}fs-alerts"}]}, "fs-alerts"),
        ({"queues": ["https://sqs.us-east-1.amazonaws.com/123456789012/fs-requests"]}, "fs-requests"),
        ({"parameters": [{"Name": "/fs/bundle"}]}, "/fs/bundle"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_name_that_is_taken_stops_a_new_stack(found: dict[str, Any], name: str) -> None:
    with stubbed_account(*SERVICES) as at:
        answers(at, **found)
        ((level, words, remedy),) = at.found(check_names)
    assert level == "stop"
    assert words.startswith(f"{name} (AWS::")
    assert "fleetsight down" in remedy


def test_names_that_only_begin_alike_are_others() -> None:
    with stubbed_account(*SERVICES) as at:
        answers(
            at,
            queues=["https://sqs.us-east-1.amazonaws.com/123456789012/fs-requests-old"],
            topics=[{"TopicArn": f"{ARN}other-fs-alerts"}],
            groups=[{"logGroupName": "/fs/worker/old"}],
        )
        assert [level for level, _, _ in at.found(check_names)] == ["ok"]


def test_a_service_that_cannot_be_asked_is_a_warning_and_the_others_are_asked() -> None:
    with stubbed_account(*SERVICES) as at:
        answers(at, queues=["https://sqs.us-east-1.amazonaws.com/123456789012/fs-requests"], budgets=None)
        at.stubs["budgets"].add_client_error("describe_budgets", "AccessDeniedException", "no")
        found = sorted(level for level, _, _ in at.found(check_names))
    assert found == ["stop", "warning"]


def test_the_names_of_a_stack_that_is_there_are_its_own() -> None:
    with stubbed_account(is_new=False) as at:
        assert [level for level, _, _ in at.found(check_names)] == ["ok"]
