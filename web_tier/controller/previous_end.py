"""How the controller before this one ended: its supervisor passes it on, and the Fleet page shows it if it repeats.

The supervisor of `run.sh` and the systemd unit set `PREVIOUS_END` after an end that nobody asked for, to the status
and the last line of the log that is more than information. A controller records it first of all, and without the
lease: one that ends before it leads must be seen, too.
"""

from datetime import datetime
from typing import Final

from core.fleet.models import ENDS_WINDOW, MAX_ENDS, MAX_LAST_WORDS
from core.fleet.store import FleetStore
from core.logs import parse_log_line

PREVIOUS_END: Final = "FLEETSIGHT_PREVIOUS_END"
"""Environment variable with a status and a line of the log, such as ``signal 9: {"message": …}``; empty for none."""

SUPERVISOR: Final = "FLEETSIGHT_SUPERVISOR"
"""Environment variable with a name of the supervisor, which no other machine and no other supervisor has."""


def record_previous_end(store: FleetStore, previous_end: str, now: datetime) -> None:
    """Record how the controller before this one ended, if it ended by itself."""
    if previous_end:
        before = store.controller_status()
        ends = tuple(each for each in before.ends if now - ENDS_WINDOW <= each <= now)
        changes = {"ends": (*ends, now)[-MAX_ENDS:], "last_words": last_words(previous_end)}
        store.put_controller_status(before.model_copy(update=changes))


def last_words(previous_end: str) -> str:
    """Return the status and the message of the last line, in one short printable line."""
    status, _, line = previous_end.partition(": ")
    fields = parse_log_line(line)
    message = (
        line if fields is None else ": ".join(str(fields[name]) for name in ("message", "error") if name in fields)
    )
    words = "".join(each if each.isprintable() else " " for each in f"{status}: {message}")
    return words.rstrip(": ")[:MAX_LAST_WORDS]
