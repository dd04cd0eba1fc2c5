"""A table with jobs of an earlier format is refused, and any other table is used."""

import re
from pathlib import Path

import pytest

from core.ids import new_id
from core.jobs.formats import refuse_earlier_format
from core.jobs.items import job_item
from core.jobs.lifecycle import DeletedJobs
from core.jobs.models import Job
from core.jobs.store import JobStore
from services.errors import ConfigError
from tests.support.jobs import NOW
from tests.support.memory_aws.dynamodb import MemoryTable


@pytest.mark.parametrize("is_oldest", [True, False])
def test_a_table_is_refused_for_as_long_as_it_has_a_job_of_an_earlier_format(is_oldest: bool) -> None:
    store, ids = JobStore(MemoryTable()), sorted((new_id(), new_id()), reverse=not is_oldest)
    earlier = Job(ids[0], "of an earlier release", NOW)
    refuse_earlier_format(store.table)
    store.table.put_all([{key: value for key, value in job_item(earlier).items() if key != "format"}])
    store.create(Job(ids[1], "of this release", NOW, owner="ada"))
    for state, words in ((None, f"the job table {store.table.name}"), (Path("/s"), "run.sh --no-batch --state /s`")):
        with pytest.raises(ConfigError, match=re.escape(words)) as refused:
            refuse_earlier_format(store.table, state)
        assert "`./scripts/fleetsight results JOB --out JOB.csv`" in str(refused.value)
    DeletedJobs(store.table).delete(earlier)
    refuse_earlier_format(store.table)
