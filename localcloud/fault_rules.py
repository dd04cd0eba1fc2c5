"""Which faults calls meet: rules by service, operation, tier, share and time, and what chooses among the calls.

The switch `faults` is a list of `FaultRule`. A call meets the first rule that it matches and that chooses it. Which
of the matching calls a rule chooses follows from `fault_seed` alone: the same seed chooses the same ones again.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

FaultKind = Literal[
    "unavailable",
    "throttled",
    "slow",
    "timeout",
    "reset",
    "lost_reply",
    "repeated",
    "denied",
    "expired",
    "skewed",
    "killed_before",
    "killed_after",
]

MAX_RULES: Final = 100
MAX_SECONDS: Final = 600.0
"""How long a call may be held; no client of ours waits that long."""


class FaultRule(BaseModel):
    """One kind of fault, and which calls may meet it. What is left out matches every call.

    Attributes:
        kind: `unavailable` and `throttled` refuse the call, as AWS does under load; `slow` answers `seconds` late;
            `timeout` holds the connection for `seconds` and then closes it, without an effect; `reset` closes it at
            once, without an effect; `lost_reply` closes it after the effect; `repeated` makes the effect twice, as
            a client does that lost the first reply; `denied`, `expired` and `skewed` refuse the caller's credentials;
            `killed_before` and `killed_after` end the process that made the call, before the effect or after it.
        service: such as `s3`.
        operation: such as `SendMessageBatch`; of S3, the HTTP method, or `LIST`.
        tier: `web`, `controller` or `worker`.
        share: of the matching calls, 0 to 1.
        seconds: for `slow` and `timeout`.
        from_seconds, until_seconds: when the rule applies, counted from when the switch was turned.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: FaultKind
    service: str | None = None
    operation: str | None = None
    tier: Literal["web", "controller", "worker"] | None = None
    share: float = Field(default=1.0, ge=0, le=1)
    seconds: float = Field(default=1.0, ge=0, le=MAX_SECONDS)
    from_seconds: float = Field(default=0.0, ge=0)
    until_seconds: float | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _begins_before_it_ends(self) -> "FaultRule":
        if self.until_seconds is not None and self.until_seconds <= self.from_seconds:
            raise ValueError(f"until_seconds ({self.until_seconds:g}) must be above from_seconds")
        return self

    def matches(self, service: str, operation: str, tier: str | None, elapsed: float) -> bool:
        """Return True if a call may meet this fault, `elapsed` seconds after the switch was turned."""
        return (
            self.service in {None, service}
            and self.operation in {None, operation}
            and self.tier in {None, tier}
            and self.from_seconds <= elapsed
            and (self.until_seconds is None or elapsed < self.until_seconds)
        )


def rules_of(value: Any) -> tuple[FaultRule, ...]:
    """Return the rules that the switch `faults` holds.

    Raises:
        ValueError: it is not a list of at most `MAX_RULES` rules; says which rule is wrong, and why.
    """
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) > MAX_RULES:
        raise ValueError(f"a list of at most {MAX_RULES} rules")
    rules = []
    for number, rule in enumerate(value, 1):
        try:
            rules.append(FaultRule.model_validate(rule))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ValueError(f"rule {number}: {where}: {first['msg']}") from error
    return tuple(rules)


class CallFaults:
    """Chooses the fault of each call; threads may share it.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._turn = threading.Lock()
        self._rules: tuple[FaultRule, ...] = ()
        self._seed, self._since = 0, 0.0
        self._matched: Counter[int] = Counter()
        self._met: Counter[str] = Counter()

    @property
    def is_on(self) -> bool:
        """Whether any call may meet a fault."""
        return bool(self._rules)

    def turn(self, rules: tuple[FaultRule, ...], seed: int) -> None:
        """Apply `rules` from now on; rules that apply already go on."""
        with self._turn:
            if (rules, seed) != (self._rules, self._seed):
                self._rules, self._seed, self._since = rules, seed, self._clock()
                self._matched.clear()

    def choose(self, service: str, operation: str, tier: str | None) -> FaultRule | None:
        """Return the rule that applies to a call, or None."""
        with self._turn:
            elapsed = self._clock() - self._since
            for index, rule in enumerate(self._rules):
                if rule.matches(service, operation, tier, elapsed):
                    number = self._matched[index]
                    self._matched[index] += 1
                    draw = Random(f"{self._seed} {index} {number}").random()  # noqa: S311 # nosec B311 # not a secret
                    if draw < rule.share:
                        self._met[rule.kind] += 1
                        return rule
        return None

    def figures(self) -> dict[str, int]:
        """Return how many calls have met each kind of fault so far."""
        with self._turn:
            return dict(self._met)
