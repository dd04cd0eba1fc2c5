"""The instances of the local EC2: their life between the API, which requests, and the hypervisor, which acts.

moto's instance objects remain the API's data. An instance is pending until its process runs, and shutting-down or
stopping until its process has ended. The hypervisor long-polls `wait_for_work` and reports the end of each step.
"""

import threading
import time
import uuid
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from localcloud.clients import InstanceWork
from localcloud.clock import utc_now, wall_seconds
from localcloud.eventual_consistency import ValueHistory
from localcloud.faults import CallFaults
from localcloud.options import Switches


@dataclass(frozen=True)
class InstanceActions:
    """How moto ends or stops an instance that has no process, and what its API shows of an instance.

    Attributes:
        terminate: releases the instance's resources and marks it as terminated.
        view: returns what the API shows of an instance now.
    """

    terminate: Callable[[Any], Any]
    stop: Callable[[Any], Any]
    view: Callable[[Any], Any]


class UnknownInstanceError(LookupError):
    """Raised when no instance with an id was launched here."""


@dataclass
class LaunchedInstance:
    """One instance.

    Attributes:
        instance: moto's object.
        past: the instance's attributes in the API, with their history.
        generation: number of boots, which distinguishes reports of different boots.
        stuck: whether this boot never starts a process.
        boot_delay_seconds: from the launch to the start of the process.
        console: path of the console log, or None before the first report.
        notice: the Spot notice (action and time), or None.
        reason: code and text of the reason for which EC2 ends the instance, or None.
    """

    instance: Any
    past: ValueHistory[Any]
    generation: int = 0
    stuck: bool = False
    boot_delay_seconds: float = 0.0
    console: str | None = None
    notice: dict[str, str] | None = None
    reason: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class CapacityPool:
    """The capacity that an instance uses: a type in an availability zone, On-Demand or Spot."""

    instance_type: str
    zone: str
    spot: bool = False

    @classmethod
    def from_instance(cls, instance: Any) -> "CapacityPool":
        """Return the pool of one of moto's instances."""
        return cls(instance.instance_type, instance.availability_zone, instance.lifecycle == "spot")


def free_capacity(switches: Switches, used: Iterable[CapacityPool], wanted: CapacityPool) -> int | None:
    """Return the number of instances that a pool can still start, or None without a limit.

    Each limit that applies to the pool must leave capacity. `used` has a pool for each instance that is neither
    stopped nor terminated.
    """
    pools = list(used)
    limits = [
        (switches.max_instances, len(pools)),
        (switches.capacity.get(wanted.instance_type), sum(p.instance_type == wanted.instance_type for p in pools)),
        (switches.capacity.get(wanted.zone), sum(pool.zone == wanted.zone for pool in pools)),
        (switches.spot_capacity if wanted.spot else None, sum(pool.spot for pool in pools)),
    ]
    left = [limit - used_now for limit, used_now in limits if limit is not None]
    return max(0, min(left)) if left else None


