"""How the system retried an image, as a list says it."""

import pytest

from core.ids import new_id
from core.jobs.models import Job, Resend
from core.messages import Response
from tests.support.jobs import NOW, done, failed, record
from web_tier.results.query import ImageResult
from web_tier.results.rows import Row

IMAGE = record(Job(new_id(), "job", NOW))
TRIED = "Tried 3 times: a worker failed"


def resend(times: int) -> Resend:
    return Resend(0, NOW, NOW, waited_seconds=60, times=times)


@pytest.mark.parametrize(
    ("response", "resends", "words"),
    [
        (None, 0, ""),
        (done(IMAGE), 0, ""),
        (done(IMAGE).model_copy(update={"attempts": 3}), 0, TRIED),
        (None, 1, "Requested again: presumed lost"),
        (done(IMAGE), 2, "Requested again \N{MULTIPLICATION SIGN}2: presumed lost"),
        (failed(IMAGE).model_copy(update={"attempts": 3}), 1, f"{TRIED}\nRequested again: presumed lost"),
    ],
    ids=["waiting", "at once", "redelivered", "sent again", "sent again twice", "both"],
)
def test_a_row_says_how_the_system_retried_its_image(response: Response | None, resends: int, words: str) -> None:
    assert Row.of_result(ImageResult(IMAGE, response, resend(resends) if resends else None)).retries == words
