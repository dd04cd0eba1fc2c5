"""A template is read as CloudFormation reads it."""

import pytest

from localcloud.stacks.errors import StackError
from localcloud.stacks.template import read
from tests.conftest import ROOT


def test_short_functions_are_the_long_ones() -> None:
    template = read(
        """
        Resources:
          Queue:
            Type: AWS::SQS::Queue
            Condition: Wanted
            Properties:
              Name: !Sub "${Prefix}-requests"
              Arn: !GetAtt Other.Arn
              Nested: !GetAtt Other.Endpoint.Address
              Ref: !If [Wanted, !Ref Prefix, !Ref AWS::NoValue]
        Conditions:
          Wanted: !Not [!Condition Unwanted]
        """
    )
    assert template.conditions == {"Wanted": {"Fn::Not": [{"Condition": "Unwanted"}]}}
    assert template.resources["Queue"]["Properties"] == {
        "Name": {"Fn::Sub": "${Prefix}-requests"},
        "Arn": {"Fn::GetAtt": ["Other", "Arn"]},
        "Nested": {"Fn::GetAtt": ["Other", "Endpoint.Address"]},
        "Ref": {"Fn::If": ["Wanted", {"Ref": "Prefix"}, {"Ref": "AWS::NoValue"}]},
    }


def test_json_is_read_too_and_a_date_stays_text() -> None:
    assert read('{"Resources": {"A": {"Type": "T"}}}').resources == {"A": {"Type": "T"}}
    assert read("Resources: {A: {Type: T, Version: 2012-10-17}}").resources["A"]["Version"] == "2012-10-17"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Resources: [", "not well-formed"),
        ("Parameters: {}", "At least one Resources member"),
        ("just text", "At least one Resources member"),
        ("Resources: {A: {Properties: {}}}", r"\[/Resources/A\] Every Resources object must contain a Type"),
    ],
)
def test_what_is_no_template_is_refused_with_the_reason(text: str, told: str) -> None:
    with pytest.raises(StackError, match=told):
        read(text)


def test_the_stack_itself_is_read_whole() -> None:
    template = read((ROOT / "infra" / "stack.yaml").read_text(encoding="utf-8"))
    assert {"InputBucket", "JobTable", "WebGroup", "WorkerTemplate"} <= set(template.resources)
    assert "WebGroupName" in template.outputs
