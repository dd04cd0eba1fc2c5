"""The OpenAPI document, and the page that shows every operation."""

from flask import current_app, jsonify
from flask.typing import ResponseReturnValue

from web_tier.api.schemas import ROOT
from web_tier.auth.permissions import Right
from web_tier.http.backend import render_with_fleet
from web_tier.http.openapi import Schema, api_document
from web_tier.http.routes import Routes

api_docs = Routes("api_docs", right=Right.PUBLIC)


@api_docs.get(f"{ROOT}/openapi.json")
def openapi() -> ResponseReturnValue:
    """Return the OpenAPI document."""
    return jsonify(api_document(current_app._get_current_object()))  # type: ignore[attr-defined]


@api_docs.get("/api")
def page() -> str:
    """Show every operation."""
    api = api_document(current_app._get_current_object())  # type: ignore[attr-defined]
    groups: dict[str, list[tuple[str, str, Schema]]] = {}
    for path, methods in api["paths"].items():
        for method, described in methods.items():
            groups.setdefault(described["tags"][0], []).append((path, method, described))
    return render_with_fleet("api.html", api=api, groups=groups)
