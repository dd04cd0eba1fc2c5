"""What is remembered about answers is what stock moto would derive."""

import weakref
from types import SimpleNamespace

import pytest
from moto.core.serialize import AttributePickerContext, XFormedAttributePicker
from moto.core.utils import get_service_model
from moto.sqs.models import Message

from localcloud import hot_path
from localcloud.dynamodb import is_json_value
from localcloud.hot_path import AttributeNames
from localcloud.patches import apply_patches


def contexts(service: str, operation: str, member: str) -> list[AttributePickerContext]:
    """Every member of a structure in an answer, read from a dict and from an object."""
    model = get_service_model(service)
    shape = model.operation_model(operation).output_shape.members[member].member
    for part in shape.members.values():
        part.parent = shape
    sources: tuple[object, ...] = ({}, SimpleNamespace())
    return [
        AttributePickerContext(source, name, part, None, model)
        for name, part in shape.members.items()
        for source in sources
    ]


@pytest.mark.parametrize(
    ("service", "operation", "member"),
    [("ec2", "DescribeInstances", "Reservations"), ("sqs", "ReceiveMessage", "Messages")],
)
def test_the_names_that_are_tried_are_those_of_stock_moto(service: str, operation: str, member: str) -> None:
    names, picker = AttributeNames(), XFormedAttributePicker()
    for _ in range(2):
        for context in contexts(service, operation, member):
            expected = tuple(dict.fromkeys(picker.get_possible_keys(context)))
            assert names.candidates(picker, context) == expected


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hot_path, "PICKS_REMEMBERED", 4)
    names, picker = AttributeNames(), XFormedAttributePicker()
    for context in contexts("sqs", "ReceiveMessage", "Messages"):
        names.candidates(picker, context)
        assert len(names._known) <= 4


def test_a_member_that_a_transformer_names_is_left_to_stock_moto() -> None:
    names = AttributeNames()
    transformers = {"RunInstances.Reservation.Instances.Instance.State": str}
    assert names.may_transform(transformers, "State")
    assert not names.may_transform(transformers, "InstanceId")
    assert not names.may_transform({}, "State")


@pytest.mark.parametrize(
    ("attribute", "plain"),
    [
        ({"S": "text"}, True),
        ({"N": "1"}, True),
        ({"L": [{"S": "a"}, {"M": {"k": {"BOOL": True}}}]}, True),
        ({"SS": ["a"]}, True),
        ({"B": "AA=="}, False),
        ({"L": [{"B": "AA=="}]}, False),
        ({"M": {"k": {"BS": ["AA=="]}}}, False),
        ({}, False),
        ("text", False),
    ],
)
def test_an_attribute_with_bytes_in_it_is_not_plain(attribute: object, plain: bool) -> None:
    assert is_json_value(attribute) is plain


def test_a_model_that_nothing_uses_any_more_is_gone() -> None:
    """Stock moto keeps each for its dashboard: every message and every overwritten object, for ever."""
    apply_patches("core")
    message = Message("id", "body")
    seen = weakref.ref(message)
    del message
    assert seen() is None
