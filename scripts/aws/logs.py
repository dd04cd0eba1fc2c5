"""``fleetsight logs``: the logs of web tier, controller and workers, read from CloudWatch Logs."""

import json
import re
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from scripts.aws.context import AwsAccount, Waiter
from services.errors import FleetsightError

ROLES = ("web", "controller", "worker")

FOLLOW_SECONDS = 2.0
"""The pause between two polls for new lines."""

MAX_LATE_SECONDS = 60
"""How far back each poll reads: CloudWatch may store a line late, and the line is then shown out of order."""

UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}

LINE_FIELDS = ("at", "level", "process", "logger", "message", "exception")
"""Fields of our JSON lines with a fixed place in the output; the others follow by name."""


class LogError(FleetsightError):
    """Raised when there are no logs, or a duration is invalid."""


def parse_duration(text: str) -> int:
    """Return a duration such as 90s, 10m, 2h or 1d in seconds.

    Raises:
        LogError: the text is not a duration.
    """
    match = re.fullmatch(r"(\d{1,6})([smhd])", text)
    if match is None:
        raise LogError(f"--since {text}: write a number and a unit, such as 90s, 10m, 2h or 1d")
    return int(match[1]) * UNITS[match[2]]


@dataclass
class LogReader:
    """Reads log groups, each line once.

    Attributes:
        account: of the logs.
        prefix: of the stack.
        roles: the writers of the logs.
        text: only lines with this text are read; empty for all lines.
    """

    account: AwsAccount
    prefix: str
    roles: Sequence[str] = ROLES
    text: str = ""
    _seen: dict[str, int] = field(default_factory=dict)

    def since(self, moment: float) -> list[str]:
        """Return the lines since `moment`, in seconds of the epoch, that were not returned before.

        Raises:
            LogError: no log group exists.
        """
        pages = self.account.logs.get_paginator("describe_log_groups").paginate(logGroupNamePrefix=f"/{self.prefix}/")
        existing = {each["logGroupName"] for page in pages for each in page["logGroups"]}
        found = [role for role in self.roles if f"/{self.prefix}/{role}" in existing]
        if not found:
            raise LogError(f"there are no logs of {', '.join(self.roles)} under /{self.prefix}: is there a stack?")
        start = int(moment * 1_000)
        events = [event for role in found for event in self._events(role, start)]
        self._seen = {each: at for each, at in self._seen.items() if at >= start}
        return [format_line(event["message"], role) for _, role, event in sorted(events, key=lambda each: each[0])]

    def _events(self, role: str, start: int) -> Iterator[tuple[int, str, Any]]:
        arguments: dict[str, Any] = {"logGroupName": f"/{self.prefix}/{role}", "startTime": start}
        if self.text:
            arguments["filterPattern"] = json.dumps(self.text)  # quotes make it a literal text
        for page in self.account.logs.get_paginator("filter_log_events").paginate(**arguments):
            for event in page["events"]:
                if event["eventId"] not in self._seen:
                    self._seen[event["eventId"]] = event["timestamp"]
                    yield event["timestamp"], role, event


def follow_logs(reader: LogReader, show: Callable[[str], None], waiter: Waiter) -> None:
    """Show new lines until the user presses Ctrl-C."""
    try:
        while True:
            waiter.sleep(FOLLOW_SECONDS)
            for line in reader.since(time.time() - MAX_LATE_SECONDS):
                show(line)
    except KeyboardInterrupt:
        return


def format_line(line: str, role: str) -> str:
    """Return one of our JSON lines for the terminal: time, level, role and message, then further fields by name.

    Other lines stay as they are.
    """
    try:
        entry = json.loads(line)
    except ValueError:
        entry = None
    if not isinstance(entry, dict) or "message" not in entry:
        return strip_control(f"{role:<10} {line.rstrip()}")
    fields = " ".join(
        f"{name}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in entry.items()
        if name not in LINE_FIELDS
    )
    try:
        at = f"{datetime.fromisoformat(str(entry.get('at'))).astimezone(UTC):%d %b %H:%M:%S}"
    except ValueError:
        at = str(entry.get("at"))
    main = f"{at} {entry.get('level', ''):<7} {role:<10} {entry['message']}"
    exception = "".join(f"\n    {strip_control(each)}" for each in str(entry.get("exception", "")).splitlines())
    return strip_control("  ".join(each for each in (main, fields) if each)) + exception


def strip_control(text: str) -> str:
    """Return untrusted text without characters that control a terminal."""
    return "".join(each for each in text if unicodedata.category(each) not in {"Cc", "Cf"})
