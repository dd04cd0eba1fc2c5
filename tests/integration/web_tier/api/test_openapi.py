"""The API's document and its page: complete, and made of what the code does."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from web_tier.api.models import ROOT
from web_tier.api.operations import OPERATIONS, api_document
from web_tier.auth.permissions import RIGHTS, Right
from web_tier.problems import ProblemType

Path = tuple[str, str]


def routes(app: Flask) -> set[Path]:
    """Return what the application serves under the API's root, as the document writes paths."""
    served = set()
    for rule in app.url_map.iter_rules():
        path = str(rule).replace("<", "{").replace(">", "}").rstrip("/")
        if path.startswith(ROOT):
            served |= {(method.lower(), path) for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}}
    return served


def references(value: Any) -> Iterator[str]:
    """Yield every reference in a document."""
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from references(each)


def test_the_document_has_every_operation_that_is_served_and_no_other(app: Flask) -> None:
    documented = {(operation.method, operation.path) for operation in OPERATIONS}
    assert documented == routes(app) - {("get", f"{ROOT}/openapi.json")}


def test_every_operation_has_a_name_of_its_own() -> None:
    assert len({operation.name for operation in OPERATIONS}) == len(OPERATIONS)


def test_the_document_is_served_and_refers_only_to_what_it_has(client: FlaskClient) -> None:
    served = client.get(f"{ROOT}/openapi.json").get_json()
    assert served == api_document()
    assert served["openapi"].startswith("3.1.")
    names = {reference.removeprefix("#/components/schemas/") for reference in references(served)}
    assert names <= served["components"]["schemas"].keys()


def test_problems_are_enumerated() -> None:
    schemas = api_document()["components"]["schemas"]
    assert set(schemas["ProblemType"]["enum"]) == {kind.value for kind in ProblemType}


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_every_operation_may_be_tried_on_the_page(client: FlaskClient, operation: Any) -> None:
    page = client.get("/api").text
    assert f'data-method="{operation.method}" data-path="{operation.path}"' in page
    assert operation.summary in page.replace("&#39;", "'")


def test_all_but_what_is_public_takes_a_token_and_says_what_happens_without(app: Flask) -> None:
    documented = api_document()
    assert documented["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    rights = {
        (method.lower(), str(rule).replace("<", "{").replace(">", "}").rstrip("/")): RIGHTS[rule.endpoint]
        for rule in app.url_map.iter_rules()
        for method in rule.methods or ()
    }
    for operation in OPERATIONS:
        is_public = rights[operation.method, operation.path] is Right.PUBLIC
        described = documented["paths"][operation.path][operation.method]
        assert (described["security"] == []) is is_public, operation.name
        assert is_public or {"401", "403", "429"} <= described["responses"].keys()
        assert is_public or "WWW-Authenticate" in described["responses"]["401"]["headers"]


def test_the_page_has_no_script_or_style_of_its_own(client: FlaskClient) -> None:
    page = client.get("/api").text
    assert "<style" not in page
    assert " style=" not in page
    assert re.search(r"<script(?![^>]* src=)", page) is None
