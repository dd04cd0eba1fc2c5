"""The page of the dead letters, with the forms that redrive and discard them."""

import re
from typing import Any

from flask import redirect, request, url_for
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import BadRequest

from web_tier.auth.audit import audit_details
from web_tier.auth.identity import current_identity
from web_tier.auth.permissions import Right
from web_tier.features.dead_letters.redrive import redrive, redrive_all
from web_tier.features.dead_letters.store import CURSOR_PATTERN, DeadLetterPage, DeadLetterStore
from web_tier.features.dead_letters.words import DISCARD_WORDS, REDRIVE_WORDS, redriven_words
from web_tier.http.backend import current_backend, render_with_fleet
from web_tier.http.parameters import known_ref
from web_tier.http.routes import Routes

pages = Routes("dead_letters", right=Right.OPERATE)


LETTERS_PER_PAGE = 50

MAX_COUNTED_LETTERS = 100
"""Dead letters that the fleet page counts; each costs three reads of the job table."""

DISCARDED = "discarded"

NOTES = {**REDRIVE_WORDS, DISCARDED: DISCARD_WORDS}
"""Message for each outcome of an operation on one dead letter."""


@pages.app_template_global()
def newest_letters() -> DeadLetterPage:
    """Return the dead letters that the fleet page counts."""
    return _letters().page(limit=MAX_COUNTED_LETTERS)


@pages.get("/dead-letters")
def dead_letters_page() -> str:
    """List the dead letters of all jobs, those of the newest jobs first."""
    before = _before_or_none()
    page = _letters().page(before, limit=LETTERS_PER_PAGE)
    sent, note = request.args.get("sent", type=int), NOTES.get(request.args.get("outcome", ""))
    if sent is not None:
        refused, gone, running = (request.args.get(name, 0, type=int) for name in ("refused", "gone", "running"))
        note = redriven_words(sent, refused=refused, gone=gone, running=running)
    return render_with_fleet(
        "dead_letters/dead_letters.html",
        letters=page.letters,
        owner=current_identity().owner,  # who may open their own jobs and images
        before=before,
        next_before=page.next_before,
        note=note,
    )


@pages.post("/dead-letters/<job_id>/<image_id>/redrive", audit="dead letter redriven")
def redrive_letter(job_id: str, image_id: str) -> ResponseReturnValue:
    """Redrive a dead letter and redirect to the list."""
    outcome = redrive(current_backend().intake, known_ref(job_id, image_id))
    audit_details(outcome=outcome)
    return _redirect_to_list(_before_or_none(), outcome=outcome)


@pages.post("/dead-letters/<job_id>/<image_id>/discard", audit="dead letter discarded")
def discard_letter(job_id: str, image_id: str) -> ResponseReturnValue:
    """Discard a dead letter, if there is one, and redirect to the list."""
    _letters().discard(known_ref(job_id, image_id))
    return _redirect_to_list(_before_or_none(), outcome=DISCARDED)


@pages.post("/dead-letters/redrive", audit="dead letters redriven")
def redrive_letters() -> ResponseReturnValue:
    """Redrive the dead letters of this and the following pages, and redirect to those that one call left."""
    redriven = redrive_all(current_backend().intake, _before())
    audit_details(sent=redriven.sent)
    others: dict[str, Any] = {name: count for name, count in redriven.counts.items() if count and name != "sent"}
    return _redirect_to_list(redriven.next_after, sent=redriven.sent, **others)


def _letters() -> DeadLetterStore:
    return DeadLetterStore(current_backend().store)


def _before() -> str | None:
    """Return the cursor in the address; refuse a wrong one, by which more images than the operator meant would go."""
    before = _before_or_none()
    if before is None and "before" in request.args:
        raise BadRequest(f"before={request.args['before'][:40]!r} is not a cursor; take it from the page before")
    return before


def _before_or_none() -> str | None:
    """Return the cursor in the address of the current request, or None, also if it is not valid."""
    before = request.args.get("before", "")
    return before if re.fullmatch(CURSOR_PATTERN, before) else None


def _redirect_to_list(before: str | None, **outcome: Any) -> ResponseReturnValue:
    return redirect(url_for("dead_letters.dead_letters_page", before=before, **outcome), 303)
