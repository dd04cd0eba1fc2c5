"""What every page of a signed-in user has in its header: the state of the fleet."""

from flask import render_template

from web_tier.http.backend import current_backend


def render_with_fleet(template: str, **context: object) -> str:
    """Return the rendered page with the state of the fleet in its header."""
    return render_template(template, fleet=current_backend().fleet.snapshot(), **context)
