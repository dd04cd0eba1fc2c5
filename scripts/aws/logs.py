"""``fleetsight logs``: what web tier, controller and workers have written, read from CloudWatch Logs."""

import json
import re
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from scripts.aws.account import Account
from scripts.aws.waiting import Waiting
from services.errors import FleetsightError

ROLES = ("web", "controller", "worker")

FOLLOW_SECONDS = 2.0
"""Between two looks for new lines."""

LATE_SECONDS = 60
"""How late a line may come, which stands then before others that have been shown."""

UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}

OWN = ("at", "level", "process", "logger", "message", "exception")
"""What our lines of JSON have in places of their own; the rest is told by name."""


class LogError(FleetsightError):
    """Raised when there are no logs, or a time cannot be understood."""


def seconds_of(text: str) -> int:
    """Return a length of time such as 90s, 10m, 2h or 1d in seconds.

    Raises:
        LogError: it is none.
    """
    match = re.fullmatch(r"(\d{1,6})([smhd])", text)
    if match is None:
        raise LogError(f"--since {text}: write a number and a unit, such as 90s, 10m, 2h or 1d")
    return int(match[1]) * UNITS[match[2]]


@dataclass
class Reader:
    """Reads log groups, each line once.

    Attributes:
        account: of the logs.
        prefix: of the stack.
        roles: that write them.
        text: only lines that hold it; empty for all.
    """

    account: Account
    prefix: str
    roles: Sequence[str] = ROLES
    text: str = ""
    _seen: dict[str, int] = field(default_factory=dict)

    def since(self, moment: float) -> list[str]:
        """Return what has been written since `moment`, in seconds of the epoch, and not been returned yet.

        Raises:
            LogError: none of the groups is there.
        """
        start = int(moment * 1_000)
        events = [event for role in self._groups() for event in self._events(role, start)]
        self._seen = {each: at for each, at in self._seen.items() if at >= start}
        return [readable(event["message"], role) for _, role, event in sorted(events, key=lambda each: each[0])]

    def _groups(self) -> list[str]:
        pages = self.account.logs.get_paginator("describe_log_groups").paginate(logGroupNamePrefix=f"/{self.prefix}/")
        there = {each["logGroupName"] for page in pages for each in page["logGroups"]}
        found = [role for role in self.roles if f"/{self.prefix}/{role}" in there]
        if not found:
            raise LogError(f"there are no logs of {', '.join(self.roles)} under /{self.prefix}: is there a stack?")
        return found

    def _events(self, role: str, start: int) -> Iterator[tuple[int, str, Any]]:
        asked: dict[str, Any] = {"logGroupName": f"/{self.prefix}/{role}", "startTime": start}
        if self.text:
            asked["filterPattern"] = json.dumps(self.text)  # in quotes it is looked for as it stands
        for page in self.account.logs.get_paginator("filter_log_events").paginate(**asked):
            for event in page["events"]:
                if event["eventId"] not in self._seen:
                    self._seen[event["eventId"]] = event["timestamp"]
                    yield event["timestamp"], role, event


def follow(
    reader: Reader,
    show: Callable[[str], None],
    waiting: Waiting,
    now: Callable[[], float] = time.time,
) -> None:
    """Show new lines as they come, until Ctrl-C."""
    try:
        while True:
            waiting.sleep(FOLLOW_SECONDS)
            for line in reader.since(now() - LATE_SECONDS):
                show(line)
    except KeyboardInterrupt:
        return


def readable(line: str, role: str) -> str:
    """Return a line for people: time, level, who and what, then what else it tells; others as they are."""
    try:
        told = json.loads(line)
    except ValueError:
        told = None
    if not isinstance(told, dict) or "message" not in told:
        return plain(f"{role:<10} {line.rstrip()}")
    rest = " ".join(f"{name}={_short(value)}" for name, value in told.items() if name not in OWN)
    words = f"{_clock(told.get('at'))} {told.get('level', ''):<7} {role:<10} {told['message']}"
    return plain("  ".join(each for each in (words, rest) if each)) + _exception(told)


def plain(text: str) -> str:
    """Return text, which others have written, without what would move a terminal's cursor or colour it."""
    return "".join(each for each in text if unicodedata.category(each) not in {"Cc", "Cf"})


def _exception(told: dict[str, Any]) -> str:
    lines = str(told.get("exception", "")).splitlines()
    return "".join(f"\n    {plain(line)}" for line in lines)


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _clock(at: object) -> str:
    try:
        return f"{datetime.fromisoformat(str(at)).astimezone(UTC):%d %b %H:%M:%S}"
    except ValueError:
        return str(at)
