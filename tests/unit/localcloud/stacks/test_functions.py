"""What functions of a template come to, and what they need."""

from typing import Any

import pytest

from localcloud.stacks.errors import StackError
from localcloud.stacks.functions import NO_VALUE, Evaluation
from localcloud.stacks.model import Resource
from localcloud.stacks.template import read, references

QUEUE = Resource("Queue", "T", {}, {}, frozenset(), "url", {"Arn": "Queue.Arn!"})
EVALUATION = Evaluation(
    read("{Conditions: {'Yes': !Equals [1, 1], 'No': !Not [!Condition 'Yes']}, Resources: {Queue: {Type: T}}}"),
    {"Prefix": "p", "Subnets": ["a", "b"], "Empty": ""},
    {"Queue": QUEUE},
)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ({"Ref": "Prefix"}, "p"),
        ({"Fn::GetAtt": ["Queue", "Arn"]}, "Queue.Arn!"),
        ({"Ref": "Queue"}, "url"),
        ({"Fn::Sub": "${Prefix}-${Queue.Arn}-${!Literal}-$HOME"}, "p-Queue.Arn!-${Literal}-$HOME"),
        ({"Fn::Sub": ["${Own}/${Prefix}", {"Own": {"Fn::Join": ["+", {"Ref": "Subnets"}]}}]}, "a+b/p"),
        ({"Fn::Join": [",", ["x", {"Ref": "Prefix"}]]}, "x,p"),
        ({"Fn::Split": ["/", "a/b"]}, ["a", "b"]),
        ({"Fn::Select": ["1", {"Fn::Split": ["s3://", "s3://bucket/key"]}]}, "bucket/key"),
        ({"Fn::Base64": {"Fn::Sub": "#!${Prefix}"}}, "IyFw"),
        ({"Fn::If": ["Yes", 1, 2]}, 1),
        ({"Fn::If": ["No", 1, 2]}, 2),
        ({"Fn::Equals": [{"Ref": "Empty"}, ""]}, True),
        ({"Fn::Equals": ["true", True]}, True),
        ({"Fn::Not": [{"Condition": "Yes"}]}, False),
        ({"Fn::And": [{"Condition": "Yes"}, {"Condition": "No"}]}, False),
        ({"Fn::Or": [{"Condition": "Yes"}, {"Condition": "No"}]}, True),
        ({"a": {"Ref": "AWS::NoValue"}, "b": [1, {"Fn::If": ["No", 1, {"Ref": "AWS::NoValue"}]}]}, {"b": [1]}),
    ],
)
def test_a_function_comes_to(value: Any, found: Any) -> None:
    assert EVALUATION.value(value) == found


def test_no_value_is_no_value_also_by_itself() -> None:
    assert EVALUATION.value({"Ref": "AWS::NoValue"}) is NO_VALUE


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"Fn::Cidr": []}, "Fn::Cidr is not known"),
        ({"Fn::Select": [2, ["a"]]}, "nonexistent value at index 2"),
        ({"Ref": "Other"}, r"dependencies \[Other\]"),
        ({"Fn::GetAtt": ["Queue", "Name"]}, "resource Queue does not support attribute type Name"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(value: Any, told: str) -> None:
    with pytest.raises(StackError, match=told):
        EVALUATION.value(value)


def test_everything_that_a_value_needs_is_found() -> None:
    value = {
        "a": {"Fn::Sub": ["${Queue.Arn} ${Own} ${!No} ${Prefix}", {"Own": {"Ref": "Inner"}}]},
        "b": [{"Fn::If": ["Yes", {"Ref": "Then"}, {"Fn::GetAtt": ["Else", "Id"]}]}],
    }
    assert set(references(value)) == {"Queue", "Prefix", "Inner", "Then", "Else"}
