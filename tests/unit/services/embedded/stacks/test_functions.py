"""What functions of a template come to, and what they need."""

from typing import Any

import pytest

from services.embedded.stacks.errors import StackError
from services.embedded.stacks.functions import NO_VALUE, Evaluation, Reference, references


class Names:
    """A scope of a few names."""

    def ref(self, name: str) -> Any:
        return {"Prefix": "p", "Subnets": ["a", "b"], "Queue": "url", "Empty": ""}[name]

    def attribute(self, name: str, attribute: str) -> Any:
        return f"{name}.{attribute}!"

    def condition(self, name: str) -> bool:
        return {"Yes": True, "No": False}[name]

    def mapping(self, name: str, first: str, second: str) -> Any:
        return f"{name}/{first}/{second}"


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ({"Ref": "Prefix"}, "p"),
        ({"Fn::GetAtt": ["Queue", "Arn"]}, "Queue.Arn!"),
        ({"Fn::GetAtt": "Queue.Arn"}, "Queue.Arn!"),
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
        ({"Fn::FindInMap": ["Map", {"Ref": "Prefix"}, "k"]}, "Map/p/k"),
        ({"Fn::Select": [0, {"Fn::GetAZs": ""}]}, "us-east-1a"),
        ({"a": {"Ref": "AWS::NoValue"}, "b": [1, {"Fn::If": ["No", 1, {"Ref": "AWS::NoValue"}]}]}, {"b": [1]}),
    ],
)
def test_a_function_comes_to(value: Any, found: Any) -> None:
    assert Evaluation(Names(), "us-east-1").value(value) == found


def test_no_value_is_no_value_also_by_itself() -> None:
    assert Evaluation(Names(), "us-east-1").value({"Ref": "AWS::NoValue"}) is NO_VALUE


@pytest.mark.parametrize(
    ("value", "told"),
    [({"Fn::Cidr": []}, "Fn::Cidr is not known"), ({"Fn::Select": [2, ["a"]]}, "nonexistent value at index 2")],
)
def test_what_cannot_be_evaluated_is_refused(value: Any, told: str) -> None:
    with pytest.raises(StackError, match=told):
        Evaluation(Names(), "us-east-1").value(value)


def test_everything_that_a_value_needs_is_found() -> None:
    value = {
        "a": {"Fn::Sub": ["${Queue.Arn} ${Own} ${!No} ${Prefix}", {"Own": {"Ref": "Inner"}}]},
        "b": [{"Fn::If": ["Yes", {"Ref": "Then"}, {"Fn::GetAtt": ["Else", "Id"]}]}],
    }
    assert set(references(value)) == {
        Reference("Queue", "Arn"),
        Reference("Prefix"),
        Reference("Inner"),
        Reference("Then"),
        Reference("Else", "Id"),
    }
