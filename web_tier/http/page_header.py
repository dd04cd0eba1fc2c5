"""What every page of a signed-in user has in its header: the state of the fleet."""

from flask import render_template

from web_tier.http.backend import current_backend


def render_with_fleet(template: str, *, for_viewer: bool = False, **context: object) -> str:
    """Return the rendered page with the state of the fleet in its header, which viewers of shared jobs do not see."""
    return render_template(template, fleet=None if for_viewer else current_backend().fleet.snapshot(), **context)
