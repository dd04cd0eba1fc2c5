"""The model page: what the configured bundle is, and its classes."""

from flask import render_template, request

from core.bundle_facts import BundleFacts
from web_tier.backend import current_backend
from web_tier.parameters import clean_search

PRECISIONS = {
    "fp32": "fp32: 32-bit floating point",
    "bf16": "bf16: 16-bit floating point, faster, with small differences from fp32",
    "int8": "int8: 8-bit integers, fastest, with small differences from fp32",
    "exact": "exact: fast at first, and computed again in fp32 where the answer is close",
}
"""A text for each precision of a bundle."""


def model_facts() -> BundleFacts:
    """Return the facts of the configured bundle; every page shows them in its header."""
    return current_backend().bundle.facts()


def model_page() -> str:
    """Show the model, and its classes that contain the query parameter `q`."""
    facts, search = model_facts(), clean_search(request.args.get("q", ""))
    return render_template(
        "model.html",
        facts=facts,
        precision=PRECISIONS.get(facts.precision, facts.precision),
        search=search,
        matching={label for label in facts.labels if search.casefold() in label.casefold()},
        fleet=current_backend().fleet.snapshot(),
    )
