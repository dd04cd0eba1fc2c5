"""The format of jobs in the job table: processes refuse a table with jobs of an earlier one when they start."""

from pathlib import Path
from typing import Final

from core.ids import FIRST_ID
from core.jobs.items import FORMAT, JOBS
from services.errors import ConfigError
from services.table import LAST, Table

LAST_RELEASE_BEFORE: Final = "0.3.0 (git checkout c6b81767)"
"""The last release with the earlier formats, which reads those of the releases before it, too."""


def earlier_format(place: str | Path) -> ConfigError:
    """Return the error that says how to export jobs of an earlier format: of a table, or of the state in a folder."""
    what, start, end = f"the job table {place}", "", "delete the jobs there, or name another table here"
    if isinstance(place, Path):
        start, end = f"`./scripts/run.sh --no-batch --state {place}`, then ", "name another folder here"
        what = f"the state {place}"
    return ConfigError(
        f"{what} has jobs of an earlier format, which are not read: export their results with the version that "
        f"wrote them, such as release {LAST_RELEASE_BEFORE}, by {start}`./scripts/fleetsight results JOB --out "
        f"JOB.csv` for each JOB of `./scripts/fleetsight jobs --limit 200`; then {end}"
    )


def refuse_earlier_format(table: Table, state: Path | None = None) -> None:
    """Look at the oldest and at the newest job: a process of an earlier release may have gone on beside this one.

    Raises:
        ConfigError: one has an earlier format.
    """
    for newest_first in (False, True):
        for job in table.query(JOBS, FIRST_ID, LAST, limit=1, newest_first=newest_first):
            if int(job.get("format", 0)) < FORMAT:
                raise earlier_format(state or table.name)
