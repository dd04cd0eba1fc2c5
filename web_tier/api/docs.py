"""The API's document, for programs, and the page that shows it and tries it out, for people."""

from flask import Blueprint, jsonify, render_template
from flask.typing import ResponseReturnValue

from web_tier.api.models import ROOT
from web_tier.api.operations import api_document
from web_tier.backend import current_backend

api_docs = Blueprint("api_docs", __name__)


@api_docs.get(f"{ROOT}/openapi.json")
def openapi() -> ResponseReturnValue:
    """Return the OpenAPI document."""
    return jsonify(api_document())


@api_docs.get("/api")
def page() -> str:
    """Show every operation, with a form that calls it."""
    return render_template("api.html", api=api_document(), fleet=current_backend().fleet.snapshot())
