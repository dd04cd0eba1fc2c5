"""``fleetsight logs``: the log lines of a system that runs on this machine."""

import json
import re
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from ulid import ULID

from core.ids import ULID_PATTERN
from core.logs import LEVELS, LINE_FIELDS, LogLevel, log_line_time, parse_log_line
from core.tracing import TRACE_ID_PATTERN
from fleetsight_client.terminal import one_line
from scripts.home import HOME, AddressError, run_folder
from scripts.run.log_files import older_files
from scripts.standard_options import url_option
from services.clock import CLOCK, Clock
from services.ec2 import INSTANCE_ID_PATTERN
from services.errors import FleetsightError

ROLES = ("web", "controller", "worker")

FOLLOW_SECONDS = 2.0
"""The pause between two polls for new lines."""

UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}

_RANKS = {level: rank for rank, level in enumerate((*LEVELS, "critical"))}

DEFAULT_SINCE = "10m"

_LOGS = "*logs"
"""The folders of logs in the folder of a system: `logs`, and the link `state-logs`."""

MAX_SKEW_SECONDS = 60.0
"""How far the clocks of two machines may differ: lines about an image may be so much older than its id."""


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


def parse_duration(text: str) -> int:
    """Return a duration such as 90s, 10m, 2h or 1d in seconds.

    Raises:
        LogError: the text is not a duration.
    """
    match = re.fullmatch(r"(\d{1,6})([smhd])", text)
    if match is None:
        raise LogError(f"--since {text}: write a number and a unit, such as 90s, 10m, 2h or 1d")
    return int(match[1]) * UNITS[match[2]]


@dataclass(frozen=True)
class _LogFile:
    path: Path
    role: str
    writer: str = ""


@dataclass
class LocalLogs:
    """The logs of a system on this machine, in its folder `state_dir`: of its processes, and the instances' consoles.

    A line of another program has the time of the line before it, or else of the file's last change.
    """

    state_dir: Path
    query: LogQuery = field(default_factory=LogQuery)
    _read_bytes: dict[Path, int] = field(default_factory=dict)

    def since(self, moment: float) -> list[str]:
        """Return the lines since `moment`, in seconds of the epoch, that were not returned before; oldest first.

        Raises:
            LogError: no system has run at this port.
        """
        if not any(self.state_dir.glob(_LOGS)):
            ports = sorted(
                {path.parent.name.removeprefix("run-") for path in self.state_dir.parent.glob(f"run-*/{_LOGS}")}
            )
            others = f"; there are logs of port {', '.join(ports)}" if ports else ""
            raise LogError(f"there are no logs in {self.state_dir}: give the --url of the system{others}")
        lines = [
            (at, format_line(line, file.role, file.writer, self.query.texts))
            for file in self._files()
            for at, line in self._new_lines(file, moment)
            if at >= moment and self.query.selects(line, file.writer)
        ]
        return [line for _, line in sorted(lines, key=lambda each: each[0])]

    def _files(self) -> Iterator[_LogFile]:
        for role in self.query.roles:
            if role == "worker":
                for console in sorted(self.state_dir.glob("instances/*/console.log")):
                    yield _LogFile(console, role, console.parent.name)
                for console in sorted(self.state_dir.glob(f"{_LOGS}/i-*.log")):  # of an earlier run
                    yield _LogFile(console, role, console.stem)
            else:
                yield from (_LogFile(path, role) for path in self.state_dir.glob(f"{_LOGS}/{role}.log"))

    def _new_lines(self, file: _LogFile, moment: float) -> Iterator[tuple[float, str]]:
        """Yield the complete lines that were not read before, with their times; older files end before `moment`."""
        start, older = self._read_bytes.get(file.path), older_files(file.path)
        if start is None:
            yield from (line for path in older if path.stat().st_mtime >= moment for line in self._lines(path, 0))
        elif start > file.path.stat().st_size:  # it was rotated
            yield from (line for path in older[-1:] for line in self._lines(path, start))
            start = 0
        yield from self._lines(file.path, start or 0)

    def _lines(self, path: Path, start: int) -> Iterator[tuple[float, str]]:
        self._read_bytes[path] = start
        with path.open("rb") as log:
            at = path.stat().st_mtime
            log.seek(start)
            for raw in log:
                if not raw.endswith(b"\n"):
                    break
                line = raw.decode(errors="replace").rstrip("\n")
                at = _time_of(line) or at
                self._read_bytes[path] = log.tell()
                yield at, line


def follow_logs(
    since: Callable[[float], list[str]], start: float, show: Callable[[str], None], clock: Clock = CLOCK
) -> None:
    """Show the lines from `start` on, in seconds of the epoch, and each new one until the user presses Ctrl-C."""
    try:
        while True:
            for line in since(start):
                show(line)
            clock.sleep(FOLLOW_SECONDS)
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


def _time_of(line: str) -> float | None:
    entry = parse_log_line(line)
    moment = None if entry is None else log_line_time(entry)
    return None if moment is None else moment.timestamp()


def _matching(pattern: str, example: str) -> Callable[[click.Context, click.Parameter, str | None], str | None]:
    """Return a check of an option's value."""

    def check(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(pattern, value):
            raise click.BadParameter(f"{value!r}: write an id such as {example}")
        return value

    return check


_is_ulid = _matching(ULID_PATTERN, "01K8Z3T7Q0W5V9N2M4X6Y8B1CD")


@click.command("logs")
@click.argument("role", type=click.Choice(ROLES), required=False)
@click.option("--job", metavar="ID", callback=_is_ulid, help="Only lines about this job.")
@click.option("--image", metavar="ID", callback=_is_ulid, help="Only lines about this image.")
@click.option(
    "--instance", metavar="ID", callback=_matching(INSTANCE_ID_PATTERN, "i-0123456789abcdef0"),
    help="Only lines of this instance, or about it.",
)  # fmt: skip
@click.option(
    "--trace", metavar="ID", callback=_matching(TRACE_ID_PATTERN, "4bf92f3577b34da6a3ce929d0e0e4736"),
    help="Only lines of this trace, from the header traceresponse or an error page.",
)  # fmt: skip
@click.option("--level", type=click.Choice(LEVELS), help="Only lines of this level and above.")
@click.option("--filter", "text", metavar="TEXT", help="Only lines that hold TEXT.")
@click.option("--since", help=f"How far back: 90s, 10m, 2h, 1d [default: {DEFAULT_SINCE}, or since the job or image]")
@click.option("--follow", is_flag=True, help="Print new lines until Ctrl-C.")
@url_option
def logs_command(*, url: str, role: str | None, since: str | None, follow: bool, **selection: Any) -> None:
    """Show the logs of web tier, controller and workers, or of one of them, oldest first (times in UTC).

    They are the logs of the system that ./scripts/run.sh runs on this machine. For those of a stack on AWS use
    `aws logs tail`.
    """
    ids = [selection[name] for name in ("job", "image") if selection[name]]
    texts = [*ids, *(selection[name] for name in ("trace", "text") if selection[name])]
    query = LogQuery((role,) if role else ROLES, texts, selection["level"], selection["instance"])
    try:
        logs, start = LocalLogs(run_folder(HOME, url), query), time.time() - parse_duration(since or DEFAULT_SINCE)
        if since is None:
            start = min([start, *(ULID.from_str(each).timestamp - MAX_SKEW_SECONDS for each in ids)])
        if follow:
            follow_logs(logs.since, start, click.echo)
        else:
            for line in logs.since(start):
                click.echo(line)
    except (AddressError, LogError) as error:
        raise click.ClickException(str(error)) from error
