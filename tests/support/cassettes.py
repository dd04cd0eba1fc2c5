"""A command's run against AWS, recorded once and played again without AWS.

A cassette is a JSON file: the arguments, what the command printed, and the answers of AWS in the order of its calls.
It holds nothing by which an account can be known: account number, users, e-mail and IP addresses, ids and secrets are
replaced, each by the same text in all places.
"""

import ipaddress
import json
import re
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders
from click.testing import CliRunner, Result

from scripts.aws import commands
from scripts.aws.context import AwsAccount, Waiter
from scripts.cli import fleetsight

EXAMPLE_ACCOUNT: Final = "123456789012"
"""The account number of AWS's own examples."""

SECRET_FIELDS: Final = frozenset(
    {
        "AccessToken",
        "IdToken",
        "RefreshToken",
        "SecretAccessKey",
        "SecretCode",
        "Session",
        "SessionToken",
        "TemporaryPassword",
        "UserData",
    }
)

ACCESS_KEY: Final = re.compile(r"\b(AKIA|ASIA|AIDA|AROA)[A-Z0-9]{12,}\b")
CALLER: Final = re.compile(r"(arn:aws:(?:iam|sts)::\d{12}:(?:user|assumed-role))/[^\s\"']+")
EMAIL: Final = re.compile(r"\b[\w.+-]+@[\w-]+\.[\w.]+\b")
HOST: Final = re.compile(r"\bec2-\d+-\d+-\d+-\d+\b")
IPV4: Final = re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}\b")
RESOURCE_ID: Final = re.compile(r"\b([a-z]{1,12}-)([0-9a-f]{17}|[0-9a-f]{8})\b")
POOL_ID: Final = re.compile(r"\b([a-z]{2}-[a-z]+-\d_)([A-Za-z0-9]{9})\b")


class UnrecordedCallError(AssertionError):
    """Raised when a command makes a call that its cassette has no answer to."""


@dataclass
class Scrubber:
    """Replaces what identifies an account; what it has replaced once it replaces by the same text again.

    Attributes:
        account_id: the account's number.
    """

    account_id: str
    _replaced: dict[str, str] = field(default_factory=dict)

    def value(self, value: Any) -> Any:
        """Return an answer, or a part of one, as JSON can hold it."""
        if isinstance(value, Mapping):
            is_secret = value.get("Type") == "SecureString"
            return {
                key: "" if key in SECRET_FIELDS or (is_secret and key == "Value") else self.value(each)
                for key, each in value.items()
                if key != "ResponseMetadata"
            }
        if isinstance(value, Sequence) and not isinstance(value, str | bytes):
            return [self.value(each) for each in value]
        if isinstance(value, datetime):
            return {"datetime": value.isoformat()}
        if isinstance(value, str):
            return self.text(value)
        if value is None or isinstance(value, bool | int | float):
            return value
        raise TypeError(f"a cassette cannot hold a {type(value).__name__}: record another command")

    def text(self, text: str) -> str:
        """Return a text without what identifies the account."""
        text = text.replace(self.account_id, EXAMPLE_ACCOUNT)
        text = CALLER.sub(r"\1/deployer", text)
        text = ACCESS_KEY.sub(lambda found: found[1].ljust(len(found[0]), "0"), text)
        text = EMAIL.sub("person@example.org", text)
        text = HOST.sub("ec2-198-51-100-1", text)
        text = IPV4.sub(lambda found: self._address(found[0]), text)
        for pattern in (RESOURCE_ID, POOL_ID):
            text = pattern.sub(lambda found: found[1] + self._id(found[0], len(found[2])), text)
        return text

    def _address(self, address: str) -> str:
        try:
            is_public = ipaddress.IPv4Address(address).is_global
        except ValueError:  # a version, such as 300.1.2.3
            return address
        if not is_public or address in self._replaced.values():
            return address
        return self._replaced.setdefault(address, f"198.51.100.{1 + len(self._replaced) % 254}")

    def _id(self, whole: str, length: int) -> str:
        if whole in self._replaced.values():
            return whole[-length:]
        if whole not in self._replaced:
            self._replaced[whole] = f"{whole[:-length]}{1 + len(self._replaced):0{length}d}"
        return self._replaced[whole][-length:]


def record(arguments: Sequence[str], cassette: Path, account_id: str) -> Result:
    """Run a command of `fleetsight` against AWS; if it succeeds, write its cassette."""
    answers: list[dict[str, Any]] = []
    scrubber = Scrubber(account_id)

    def keep(model: Any, parsed: Mapping[str, Any], **_: Any) -> None:
        service = model.service_model.service_name
        answers.append({"service": service, "operation": model.name, "answer": scrubber.value(parsed)})

    with _each_client(lambda client: client.meta.events.register("after-call", keep)):
        result = CliRunner().invoke(fleetsight, list(arguments))
    if result.exit_code == 0:
        said = scrubber.text(result.output)
        whole = {"arguments": [scrubber.text(each) for each in arguments], "output": said, "answers": answers}
        cassette.parent.mkdir(exist_ok=True)
        cassette.write_text(json.dumps(whole, indent=1) + "\n")
    return result


def play(cassette: Path) -> tuple[Result, str]:
    """Run the command of a cassette with the answers that it holds; return that run, and what was printed once.

    Raises:
        UnrecordedCallError: the command makes a call that it did not make then.
    """
    whole = json.loads(cassette.read_text(), object_hook=_moment)
    left: defaultdict[tuple[str, str], deque[Any]] = defaultdict(deque)
    for each in whole["answers"]:
        left[each["service"], each["operation"]].append(each["answer"])

    def answer(model: Any, **_: Any) -> tuple[AWSResponse, Any]:
        call = (model.service_model.service_name, model.name)
        if not left[call]:
            raise UnrecordedCallError(f"{cassette.name} has no more answers to {':'.join(call)}: record it again")
        parsed = left[call].popleft()
        return AWSResponse("", 400 if "Error" in parsed else 200, HTTPHeaders(), None), parsed

    no_wait = Waiter(sleep=lambda _seconds: None)
    with (
        _each_client(lambda client: client.meta.events.register("before-call", answer)),
        patch.object(commands, "Waiter", lambda: no_wait),
    ):
        return CliRunner().invoke(fleetsight, whole["arguments"]), whole["output"]


def words(output: str) -> list[str]:
    """Return what was printed without the frames of tables and the times, which differ from run to run."""
    return [word for word in output.split() if not re.fullmatch(r"[─━]+|\d{2}:\d{2}(:\d{2})?", word)]


@contextmanager
def _each_client(prepare: Callable[[Any], object]) -> Iterator[None]:
    """Have each client of an account prepared when it is made."""
    make, seen = AwsAccount.client, set[int]()

    def made(self: AwsAccount, service: str) -> Any:
        client = make(self, service)
        if id(client) not in seen:
            seen.add(id(client))
            prepare(client)
        return client

    with patch.object(AwsAccount, "client", made):
        yield


def _moment(found: dict[str, Any]) -> Any:
    return datetime.fromisoformat(found["datetime"]) if found.keys() == {"datetime"} else found
