"""An item is measured and answered as stock moto would."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from moto.dynamodb import responses
from moto.dynamodb.exceptions import ItemSizeTooLarge
from moto.dynamodb.models import utilities
from moto.dynamodb.models.dynamo_type import DynamoType, Item

from localcloud.items import MAX_ITEM_BYTES
from localcloud.patches import apply_patches

TEXT = st.text(max_size=6)
VALUES = st.recursive(
    st.one_of(
        TEXT.map(lambda text: {"S": text}),
        st.integers().map(lambda number: {"N": str(number)}),
        st.booleans().map(lambda value: {"BOOL": value}),
        st.just({"NULL": True}),
        st.just({"SS": ["a", "b"]}),
        st.just({"B": "AAE="}),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda some: {"L": some}),
        st.dictionaries(TEXT, inner, max_size=3).map(lambda some: {"M": some}),
    ),
    max_leaves=6,
)


@pytest.fixture(autouse=True, scope="module")
def _mended() -> None:
    apply_patches("dynamodb")


def item_of(attributes: dict[str, Any], key: str = "p") -> Item:
    return Item(DynamoType({"S": key}), None, {"pk": {"S": key}, **attributes})


@given(value=VALUES)
def test_a_value_is_answered_as_by_stock_moto(value: dict[str, Any]) -> None:
    typed = item_of({"v": value}).attrs
    assert responses.dynamo_to_dict(typed) == utilities.dynamo_to_dict(typed)


@given(text=TEXT)
def test_a_text_counts_for_its_bytes_and_is_its_own_value(text: str) -> None:
    assert DynamoType({"S": text}).size() == len(text.encode())
    assert DynamoType({"S": text}).cast_value == text


def test_numbers_are_still_compared_as_numbers() -> None:
    assert DynamoType({"N": "9"}) < DynamoType({"N": "10"})


@pytest.mark.parametrize("character", ["x", "é"])
def test_an_item_of_the_largest_size_is_taken_and_one_byte_more_is_refused(character: str) -> None:
    room = MAX_ITEM_BYTES - len("pkpv")
    text = character * (room // len(character.encode()))
    text += "x" * (room - len(text.encode()))
    assert item_of({"v": {"S": text}}).size() == MAX_ITEM_BYTES
    with pytest.raises(ItemSizeTooLarge):
        item_of({"v": {"S": text + "x"}})


def test_a_large_list_is_measured_too() -> None:
    with pytest.raises(ItemSizeTooLarge):
        item_of({"v": {"L": [{"S": "x" * 1000}] * 500}})
