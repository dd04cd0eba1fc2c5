"""What a job's page asks for while it is open: its news as they come, its rows, its progress."""

from flask import Blueprint, Response, request
from werkzeug.exceptions import ServiceUnavailable

from web_tier.auth.guard import credentials_check
from web_tier.auth.job_access import user_jobs
from web_tier.live import current_live
from web_tier.parameters import cursor, known_id, whole_number
from web_tier.results.events import event_lines
from web_tier.results.query import results_page
from web_tier.results.rows import Rows

MAX_ROWS = 1_000
SEND_SECONDS = 20.0
"""A browser that takes nothing for this long loses its stream."""

MAX_CURSOR_CHARACTERS = 60

live = Blueprint("live", __name__)


@live.get("/api/v1/jobs/<job_id>/events")
def job_events(job_id: str) -> Response:
    """Send a job's news as server-sent events, from after `Last-Event-ID` on, until its end or for a while.

    Events: `resync` (read all rows anew), `images` and `results` (rows), `progress`, and `end` or `gone`, after which
    there is nothing more to come.
    """
    here = current_live()
    streams = here.streams
    owner = user_jobs().job(known_id("job", job_id)).owner
    watch = streams.join(job_id, owner)
    if watch is None:
        raise ServiceUnavailable("too many pages follow their jobs just now; ask for the job's status now and then")
    after = request.headers.get("Last-Event-ID") or request.args.get("last_event_id", "")
    connection = request.environ.get("gunicorn.socket")
    if connection is not None:
        connection.settimeout(SEND_SECONDS)
    lines = event_lines(watch, after[:MAX_CURSOR_CHARACTERS], here.is_stopping, is_allowed=credentials_check())
    answer = Response(lines, mimetype="text/event-stream")
    answer.headers["X-Accel-Buffering"] = "no"  # nginx would hold events back
    answer.call_on_close(lambda: streams.leave(job_id, owner))
    return answer


@live.get("/jobs/<job_id>/rows")
def job_rows(job_id: str) -> Response:
    """Return a job's images as a list shows them, up to 1,000 at a time."""
    jobs = user_jobs()
    jobs.job(known_id("job", job_id))
    limit = whole_number("limit", default=MAX_ROWS, most=MAX_ROWS)
    return _json(Rows.of_page(results_page(jobs, job_id, after=cursor("after"), limit=limit)).to_json())


@live.get("/jobs/<job_id>/progress")
def job_progress(job_id: str) -> Response:
    """Return how far a job is, as the events do: for browsers that have no stream."""
    status = user_jobs().status(known_id("job", job_id))
    return _json(current_live().progress(status)[1].model_dump_json())


def _json(body: str) -> Response:
    return Response(body, mimetype="application/json")
