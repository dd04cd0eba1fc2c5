"""EC2 in memory: the client of a fleet, as far as ClientToken, capacity, states and tags go, and its ways to fail.

Nothing happens by itself here: a test sets the states. In `tests/simulation/faults` instances boot, work and end.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar, cast

from botocore.exceptions import ReadTimeoutError

from services.ec2 import TEMPLATE_TAG, VERSION_TAG, Fleet
from services.metadata import DRAIN_TAG
from tests.support.memory_aws.calls import Call, refusal, run_effect

EPOCH: Final[datetime] = datetime(2026, 1, 1, tzinfo=UTC)
"""Launch time of the first instance."""

ENDED: Final = frozenset({"shutting-down", "terminated"})
_T = TypeVar("_T")


@dataclass
class MemoryEC2:
    """EC2's client.

    Attributes:
        room: capacity, as a number of instances.
        fail: called before each launch or start: None accepts it; `lost` loses the reply of a call that took place,
            and `lost CODE` has botocore's own retry of it refused; `timeout` loses the request; any other word
            refuses with that code.
        offer: called for each new launch: None launches all, a number only so many, a word refuses.
        call: the hook of each call; the operation is EC2's name.
        hidden: ids that DescribeInstances omits.
        reasons: codes of the reasons for the states of instances.
        stale: states that DescribeInstances still shows instead of the true ones.
        error: the error that DescribeInstances raises.
        start_fails: the word of `fail` for every start.
        refuses: whether tags and terminations are refused.
        protected: ids that cannot be terminated.
        consoles: console output by instance id; of other instances it cannot be read.
        tags: keys of the tags that instances got after their launch.
        terminated: the ids of each call that terminated instances.
        default_version: of each launch template; its launches have this version.
    """

    room: int = 1_000_000
    fail: Callable[[], str | None] = lambda: None
    states: dict[str, str] = field(default_factory=dict)
    hidden: set[str] = field(default_factory=set)
    reasons: dict[str, str] = field(default_factory=dict)
    stale: dict[str, str] = field(default_factory=dict)
    error: Exception | None = None
    by_token: dict[str, tuple[dict[str, Any], list[str]]] = field(default_factory=dict)
    calls: list[dict[str, Any]] = field(default_factory=list)
    start_fails: str | None = None
    offer: Callable[[dict[str, Any]], int | str | None] = lambda _call: None
    call: Call = run_effect
    drained: list[str] = field(default_factory=list)
    tags: dict[str, set[str]] = field(default_factory=dict)
    refuses: bool = False
    protected: set[str] = field(default_factory=set)
    consoles: dict[str, str] = field(default_factory=dict)
    terminated: list[list[str]] = field(default_factory=list)
    starts: Counter[str] = field(default_factory=Counter)
    default_version: int = 1
    versions: dict[str, int] = field(default_factory=dict)

    def fleet(self, name: str = "worker") -> Fleet:
        """The fleet that has this EC2 as its client."""
        return Fleet(cast(Any, self), name)

    def alive(self) -> list[str]:
        """Ids of pending and running instances, seen or not."""
        return [key for key, state in self.states.items() if state in {"pending", "running"}]

    # The client's own methods

    def run_instances(self, **call: Any) -> dict[str, Any]:
        """Launch between MinCount and MaxCount instances, once for each token."""
        self.calls.append(call)
        ids = self._change("RunInstances", lambda: self._launch(call))
        return {"Instances": [self._described(key) for key in ids]}

    def start_instances(self, InstanceIds: list[str]) -> dict[str, Any]:  # noqa: N803 (EC2's name)
        """Start stopped instances."""
        self._change("StartInstances", lambda: self._start(InstanceIds))
        return {}

    def create_tags(self, Resources: list[str], Tags: list[dict[str, str]]) -> None:  # noqa: N803 (EC2's names)
        """Add tags."""
        tags = {tag["Key"]: tag["Value"] for tag in Tags}
        self._make("CreateTags", lambda: self._tag(Resources, tags))

    def delete_tags(self, Resources: list[str], Tags: list[dict[str, str]]) -> None:  # noqa: N803 (EC2's names)
        """Remove tags."""
        self._make("DeleteTags", lambda: self._untag(Resources, [tag["Key"] for tag in Tags]))

    def describe_launch_templates(self, Filters: list[dict[str, Any]]) -> dict[str, Any]:  # noqa: N803 (EC2's name)
        """Describe the templates of these names."""
        self._before("DescribeLaunchTemplates")
        if self._is_refused("DescribeLaunchTemplates"):
            raise refusal("UnauthorizedOperation", "DescribeLaunchTemplates")
        [name] = Filters[0]["Values"]
        return {"LaunchTemplates": [{"LaunchTemplateId": f"lt-{name}", "DefaultVersionNumber": self.default_version}]}

    def terminate_instances(self, InstanceIds: list[str]) -> None:  # noqa: N803 (EC2's name)
        """Terminate instances; if one of them is protected, EC2 refuses the whole call."""
        self._make("TerminateInstances", lambda: self._terminate(InstanceIds))

    def get_console_output(self, InstanceId: str, Latest: bool) -> dict[str, str]:  # noqa: N803 (EC2's names)
        """Return the console output of an instance."""
        self._before("GetConsoleOutput")
        return {"Output": self._console(InstanceId)}

    def get_paginator(self, _operation: str) -> "MemoryEC2":
        """Return itself: it paginates."""
        return self

    def paginate(self, Filters: list[dict[str, Any]], **_: Any) -> Iterator[dict[str, Any]]:  # noqa: N803 (EC2's name)
        """Describe the instances that have the name and are in one of the states, as far as they are seen."""
        wanted = {each["Name"]: each["Values"] for each in Filters}
        [name], states = wanted["tag:Name"], wanted["instance-state-name"]
        self._before("DescribeInstances")
        shown = self.call("DescribeInstances", lambda: list(self._shown(name, states)))
        yield {"Reservations": [{"Instances": shown}]}

    # Outcomes

    def _change(self, operation: str, effect: Callable[[], _T]) -> _T:
        """Make a launch or a start, or not, as its fault has it."""
        self._before(operation)
        fault = self._next_fault(operation, effect) or ""
        word, _, code = fault.partition(" ")
        if fault == "timeout":
            raise ReadTimeoutError(endpoint_url="ec2")
        if fault and word != "lost":
            raise refusal(fault, operation)
        result: _T = self.call(operation, effect)
        self._after(operation)
        if fault:
            raise refusal(code or "InternalError", operation, 500, retries=2)
        return result

    def _make(self, operation: str, effect: Callable[[], object]) -> None:
        """Make another change, or refuse it."""
        self._before(operation)
        if self._is_refused(operation):
            raise refusal("RequestLimitExceeded", operation)
        self.call(operation, effect)
        self._after(operation)

    def _launch(self, call: dict[str, Any]) -> list[str]:
        """Launch, with the promises of a ClientToken.

        https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-idempotency.html
        """
        token = call["ClientToken"]
        if token in self.by_token:
            first, ids = self.by_token[token]
            if first != call:
                raise refusal("IdempotentParameterMismatch", "RunInstances")
            if all(self._state(key) == "terminated" for key in ids):
                raise refusal("IdempotentInstanceTerminated", "RunInstances")
            return ids
        offered = self._offered(call)
        if isinstance(offered, str):
            raise refusal(offered, "RunInstances")
        if offered < call["MinCount"]:
            raise refusal("InsufficientInstanceCapacity", "RunInstances")
        ids = self._create(call, min(offered, call["MaxCount"]))
        self.by_token[token] = (call, ids)
        self._count_alive()
        return ids

    # What instances are, and what befalls calls

    def _before(self, operation: str) -> None:
        """Meet a call before its effect."""

    def _after(self, operation: str) -> None:
        """Meet a call after its effect, before its reply."""

    def _next_fault(self, operation: str, _effect: Callable[[], object]) -> str | None:
        return (self.start_fails if operation == "StartInstances" else None) or self.fail()

    def _is_refused(self, _operation: str) -> bool:
        return self.refuses

    def _offered(self, call: dict[str, Any]) -> int | str:
        offered = self.offer(call)
        if isinstance(offered, str):
            return offered
        room = self.room - len(self.alive())
        return room if offered is None else min(offered, room)

    def _create(self, _call: dict[str, Any], count: int) -> list[str]:
        ids = [f"i-{len(self.states) + number}" for number in range(count)]
        self.states |= dict.fromkeys(ids, "pending")
        self.versions |= dict.fromkeys(ids, self.default_version)
        return ids

    def _count_alive(self) -> None:
        """Learn that instances were launched or started."""

    def _state(self, key: str) -> str:
        return self.states[key]

    def _start(self, ids: list[str]) -> None:
        if unknown := [key for key in ids if key not in self.states]:
            raise refusal("InvalidInstanceID.NotFound", f"StartInstances of {unknown}")
        self.states |= dict.fromkeys(ids, "pending")
        self.starts.update(ids)
        self._count_alive()

    def _tag(self, ids: list[str], tags: dict[str, str]) -> None:
        if set(tags) == {DRAIN_TAG}:
            self.drained += ids
        for key in ids:
            self.tags.setdefault(key, set()).update(tags)

    def _untag(self, ids: list[str], names: list[str]) -> None:
        for key in ids:
            self.tags.get(key, set()).difference_update(names)

    def _terminate(self, ids: list[str]) -> None:
        if self.protected.intersection(ids):
            raise refusal("OperationNotPermitted", "TerminateInstances")
        self.terminated.append(ids)
        self.states |= dict.fromkeys(ids, "shutting-down")

    def _console(self, key: str) -> str:
        if key not in self.consoles:
            raise refusal("InvalidInstanceID.NotFound", "GetConsoleOutput")
        return self.consoles[key]

    def _shown(self, name: str, states: Iterable[str]) -> Iterator[dict[str, Any]]:
        """Return the instances that a description shows; those that a test has added itself have every name."""
        if self.error:
            raise self.error
        others = {key for call, ids in self.by_token.values() if name_of(call) not in {None, name} for key in ids}
        for key, state in self.states.items():
            if key not in self.hidden | others and (seen := self.stale.get(key, state)) in states:
                yield self._described(key, seen)

    def _described(self, key: str, shown_state: str | None = None) -> dict[str, Any]:
        state = {"Name": shown_state or self.states[key]}
        tags = [{"Key": tag, "Value": "yes"} for tag in sorted(self.tags.get(key, ()))]
        # A start makes it later; a stale description is older than the start.
        launched = EPOCH if key in self.stale else EPOCH + timedelta(seconds=self.starts[key])
        described = {"InstanceId": key, "State": state, "InstanceType": "c7a.large", "LaunchTime": launched}
        described["Tags"] = tags
        if key in self.reasons:
            described["StateReason"] = {"Code": self.reasons[key]}
        for token, (call, ids) in self.by_token.items():
            if key in ids:
                described |= {"ClientToken": token, "InstanceType": call["InstanceType"]}
                described |= {"InstanceLifecycle": "spot"} if "InstanceMarketOptions" in call else {}
                if "LaunchTemplate" in call:
                    template = f"lt-{call['LaunchTemplate']['LaunchTemplateName']}"
                    tags.append({"Key": TEMPLATE_TAG, "Value": template})
                    tags.append({"Key": VERSION_TAG, "Value": str(self.versions[key])})
        return described


def name_of(call: dict[str, Any]) -> str | None:
    """Return the `Name` tag of the instances of a launch; None if it gives none."""
    tags = {tag["Key"]: tag["Value"] for each in call.get("TagSpecifications", []) for tag in each["Tags"]}
    return tags.get("Name")
