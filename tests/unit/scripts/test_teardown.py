"""The proof that nothing is left, against answers as AWS documents them.

GetResources returns "all the tagged or previously tagged resources": deleted ones are listed for a while.
https://docs.aws.amazon.com/resourcegroupstagging/latest/APIReference/API_GetResources.html
https://github.com/aws/aws-sdk/issues/676
"""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import pytest

from scripts.aws.account import TAG, Account
from scripts.aws.teardown import down
from scripts.aws.teardown.down import TAG_READERS, ResourcesLeftError, verify_deleted
from tests.support.aws_stage import Stage, Time
from tests.support.stubs import stubbed

AT = "us-east-1:123456789012"
TOPIC = f"arn:aws:sns:{AT}:fs-alerts"
TAGS = [{"Key": TAG, "Value": "fs"}]

QUESTIONS: dict[str, tuple[str, str, Mapping[str, Any], Mapping[str, Any], str | Mapping[str, Any]]] = {
    f"arn:aws:autoscaling:{AT}:autoScalingGroup:7b2c:autoScalingGroupName/fs-web": (
        "autoscaling",
        "describe_tags",
        {"Filters": [{"Name": "auto-scaling-group", "Values": ["fs-web"]}]},
        {"Tags": TAGS},
        {"Tags": []},
    ),
    "arn:aws:cloudfront::123456789012:distribution/E1": (
        "cloudfront",
        "list_tags_for_resource",
        {"Resource": "arn:aws:cloudfront::123456789012:distribution/E1"},
        {"Tags": {"Items": TAGS}},
        "NoSuchResource",
    ),
    f"arn:aws:cloudwatch:{AT}:alarm:fs-DeadLetters": (
        "cloudwatch",
        "list_tags_for_resource",
        {"ResourceARN": f"arn:aws:cloudwatch:{AT}:alarm:fs-DeadLetters"},
        {"Tags": TAGS},
        "ResourceNotFoundException",
    ),
    f"arn:aws:ec2:{AT}:vpc-endpoint/vpce-1": (
        "ec2",
        "describe_tags",
        {"Filters": [{"Name": "resource-id", "Values": ["vpce-1"]}, {"Name": "key", "Values": [TAG]}]},
        {"Tags": TAGS},
        {"Tags": []},
    ),
    f"arn:aws:elasticloadbalancing:{AT}:loadbalancer/app/fs/1": (
        "elbv2",
        "describe_tags",
        {"ResourceArns": [f"arn:aws:elasticloadbalancing:{AT}:loadbalancer/app/fs/1"]},
        {"TagDescriptions": [{"Tags": TAGS}]},
        "LoadBalancerNotFound",
    ),
    TOPIC: ("sns", "list_tags_for_resource", {"ResourceArn": TOPIC}, {"Tags": TAGS}, "ResourceNotFound"),
    f"arn:aws:sqs:{AT}:fs-requests": (
        "sqs",
        "get_queue_url",
        {"QueueName": "fs-requests"},
        {"QueueUrl": "https://sqs/1/fs-requests"},
        "AWS.SimpleQueueService.NonExistentQueue",
    ),
}
"""By ARN: client, operation, request, the answer while the resource exists, and the answer, or error, afterwards.

The errors are those of the operation's page in each service's API reference, as botocore's models have them; for SQS
https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_GetQueueUrl.html
"""


class Proof:
    """The services of a prefix without a stack; the tagging API still lists an ARN.

    Args:
        monkeypatch: for the kinds, of which there is nothing.
        stubs: closes the clients' stubs.
        arn: that is listed.
        looks: how often the tagging API is asked.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, stubs: ExitStack, arn: str, looks: int = 1) -> None:
        monkeypatch.setattr(down, "RESOURCE_TYPES", ())
        names = ("cloudformation", "resourcegroupstaggingapi", *(each[0] for each in QUESTIONS.values()))
        self.stubs = {name: stubs.enter_context(stubbed(name)) for name in names}
        gone = "Stack with id fs does not exist"
        self.stubs["cloudformation"].add_client_error("describe_stacks", "ValidationError", gone)
        listed = {"ResourceTagMappingList": [{"ResourceARN": arn, "Tags": TAGS}]}
        for _ in range(looks):
            self.stubs["resourcegroupstaggingapi"].add_response("get_resources", listed)
        clients = {name: stub.client for name, stub in self.stubs.items()}
        self.stage = Stage(Account("us-east-1", _clients=clients), "fs", time=Time(pause=0))

    def answers(self, arn: str, *, exists: bool) -> None:
        """Let the service answer the next question."""
        service, context, requested, there, gone = QUESTIONS[arn]
        answer = there if exists else gone
        if isinstance(answer, str):
            self.stubs[service].add_client_error(context, answer, expected_params=dict(requested))
        else:
            self.stubs[service].add_response(context, dict(answer), dict(requested))


def test_every_tag_reader_has_a_case() -> None:
    assert {arn.split(":")[2] for arn in QUESTIONS} == set(TAG_READERS)


@pytest.mark.parametrize("arn", QUESTIONS)
def test_a_resource_that_only_the_tagging_api_lists_is_deleted(monkeypatch: pytest.MonkeyPatch, arn: str) -> None:
    with ExitStack() as stubs:
        found = Proof(monkeypatch, stubs, arn)
        found.answers(arn, exists=False)
        verify_deleted(found.stage.context, with_data=True)
    assert "Nothing that carries the tag fleetsight=fs is left." in found.stage.seen


@pytest.mark.parametrize("arn", QUESTIONS)
def test_verification_waits_for_a_resource_that_its_service_lists(monkeypatch: pytest.MonkeyPatch, arn: str) -> None:
    with ExitStack() as stubs:
        found = Proof(monkeypatch, stubs, arn, looks=3)
        for exists in (True, True, False):
            found.answers(arn, exists=exists)
        verify_deleted(found.stage.context, with_data=True)
    assert found.stage.time.now > 0


@pytest.mark.parametrize("arn", [TOPIC, f"arn:aws:unheard:{AT}:of/it"], ids=["exists", "no question is known"])
def test_a_resource_that_still_exists_after_the_wait_is_named(monkeypatch: pytest.MonkeyPatch, arn: str) -> None:
    monkeypatch.setattr(down, "VERIFY_SECONDS", 2.0)
    with ExitStack() as stubs:
        found = Proof(monkeypatch, stubs, arn, looks=2)
        if arn == TOPIC:
            found.answers(arn, exists=True)
            found.answers(arn, exists=True)
        with pytest.raises(ResourcesLeftError, match=f"there is left:\n  {arn}\n"):
            verify_deleted(found.stage.context, with_data=True)


def test_a_denied_service_does_not_prove_the_deletion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(down, "VERIFY_SECONDS", 0.0)
    with ExitStack() as stubs:
        found = Proof(monkeypatch, stubs, TOPIC)
        found.stubs["sns"].add_client_error("list_tags_for_resource", "AuthorizationError")
        with pytest.raises(ResourcesLeftError, match=TOPIC):
            verify_deleted(found.stage.context, with_data=True)
