"""A call asks for the actions and the resources that the Service Authorization Reference names."""

import pytest

from localcloud.iam.calls import Call, UnknownCallError
from localcloud.iam.questions import questions_of
from tests.unit.localcloud.iam.requests_of import call, json_call, query_call

QUEUE = "arn:aws:sqs:eu-central-1:123456789012:q"
TABLE = "arn:aws:dynamodb:eu-central-1:123456789012:table"
GROUP = "arn:aws:logs:eu-central-1:123456789012:log-group:/a/b:log-stream:"
POOLS = "arn:aws:cognito-idp:eu-central-1:123456789012:userpool"
URL = "http://127.0.0.1:4566/123456789012/q"


def asks(of: Call) -> list[tuple[str, str]]:
    return [(each.action, each.resource) for each in questions_of(of)]


@pytest.mark.parametrize(
    ("of", "pairs"),
    [
        (json_call("sqs", "ReceiveMessage", {"QueueUrl": URL}), [("sqs:ReceiveMessage", QUEUE)]),
        (json_call("sqs", "SendMessageBatch", {"QueueUrl": URL}), [("sqs:SendMessage", QUEUE)]),
        (json_call("sqs", "DeleteMessageBatch", {"QueueUrl": URL}), [("sqs:DeleteMessage", QUEUE)]),
        (
            json_call("sqs", "ChangeMessageVisibilityBatch", {"QueueUrl": URL}),
            [("sqs:ChangeMessageVisibility", QUEUE)],
        ),
        (json_call("sqs", "GetQueueUrl", {"QueueName": "q"}), [("sqs:GetQueueUrl", QUEUE)]),
        (json_call("sqs", "StartMessageMoveTask", {"SourceArn": QUEUE}), [("sqs:StartMessageMoveTask", QUEUE)]),
        (json_call("sqs", "ListQueues", {}), [("sqs:ListQueues", "*")]),
        (query_call("sqs", "SendMessage", QueueUrl=URL), [("sqs:SendMessage", QUEUE)]),
        (
            call("sqs", path="/123456789012/q", body=b"Action=SendMessage"),
            [("sqs:SendMessage", QUEUE)],
        ),
        (json_call("dynamodb", "GetItem", {"TableName": "t"}), [("dynamodb:GetItem", f"{TABLE}/t")]),
        (json_call("dynamodb", "GetItem", {"TableName": f"{TABLE}/t"}), [("dynamodb:GetItem", f"{TABLE}/t")]),
        (
            json_call("dynamodb", "Query", {"TableName": "t", "IndexName": "i"}),
            [("dynamodb:Query", f"{TABLE}/t/index/i")],
        ),
        (
            json_call("dynamodb", "BatchWriteItem", {"RequestItems": {"t": [], "u": []}}),
            [("dynamodb:BatchWriteItem", f"{TABLE}/t"), ("dynamodb:BatchWriteItem", f"{TABLE}/u")],
        ),
        (
            json_call(
                "dynamodb",
                "TransactWriteItems",
                {
                    "TransactItems": [
                        {"Put": {"TableName": "t"}},
                        {"Put": {"TableName": "t"}},
                        {"ConditionCheck": {"TableName": "u"}},
                    ]
                },
            ),
            [("dynamodb:PutItem", f"{TABLE}/t"), ("dynamodb:ConditionCheckItem", f"{TABLE}/u")],
        ),
        (json_call("dynamodb", "ListTables", {}), [("dynamodb:ListTables", "*")]),
        (
            json_call("ssm", "GetParameters", {"Names": ["/a/b", "c"]}),
            [
                ("ssm:GetParameters", "arn:aws:ssm:eu-central-1:123456789012:parameter/a/b"),
                ("ssm:GetParameters", "arn:aws:ssm:eu-central-1:123456789012:parameter/c"),
            ],
        ),
        (json_call("ssm", "UpdateInstanceInformation", {}), [("ssm:UpdateInstanceInformation", "*")]),
        (
            json_call("logs", "CreateLogStream", {"logGroupName": "/a/b", "logStreamName": "s"}),
            [("logs:CreateLogStream", GROUP)],
        ),
        (json_call("logs", "DescribeLogStreams", {"logGroupName": "/a/b"}), [("logs:DescribeLogStreams", GROUP)]),
        (
            json_call("logs", "PutLogEvents", {"logGroupName": "/a/b", "logStreamName": "s"}),
            [("logs:PutLogEvents", f"{GROUP}s")],
        ),
        (json_call("logs", "DescribeLogGroups", {}), [("logs:DescribeLogGroups", "*")]),
        (
            query_call("sts", "AssumeRole", RoleArn="arn:aws:iam::1:role/r"),
            [("sts:AssumeRole", "arn:aws:iam::1:role/r")],
        ),
        (query_call("sts", "GetCallerIdentity"), []),
        (json_call("cognito-idp", "AdminGetUser", {"UserPoolId": "p"}), [("cognito-idp:AdminGetUser", f"{POOLS}/p")]),
        (json_call("cognito-idp", "ListUserPools", {}), [("cognito-idp:ListUserPools", "*")]),
        (json_call("cognito-idp", "SignUp", {"ClientId": "c"}), []),
        (json_call("cognito-idp", "InitiateAuth", {"ClientId": "c"}), []),
        (query_call("iam", "CreateRole", RoleName="r"), [("iam:CreateRole", "*")]),
        (query_call("monitoring", "PutMetricData"), [("cloudwatch:PutMetricData", "*")]),
    ],
)
def test_a_call_asks_for_its_action_on_each_resource_that_it_names(of: Call, pairs: list[tuple[str, str]]) -> None:
    assert asks(of) == pairs


def test_a_service_whose_calls_have_no_names_is_not_guessed() -> None:
    with pytest.raises(UnknownCallError, match="names no operation"):
        questions_of(call("route53", "GET", "/2013-04-01/hostedzone"))


def test_the_session_that_is_asked_for_may_be_a_condition() -> None:
    (asked,) = questions_of(query_call("sts", "AssumeRole", RoleArn="r", RoleSessionName="controller"))
    assert asked.context == {"sts:rolesessionname": ("controller",)}
