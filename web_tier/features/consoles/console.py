"""The consoles of the fleet's instances: read from EC2 with a bound, cleaned, and split into lines.

What an instance writes is untrusted: characters that control a terminal or reorder text are removed, also those
that a line of JSON contains as escapes, and the number and the length of lines are bounded. A line that a process of
Fleetsight has logged is JSON (`core/logs.py`), and is split into its parts.

EC2 allows an account 20 calls a second of an action that only reads, and the controller reads consoles, too. So a
process of the web tier makes one call at a time, and uses what it has read for `FRESH_SECONDS`; a request for a
fresh console waits for no call.
https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-throttling.html
"""

import json
import re
import threading
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Final, cast

from botocore.exceptions import BotoCoreError, ClientError
from flask import current_app
from pydantic import BaseModel, ConfigDict, Field
from werkzeug.exceptions import ServiceUnavailable

from core.fleet.models import EndedInstance, FleetInstance
from core.logs import LINE_FIELDS, log_line_time, parse_log_line
from services.clients import Clients
from services.clock import CLOCK, Clock
from services.ec2 import read_console
from services.errors import NotFoundError
from services.recent_dict import RecentDict
from web_tier.http.backend import current_backend
from web_tier.http.bulkheads import Bulkhead

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client

FRESH_SECONDS: Final = 5.0
"""Time for which a console, or EC2's refusal to return it, is used again."""

WAIT_SECONDS: Final = 15.0
"""Longest time for which a request waits for the calls of others."""

CALL_SECONDS: Final = 5.0
"""Maximum time of an attempt to read a console: an operator waits, and others wait for their turn."""

EXTENSION: Final = "fleetsight-consoles"
"""Name of the consoles of an application among its extensions."""

MAX_KEPT: Final = 8
"""Consoles that a process keeps, of up to 64 KB each."""

MAX_CHARACTERS: Final = 65_536
MAX_LINES: Final = 1_000
"""The newest lines, which are kept."""
MAX_LINE_CHARACTERS: Final = 4_000
MAX_FIELDS: Final = 40
MAX_NAME_CHARACTERS: Final = 40
"""Of the name of a field, and of a level."""

_LINE_END: Final = re.compile(r"\r*\n|\r+")
"""What ends a line; a serial console ends lines with `\\r\\n`."""

_ESCAPE_SEQUENCE: Final = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # colours and movements
    r"|(?:\x1b[PX\]^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x80-\x9f]*(?:\x07|\x1b\\|\x9c)"  # titles and other texts
    r"|\x1b[ -/]*[0-~]?"
)
"""Sequences of ECMA-48, which terminals obey. https://ecma-international.org/publications-and-standards/standards/ecma-48/"""

_REMOVED: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Categories of characters that are not shown: controls, formats such as bidirectional ones, and line ends."""

_GONE: Final = frozenset({"InvalidInstanceID.NotFound", "InvalidInstanceID.Malformed"})
_THROTTLED: Final = frozenset({"RequestLimitExceeded", "Throttling", "ThrottlingException"})
_DENIED: Final = frozenset({"UnauthorizedOperation", "AccessDenied", "AccessDeniedException"})


class ConsoleLine(BaseModel):
    """A line of a console.

    Attributes:
        text: the line as it was written, cleaned.
        at, level, message, fields, exception: the parts of a line of JSON; `message` is None in any other line.
    """

    model_config = ConfigDict(frozen=True)

    text: str
    at: datetime | None = None
    level: str = ""
    message: str | None = None
    fields: dict[str, str] = Field(default_factory=dict, description="Further fields, by name.")
    exception: str = ""


@dataclass(frozen=True, slots=True)
class InstanceConsole:
    """A console as EC2 returned it.

    Attributes:
        is_latest: False if it is of the time shortly after the instance has last changed its state.
        lines: in the order in which they were written, at most `MAX_LINES`.
    """

    read_at: datetime
    is_latest: bool
    lines: tuple[ConsoleLine, ...]


class ConsoleUnavailableError(ServiceUnavailable):
    """Raised when EC2 does not return the console of an instance now."""

    name = ServiceUnavailable().name


def clean(text: str) -> str:
    """Return one line of untrusted text without characters that control a terminal, bounded."""
    plain = _LINE_END.sub(" ", _ESCAPE_SEQUENCE.sub("", text)).replace("\t", "    ")
    kept = "".join(each for each in plain if unicodedata.category(each) not in _REMOVED)
    left_out = len(kept) - MAX_LINE_CHARACTERS
    return kept if left_out <= 0 else f"{kept[:MAX_LINE_CHARACTERS]} … ({left_out:,} more characters)"


def console_lines(text: str) -> tuple[ConsoleLine, ...]:
    """Return the newest lines of a console's output, in their order."""
    lines = _LINE_END.split(text[-MAX_CHARACTERS:])
    if lines[-1] == "":
        lines.pop()
    return tuple(map(parse_line, lines[-MAX_LINES:]))


