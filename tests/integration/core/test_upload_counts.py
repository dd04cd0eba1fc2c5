"""However many commits there are, and at whatever time, an image is counted by one of them at most."""

from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from threading import Barrier

import pytest

from core.idempotency import UploadCounts
from core.ids import new_id
from services.table import Table
from tests.support.waiting import DEADLINE_SECONDS

pytestmark = pytest.mark.processes


@pytest.fixture
def counts(table: Table) -> UploadCounts:
    return UploadCounts(table)


def test_an_image_is_marked_once_and_those_that_came_later_are_told_apart(counts: UploadCounts) -> None:
    job_id, upload_id = new_id(), new_id()
    assert counts.mark(job_id, upload_id, {"a", "b"}) == {"a", "b"}
    assert counts.mark(job_id, upload_id, {"a", "b"}) == set()
    assert counts.mark(job_id, upload_id, {"b", "c"}) == {"c"}
    assert counts.mark(job_id, new_id(), {"a"}) == {"a"}


def test_commits_at_the_same_time_never_mark_an_image_twice(counts: UploadCounts) -> None:
    job_id, upload_id, together = new_id(), new_id(), Barrier(8)

    def commit(number: int) -> list[str]:
        together.wait(DEADLINE_SECONDS)
        return list(counts.mark(job_id, upload_id, {str(each) for each in range(number, number + 10)}))

    with ThreadPoolExecutor(8) as commits:
        marked = list(chain.from_iterable(commits.map(commit, range(8))))
    assert len(marked) == len(set(marked)) > 0