STATE_CODES = {"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48, "stopping": 64, "stopped": 80}

INSTANCE_INITIATED = "Client.InstanceInitiatedShutdown", "Instance initiated shutdown"

BOOT_FAILED = "Server.InternalError"

SPOT_TERMINATION = "Server.SpotInstanceTermination", "Spot instance termination"

SLOW_BOOT_EVERY = 10
"""One in so many boots is slow, by the switch `boot_delay_tail_seconds`."""


def _later(seconds: float, action: Callable[[], None]) -> None:
    timer = threading.Timer(seconds, action)
    timer.daemon = True
    timer.start()


@dataclass
class Ec2Fleet:
    """The instances of all accounts and regions. Methods are atomic.

    Args:
        compute: whether instances have machines; otherwise they run at once, as in stock moto.
        switches: faults and delays.
        call_faults: chooses the faults of calls by the switches.
        later: calls a function after a number of seconds.
        clock: monotonic seconds, for answers that lag.
    """

    compute: bool = True
    switches: Switches = field(default_factory=Switches)
    call_faults: CallFaults = field(default_factory=CallFaults)
    epoch: str = field(default_factory=lambda: uuid.uuid4().hex)
    later: Callable[[float, Callable[[], None]], None] = _later
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        """Create an empty fleet."""
        self._changed = threading.Condition(threading.RLock())
        self._records: dict[str, LaunchedInstance] = {}
        self._revision = self._boots = 0
        self._stuck_owed = 0.0
        self._closed = False
        self._actions: InstanceActions | None = None

    def set_actions(self, actions: InstanceActions) -> None:
        """Set how instances end; called once, when moto's EC2 is patched."""
        self._actions = actions

    def freeze(self) -> AbstractContextManager[Any]:
        """Hide launches from the hypervisor while the block runs, until they are complete."""
        return self._changed

    def set_switches(self, switches: Switches) -> None:
        """Replace the switches; the new values apply from now on."""
        with self._changed:
            self.switches = switches
        self.call_faults.set_rules(switches.faults, switches.fault_seed)

    def consume_fault(self, name: str) -> bool:
        """Return True if a fault is due, and decrement the switch `name`, which counts the remaining ones."""
        with self._changed:
            left = getattr(self.switches, name)
            if left > 0:
                self.switches = self.switches.changed({name: left - 1})
            return bool(left > 0)

    def free_capacity(self, wanted: CapacityPool) -> int | None:
        """Return the number of instances that a pool can still start, or None without a limit."""
        with self._changed:
            instances = [record.instance for record in self._records.values()]
            used = [
                CapacityPool.from_instance(one) for one in instances if one.state not in {"terminated", "stopped"}
            ]
            return free_capacity(self.switches, used, wanted)

    def record_view(self, instance_id: str) -> None:
        """Store the present attributes of an instance in its history; ignore other resources, such as volumes."""
        with self._changed:
            if self._actions is not None and (record := self._records.get(instance_id)) is not None:
                record.past.record(self._actions.view(record.instance))

    def boot(self, instance: Any) -> None:
        """Boot an instance: a new one, or a stopped one again."""
        with self._changed:
            instance.launch_time = utc_now().replace(tzinfo=None)  # on EC2 that of the last start, by EC2's clock
            record = self._records.setdefault(instance.id, LaunchedInstance(instance, ValueHistory(clock=self.clock)))
            if not self.compute:
                self.record_view(instance.id)
                return
            self._boots += 1
            record.generation += 1
            record.notice = None
            slow = self._boots % SLOW_BOOT_EVERY == 0
            tail = self.switches.boot_delay_tail_seconds if slow else 0.0
            record.boot_delay_seconds = self.switches.boot_delay_seconds + tail
            self._stuck_owed += self.switches.stuck_boot_fraction
            record.stuck = self._stuck_owed >= 1
            self._stuck_owed -= record.stuck
            self._set_state(instance, "pending")

    def begin_end(self, instance: Any, goal: str, finish: Callable[[], Any]) -> None:
        """Begin to end an instance (goal ``shutting-down`` or ``stopping``); without a process, `finish` ends it."""
        with self._changed:
            has_process = instance.state in {"pending", "running", "stopping"}
            if not self.compute or instance.id not in self._records or not has_process:
                finish()
                self._notify(instance)
            elif instance.state != goal:
                self._set_state(instance, goal)

    def report_running(self, instance_id: str, generation: int, console: str | None) -> None:
        """Record that the process of a boot runs.

        Raises:
            UnknownInstanceError: the instance does not exist.
        """
        with self._changed:
            record = self.find(instance_id)
            if record.generation == generation:
                record.console = console
                if record.instance.state == "pending":
                    self._set_state(record.instance, "running")
                    self._plan_interruption(record)

    def report_ended(self, instance_id: str, generation: int, *, failed: str | None, console: str | None) -> None:
        """Record that the process of a boot has ended, or could not start, and terminate or stop the instance.

        A report about an earlier boot has no effect. `failed` is the reason for which the process could not start.

        Raises:
            UnknownInstanceError: the instance does not exist.
        """
        with self._changed:
            record = self.find(instance_id)
            instance, actions = record.instance, self._actions
            if record.generation != generation or actions is None:
                return
            record.console = console or record.console
            if instance.state == "shutting-down":
                self._finish(instance, actions.terminate, record.reason)
            elif instance.state == "stopping":
                self._finish(instance, actions.stop, None)
            elif instance.state in {"pending", "running"}:
                stops = instance.instance_initiated_shutdown_behavior == "stop" and failed is None
                reason = (BOOT_FAILED, failed) if failed else INSTANCE_INITIATED
                self._finish(instance, actions.stop if stops else actions.terminate, reason)

    def give_spot_notice(self, instance_id: str, action: str, seconds: float) -> None:
        """Give an instance its Spot interruption notice, and interrupt it after `seconds`.

        Raises:
            UnknownInstanceError: the instance does not exist.
        """
        with self._changed:
            record = self.find(instance_id)
            when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(wall_seconds() + seconds))
            record.notice = {"action": action, "time": when}
            generation = record.generation
        self.later(seconds, lambda: self._interrupt(record.instance, generation))

    def find(self, instance_id: str) -> LaunchedInstance:
        """Return an instance by its id.

        Raises:
            UnknownInstanceError: the instance does not exist.
        """
        with self._changed:
            if instance_id not in self._records:
                raise UnknownInstanceError(f"no instance {instance_id} was launched here")
            return self._records[instance_id]

    def wait_for_work(self, since: int, wait_seconds: float) -> tuple[int, list[InstanceWork]]:
        """Wait until the revision differs from `since`; return it with every instance that is not terminated.

        Stopped instances are listed, since their disks must be preserved.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._revision != since, wait_seconds)
            return self._revision, [
                InstanceWork(r.instance.id, r.instance.state, r.generation, r.stuck, r.boot_delay_seconds)
                for r in self._records.values()
                if r.generation and r.instance.state != "terminated"
            ]

    def close(self) -> None:
        """End the long polls of the hypervisor, so that the server can stop."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _finish(self, instance: Any, action: Callable[[Any], Any], reason: tuple[str, str | None] | None) -> None:
        action(instance)
        if reason is not None:
            instance._reason = ""
            instance.state_reason.code = reason[0]
            instance.state_reason.message = f"{reason[0]}: {reason[1]}"
        self._notify(instance)

    def _plan_interruption(self, record: LaunchedInstance) -> None:
        """Schedule the notice of a Spot instance, if the switch says so."""
        after, seconds = self.switches.spot_notice_after_seconds, self.switches.spot_notice_seconds
        if after is None or record.instance.lifecycle != "spot":
            return
        instance, generation = record.instance, record.generation

        def give_notice() -> None:
            if record.generation == generation and instance.state == "running":
                self.give_spot_notice(instance.id, "terminate", seconds)

        self.later(after, give_notice)

    def _interrupt(self, instance: Any, generation: int) -> None:
        with self._changed:
            record = self.find(instance.id)
            if record.generation == generation and instance.state in {"pending", "running"}:
                record.reason = SPOT_TERMINATION
                self._set_state(instance, "shutting-down")

    def _set_state(self, instance: Any, state: str) -> None:
        instance._state.name, instance._state.code = state, STATE_CODES[state]
        self._notify(instance)

    def _notify(self, instance: Any) -> None:
        self.record_view(instance.id)
        self._revision += 1
        self._changed.notify_all()


fleet = Ec2Fleet()
"""The fleet of this process."""