def parse_line(line: str) -> ConsoleLine:
    """Return a line of a console with its parts, if it is JSON that a process of Fleetsight has logged.

    systemd writes the name of the process before it.
    """
    text, (_, brace, rest) = clean(line), line.partition("{")
    entry = parse_log_line(brace + rest)
    if entry is None or not isinstance(entry["message"], str):
        return ConsoleLine(text=text)
    try:
        return ConsoleLine(
            text=text,
            at=log_line_time(entry),
            level=clean(str(entry.get("level", "")))[:MAX_NAME_CHARACTERS],
            message=clean(entry["message"]),
            fields=_fields(entry),
            exception="\n".join(map(clean, _LINE_END.split(str(entry.get("exception", ""))))),
        )
    except (ValueError, RecursionError):  # deeper than can be written
        return ConsoleLine(text=text)


def _fields(entry: Mapping[str, object]) -> dict[str, str]:
    names = [name for name in entry if name not in LINE_FIELDS][:MAX_FIELDS]
    values = {name: value if isinstance(value := entry[name], str) else json.dumps(value) for name in names}
    return {clean(name)[:MAX_NAME_CHARACTERS]: clean(value) for name, value in values.items()}


class InstanceConsoles:
    """Reads the consoles of instances; the threads of a process share it.

    Args:
        connect: returns the client of EC2, which takes time to make.
        bulkhead: bounds the threads that call EC2 or wait for it.
    """

    def __init__(
        self,
        connect: "Callable[[], EC2Client]",
        bulkhead: Bulkhead,
        clock: Clock = CLOCK,
    ) -> None:
        self._connect, self._bulkhead, self._clock = connect, bulkhead, clock
        self._client: EC2Client | None = None
        self._kept = RecentDict[str, tuple[float, Callable[[], InstanceConsole]]](MAX_KEPT)
        self._calling, self._lock = threading.Lock(), threading.Lock()

    def read(
        self, instance: FleetInstance | EndedInstance, owner: str = "", wait_seconds: float = WAIT_SECONDS
    ) -> InstanceConsole:
        """Return the console of an instance of the fleet, as it was at most `FRESH_SECONDS` ago.

        Raises:
            NotFoundError: EC2 does not know the instance any more.
            ConsoleUnavailableError: EC2 throttles, refuses or does not answer, or too many others read consoles.
        """
        if (outcome := self._fresh(instance.instance_id)) is not None:
            return outcome()
        with self._bulkhead.place(owner) as may_wait:
            if not (may_wait and self._calling.acquire(timeout=wait_seconds)):
                raise ConsoleUnavailableError("others read consoles just now; try again in a moment")
            try:
                outcome = self._fresh(instance.instance_id)  # another thread may have read it meanwhile
                if outcome is None:
                    outcome = self._outcome(instance)
                    with self._lock:
                        self._kept[instance.instance_id] = (self._clock.monotonic(), outcome)
            finally:
                self._calling.release()
        return outcome()

    def _fresh(self, instance_id: str) -> Callable[[], InstanceConsole] | None:
        with self._lock:
            read_at, outcome = self._kept.get(instance_id, (float("-inf"), None))
            return outcome if self._clock.monotonic() - read_at < FRESH_SECONDS else None

    def _outcome(self, instance: FleetInstance | EndedInstance) -> Callable[[], InstanceConsole]:
        """Call EC2; return a function that returns the console, or raises the error that EC2's refusal means."""
        instance_id = instance.instance_id
        try:
            if self._client is None:
                self._client = self._connect()
            output = read_console(self._client, instance_id)
        except (BotoCoreError, ClientError) as error:
            code = error.response["Error"]["Code"] if isinstance(error, ClientError) else type(error).__name__
            # A role may read consoles of instances with the fleet's tag, and ended instances lose their tags.
            if code in _GONE or (code in _DENIED and isinstance(instance, EndedInstance)):
                return partial(_fail, NotFoundError, f"EC2 has no console of {instance_id} any more")
            return partial(_fail, ConsoleUnavailableError, _refusal_words(code))
        console = InstanceConsole(self._clock.utc_now(), output.is_latest, console_lines(output.text))
        return lambda: console


def _fail(kind: type[Exception], words: str) -> InstanceConsole:
    raise kind(words)


def _refusal_words(code: str) -> str:
    if code in _THROTTLED:
        return "EC2 throttles the account just now; try again in some seconds"
    if code in _DENIED:
        return (
            "EC2 does not let the web tier read this console: its role needs ec2:GetConsoleOutput (infra/stack.yaml)"
        )
    return f"EC2 does not return the console just now ({code}); try again in a moment"


def current_consoles() -> InstanceConsoles:
    """Return the consoles of the application that serves the current request; made on first use."""
    extensions = current_app.extensions
    if EXTENSION not in extensions:
        backend = current_backend()
        endpoint = replace(
            backend.config.aws.endpoint(1),
            max_attempts=2,
            connect_timeout=CALL_SECONDS,
            read_timeout=CALL_SECONDS,
        )
        # Another thread may have made them meanwhile.
        extensions.setdefault(EXTENSION, InstanceConsoles(lambda: Clients(endpoint).ec2, backend.bulkheads.consoles))
    return cast(InstanceConsoles, extensions[EXTENSION])
