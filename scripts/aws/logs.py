"""The log lines of web tier, controller and workers: which of them are read, how they are shown, and CloudWatch Logs.

`scripts/logs.py` has the command, and the reader of a system on this machine.
"""

import json
import re
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from core.logs import LEVELS, LINE_FIELDS, LogLevel, log_line_time, parse_log_line
from fleetsight_client.terminal import one_line
from scripts.aws.context import AwsAccount, Waiter
from services.errors import FleetsightError

ROLES = ("web", "controller", "worker")

FOLLOW_SECONDS = 2.0
"""The pause between two polls for new lines."""

MAX_LATE_SECONDS = 60
"""How far back each poll reads: CloudWatch may store a line late, and the line is then shown out of order."""

UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}

_RANKS = {level: rank for rank, level in enumerate((*LEVELS, "critical"))}


class LogError(FleetsightError):
    """Raised when there are no logs, or a duration is invalid."""


@dataclass(frozen=True)
class LogQuery:
    """Which lines are shown.

    Attributes:
        roles: the writers of the logs.
        texts: each is in the line.
        level: minimum level; lines of other programs have none, and are left out then.
        instance: that has written the line, or is named in it.
    """

    roles: Sequence[str] = ROLES
    texts: Sequence[str] = ()
    level: LogLevel | None = None
    instance: str | None = None

    def selects(self, line: str, writer: str) -> bool:
        """Return whether a line of the instance `writer` is shown."""
        if not all(text in line for text in self.texts):
            return False
        if self.instance is not None and self.instance != writer and self.instance not in line:
            return False
        return self.level is None or _rank_of(line) >= _RANKS[self.level]

    def pattern(self) -> str:
        """Return a filter pattern of CloudWatch Logs that matches at least the selected lines.

        Quotes make a term a literal text:
        https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/FilterAndPatternSyntax.html
        """
        if self.texts:
            return json.dumps(max(self.texts, key=len))
        if self.level is None:
            return ""
        levels = [f'($.level = "{level}")' for level, rank in _RANKS.items() if rank >= _RANKS[self.level]]
        return f"{{ {' || '.join(levels)} }}"


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
class CloudWatchLogs:
    """The log groups of a stack; their streams are named after the instances."""

    account: AwsAccount
    prefix: str
    query: LogQuery = field(default_factory=LogQuery)
    _seen: dict[str, int] = field(default_factory=dict)

    def since(self, moment: float) -> list[str]:
        """Return the lines since `moment`, in seconds of the epoch, that were not returned before; oldest first.

        Raises:
            LogError: no log group exists.
        """
        pages = self.account.logs.get_paginator("describe_log_groups").paginate(logGroupNamePrefix=f"/{self.prefix}/")
        existing = {each["logGroupName"] for page in pages for each in page["logGroups"]}
        found = [role for role in self.query.roles if f"/{self.prefix}/{role}" in existing]
        if not found:
            roles = ", ".join(self.query.roles)
            raise LogError(f"there are no logs of {roles} under /{self.prefix}: is there a stack?")
        start = int(moment * 1_000)
        events = [(role, event) for role in found for event in self._events(role, start)]
        self._seen = {each: at for each, at in self._seen.items() if at >= start}
        return [
            format_line(event["message"], role, event["logStreamName"], self.query.texts)
            for role, event in sorted(events, key=lambda each: each[1]["timestamp"])
        ]

    def _events(self, role: str, start: int) -> Iterator[Any]:
        group: dict[str, Any] = {"logGroupName": f"/{self.prefix}/{role}", "startTime": start}
        pattern = self.query.pattern()
        searches = [group | ({"filterPattern": pattern} if pattern else {})]
        if self.query.instance is not None:
            # Its own lines, and those of other instances that name it.
            own = searches[0] | {"logStreamNamePrefix": self.query.instance}
            searches = [own, group | {"filterPattern": json.dumps(self.query.instance)}]
        for search in searches:
            for page in self.account.logs.get_paginator("filter_log_events").paginate(**search):
                for event in page["events"]:
                    if event["eventId"] in self._seen:
                        continue
                    self._seen[event["eventId"]] = event["timestamp"]
                    if self.query.selects(event["message"], event["logStreamName"]):
                        yield event


def follow_logs(
    since: Callable[[float], list[str]], start: float, show: Callable[[str], None], waiter: Waiter
) -> None:
    """Show the lines from `start` on, in seconds of the epoch, and each new one until the user presses Ctrl-C."""
    try:
        while True:
            for line in since(start):
                show(line)
            waiter.clock.sleep(FOLLOW_SECONDS)
            start = time.time() - MAX_LATE_SECONDS
    except KeyboardInterrupt:
        return


def format_line(line: str, role: str, writer: str = "", texts: Collection[str] = ()) -> str:
    """Return one of our JSON lines for the terminal: time, level, role and message, then further fields by name.

    Other lines stay as they are. Of a list of images only those are shown that hold one of `texts`, if there are any.
    A worker's line shows the instance that has written it.
    """
    entry = parse_log_line(line)
    if entry is None:
        return one_line(f"{role:<10} {line.rstrip()}")
    further = {name: value for name, value in entry.items() if name not in LINE_FIELDS}
    if isinstance(images := further.get("images"), list):
        matching = [each for each in images if any(text in json.dumps(each) for text in texts)]
        further["images"] = matching or images
    if role == "worker" and writer:
        further.setdefault("instance", writer)
    fields = " ".join(
        f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in further.items()
    )
    moment = log_line_time(entry)
    at = str(entry.get("at")) if moment is None else f"{moment:%d %b %H:%M:%S}.{moment.microsecond // 1000:03}"
    main = f"{at} {entry.get('level', '')!s:<7} {role:<10} {entry['message']}"
    exception = "".join(f"\n    {one_line(each)}" for each in str(entry.get("exception", "")).splitlines())
    return one_line("  ".join(each for each in (main, fields) if each)) + exception


def _rank_of(line: str) -> int:
    """Return the rank of a line's level, or -1 if it has none."""
    entry = parse_log_line(line)
    return -1 if entry is None else _RANKS.get(str(entry.get("level")), -1)
