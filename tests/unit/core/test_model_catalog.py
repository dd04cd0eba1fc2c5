"""The catalogue of models: names of bundles, and changes that are stored once."""

from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from core.model_catalog import CatalogStore, free_name, model_name, with_model
from tests.support.bundles import first_catalog, version_of
from tests.support.memory_aws.dynamodb import MemoryTable


@given(st.one_of(st.none(), st.text(max_size=200)))
def test_every_bundle_has_a_name_that_jobs_can_write(text: str | None) -> None:
    name = model_name(text)
    assert version_of(name, "a" * 64).name == name


def test_names_of_bundles_are_kept_if_they_can_be() -> None:
    assert model_name("resnet18") == "resnet18"
    assert model_name("My model (v2)") == "My-model-v2-"
    assert model_name("..") == "model"


def test_no_name_looks_like_a_digest() -> None:
    with pytest.raises(ValidationError):
        version_of("d" * 64)
    long = version_of("n" * 63)
    assert len(free_name(with_model(first_catalog(), long), version_of(long.name, "d" * 64))) == 63
    assert len(model_name("n" * 100)) == 63


@pytest.mark.parametrize("is_other", [True, False], ids=["others", "alone"])
@pytest.mark.parametrize("fault", ["request lost", "reply lost", "reply lost, and repeated"])
def test_a_change_is_stored_once_although_its_write_fails(fault: str, is_other: bool) -> None:
    table, faults = MemoryTable(), [fault]

    def call(operation: str, effect: Callable[[], Any]) -> Any:
        if operation != "PutItem" or not faults:
            return effect()
        faults.clear()
        if fault != "request lost":
            effect()
        if is_other:
            CatalogStore(table).change(lambda catalog: with_model(catalog, version_of("cars")), first_catalog)
        if fault == "reply lost, and repeated":
            return effect()
        raise EndpointConnectionError(endpoint_url="https://dynamodb.example")

    failing = MemoryTable(call)
    failing.items = table.items
    is_accepted = True
    try:
        CatalogStore(failing).change(lambda catalog: with_model(catalog, version_of("birds")), first_catalog)
    except EndpointConnectionError:
        is_accepted = False
    found = CatalogStore(table).find() or first_catalog()
    names = {"signs", *(["cars"] if is_other else []), *(["birds"] if fault != "request lost" else [])}
    assert {each.name for each in found.versions} == names
    assert found.edition == len(names) - 1
    # With a change by others after it, the outcome of a lost reply is unknown.
    assert is_accepted is (fault == "reply lost, and repeated" or (fault == "reply lost" and not is_other))
