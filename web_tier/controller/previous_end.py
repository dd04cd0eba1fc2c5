"""How the controller before this one ended: its supervisor passes it on, and the Fleet page shows it if it repeats.

The supervisor of `run.sh` and the systemd unit set `PREVIOUS_END` after an end that they did not ask for, to the
status and the last error of the log. A controller records it first of all, and without the lease: one that ends
before it leads must be seen, too.
"""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from core.fleet.models import ENDS_WINDOW, MAX_ENDS, MAX_LAST_WORDS
from core.fleet.store import FleetStore
from core.logs import log_line_time, parse_log_line

PREVIOUS_END: Final = "FLEETSIGHT_PREVIOUS_END"
"""Environment variable with a status and a line of the log, such as ``signal 9: {"message": …}``; empty for none."""

SUPERVISOR: Final = "FLEETSIGHT_SUPERVISOR"
"""Environment variable with a name of the supervisor, which no other machine and no other supervisor has."""


_SEVERE: Final = ("error", "critical")
_LEVEL_IN_TEXT: Final = re.compile(r"\b(DEBUG|INFO|WARNING|ERROR|CRITICAL)\b")


def record_previous_end(store: FleetStore, previous_end: str, now: datetime) -> None:
    """Record how the controller before this one ended, if it ended by itself."""
    if previous_end:
        before = store.controller_status()
        ends = tuple(each for each in before.ends if now - ENDS_WINDOW <= each <= now)
        changes = {"ends": (*ends, now)[-MAX_ENDS:], "last_words": last_words(previous_end)}
        store.put_controller_status(before.model_copy(update=changes))


def severe_line(lines: Sequence[str], *, is_killed: bool) -> str:
    """Return the line of a log that says why its process ended, or an empty one.

    It is the last critical line, or else the last error. An exception is text without a level, and counts as an error
    unless a signal has killed the process.
    """
    found = ""
    for line in reversed(lines):
        level = _level_of(line)
        if level == "critical":
            return line
        if not found and line.strip() and (level == "error" or (not level and not is_killed)):
            found = line
    return found


def last_words(previous_end: str) -> str:
    """Return the status and the error, with its level and time, in one short printable line."""
    status, _, line = previous_end.partition(": ")
    fields = parse_log_line(line)
    if fields is not None:
        at, level = log_line_time(fields), _level_of(line)
        words = ": ".join(str(fields[name]) for name in ("message", "error") if name in fields)
        line = f"{level}{f' at {at:%H:%M:%S} UTC' if at else ''}: {words}" if level in _SEVERE else ""
    text = "".join(each if each.isprintable() else " " for each in f"{status}: {line}")
    return text.rstrip(": ")[:MAX_LAST_WORDS]


def _level_of(line: str) -> str:
    """Return the level of a line, or an empty text if it has none."""
    if (fields := parse_log_line(line)) is not None:
        return str(fields.get("level", ""))
    found = _LEVEL_IN_TEXT.search(line)
    return found[1].lower() if found else ""
